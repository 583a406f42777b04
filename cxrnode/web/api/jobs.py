"""Jobs under /api/v1: looked for, one of them, its events, whose film it is, and what is done with them."""

from __future__ import annotations

import dataclasses
import zoneinfo
from collections.abc import Mapping, Sequence
from typing import Any

from starlette.responses import Response

from cxrnode.core.access import Role
from cxrnode.errors import Rejected
from cxrnode.store.audit import EventFilter, query
from cxrnode.store.details import reveal
from cxrnode.store.listing import JobRow
from cxrnode.store.search import Page, search, search_whose
from cxrnode.web import acts, matching, wishes
from cxrnode.web.api.answers import LIST, NEXT, PAGED, REASON, TEXT, answer, page_of, plain
from cxrnode.web.asked import Asked
from cxrnode.web.console import Console
from cxrnode.web.pages.job import detail_of
from cxrnode.web.view import View


def _job(row: JobRow, scores: Mapping[int, float]) -> dict[str, Any]:
    values = plain(row)
    if row.id in scores:
        values["score"] = scores[row.id]
    return dict(values)


def _jobs(asked: Asked, page: Page) -> Response:
    jobs = [_job(row, page.scores) for row in page.rows]
    return answer(asked, {"jobs": jobs, "next": page.before, "looked_back_to": page.looked_back_to})


def jobs(console: Console, asked: Asked) -> Response:
    """Jobs, the newest first."""
    before, limit = page_of(asked)
    zone = zoneinfo.ZoneInfo(console.config.node.timezone)
    wanted = wishes.wanted(asked.query, zone, console.now())
    return _jobs(asked, search(console.database, wanted, before=before, limit=limit))


def search_jobs(console: Console, asked: Asked) -> Response:
    """The jobs of a patient or an accession number, given in the body; the search is an event."""
    zone = zoneinfo.ZoneInfo(console.config.node.timezone)
    whose, reason = wishes.whose(asked.fields), asked.fields.get("reason", "").strip()
    if not whose or not reason:
        raise Rejected("give patient_id or accession, and a reason")
    wanted = wishes.wanted(asked.fields, zone, console.now())
    return _jobs(asked, search_whose(console.database, whose, wanted, by=asked.who.name, why=reason))


def job(console: Console, asked: Asked) -> Response:
    """One job with its findings, outputs, deliveries and events. UIDs of outputs identify a study: not here."""
    detail = detail_of(console, asked.number("id"))
    console.looked(asked, detail.job.id, detail.job.instance_id, how="api")
    values = plain(detail)
    values["outputs"] = [{**plain(one), "sop_instance_uid": None} for one in detail.outputs]
    return answer(asked, values)


def identity(console: Console, asked: Asked) -> Response:
    """Whose film it is; the reason is written down before it is shown."""
    reason = asked.fields.get("reason", "").strip()
    if not reason:
        raise Rejected("give a reason")
    detail = detail_of(console, asked.number("id"))
    found = reveal(console.database, [detail.job.instance_id], by=asked.who.name, why=reason)
    return answer(asked, {"identity": found.get(detail.job.instance_id)})


def act(console: Console, asked: Asked) -> Response:
    """Retry, resend, withdraw or decide, for many jobs; what is refused for one stops no other.

    With `count` instead of `jobs`: for all that match the search, if they are so many; `next` is the `before` of the
    following batch, null at the end.
    """
    ids = [int(one) for one in asked.listed.get("jobs", ()) if one.isdigit() and len(one) < 16]
    deed = acts.Deed(
        act=asked.fields.get("act", ""),
        reason=asked.fields.get("reason", ""),
        by=asked.who.name,
        rejection=asked.fields.get("rejection", ""),
        model=asked.fields.get("model", ""),
    )
    if "count" not in asked.fields:
        return answer(asked, {"done": acts.perform(console, deed, ids), "next": None})
    deed = dataclasses.replace(deed, model="")  # here it is of the search
    acts.require(deed)
    wanted = wishes.wanted(asked.fields, zoneinfo.ZoneInfo(console.config.node.timezone), console.now())
    before = asked.fields.get("before", "")
    if not before:
        found = matching.counted(console, wanted)
        if not found.whole or str(found.count) != asked.fields["count"]:
            more = "" if found.whole else " or more"
            raise Rejected(f"{found.count}{more} jobs match; count must say so, and be at most {matching.MOST}")
        before = str(found.before)
    if not before.isdigit() or len(before) > 15:
        raise Rejected("before is an id")
    batch = matching.perform(console, deed, wanted, before=int(before))
    return answer(asked, {"done": batch.done, "next": batch.before})


def events(console: Console, asked: Asked) -> Response:
    """Events of a job or of an instance, the oldest first."""
    which = {key: asked.query[key] for key in ("job", "instance") if asked.query.get(key, "").isdigit()}
    if len(which) != 1:
        raise Rejected("name one job or one instance")
    ids = {key: int(value) for key, value in which.items()}
    chosen = EventFilter(job_id=ids.get("job"), instance_id=ids.get("instance"))
    return answer(asked, {"events": list(query(console.database, chosen, limit=2000))})


_WISHES: Mapping[str, Mapping[str, Any]] = {
    "state": {"type": "string", "enum": list(wishes.STATES)},
    "outcome": {"type": "string", "enum": list(wishes.OUTCOMES)},
    "model": TEXT,
    "mode": {"type": "string", "enum": ["active", "shadow"]},
    "aet": TEXT,
    "finding": TEXT,
    "decision": {"type": "string", "enum": list(wishes.DECISIONS)},
    "least": {"type": "number", "minimum": 0, "maximum": 1},
    "most": {"type": "number", "minimum": 0, "maximum": 1},
    "since": TEXT,
    "until": TEXT,
    "disputed": TEXT,
}
_JOBS = {"jobs": LIST, "next": NEXT, "looked_back_to": {"type": ["number", "null"]}}
_ACT: Mapping[str, Mapping[str, Any]] = {
    "act": {"type": "string", "enum": ["retry", "resend", "withdraw", "decide", "all_right"]},
    "jobs": {"type": "array", "items": {"type": "integer"}, "maxItems": acts.MOST},
    "rejection": {"type": "string", "enum": list(acts.REJECTIONS)},
    "model": TEXT,
    "count": {"type": "integer", "minimum": 1, "maximum": matching.MOST},
    "before": {"type": "integer"},
    **_WISHES,
    **REASON,
}

VIEWS: Sequence[View] = (
    View(path="/api/v1/jobs", page=jobs, summary="Jobs, the newest first", query={**_WISHES, **PAGED}, answer=_JOBS),
    View(
        path="/api/v1/jobs/search",
        page=search_jobs,
        method="POST",
        summary="The jobs of a patient or an accession number",
        body={"patient_id": TEXT, "accession": TEXT, **_WISHES, **REASON},
        answer=_JOBS,
    ),
    View(
        path="/api/v1/jobs/act",
        page=act,
        method="POST",
        role=Role.OPERATOR,
        summary="Retry, resend, withdraw or decide",
        body=_ACT,
        answer={"done": LIST, "next": NEXT},
    ),
    View(path="/api/v1/jobs/{id}", page=job, summary="One job", answer={"job": {"type": "object"}, "events": LIST}),
    View(
        path="/api/v1/jobs/{id}/identity",
        page=identity,
        method="POST",
        summary="Whose film it is",
        body=REASON,
        answer={"identity": {"type": ["object", "null"]}},
    ),
    View(
        path="/api/v1/events",
        page=events,
        summary="Events of a job or of an instance",
        query={"job": {"type": "integer"}, "instance": {"type": "integer"}},
        answer={"events": LIST},
    ),
)
