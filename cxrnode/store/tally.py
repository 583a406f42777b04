"""What happened since a moment, counted from the audit trail: for counters that only grow, as Prometheus wants them.

It follows the events by their ids. On PostgreSQL a smaller id may be committed after a larger one, so that the last
few are looked at again.
"""

from __future__ import annotations

import bisect
import dataclasses
from collections import Counter
from collections.abc import Collection, Mapping, Sequence

import sqlalchemy as sa

from cxrnode.core.lifecycle import DeliveryEvent, JobEvent
from cxrnode.store.database import Database, Row
from cxrnode.store.schema import delivery, event, finding, instance, job

#: Upper limits of the classes of a histogram, in seconds.
BUCKETS = (1.0, 2.0, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0, 3600.0)
_PAGE = 500
_LOOK_BACK = 1_000


@dataclasses.dataclass(slots=True)
class Histogram:
    """Seconds in classes: `counts` has one more than BUCKETS, for what is longer than all."""

    counts: list[int] = dataclasses.field(default_factory=lambda: [0] * (len(BUCKETS) + 1))
    total: float = 0.0

    def add(self, seconds: float) -> None:
        """Count one."""
        self.counts[bisect.bisect_left(BUCKETS, seconds)] += 1
        self.total += seconds

    def cumulative(self) -> list[tuple[str, float]]:
        """(limit, how many are at most as long), as the text format has it."""
        found, so_far = [], 0
        for limit, count in zip((*map(str, BUCKETS), "+Inf"), self.counts, strict=True):
            so_far += count
            found.append((limit, float(so_far)))
        return found


class Tally:
    """Counts since it was made. For one thread at a time."""

    def __init__(self, database: Database) -> None:
        """Start at the newest event."""
        self._database = database
        with database.read() as transaction:
            self._last = int(transaction.scalar(sa.select(sa.func.max(event.c.id))) or 0)
            recent = sa.select(event.c.id).where(event.c.id > self._last - _LOOK_BACK)
            self._seen = {int(row[0]) for row in transaction.rows(recent)}
        self.events: Counter[str] = Counter()
        #: (model, outcome) of jobs that were reported.
        self.reports: Counter[tuple[str, str]] = Counter()
        #: (model, label, decision).
        self.findings: Counter[tuple[str, str, str]] = Counter()
        #: (destination, how it went).
        self.deliveries: Counter[tuple[str, str]] = Counter()
        #: Seconds from receipt to the report, by model, and to the delivery, by destination.
        self.to_report: dict[str, Histogram] = {}
        self.to_delivery: dict[str, Histogram] = {}

    def follow(self) -> None:
        """Count what happened meanwhile, by pages."""
        after = max(0, self._last - _LOOK_BACK)
        while True:
            statement = (
                sa.select(event.c.id, event.c.at, event.c.name, event.c.job_id, event.c.delivery_id)
                .where(event.c.id > after)
                .order_by(event.c.id)
                .limit(_PAGE)
            )
            with self._database.read() as transaction:
                rows = transaction.rows(statement)
            self._count([row for row in rows if row.id not in self._seen])
            self._seen |= {row.id for row in rows}
            if rows:
                self._last = max(self._last, rows[-1].id)
            if len(rows) < _PAGE:
                break
            after = rows[-1].id
        self._seen = {one for one in self._seen if one > self._last - _LOOK_BACK}

    def _count(self, rows: Sequence[Row]) -> None:
        reported = {row.job_id: row.at for row in rows if row.name == JobEvent.REPORTED}
        names = {
            DeliveryEvent.SENT: "sent",
            DeliveryEvent.PARKED: "failed",
            DeliveryEvent.FAULTED: "faulted",
            DeliveryEvent.CANCELLED: "cancelled",
        }
        settled = [(row.delivery_id, names[DeliveryEvent(row.name)], row.at) for row in rows if row.name in set(names)]
        # All that may fail first: what was counted by then would be counted again.
        made = self._look_up_reports(reported) if reported else ((), ())
        sent = self._look_up_deliveries(settled) if settled else {}
        self.events.update(row.name for row in rows)
        self._count_reports(reported, *made)
        self._count_deliveries(settled, sent)

    def _look_up_reports(self, reported: Collection[int]) -> tuple[Sequence[Row], Sequence[Row]]:
        """The jobs that were reported, and how often they found what."""
        jobs = (
            sa.select(job.c.id, job.c.model, job.c.outcome, job.c.revision, instance.c.received_at)
            .join(instance, instance.c.id == job.c.instance_id)
            .where(job.c.id.in_(reported))
        )
        found = (
            sa.select(job.c.model, finding.c.label, finding.c.decision, sa.func.count())
            .join(job, job.c.id == finding.c.job_id)
            .where(finding.c.job_id.in_(reported))
            .group_by(job.c.model, finding.c.label, finding.c.decision)
        )
        with self._database.read() as transaction:
            return transaction.rows(jobs), transaction.rows(found)

    def _count_reports(self, reported: Mapping[int, float], rows: Sequence[Row], findings: Sequence[Row]) -> None:
        for row in rows:
            self.reports[row.model, row.outcome] += 1
            if row.revision == 1:
                self.to_report.setdefault(row.model, Histogram()).add(max(0.0, reported[row.id] - row.received_at))
        for one in findings:
            self.findings[one[0], one[1], one[2]] += int(one[3])

    def _look_up_deliveries(self, settled: Sequence[tuple[int, str, float]]) -> dict[int, Row]:
        """The deliveries that were settled, by their ids."""
        chosen = (
            sa.select(delivery.c.id, delivery.c.destination, delivery.c.act, job.c.revision, instance.c.received_at)
            .join(job, job.c.id == delivery.c.job_id)
            .join(instance, instance.c.id == job.c.instance_id)
            .where(delivery.c.id.in_({one for one, _, _ in settled}))
        )
        with self._database.read() as transaction:
            return {row.id: row for row in transaction.rows(chosen)}

    def _count_deliveries(self, settled: Sequence[tuple[int, str, float]], rows: Mapping[int, Row]) -> None:
        for delivery_id, how, at in settled:
            if (row := rows.get(delivery_id)) is None:
                continue
            self.deliveries[row.destination, how] += 1
            if how == "sent" and row.act == "report" and row.revision == 1:
                took = max(0.0, at - row.received_at)
                self.to_delivery.setdefault(row.destination, Histogram()).add(took)
