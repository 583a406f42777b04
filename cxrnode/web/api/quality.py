"""Quality under /api/v1: what a model said over time, and what was found out later of films."""

from __future__ import annotations

from collections.abc import Sequence

from starlette.responses import Response

from cxrnode.errors import Rejected
from cxrnode.store import series, sources
from cxrnode.web.api.answers import LIST, TEXT, answer
from cxrnode.web.asked import Asked
from cxrnode.web.console import Console
from cxrnode.web.pages import qa
from cxrnode.web.pages.feedback import taken
from cxrnode.web.view import View


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


def feedback(console: Console, asked: Asked) -> Response:
    """What was found out later of a film, or what a reader thinks of a result; it never changes a result."""
    job_id = asked.fields.get("job", "")
    if job_id and not (job_id.isdigit() and len(job_id) < 16):
        raise Rejected("job is an id")
    done = taken(console, asked, job_id=int(job_id) if job_id else None)
    return answer(asked, {"stored": done.stored, "same": done.same})


VIEWS: Sequence[View] = (
    View(
        path="/api/v1/quality",
        page=quality,
        summary="How a model does over time",
        query={"model": TEXT, "days": {"type": "integer", "enum": list(qa.SPANS)}, "finding": TEXT},
        answer={"positives": LIST, "drift": LIST, "turnaround": LIST, "sources": LIST, "agreement": LIST},
    ),
    View(
        path="/api/v1/feedback",
        page=feedback,
        method="POST",
        summary="What was found out later, or what a reader thinks",
        body={
            "job": {"type": "integer"},
            "accession": TEXT,
            "sop_instance_uid": TEXT,
            "finding": TEXT,
            "verdict": {"type": "string", "enum": ["agree", "disagree"]},
            "truth": {"type": "boolean"},
            "source": TEXT,
        },
        answer={"stored": {"type": "integer"}, "same": {"type": "integer"}},
    ),
)
