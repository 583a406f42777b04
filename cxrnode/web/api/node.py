"""The node under /api/v1: how it does, who asked to send, alerts, models and queues, and changes of these."""

from __future__ import annotations

from collections.abc import Sequence

from starlette.responses import Response

from cxrnode.core.access import Role
from cxrnode.errors import Rejected
from cxrnode.store import alerts, changes
from cxrnode.store.associations import list_associations
from cxrnode.web.api.answers import LIST, MOST, NEXT, PAGED, REASON, TEXT, answer, page_of, plain
from cxrnode.web.asked import Asked
from cxrnode.web.console import Console
from cxrnode.web.health import readiness
from cxrnode.web.pages.associations import OUTCOMES, shown
from cxrnode.web.pages.overview import notices, seen
from cxrnode.web.view import View


def overview(console: Console, asked: Asked) -> Response:
    """How the node is doing."""
    now, found = seen(console), console.in_force()
    values = plain(now)
    del values["now"]  # else no two answers are alike
    modes = dict(changes.modes(found, console.config.modes))
    checks = readiness(console)
    paused = [queue for queue in changes.QUEUES if found.paused(queue)]
    values |= {"notices": notices(console, now, found), "modes": modes, "paused": paused, "checks": checks}
    return answer(asked, values)


def associations(console: Console, asked: Asked) -> Response:
    """Associations, the newest first, with what would admit those that were refused."""
    before, limit = page_of(asked)
    outcome = asked.query.get("outcome") or None
    if outcome is not None and outcome not in OUTCOMES:
        raise Rejected(f"outcome is one of {', '.join(OUTCOMES)}")
    rows = list_associations(console.database, outcome=outcome, before=before, limit=limit + 1)
    some = [
        {"id": one.id, "at": one.at, "times": one.times, **plain(one.asked), "lines": shown(console, one).lines}
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
    return answer(asked, {"changes": changes.list_changes(console.database, limit=MOST)})


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


def list_alerts(console: Console, asked: Asked) -> Response:
    """Alerts that were raised, the newest first."""
    before, limit = page_of(asked)
    rows = alerts.recent(console.database, limit=limit + 1, before=before)
    return answer(asked, {"alerts": rows[:limit], "next": rows[limit - 1].id if len(rows) > limit else None})


_CHANGE = {"subject": TEXT, "value": TEXT, **REASON}

VIEWS: Sequence[View] = (
    View(
        path="/api/v1/overview",
        page=overview,
        summary="How the node is doing",
        answer={"queues": LIST, "ways": LIST, "hours": LIST, "notices": LIST, "checks": LIST},
    ),
    View(
        path="/api/v1/associations",
        page=associations,
        summary="Associations, the newest first",
        query={"outcome": {"type": "string", "enum": list(OUTCOMES)}, **PAGED},
        answer={"associations": LIST, "next": NEXT},
    ),
    View(
        path="/api/v1/models",
        page=models,
        summary="Models, modes and queues",
        answer={"models": LIST, "modes": {"type": "object"}, "queues": {"type": "object"}},
    ),
    View(path="/api/v1/changes", page=list_changes, summary="The newest changes", answer={"changes": LIST}),
    View(
        path="/api/v1/changes",
        page=ask_change,
        method="POST",
        role=Role.ADMIN,
        summary="Ask for a change",
        body=_CHANGE,
        answer={"changes": LIST},
    ),
    View(
        path="/api/v1/changes/{id}",
        page=decide_change,
        method="POST",
        role=Role.ADMIN,
        summary="Consent to a change, or refuse it",
        body={"answer": {"type": "string", "enum": ["consent", "refuse"]}, "reason": TEXT},
        answer={"changes": LIST},
    ),
    View(
        path="/api/v1/alerts",
        page=list_alerts,
        summary="Alerts, the newest first",
        query=PAGED,
        answer={"alerts": LIST, "next": NEXT},
    ),
)
