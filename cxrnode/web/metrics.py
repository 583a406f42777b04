"""/metrics for Prometheus: one collector that reads the store at each scrape. No identifier stands in a label.

Gauges say how things are; counters and histograms count from the first scrape of this process on, as those of
Prometheus may, from the events of all nodes. An alarm takes `increase()` or `rate()` of them.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from typing import TypeAlias

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from starlette.responses import Response

from cxrnode import __version__
from cxrnode.errors import CxrnodeError
from cxrnode.store.changes import modes
from cxrnode.store.overview import Overview, overview
from cxrnode.store.tally import Histogram, Tally
from cxrnode.web.asked import Asked
from cxrnode.web.console import Console, Forbidden
from cxrnode.web.gate import is_loopback
from cxrnode.web.health import readiness
from cxrnode.web.view import View

#: (values of the labels, value) of each sample of a gauge.
_Values: TypeAlias = list[tuple[list[str], float]]


class StoreCollector:
    """Reads the store at each scrape."""

    def __init__(self, console: Console) -> None:
        """Count from now on. Raises Transient where the database is away."""
        self._console = console
        self._tally = Tally(console.database)
        self._lock = threading.Lock()

    def collect(self) -> Iterator[Metric]:
        """Every metric. Raises Transient."""
        config = self._console.config
        with self._lock:
            self._tally.follow()
            seen = overview(
                self._console.database, models=list(config.models), destinations=self._console.destinations, hours=1
            )
            yield from self._gauges(seen)
            yield from self._counters()

    def _gauges(self, seen: Overview) -> Iterator[Metric]:
        yield _gauge("cxrnode_build_info", "This version.", ["version"], [([__version__], 1.0)])
        queues = [([one.name], float(one.count)) for one in seen.queues]
        yield _gauge("cxrnode_jobs_queued", "Films that wait to be read; counting stops at 10000.", ["model"], queues)
        ages = [([one.name], one.oldest or 0.0) for one in seen.queues]
        yield _gauge("cxrnode_queue_age_seconds", "For how long the oldest of them has waited.", ["model"], ages)
        yield _gauge("cxrnode_jobs_reading", "Films that are being read.", [], [([], float(seen.reading))])
        yield _gauge("cxrnode_jobs_failed", "Jobs of 30 days that need a person.", [], [([], float(seen.failed))])
        yield _gauge("cxrnode_jobs_disputed", "Jobs held for a person's decision.", [], [([], float(seen.disputed))])
        last: _Values = [([], seen.last_received)] if seen.last_received is not None else []
        yield _gauge("cxrnode_last_received_timestamp_seconds", "When the last film came.", [], last)
        names = ["destination"]
        yield _gauge(
            "cxrnode_destination_up",
            "1 while results flow to it.",
            names,
            [([w.name], float(w.well)) for w in seen.ways],
        )
        yield _gauge(
            "cxrnode_deliveries_waiting",
            "Deliveries not yet made.",
            names,
            [([w.name], float(w.waiting)) for w in seen.ways],
        )
        yield _gauge(
            "cxrnode_deliveries_failed",
            "Deliveries that were given up.",
            names,
            [([w.name], float(w.failed)) for w in seen.ways],
        )
        aged = [([w.name], w.oldest or 0.0) for w in seen.ways]
        yield _gauge("cxrnode_delivery_age_seconds", "For how long the oldest delivery has waited.", names, aged)
        sent = [([w.name], w.last_sent) for w in seen.ways if w.last_sent is not None]
        yield _gauge("cxrnode_last_sent_timestamp_seconds", "When a delivery was last made.", names, sent)
        found = self._console.in_force()
        mode = [([name, one], 1.0) for name, one in modes(found, self._console.config.modes)]
        yield _gauge("cxrnode_model_mode", "The mode in force of each model.", ["model", "mode"], mode)
        paused = [([name], float(found.paused(f"queue:{name}"))) for name in ("reading", "sending")]
        yield _gauge("cxrnode_queue_paused", "1 while people keep it still.", ["queue"], paused)
        ready = [([one.name], float(one.ok)) for one in readiness(self._console)]
        yield _gauge("cxrnode_ready", "What /readyz looks at.", ["check"], ready)
        try:
            free: _Values = [([], float(self._console.spool.free()))]
        except CxrnodeError:
            free = []
        yield _gauge("cxrnode_spool_free_bytes", "Free bytes on the spool's disk.", [], free)

    def _counters(self) -> Iterator[Metric]:
        tally = self._tally
        events = CounterMetricFamily("cxrnode_events", "Events of the audit trail.", labels=["event"])
        for name, count in sorted(tally.events.items()):
            events.add_metric([name], count)
        yield events
        reports = CounterMetricFamily("cxrnode_reports", "Jobs reported.", labels=["model", "outcome"])
        for (model, outcome), count in sorted(tally.reports.items()):
            reports.add_metric([model, outcome], count)
        yield reports
        findings = CounterMetricFamily("cxrnode_findings", "Decisions made.", labels=["model", "finding", "decision"])
        for (model, label, decision), count in sorted(tally.findings.items()):
            findings.add_metric([model, label, decision], count)
        yield findings
        sent = CounterMetricFamily("cxrnode_deliveries", "Deliveries settled.", labels=["destination", "result"])
        for (destination, how), count in sorted(tally.deliveries.items()):
            sent.add_metric([destination, how], count)
        yield sent
        yield _histogram("cxrnode_receipt_to_report_seconds", "From receipt to the report.", "model", tally.to_report)
        said = "From receipt to the delivery of the report."
        yield _histogram("cxrnode_receipt_to_delivery_seconds", said, "destination", tally.to_delivery)


def _gauge(name: str, said: str, labels: Sequence[str], values: Sequence[tuple[list[str], float]]) -> Metric:
    family = GaugeMetricFamily(name, said, labels=labels)
    for label, value in values:
        family.add_metric(label, value)
    return family


def _histogram(name: str, said: str, label: str, found: dict[str, Histogram]) -> Metric:
    family = HistogramMetricFamily(name, said, labels=[label])
    for value, one in sorted(found.items()):
        family.add_metric([value], one.cumulative(), one.total)
    return family


def metrics(console: Console, asked: Asked) -> Response:
    """The text format. For this machine, for the addresses of `web.metrics_from`, and for people logged in."""
    allowed = is_loopback(asked.address) or asked.address in console.config.web.metrics_from
    if asked.person is None and not allowed:
        raise Forbidden("web.metrics_from does not name this address")
    began = time.perf_counter()
    text = generate_latest(_collector(console))
    headers = {"Cache-Control": "no-store", "Server-Timing": f"store;dur={1000 * (time.perf_counter() - began):.1f}"}
    return Response(text, 200, headers, CONTENT_TYPE_PLAIN_0_0_4)


def _collector(console: Console) -> CollectorRegistry:
    """The console's one collector, in a registry of its own: it counts from the first scrape on."""
    if "metrics" not in console.kept:
        registry = CollectorRegistry()
        registry.register(StoreCollector(console))
        console.kept["metrics"] = registry
    found = console.kept["metrics"]
    assert isinstance(found, CollectorRegistry)
    return found


VIEWS = (View(path="/metrics", page=metrics, role=None),)
