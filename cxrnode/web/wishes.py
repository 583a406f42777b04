"""From what people type into the search of jobs to what the store is asked, and back into links."""

from __future__ import annotations

import datetime
import urllib.parse
import zoneinfo
from collections.abc import Mapping

from cxrnode.core.lifecycle import JobState
from cxrnode.errors import Rejected
from cxrnode.quantities import parse_duration
from cxrnode.store.search import Wanted, Whose

STATES = tuple(str(state) for state in JobState)
OUTCOMES = ("analysed", "not_analysed", "duplicate")
DECISIONS = ("present", "undetermined", "absent", "not_assessed")
#: What may stand in a URL. Whose films are looked for never does.
KEYS = (
    *("state", "outcome", "model", "mode", "aet", "finding", "decision", "least", "most", "since", "until"),
    "disputed",
)


def wanted(fields: Mapping[str, str], zone: zoneinfo.ZoneInfo, now: float) -> Wanted:
    """What the fields ask for; empty ones ask nothing. Raises Rejected for what no search understands."""

    def text(key: str, allowed: tuple[str, ...] = ()) -> str | None:
        value = fields.get(key, "").strip()
        if value and allowed and value not in allowed:
            raise Rejected(f"{key} is one of {', '.join(allowed)}")
        return value or None

    return Wanted(
        state=text("state", STATES),
        outcome=text("outcome", OUTCOMES),
        model=text("model"),
        mode=text("mode", ("active", "shadow")),
        calling_aet=text("aet"),
        finding=text("finding"),
        decision=text("decision", DECISIONS),
        least=_score(fields, "least"),
        most=_score(fields, "most"),
        since=_moment(fields, "since", zone, now, end=False),
        until=_moment(fields, "until", zone, now, end=True),
        disputed=True if fields.get("disputed", "") not in ("", "false") else None,
    )


def whose(fields: Mapping[str, str]) -> Whose:
    """Whose films the fields ask for."""
    return Whose(
        patient_id=fields.get("patient_id", "").strip(),
        accession=fields.get("accession", "").strip(),
    )


def _score(fields: Mapping[str, str], key: str) -> float | None:
    value = fields.get(key, "").strip().replace(",", ".")
    if not value:
        return None
    try:
        found = float(value)
    except ValueError:
        found = -1.0
    if not 0.0 <= found <= 1.0:
        raise Rejected(f"{key} is a score between 0 and 1, not {value[:20]!r}")
    return found


def _moment(fields: Mapping[str, str], key: str, zone: zoneinfo.ZoneInfo, now: float, *, end: bool) -> float | None:
    """So long ago (2h, 7d), or a date or time of the node's zone; a date alone ends with its day."""
    value = fields.get(key, "").strip()
    if not value:
        return None
    try:
        return now - parse_duration(value)
    except ValueError:
        pass
    try:
        found = datetime.datetime.fromisoformat(value)
    except ValueError:
        raise Rejected(f"{key} is a date, or so long ago as 2h or 7d, not {value[:20]!r}") from None
    if found.tzinfo is None:
        found = found.replace(tzinfo=zone)
    if end and len(value) == 10:
        found += datetime.timedelta(days=1)
    return found.timestamp()


def film_link(fields: Mapping[str, str], before: int) -> str:
    """The query that asks for the films before one that are like the same, without identifiers."""
    kept = {key: fields.get(key, "") for key in ("verdict", "aet", "since", "until")} | {"before": str(before)}
    return urllib.parse.urlencode({key: value for key, value in kept.items() if value})


def link(fields: Mapping[str, str], **changed: str | int | None) -> str:
    """The query that asks for the same, with some of it changed; without identifiers."""
    kept = {key: fields.get(key, "") for key in KEYS}
    kept |= {key: "" if value is None else str(value) for key, value in changed.items()}
    return urllib.parse.urlencode({key: value for key, value in kept.items() if value})
