"""What stands beside the jobs of a history: hours of each sender, truths fed back, associations, alerts, readers.

Rows in bulk, as the store would have written them; the last few months of a hospital that uses the node.
"""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import sqlalchemy as sa

from benchmarks.population import SENDERS, Fate, Population
from cxrnode.core.findings import Reader
from cxrnode.store.associations import KEPT
from cxrnode.store.schema import alert, association, feedback, hourly, reader
from cxrnode.store.tallies import HOUR

_SR, _DX = "1.2.840.10008.5.1.4.1.1.88.33", "1.2.840.10008.5.1.4.1.1.1.1"
_IMPLICIT, _EXPLICIT, _JPEG = "1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.4.70"
#: Of the films that were read, this share was followed up; and what of them is doubted by a reader.
_FOLLOWED, _DOUBTED = 0.02, 0.1

COLUMNS: dict[sa.Table, tuple[str, ...]] = {
    hourly: ("calling_aet", "hour", "received", "accepted"),
    feedback: ("id", "given_at", "instance_id", "job_id", "label", "truth", "verdict", "source", "given_by"),
    association: (
        *("id", "at", "calling_aet", "called_aet", "address", "outcome", "cause", "reason", "contexts", "objects"),
        *("refused", "seconds", "times"),
    ),
    alert: (
        *("id", "rule", "subject", "severity", "text", "remedy", "began_at", "seen_at", "raised_at", "quiet_since"),
        "ended_at",
    ),
    reader: ("model", "reader", "loaded_at"),
}


def hours(films: Population, until: float) -> list[tuple[Any, ...]]:
    """What each sender sent in each hour, with the row that says that the hour was counted."""
    senders = list(SENDERS)
    hour = (films.at // HOUR).astype(int)
    received = Counter(zip(hour.tolist(), films.sender.tolist(), strict=True))
    accepted = films.fate != Fate.IGNORED
    kept = Counter(zip(hour[accepted].tolist(), films.sender[accepted].tolist(), strict=True))
    rows: list[tuple[Any, ...]] = [(senders[at[1]], at[0], number, kept[at]) for at, number in received.items()]
    rows += [("", one, 0, 0) for one in range(int(hour[0]), int(until // HOUR) + 1)]
    return sorted(rows, key=lambda row: (row[1], row[0]))


class Followed:
    """Truths that were found out of some of the films, days later, and what readers thought of a few."""

    def __init__(self, random: np.random.Generator, until: float) -> None:
        """`until`: the end of the history."""
        self._random, self._until, self._count = random, until, 0

    def of(self, instance_id: int, job_id: int, at: float, labels: Sequence[str], scores: Sequence[float]) -> Any:
        """The rows of feedback on one film that was read: mostly none."""
        if self._random.random() >= _FOLLOWED:
            return
        given = at + 3 * 86400
        if given > self._until:
            return
        for i in self._random.choice(len(labels), 3, replace=False):
            self._count += 1
            odds = np.log(scores[i] / (1 - scores[i]))
            truth = bool(self._random.random() < 1 / (1 + np.exp(-1.5 * (odds + 0.2))))
            doubted = self._random.random() < _DOUBTED
            verdict, source, by = ("disagree", "reader", "dr_a") if doubted else ("", "CT", "qa")
            job = job_id if doubted else None
            yield (self._count, given, instance_id, job, labels[i], truth, verdict, source, by)


def associations(until: float) -> list[tuple[Any, ...]]:
    """As many of each outcome as are kept."""
    accepted = json.dumps(
        {
            "accepted": {_DX: _EXPLICIT},
            "proposed": [[_DX, [_IMPLICIT, _EXPLICIT, _JPEG]], [_SR, [_IMPLICIT, _EXPLICIT]]],
            "refused": [[_SR, [_IMPLICIT, _EXPLICIT], "abstract syntax not supported"]],
        },
        sort_keys=True,
    )
    asked = json.dumps({"proposed": [[_DX, [_IMPLICIT, _EXPLICIT, _JPEG]]]})
    senders, rows = list(SENDERS), []
    for number in range(3 * KEPT):
        at, sender = until - 40.0 * (3 * KEPT - number), senders[number % len(senders)]
        address = f"192.0.2.{10 + number % len(senders)}"
        if number % 3 == 0:
            what: tuple[Any, ...] = (sender, "CXRNODE", address, "accepted", "", "", accepted, 2, 0, 1.4, 1)
        elif number % 3 == 1:
            said = "no node has this AE title"
            what = (f"NEW{number % 40}", "CXRNODE", address, "rejected", "unknown", said, asked, 0, 0, 0.01, 3)
        else:
            said = "the TLS handshake failed"
            what = ("", "", address, "failed", "tls", said, "{}", 0, 0, 5.0, 12)
        rows.append((number + 1, at, *what))
    return rows


def alerts(until: float) -> list[tuple[Any, ...]]:
    """Four hundred that are over, and one that is not."""
    rows: list[tuple[Any, ...]] = []
    for number in range(400):
        began = until - 86400 * (400 - number)
        text, ended = f"a result has been waiting to be sent to PACS for {number % 50 + 10} min", began + 1800
        remedy = "does the send role run?"
        rows.append((number + 1, "queue_age", "PACS", "warning", text, remedy, began, ended, began + 60, ended, ended))
    text = "Effusion: the scores of the last 7 days are distributed otherwise than in the 90 days before (PSI 0.31)"
    began = until - 20 * 86400
    remedy = "look at the QA page: one device, one view, another mix of patients?"
    rows.append((401, "drift", "chest Effusion", "warning", text, remedy, began, until, began + 60, None, None))
    return rows


def readers(models: Sequence[tuple[str, Reader]], until: float) -> list[tuple[Any, ...]]:
    """Who reads under each name."""
    return [(name, json.dumps(dataclasses.asdict(one), sort_keys=True), until - 86400) for name, one in models]
