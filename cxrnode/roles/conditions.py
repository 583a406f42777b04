"""What is wrong at the moment: each rule of `[alerts]` is a function that looks and says. Short reads; changes nothing.

A rule yields a Condition for each subject - a model, node or sender - that it is met of. Its number 0 switches it off.
"""

from __future__ import annotations

import json
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import sqlalchemy as sa

from cxrnode.core.lifecycle import DeliveryState, JobState
from cxrnode.quantities import spoken
from cxrnode.roles.context import Context
from cxrnode.store import series, sources
from cxrnode.store.alerts import Condition
from cxrnode.store.schema import circuit, delivery, event, job

#: How many of the newest events "in a row" is looked for in.
_RECENT = 2000
_DAY = 86400.0
#: Days of scores that are compared, and those before them that they are compared with.
_DRIFT_DAYS, _REFERENCE_DAYS = 7, 90
#: What `reading.engine` says of scores that are no numbers.
NOT_FINITE = "not a finite number"


def queue_age(context: Context) -> Iterator[Condition]:
    """A film, or a result, that waits for longer than `alerts.queue_age`."""
    limit = context.config.alerts.queue_age
    for model in context.config.models:
        with context.database.read() as transaction:
            oldest = transaction.scalar(
                sa.select(job.c.created_at)
                .where(job.c.state == JobState.QUEUED, job.c.model == model, job.c.not_before <= transaction.now)
                .order_by(job.c.rank, job.c.id)
                .limit(1)
            )
            age = transaction.now - oldest if oldest is not None else 0.0
        if age > limit:
            text = f"a film has been waiting for {model} for {spoken(age)}"
            remedy = "does the infer role run, and keep up? `cxrnode jobs ls --state queued`, its log lines"
            yield Condition(rule="queue_age", subject=model, text=text, remedy=remedy)
    for node in context.config.nodes:
        with context.database.read() as transaction:
            if transaction.scalar(sa.select(circuit.c.open).where(circuit.c.destination == node)):
                continue  # that is `destination_down`
            oldest = transaction.scalar(
                sa.select(delivery.c.created_at)
                .where(
                    delivery.c.destination == node,
                    delivery.c.state == DeliveryState.PENDING,
                    delivery.c.held.is_(False),
                )
                .order_by(delivery.c.rank, delivery.c.id)
                .limit(1)
            )
            age = transaction.now - oldest if oldest is not None else 0.0
        if age > limit:
            text = f"a result has been waiting to be sent to {node} for {spoken(age)}"
            remedy = "does the send role run? `cxrnode jobs ls`, its log lines"
            yield Condition(rule="queue_age", subject=node, text=text, remedy=remedy)


def failures(context: Context) -> Iterator[Condition]:
    """The last `alerts.failures` films of a model, or results for a node, failed one after the other."""
    limit = context.config.alerts.failures
    if not limit:
        return
    newest = (
        sa.select(event.c.id, event.c.name, event.c.job_id, event.c.delivery_id)
        .order_by(event.c.id.desc())
        .limit(_RECENT)
        .subquery()
    )
    names = ("parked", "reported", "delivery_parked", "delivery_sent")
    with context.database.read() as transaction:
        rows = transaction.rows(
            sa.select(newest.c.name, job.c.model, delivery.c.destination)
            .select_from(newest)
            .join(job, job.c.id == newest.c.job_id, isouter=True)
            .join(delivery, delivery.c.id == newest.c.delivery_id, isouter=True)
            .where(newest.c.name.in_(names))
            .order_by(newest.c.id.desc())
        )
    ends: defaultdict[tuple[str, str], list[bool]] = defaultdict(list)
    for row in rows:
        sent = row.name.startswith("delivery_")
        ends["results" if sent else "films", row.destination if sent else row.model].append(row.name.endswith("parked"))
    for (what, subject), failed in sorted(ends.items()):
        in_a_row = next((count for count, one in enumerate(failed) if not one), len(failed))
        if in_a_row >= limit:
            goal = f"for {subject}" if what == "results" else f"of {subject}"
            text = f"the last {in_a_row} {what} {goal} failed"
            remedy = "`cxrnode jobs ls --state failed` says why; then jobs retry or resend"
            yield Condition(rule="failures", subject=subject, text=text, remedy=remedy, severity="critical")


def destination_down(context: Context) -> Iterator[Condition]:
    """A destination that has not been reached for `alerts.destination_down`."""
    limit = context.config.alerts.destination_down
    with context.database.read() as transaction:
        rows = transaction.rows(sa.select(circuit).where(circuit.c.open.is_(True)))
        now = transaction.now
    for row in rows:
        if row.destination in context.config.nodes and row.opened_at and now - row.opened_at > limit:
            text = f"{row.destination} has not been reached for {spoken(now - row.opened_at)}"
            yield Condition(
                rule="destination_down", subject=row.destination, text=text, remedy=row.reason, severity="critical"
            )


def disk(context: Context) -> Iterator[Condition]:
    """Less than `alerts.disk` bytes are left for the spool on the disk that this node receives on."""
    free, node = context.spool.free(), context.config.node_name
    if free < context.config.alerts.disk:
        refusing = free < context.config.spool.min_free
        text = f"{node} has {free >> 20} MiB left for the spool" + ("; it refuses films" if refusing else "")
        remedy = "free space, or keep films for a shorter time ([retention])"
        severity = "critical" if refusing else "warning"
        yield Condition(rule="disk", subject=node, text=text, remedy=remedy, severity=severity)  # type: ignore[arg-type]


def silence(context: Context) -> Iterator[Condition]:
    """A sender that has sent nothing for longer than its own habit."""
    factor = context.config.alerts.silence
    for one in sources.sources(context.database, factor=factor) if factor else ():
        if one.silent and one.usual is not None and one.silent_for is not None:
            text = (
                f"{one.calling_aet} sent no film for {spoken(one.silent_for)} of its usual hours; "
                f"it sends every {spoken(one.usual)} or more often"
            )
            remedy = "is the room in use? Look at the modality's and the router's send queue; `cxrnode echo` from there"
            yield Condition(rule="silence", subject=one.calling_aet, text=text, remedy=remedy)


def model_fault(context: Context) -> Iterator[Condition]:
    """A model gave scores that are no numbers within the last hour."""
    newest = (
        sa.select(event.c.name, event.c.at, event.c.job_id, event.c.detail)
        .order_by(event.c.id.desc())
        .limit(_RECENT)
        .subquery()
    )
    with context.database.read() as transaction:
        rows = transaction.rows(
            sa.select(job.c.model, newest.c.detail)
            .join_from(newest, job, job.c.id == newest.c.job_id)
            .where(newest.c.name == "parked", newest.c.at > transaction.now - 3600.0)
        )
    found: defaultdict[str, int] = defaultdict(int)
    for row in rows:
        if NOT_FINITE in str(json.loads(row.detail).get("reason", "")):
            found[row.model] += 1
    for model, films in sorted(found.items()):
        text = f"{model} gave scores that are no numbers on {films} films within an hour"
        remedy = "`cxrnode model verify`; if it holds, look at the films, and at the memory of the machine"
        yield Condition(rule="model_fault", subject=model, text=text, remedy=remedy, severity="critical")


def drift(context: Context) -> Iterator[Condition]:
    """The scores of a finding moved past `alerts.drift` (PSI) in a week, against the 90 days before."""
    limit = context.config.alerts.drift
    window = series.last_days(context.database, _DRIFT_DAYS)
    reference = series.last_days(context.database, _REFERENCE_DAYS, before=_DRIFT_DAYS)
    for model in context.config.models if limit else ():
        moved = series.drift(context.database, model, reference=reference, window=window, psi_limit=limit)
        shifted = sorted((one for one in moved if one.shifted), key=lambda one: -(one.psi or 0.0))
        if shifted:
            named = ", ".join(f"{one.label or 'the films themselves'} {one.psi:.2f}" for one in shifted[:4])
            more = f" and {len(shifted) - 4} more" if len(shifted) > 4 else ""
            text = f"{model}: the last 7 days differ from the 90 before by more than PSI {limit:g}: {named}{more}"
            remedy = "`cxrnode audit stats`; a new device, other patients, or another bundle?"
            yield Condition(rule="drift", subject=model, text=text, remedy=remedy)


def certificate(context: Context) -> Iterator[Condition]:
    """A certificate of the configuration ends within `alerts.certificate`."""
    limit = context.config.alerts.certificate
    for name, path in sorted(_certificates(context).items()):
        left = _seconds_left(path)
        if left is not None and left < limit:
            text = f"the certificate of {name} " + (f"ends in {spoken(left)}" if left > 0 else "has ended")
            severity = "critical" if left <= 0 else "warning"
            remedy = "ask your authority for a new one; associations fail without it"
            yield Condition(rule="certificate", subject=name[:64], text=text, remedy=remedy, severity=severity)  # type: ignore[arg-type]


def _certificates(context: Context) -> Mapping[str, Path]:
    """The certificates that the configuration names, by whose they are."""
    config = context.config
    found: dict[str, Path] = {}
    for name, tls in (("listen", config.listen.tls), *((f"nodes.{key}", one.tls) for key, one in config.nodes.items())):
        for part in ("cert", "ca"):
            path = getattr(tls, part, None)
            if path is not None:
                found[f"{name} {part}"] = path
    return found


def _seconds_left(path: Path) -> float | None:
    """How long the first certificate of a PEM file is good for; None where it cannot be read: `check` says that."""
    from cryptography import x509

    try:
        found = x509.load_pem_x509_certificate(path.read_bytes())
    except (OSError, ValueError):
        return None
    return found.not_valid_after_utc.timestamp() - time.time()


#: The rules that are looked at often, and those that change by the day.
OFTEN: Mapping[str, Callable[[Context], Iterator[Condition]]] = {
    "queue_age": queue_age,
    "failures": failures,
    "destination_down": destination_down,
    "silence": silence,
    "model_fault": model_fault,
}
#: Those that each node looks at for itself: their subject is the node.
OWN: Mapping[str, Callable[[Context], Iterator[Condition]]] = {"disk": disk}
SELDOM: Mapping[str, Callable[[Context], Iterator[Condition]]] = {"drift": drift, "certificate": certificate}
