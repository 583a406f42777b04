"""Counts for Prometheus from the audit trail: from the moment they start, each event once, on both databases."""

from __future__ import annotations

import contextlib

import pytest

from cxrnode.errors import Transient
from cxrnode.store import tally as tallies
from cxrnode.store.audit import note
from cxrnode.store.database import Database, Transaction
from cxrnode.store.tally import BUCKETS, Histogram, Tally
from tests.stores import Clock, delivered, names, reported


def test_it_counts_from_when_it_starts_and_each_event_once(database: Database, clock: Clock) -> None:
    delivered(database, 1)
    tally = Tally(database)
    tally.follow()
    assert not tally.events and not tally.reports
    second, third = delivered(database, 2), reported(database, 3)
    for _ in range(3):
        tally.follow()
    expected = [*names(database, second), *names(database, third)]
    for name in set(expected):
        assert tally.events[name] == expected.count(name), name
    assert tally.events["received"] == tally.events["accepted"] == 2
    assert tally.reports == {("chest", "analysed"): 2}
    assert tally.deliveries == {("PACS", "sent"): 1}
    assert sum(tally.to_report["chest"].counts) == 2 and sum(tally.to_delivery["PACS"].counts) == 1
    assert sum(count for (model, _, _), count in tally.findings.items() if model == "chest") > 0


def test_a_database_that_goes_away_in_between_makes_nothing_count_twice(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    tally = Tally(database)
    delivered(database, 1)
    read, reads = database.read, 0

    def away_after_two() -> contextlib.AbstractContextManager[Transaction]:
        nonlocal reads
        reads += 1
        if reads > 2:
            raise Transient("the database does not answer")
        return read()

    with monkeypatch.context() as changed:
        changed.setattr(database, "read", away_after_two)
        with pytest.raises(Transient):
            tally.follow()
    tally.follow()
    assert (tally.events["received"], tally.reports) == (1, {("chest", "analysed"): 1})
    assert tally.deliveries == {("PACS", "sent"): 1}


def test_times_are_those_from_receipt(database: Database, clock: Clock) -> None:
    tally = Tally(database)
    delivered(database, 1)
    tally.follow()
    assert tally.to_report["chest"].total == tally.to_delivery["PACS"].total == 0.0  # the clock stands still


def test_it_follows_by_pages_and_forgets_what_is_long_past(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tallies, "_PAGE", 7)
    monkeypatch.setattr(tallies, "_LOOK_BACK", 20)
    tally = Tally(database)
    for _ in range(3):
        with database.write() as transaction:
            for _ in range(50):
                note(transaction, "logged_in", account="anna")
        tally.follow()
    assert tally.events == {"logged_in": 150}
    assert len(tally._seen) <= 20


def test_a_histogram_is_cumulative_and_ends_with_all() -> None:
    one = Histogram()
    for seconds in (0.2, 1.0, 1.5, 5000.0):
        one.add(seconds)
    found = dict(one.cumulative())
    assert (found["1.0"], found["2.0"], found["3600.0"], found["+Inf"]) == (2, 3, 3, 4)
    assert len(found) == len(BUCKETS) + 1 and one.total == 5002.7
