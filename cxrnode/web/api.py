"""The console's knowledge as JSON, under /api/v1. `web.openapi` writes its document from these routes.

Lists are pages: `next` is the `before` of the following one, null at the end. A GET carries an ETag. Times are seconds
since 1970 in UTC. Identifiers stand in no URL and in no answer but that of `identity`, which asks for a reason.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import zoneinfo
from collections.abc import Mapping, Sequence
from typing import Any

from starlette.responses import Response

from cxrnode.core.access import Role
from cxrnode.errors import Rejected
from cxrnode.store import alerts, changes, series, sources
from cxrnode.store.associations import list_associations
from cxrnode.store.audit import EventFilter, query
from cxrnode.store.details import reveal
from cxrnode.store.listing import JobRow
from cxrnode.store.search import Page, search, search_whose
from cxrnode.web import acts, matching, openapi, wishes
from cxrnode.web.asked import Asked
from cxrnode.web.console import Console
from cxrnode.web.health import readiness
from cxrnode.web.pages import qa
from cxrnode.web.pages.associations import OUTCOMES, shown
from cxrnode.web.pages.feedback import taken
from cxrnode.web.pages.job import detail_of
from cxrnode.web.pages.overview import notices, seen
from cxrnode.web.view import View

_MOST = 200


def answer(asked: Asked, value: Any, status: int = 200) -> Response:
    """The value as JSON; 304 where the asker has it already."""
    body = json.dumps(value, default=_plain, separators=(",", ":"), allow_nan=False).encode()
    headers = {"Cache-Control": "private, no-cache"}
    if asked.method == "GET":
        tag = f'"{hashlib.sha256(body).hexdigest()[:32]}"'
        headers["ETag"] = tag
        had = [one.strip().removeprefix("W/") for one in asked.headers.get("if-none-match", "").split(",")]
        if tag in had or "*" in had:
            return Response(status_code=304, headers=headers)
    return Response(body, status, headers, "application/json")


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(type(value).__name__)


def _page_of(asked: Asked) -> tuple[int | None, int]:
    before, limit = asked.query.get("before", ""), asked.query.get("limit", "50")
    if (before and not (before.isdigit() and len(before) < 16)) or not (limit.isdigit() and 1 <= int(limit) <= _MOST):
        raise Rejected(f"before is an id, and limit from 1 to {_MOST}")
    return (int(before) if before else None), int(limit)


def _job(row: JobRow, scores: Mapping[int, float]) -> dict[str, Any]:
    values = _plain(row)
    if row.id in scores:
        values["score"] = scores[row.id]
    return dict(values)


def _jobs(asked: Asked, page: Page) -> Response:
    jobs = [_job(row, page.scores) for row in page.rows]
    return answer(asked, {"jobs": jobs, "next": page.before, "looked_back_to": page.looked_back_to})


def overview(console: Console, asked: Asked) -> Response:
    """How the node is doing."""
    now, found = seen(console), console.in_force()
    values = _plain(now)
    del values["now"]  # else no two answers are alike
    modes = dict(changes.modes(found, console.config.modes))
    checks = readiness(console)
    paused = [queue for queue in changes.QUEUES if found.paused(queue)]
    values |= {"notices": notices(console, now, found), "modes": modes, "paused": paused, "checks": checks}
    return answer(asked, values)


def jobs(console: Console, asked: Asked) -> Response:
    """Jobs, the newest first."""
    before, limit = _page_of(asked)
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
    values = _plain(detail)
    values["outputs"] = [{**_plain(one), "sop_instance_uid": None} for one in detail.outputs]
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


def associations(console: Console, asked: Asked) -> Response:
    """Associations, the newest first, with what would admit those that were refused."""
    before, limit = _page_of(asked)
    outcome = asked.query.get("outcome") or None
    if outcome is not None and outcome not in OUTCOMES:
        raise Rejected(f"outcome is one of {', '.join(OUTCOMES)}")
    rows = list_associations(console.database, outcome=outcome, before=before, limit=limit + 1)
    some = [
        {"id": one.id, "at": one.at, "times": one.times, **_plain(one.asked), "lines": shown(console, one).lines}
        for one in rows[:limit]
    ]
    return answer(asked, {"associations": some, "next": rows[limit - 1].id if len(rows) > limit else None})


def models(console: Console, asked: Asked) -> Response:
    """The models, the mode in force of each, and the queues."""
    found, config = console.in_force(), console.config
    modes = dict(changes.modes(found, config.modes))
    queues = {queue: "paused" if found.paused(queue) else "running" for queue in changes.QUEUES}
    digests = {"config": config.digest, "rules": config.rules_digest(modes)}
    return answer(asked, {"models": seen(console).models, "modes": modes, "queues": queues, "digests": digests})


def list_changes(console: Console, asked: Asked) -> Response:
    """The newest changes."""
    return answer(asked, {"changes": changes.list_changes(console.database, limit=_MOST)})


def ask_change(console: Console, asked: Asked) -> Response:
    """Ask for a change of a model or a queue; without need of consent it is in force at once."""
    made = changes.ask(
        console.database,
        {asked.fields.get("subject", ""): asked.fields.get("value", "")},
        configured=console.config.modes,
        reason=asked.fields.get("reason", ""),
        by=asked.who.name,
        consent=console.config.changes.consent,
    )
    return answer(asked, {"changes": made})


def decide_change(console: Console, asked: Asked) -> Response:
    """Consent to a change that another person asked for, or refuse it."""
    verdict = asked.fields.get("answer", "")
    if verdict not in ("consent", "refuse"):
        raise Rejected("answer is consent or refuse")
    made = changes.decide(
        console.database,
        asked.number("id"),
        agree=verdict == "consent",
        configured=console.config.modes,
        reason=asked.fields.get("reason", ""),
        by=asked.who.name,
    )
    return answer(asked, {"changes": [made]})


def feedback(console: Console, asked: Asked) -> Response:
    """What was found out later of a film, or what a reader thinks of a result; it never changes a result."""
    job_id = asked.fields.get("job", "")
    if job_id and not (job_id.isdigit() and len(job_id) < 16):
        raise Rejected("job is an id")
    done = taken(console, asked, job_id=int(job_id) if job_id else None)
    return answer(asked, {"stored": done.stored, "same": done.same})


def list_alerts(console: Console, asked: Asked) -> Response:
    """Alerts that were raised, the newest first."""
    before, limit = _page_of(asked)
    rows = alerts.recent(console.database, limit=limit + 1, before=before)
    return answer(asked, {"alerts": rows[:limit], "next": rows[limit - 1].id if len(rows) > limit else None})


def quality(console: Console, asked: Asked) -> Response:
    """Positives by `step` days, drift, turnaround, sources and agreement of one model."""
    known = series.models(console.database)
    wish = qa.wished(asked, known)
    span, window = series.last_days(console.database, wish.days), series.last_days(console.database, qa.WINDOW)
    reference = series.Span(first=span.first, last=window.first - 1)
    since = span.first * 86400.0
    return answer(
        asked,
        {
            "models": known,
            "span": span,
            "step": (step := qa.width_of(span)),
            "positives": series.positives(console.database, wish.model, span, label=wish.finding or None, step=step),
            "drift": series.drift(console.database, wish.model, reference=reference, window=window),
            "turnaround": series.turnaround(console.database, span, model=wish.model),
            "sources": sources.sources(console.database),
            "agreement": qa.agreed(console, wish, span).by_finding(since=since),
        },
    )


def document(_console: Console, asked: Asked) -> Response:
    """The OpenAPI document of all this."""
    return answer(asked, openapi.document(VIEWS))


_PAGED: Mapping[str, Mapping[str, Any]] = {
    "before": {"type": "integer"},
    "limit": {"type": "integer", "minimum": 1, "maximum": _MOST, "default": 50},
}
_TEXT: Mapping[str, Any] = {"type": "string"}
_REASON: Mapping[str, Mapping[str, Any]] = {"reason": {"type": "string", "minLength": 1}}
_WISHES: Mapping[str, Mapping[str, Any]] = {
    "state": {"type": "string", "enum": list(wishes.STATES)},
    "outcome": {"type": "string", "enum": list(wishes.OUTCOMES)},
    "model": _TEXT,
    "mode": {"type": "string", "enum": ["active", "shadow"]},
    "aet": _TEXT,
    "finding": _TEXT,
    "decision": {"type": "string", "enum": list(wishes.DECISIONS)},
    "least": {"type": "number", "minimum": 0, "maximum": 1},
    "most": {"type": "number", "minimum": 0, "maximum": 1},
    "since": _TEXT,
    "until": _TEXT,
    "disputed": _TEXT,
}
_LIST: Mapping[str, Any] = {"type": "array", "items": {"type": "object"}}
_NEXT = {"type": ["integer", "null"]}
_JOBS = {"jobs": _LIST, "next": _NEXT, "looked_back_to": {"type": ["number", "null"]}}
_ACT: Mapping[str, Mapping[str, Any]] = {
    "act": {"type": "string", "enum": ["retry", "resend", "withdraw", "decide", "all_right"]},
    "jobs": {"type": "array", "items": {"type": "integer"}, "maxItems": acts.MOST},
    "rejection": {"type": "string", "enum": list(acts.REJECTIONS)},
    "model": _TEXT,
    "count": {"type": "integer", "minimum": 1, "maximum": matching.MOST},
    "before": {"type": "integer"},
    **_WISHES,
    **_REASON,
}
_CHANGE = {"subject": _TEXT, "value": _TEXT, **_REASON}

VIEWS: Sequence[View] = (
    View(
        path="/api/v1/overview",
        page=overview,
        summary="How the node is doing",
        answer={"queues": _LIST, "ways": _LIST, "hours": _LIST, "notices": _LIST, "checks": _LIST},
    ),
    View(path="/api/v1/jobs", page=jobs, summary="Jobs, the newest first", query={**_WISHES, **_PAGED}, answer=_JOBS),
    View(
        path="/api/v1/jobs/search",
        page=search_jobs,
        method="POST",
        summary="The jobs of a patient or an accession number",
        body={"patient_id": _TEXT, "accession": _TEXT, **_WISHES, **_REASON},
        answer=_JOBS,
    ),
    View(
        path="/api/v1/jobs/act",
        page=act,
        method="POST",
        role=Role.OPERATOR,
        summary="Retry, resend, withdraw or decide",
        body=_ACT,
        answer={"done": _LIST, "next": _NEXT},
    ),
    View(path="/api/v1/jobs/{id}", page=job, summary="One job", answer={"job": {"type": "object"}, "events": _LIST}),
    View(
        path="/api/v1/jobs/{id}/identity",
        page=identity,
        method="POST",
        summary="Whose film it is",
        body=_REASON,
        answer={"identity": {"type": ["object", "null"]}},
    ),
    View(
        path="/api/v1/events",
        page=events,
        summary="Events of a job or of an instance",
        query={"job": {"type": "integer"}, "instance": {"type": "integer"}},
        answer={"events": _LIST},
    ),
    View(
        path="/api/v1/associations",
        page=associations,
        summary="Associations, the newest first",
        query={"outcome": {"type": "string", "enum": list(OUTCOMES)}, **_PAGED},
        answer={"associations": _LIST, "next": _NEXT},
    ),
    View(
        path="/api/v1/models",
        page=models,
        summary="Models, modes and queues",
        answer={"models": _LIST, "modes": {"type": "object"}, "queues": {"type": "object"}},
    ),
    View(path="/api/v1/changes", page=list_changes, summary="The newest changes", answer={"changes": _LIST}),
    View(
        path="/api/v1/changes",
        page=ask_change,
        method="POST",
        role=Role.ADMIN,
        summary="Ask for a change",
        body=_CHANGE,
        answer={"changes": _LIST},
    ),
    View(
        path="/api/v1/changes/{id}",
        page=decide_change,
        method="POST",
        role=Role.ADMIN,
        summary="Consent to a change, or refuse it",
        body={"answer": {"type": "string", "enum": ["consent", "refuse"]}, "reason": _TEXT},
        answer={"changes": _LIST},
    ),
    View(
        path="/api/v1/feedback",
        page=feedback,
        method="POST",
        summary="What was found out later, or what a reader thinks",
        body={
            "job": {"type": "integer"},
            "accession": _TEXT,
            "sop_instance_uid": _TEXT,
            "finding": _TEXT,
            "verdict": {"type": "string", "enum": ["agree", "disagree"]},
            "truth": {"type": "boolean"},
            "source": _TEXT,
        },
        answer={"stored": {"type": "integer"}, "same": {"type": "integer"}},
    ),
    View(
        path="/api/v1/alerts",
        page=list_alerts,
        summary="Alerts, the newest first",
        query=_PAGED,
        answer={"alerts": _LIST, "next": _NEXT},
    ),
    View(
        path="/api/v1/quality",
        page=quality,
        summary="How a model does over time",
        query={"model": _TEXT, "days": {"type": "integer", "enum": list(qa.SPANS)}, "finding": _TEXT},
        answer={"positives": _LIST, "drift": _LIST, "turnaround": _LIST, "sources": _LIST, "agreement": _LIST},
    ),
    View(
        path="/api/v1/openapi.json",
        page=document,
        role=None,
        summary="This document",
        answer={"openapi": _TEXT, "paths": {"type": "object"}},
    ),
)
