"""The films as they came, also those that no rule wanted: what was decided of each, and why."""

from __future__ import annotations

import zoneinfo

from starlette.responses import Response

from cxrnode.errors import Rejected
from cxrnode.store.details import instance_events, instance_row, reveal
from cxrnode.store.instances import InstancePage, search_instances, search_instances_whose
from cxrnode.store.listing import InstanceFilter, InstanceRow
from cxrnode.web import wishes
from cxrnode.web.asked import Asked
from cxrnode.web.console import Console, NotFound
from cxrnode.web.pages.job import coded
from cxrnode.web.view import View

VERDICTS = ("accepted", "ignored")
_PAGE = 50


def chosen(console: Console, asked: Asked) -> InstanceFilter:
    """What the query asks for. Raises Rejected."""
    zone = zoneinfo.ZoneInfo(console.config.node.timezone)
    verdict = asked.query.get("verdict") or None
    if verdict is not None and verdict not in VERDICTS:
        raise Rejected(f"verdict is one of {', '.join(VERDICTS)}")
    times = wishes.wanted({key: asked.query.get(key, "") for key in ("since", "until")}, zone, console.now())
    aet = asked.query.get("aet", "").strip() or None
    return InstanceFilter(verdict=verdict, calling_aet=aet, since=times.since, until=times.until)


def page(console: Console, asked: Asked) -> Response:
    """The newest films that are like this."""
    before = int(asked.query["before"]) if asked.query.get("before", "").isdigit() else None
    found = search_instances(console.database, chosen(console, asked), before=before, limit=_PAGE)
    return _shown(console, asked, found, by_identity=False)


def by_identity(console: Console, asked: Asked) -> Response:
    """The films of a patient or an accession number: by a form, so that neither stands in an address or a log."""
    whose = wishes.whose(asked.fields)
    if not whose:
        return page(console, asked)
    rows = search_instances_whose(console.database, whose, by=asked.who.name, why=asked.who.purpose)
    return _shown(console, asked, InstancePage(rows=tuple(rows), before=None), by_identity=True)


def _shown(console: Console, asked: Asked, found: InstancePage, *, by_identity: bool) -> Response:
    seen = {}
    if by_identity and found.rows:
        ids = [row.id for row in found.rows]
        seen = reveal(console.database, ids, by=asked.who.name, why=asked.who.purpose)
    return console.page(
        "films.html",
        asked,
        here="films",
        page=found,
        fields={**asked.query, **asked.fields},
        verdicts=VERDICTS,
        seen=seen,
        by_identity=by_identity,
        link=wishes.film_link,
    )


def film_of(console: Console, number: int) -> InstanceRow:
    """One film. Raises NotFound."""
    try:
        return instance_row(console.database, number)
    except Rejected:
        raise NotFound(f"there is no film {number}") from None


def film(console: Console, asked: Asked) -> Response:
    """One film: what was decided of it and by what, what its header says in codes, and what happened to it."""
    row = film_of(console, asked.number("id"))
    return console.page(
        "film.html",
        asked,
        here="films",
        film=row,
        header=coded(row),
        events=instance_events(console.database, row.id),
        rules=console.config.rules,
    )


VIEWS = (
    View(path="/films", page=page),
    View(path="/films", page=by_identity, method="POST"),
    View(path="/films/{id}", page=film),
)
