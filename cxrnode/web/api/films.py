"""Films under /api/v1: as they came, also those that no rule wanted, with what was decided of each and why."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from starlette.responses import Response

from cxrnode.errors import Rejected
from cxrnode.store.details import instance_events
from cxrnode.store.instances import search_instances, search_instances_whose
from cxrnode.store.listing import InstanceRow
from cxrnode.web import wishes
from cxrnode.web.api.answers import LIST, NEXT, PAGED, REASON, TEXT, answer, page_of, plain
from cxrnode.web.asked import Asked
from cxrnode.web.console import Console
from cxrnode.web.pages.films import VERDICTS, chosen, film_of
from cxrnode.web.pages.job import coded
from cxrnode.web.view import View


def _film(row: InstanceRow) -> dict[str, Any]:
    """A film without the free text of its header, which may name the patient."""
    return {**plain(row), "header": coded(row)}


def films(console: Console, asked: Asked) -> Response:
    """Films, the newest first; those that were ignored have no job."""
    before, limit = page_of(asked)
    page = search_instances(console.database, chosen(console, asked), before=before, limit=limit)
    listed = [_film(row) for row in page.rows]
    return answer(asked, {"films": listed, "next": page.before, "looked_back_to": page.looked_back_to})


def search_films(console: Console, asked: Asked) -> Response:
    """The films of a patient or an accession number, given in the body, the newest 200; the search is an event."""
    whose, reason = wishes.whose(asked.fields), asked.fields.get("reason", "").strip()
    if not whose or not reason:
        raise Rejected("give patient_id or accession, and a reason")
    rows = search_instances_whose(console.database, whose, by=asked.who.name, why=reason)
    return answer(asked, {"films": [_film(row) for row in rows]})


def film(console: Console, asked: Asked) -> Response:
    """One film, its jobs, and what happened to it before they were made."""
    row = film_of(console, asked.number("id"))
    return answer(asked, {"film": _film(row), "events": instance_events(console.database, row.id)})


_WISHES: Mapping[str, Mapping[str, Any]] = {
    "verdict": {"type": "string", "enum": list(VERDICTS)},
    "aet": TEXT,
    "since": TEXT,
    "until": TEXT,
}

VIEWS: Sequence[View] = (
    View(
        path="/api/v1/films",
        page=films,
        summary="Films, the newest first",
        query={**_WISHES, **PAGED},
        answer={"films": LIST, "next": NEXT, "looked_back_to": {"type": ["number", "null"]}},
    ),
    View(
        path="/api/v1/films/search",
        page=search_films,
        method="POST",
        summary="The films of a patient or an accession number",
        body={"patient_id": TEXT, "accession": TEXT, **REASON},
        answer={"films": LIST},
    ),
    View(path="/api/v1/films/{id}", page=film, summary="One film", answer={"film": {"type": "object"}, "events": LIST}),
)
