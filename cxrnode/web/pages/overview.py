"""The first page: is all well, and if not, what to do. And the emergency stop."""

from __future__ import annotations

import dataclasses

from starlette.responses import RedirectResponse, Response

from cxrnode.core.access import Role
from cxrnode.store import alerts, associations, changes, loading
from cxrnode.store.changes import InForce
from cxrnode.store.overview import Overview, overview
from cxrnode.web.asked import Asked
from cxrnode.web.console import Console
from cxrnode.web.health import readiness
from cxrnode.web.view import View


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Notice:
    """Something that wants a person: how bad, what, what to do, and the page that helps."""

    tone: str
    said: str
    remedy: str = ""
    href: str = ""


def seen(console: Console) -> Overview:
    """How the node is doing."""
    return overview(console.database, models=list(console.config.models), destinations=console.destinations)


def notices(console: Console, now: Overview, found: InForce) -> list[Notice]:
    """What wants a person, the worst first."""
    said = [
        Notice(tone="bad" if one.severity == "critical" else "warn", said=one.text, remedy=one.remedy, href="/alerts")
        for one in alerts.open_alerts(console.database)
    ]
    said += [
        Notice(tone="bad", said=f"{one.name}: {one.detail}", remedy=one.remedy)
        for one in readiness(console)
        if not one.ok
    ]
    for queue in changes.QUEUES:
        if found.paused(queue):
            one = found.switches[queue]
            said.append(
                Notice(
                    tone="bad",
                    said=f"{queue.partition(':')[2].capitalize()} is paused by {one.by}: {one.reason}",
                    remedy="resume it when the cause is gone",
                    href="/models",
                )
            )
    for way in now.ways:
        if not way.well:
            said.append(Notice(tone="bad", said=f"{way.name} is down: {way.reason}", remedy=f"cxrnode echo {way.name}"))
    if now.failed:
        text = f"{now.failed} job{'s' if now.failed > 1 else ''} failed in 30 days"
        said.append(Notice(tone="bad", said=text, remedy="see why, then retry", href="/jobs?state=failed"))
    broken = loading.not_loaded(console.database)
    for fault in broken:
        text = f"model {fault.model} could not be loaded by {fault.node}: {fault.reason}"
        remedy = f"cxrnode model verify {fault.model}; its films wait"
        said.append(Notice(tone="bad", said=text, remedy=remedy, href="/models"))
    told = {one.model for one in broken}
    for model in now.models:
        if model.reader is None and model.name not in told and "infer" in console.config.node.roles:
            text = f"model {model.name} was never loaded: its films wait"
            said.append(Notice(tone="bad", said=text, remedy=f"cxrnode model verify {model.name}", href="/models"))
    if now.disputed:
        text = f"{now.disputed} film{'s' if now.disputed > 1 else ''} came under two identities; results are held"
        said.append(Notice(tone="warn", said=text, remedy="say which is right", href="/jobs?disputed=yes"))
    if now.oldest is not None and now.oldest > console.config.notices.late_after:
        said.append(Notice(tone="warn", said="films wait longer than notices.late_after", remedy="does infer keep up?"))
    refused = associations.rejected_since(console.database, 3600.0)
    if refused:
        text = f"{refused} peer{'s were' if refused > 1 else ' was'} refused in the last hour"
        href = "/associations?outcome=rejected"
        said.append(Notice(tone="warn", said=text, remedy="the page shows the line that admits them", href=href))
    for change in changes.list_changes(console.database, state="asked", limit=20):
        text = f"{change.asked_by} asks that {change.subject} be {change.value}: {change.reason}"
        said.append(Notice(tone="warn", said=text, remedy="a second person must consent", href="/models"))
    return said


def page(console: Console, asked: Asked) -> Response:
    """The page, or with htmx its living part alone."""
    now, found = seen(console), console.in_force()
    template = "overview_live.html" if asked.by_htmx else "overview.html"
    paused = [queue for queue in changes.QUEUES if found.paused(queue)]
    return console.page(
        template,
        asked,
        here="overview",
        seen=now,
        found=found,
        notices=notices(console, now, found),
        modes=dict(changes.modes(found, console.config.modes)),
        paused=paused,
        stopped=len(paused) == len(changes.QUEUES),
        web=console.config.web,
    )


def stop(console: Console, asked: Asked) -> Response:
    """The emergency stop: nothing is read and nothing is sent any more; what comes is still kept."""
    found = console.in_force()
    wanted = {queue: "paused" for queue in changes.QUEUES if not found.paused(queue)}
    if wanted:
        changes.ask(
            console.database,
            wanted,
            configured=console.config.modes,
            reason=asked.fields.get("reason", ""),
            by=asked.who.name,
            consent=False,
        )
    return RedirectResponse("/", 303)


VIEWS = (
    View(path="/", page=page),
    View(path="/stop", page=stop, method="POST", role=Role.OPERATOR),
)
