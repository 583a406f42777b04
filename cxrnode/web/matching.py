"""All jobs that a search finds, as one: how many they are, and a deed done to them batch by batch, the newest first.

What comes later is not among them: a deed begins at the newest job that was counted. Nobody acts on every job there is.
"""

from __future__ import annotations

import dataclasses
import time

from cxrnode.errors import Rejected
from cxrnode.store.search import Wanted, search
from cxrnode.web import acts
from cxrnode.web.acts import Deed, Done
from cxrnode.web.console import Console

#: Jobs that can be acted on as one, and the seconds that counting them may take.
MOST, _SECONDS = 10_000, 3.0
_PAGE = 500
#: Jobs that one request acts on.
BATCH = 200


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Matching:
    """How many jobs match. `before`: above the newest of them, to begin there; `whole`: that is all of them."""

    count: int
    before: int
    whole: bool


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """What became of some jobs; `before` is where the next batch begins, None where there is none."""

    done: tuple[Done, ...]
    before: int | None


def counted(console: Console, wanted: Wanted) -> Matching:
    """Count the jobs that match. Raises Rejected for a search that asks for nothing."""
    _require_some(wanted)
    until = time.monotonic() + _SECONDS
    count, first = 0, 0
    before: int | None = None
    while True:
        page = search(console.database, wanted, before=before, limit=_PAGE)
        count += len(page.rows)
        first = first or (page.rows[0].id + 1 if page.rows else 0)
        before = page.before
        if before is None or count >= MOST or time.monotonic() > until:
            return Matching(count=count, before=first, whole=before is None)


def perform(console: Console, deed: Deed, wanted: Wanted, *, before: int) -> Batch:
    """Do it to the newest jobs that match, with ids below `before`. Raises Rejected as `acts.perform` does."""
    _require_some(wanted)
    until = time.monotonic() + _SECONDS
    while True:
        page = search(console.database, wanted, before=before, limit=BATCH)
        if page.rows or page.before is None or time.monotonic() > until:
            break
        before = page.before  # its time was up before it found any
    if not page.rows:
        return Batch(done=(), before=page.before)
    done = acts.perform(console, deed, [row.id for row in page.rows])
    return Batch(done=tuple(done), before=page.before)


def _require_some(wanted: Wanted) -> None:
    if wanted == Wanted():
        raise Rejected("say which jobs: a search without any condition is every job")
