"""What keeps a film's result from the archive at the moment, beside what its job and deliveries say themselves."""

from __future__ import annotations

import dataclasses
import zoneinfo

from cxrnode.store import fleet, loading
from cxrnode.store.changes import QUEUES
from cxrnode.store.details import JobDetail
from cxrnode.web import words
from cxrnode.web.console import Console

_READING, _SENDING = QUEUES


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Hindrance:
    """Why, what to do about it, and the page that helps."""

    said: str
    remedy: str
    href: str = ""


def hindrances(console: Console, detail: JobDetail) -> list[Hindrance]:
    """What stands between this job and the archive. Empty where nothing does."""
    job, found, force = detail.job, list[Hindrance](), console.in_force()
    if job.state == "queued":
        if force.paused(_READING):
            one = force.switches[_READING]
            said = f"Reading is paused by {one.by}: {one.reason}"
            found.append(Hindrance(said=said, remedy="Resume it when the cause is gone.", href="/models"))
        configured = console.config.modes
        if job.model not in configured:
            said = f"The configuration has no model {job.model} any more."
            found.append(Hindrance(said=said, remedy="Configure it again, or read the film by another model."))
        elif force.mode(job.model, configured[job.model]) == "disabled":
            said = f"The model {job.model} is disabled."
            found.append(Hindrance(said=said, remedy="Activate it, or read the film by another model.", href="/models"))
        else:
            found += _of_model(console, job.model)
        late = console.config.notices.late_after
        if late and console.now() - job.created_at > late:
            said = f"It is late: it waits longer than notices.late_after ({words.span(late)})."
            found.append(Hindrance(said=said, remedy="Does infer run, and keep up? See the overview.", href="/"))
    if job.mode == "shadow":
        said = "A shadow model reads and is recorded; it never sends."
        found.append(Hindrance(said=said, remedy="Activate it where its results are to be sent.", href="/models"))
    elif job.state in ("reported", "delivered") and job.outcome != "duplicate" and not detail.send_to:
        said = f"The rule “{detail.rule}” sends nowhere."
        found.append(Hindrance(said=said, remedy="Name nodes in its send_to, restart, and read the film again."))
    if job.outcome == "not_analysed":
        found.append(_of_not_analysed(detail))
    if job.outcome == "duplicate" and detail.duplicate_of is not None:
        said = f"The same film was read before, as job {detail.duplicate_of}: its result is that one's."
        found.append(Hindrance(said=said, remedy="Look there.", href=f"/jobs/{detail.duplicate_of}"))
    return [*found, *_of_sending(console, detail, paused=force.paused(_SENDING))]


def _of_not_analysed(detail: JobDetail) -> Hindrance:
    """What there is to do about a film that no finding is given of."""
    sent = any(one.act == "report" and one.state in ("sent", "committed") for one in detail.deliveries)
    told = "The archive was told that it is not analysed. " if sent else ""
    return Hindrance(
        said="Where the film is as its header says there is nothing to mend: a person reads it without the AI.",
        remedy=f"{told}Where the header is wrong, mend it at the modality and send the film again; another model "
        "that is meant for such films may read this one.",
    )


def _of_model(console: Console, model: str) -> list[Hindrance]:
    """Why nobody reads by this model, if nobody does."""
    if model in fleet.loaded(console.database):
        return []
    remedy = f"“cxrnode model verify {model}” says what is wrong with it; put that right, and restart the node."
    for one in loading.not_loaded(console.database):
        if one.model == model:
            said = f"The model {model} could not be loaded by {one.node}: {one.reason}."
            return [Hindrance(said=said, remedy=remedy, href="/models")]
    said = f"No process that lives has loaded the model {model}."
    return [Hindrance(said=said, remedy="Does infer run? It takes some seconds to start.", href="/nodes")]


def _of_sending(console: Console, detail: JobDetail, *, paused: bool) -> list[Hindrance]:
    found = list[Hindrance]()
    waiting = [one for one in detail.deliveries if one.state == "pending"]
    if waiting and paused:
        found.append(Hindrance(said="Sending is paused.", remedy="Resume it when the cause is gone.", href="/models"))
    if any(one.held for one in waiting):
        said = "The same film came under another identity: its results are held."
        found.append(Hindrance(said=said, remedy="Say which identity is right, below.", href=""))
    for one in waiting:
        if one.down is not None:
            said = f"{one.destination} is down: {one.down.reason}."
            since = words.moment(one.down.opened_at, zoneinfo.ZoneInfo(console.config.node.timezone))
            again = words.span(one.down.next_probe_at - console.now())
            remedy = (
                f"Nothing is lost: it is tried again and again, the next time in {again}, and all goes out when it "
                f"answers. It is down since {since}; cxrnode echo {one.destination} tries it at once."
            )
            found.append(Hindrance(said=said, remedy=remedy))
        elif one.reason:
            said = f"{one.destination} did not take it yet: {one.reason}."
            found.append(Hindrance(said=said, remedy="It is tried again by itself."))
    return found
