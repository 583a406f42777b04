"""The store under many hands at once: threads and processes that claim, settle, change identities and expire leases."""

from __future__ import annotations

import multiprocessing
import random
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TypeVar

import pytest
import sqlalchemy as sa

from cxrnode.core.findings import Outcome
from cxrnode.core.lifecycle import JobState
from cxrnode.errors import LeaseLost, Rejected, Transient
from cxrnode.store import deliveries, disputes, jobs, receipt, rejections, resend, retention, settlements
from cxrnode.store.database import Database
from cxrnode.store.receipt import Order
from cxrnode.store.retention import Periods
from cxrnode.store.schema import delivery, event, film, instance, job, output
from cxrnode.store.withdrawals import REJECTIONS, Cause, withdraw
from tests.stores import (
    LIMITS,
    arrival,
    assert_sound,
    claim,
    claim_one,
    count,
    database,
    enqueue,
    note_of,
    open_store,
    postgres_store,
    reported,
    row,
    settle,
    sqlite_template,
    store_url,
    take,
    taken,
)

__all__ = ["database", "postgres_store", "sqlite_template", "store_url"]

T = TypeVar("T")

WORKERS = 4


def _drain(url: str, owner: str, found: multiprocessing.SimpleQueue[list[int]]) -> None:
    """Claim and settle until nothing is queued; tell which jobs were settled here."""
    opened = open_store(url)
    done: list[int] = []
    while True:
        got = claim(opened, owner=owner, limit=4)
        if not got and count(opened, job, job.c.state == JobState.QUEUED) == 0:
            break
        for one in got:
            assert settle(opened, one, count=1)
            done.append(one.job_id)
    opened.close()
    found.put(done)


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "films"), [("threads", 100), ("processes", 300)])
def test_many_workers_read_every_film_exactly_once(store_url: str, database: Database, kind: str, films: int) -> None:
    ids = [enqueue(database, number) for number in range(films)]
    context = multiprocessing.get_context("spawn")
    found: multiprocessing.SimpleQueue[list[int]] = context.SimpleQueue()
    if kind == "processes":
        hands: list[threading.Thread | multiprocessing.process.BaseProcess] = [
            context.Process(target=_drain, args=(store_url, f"w{n}", found)) for n in range(WORKERS)
        ]
    else:
        hands = [threading.Thread(target=_drain, args=(store_url, f"w{n}", found)) for n in range(WORKERS)]
    for hand in hands:
        hand.start()
    shares = [found.get() for _ in hands]
    for hand in hands:
        hand.join()
    assert ids == sorted(job_id for share in shares for job_id in share)
    assert films == count(database, job, job.c.state == JobState.REPORTED, job.c.token == 1)
    assert films == count(database, event, event.c.name == "reported")
    assert_sound(database)


def test_of_two_workers_that_settle_the_same_film_at_once_one_reports_it(database: Database) -> None:
    for number in range(15):
        ids = {enqueue(database, f"{number} {way}") for way in ("direct", "by the archive")}
        held = [one for one in claim(database) if one.job_id in ids]
        results = _at_once([partial(settle, database, one, pixels=f"film {number}") for one in held])
        assert sorted(results) == [False, True]
        outcomes = Counter(row(database, job, job_id).outcome for job_id in ids)
        assert outcomes == {Outcome.ANALYSED: 1, Outcome.DUPLICATE: 1}
    assert (count(database, film), count(database, delivery), count(database, output)) == (15, 15, 30)
    assert_sound(database)


def test_of_two_workers_that_settle_one_film_under_two_names_at_once_both_are_held(database: Database) -> None:
    for number in range(15):
        ids = {enqueue(database, f"{number} {name}") for name in ("a", "b")}
        held = [one for one in claim(database) if one.job_id in ids]
        pixels = f"film {number}"
        _at_once(
            [partial(settle, database, one, pixels=pixels, identity=name) for name, one in zip("ab", held, strict=True)]
        )
        assert count(database, delivery, delivery.c.job_id.in_(ids), delivery.c.held.is_(True)) == 2
    assert take(database) == []
    assert_sound(database)


def test_the_same_film_received_at_once_counts_once(database: Database) -> None:
    order = Order(model="chest", mode="active", outputs=("sr",), send_to=("PACS",))
    for number in range(10):
        made = _at_once(
            [
                partial(receipt.record, database, arrival(number), [order], ageing=1.0, config_digest="")
                for _ in range(4)
            ]
        )
        assert sorted(one.new for one in made) == [False, False, False, True]
        assert len({one.instance_id for one in made}) == 1
    assert (count(database, instance), count(database, job)) == (10, 10)


def test_the_last_two_deliveries_of_a_job_settled_at_once_close_it_once(database: Database) -> None:
    for number in range(15):
        job_id = reported(database, number, send_to=("PACS", "MINI"))
        held = [one for way in ("PACS", "MINI") for one in take(database, way)]
        _at_once([partial(settlements.settle_sent, database, one, taken(one)) for one in held])
        assert row(database, job, job_id).state == "delivered"
    assert count(database, event, event.c.name == "delivered") == 15
    assert_sound(database)


def test_two_people_who_ask_for_a_retry_at_once_get_one_revision(database: Database) -> None:
    for number in range(10):
        job_id = reported(database, number)

        def ask(chosen: int = job_id) -> bool:
            try:
                jobs.retry(database, chosen, reason="again")
            except Rejected:
                return False
            return True

        assert sorted(_at_once([ask, ask])) == [False, True]
        settle(database, claim_one(database))
    assert_sound(database)


def test_two_workers_with_lost_films_before_them_take_one_each(database: Database) -> None:
    for number in range(2):
        enqueue(database, number)
    claim(database, owner="lost")
    jobs.release_owner(database, "lost")
    with database.write() as transaction:
        assert jobs.expire(transaction, LIMITS) == 2
    got = _at_once([partial(claim, database, owner=name) for name in ("w1", "w2")])
    assert [len(one) for one in got] == [1, 1]
    assert got[0][0].job_id != got[1][0].job_id


@pytest.mark.slow
def test_everything_at_once_ends_well_and_nearly_never_in_a_deadlock(database: Database) -> None:
    """Six seconds of all that can happen to jobs and deliveries, corrections and retention among it, on few rows.

    More on a busy machine, where some hand has hardly had a turn by then.
    """
    began = time.monotonic()
    faults: list[str] = []
    steps: Counter[str] = Counter()
    number = iter(range(1_000_000))
    lock = threading.Lock()

    def receive(dice: random.Random) -> None:
        with lock:
            film_number = next(number)
        if count(database, job, job.c.state == JobState.QUEUED) < 20:
            enqueue(database, film_number, send_to=dice.choice([("PACS", "MINI"), ("MINI", "PACS"), ("PACS",)]))

    def infer(dice: random.Random) -> None:
        for one in claim(database, owner=threading.current_thread().name, limit=3):
            settle(
                database,
                one,
                pixels=dice.choice([None, f"film {dice.randrange(30)}"]),
                identity=dice.choice(["same", "same", "other"]),
                policy=dice.choice(["hold", "reissue"]),
            )

    def send(dice: random.Random) -> None:
        for one in take(database, dice.choice(["PACS", "MINI"]), owner=threading.current_thread().name):
            if not deliveries.begin(database, one):
                continue
            how = dice.random()
            if how < 0.6:
                settlements.settle_sent(database, one, taken(one))
            elif how < 0.7:
                settlements.settle_parked(database, one, (), "no")
            elif how < 0.8:
                settlements.settle_faulted(database, one, (), "busy", pause=0.0)
            elif how < 0.9:
                settlements.give_back(database, one, (), "aborted")

    def ask(dice: random.Random) -> None:
        chosen = dice.randrange(1, 1 + max(1, count(database, job)))
        dice.choice([jobs.retry, resend.resend])(database, chosen, reason="a person")

    def correct(dice: random.Random) -> None:
        chosen = dice.randrange(1, 1 + max(1, count(database, job)))
        if dice.random() < 0.5:
            withdraw(database, chosen, Cause(rejection=dice.choice(REJECTIONS), note="a person", by="me"))
        else:
            with database.read() as transaction:
                disputed = sa.select(job.c.id).where(job.c.disputed.is_(True)).order_by(job.c.id).limit(5)
                found = [one.id for one in transaction.rows(disputed)]
            disputes.decide(database, dice.choice(found or [chosen]), reason="a person", by="me")

    def tend(dice: random.Random) -> None:
        for order in rejections.due(database, ("PACS", "MINI"), limit=5):
            rejections.record(database, order, note_of(order) if order.objects else ())
        name = f"hand {dice.randrange(8)}"
        jobs.release_owner(database, name)
        deliveries.release_owner(database, name)
        with database.write() as transaction:
            jobs.expire(transaction, LIMITS)
            deliveries.expire(transaction)
        retention.retire(database, Periods(accepted=2.0, ignored=1.0, failed=2.0), limit=5)

    def enough() -> bool:
        took = time.monotonic() - began
        every = all(steps[do.__name__] > 5 for do in plan) and steps.total() >= 1000
        return took > 60.0 or (took > 6.0 and every)

    def work(seed: int, do: Callable[[random.Random], None]) -> None:
        threading.current_thread().name = f"hand {seed}"
        dice = random.Random(seed)
        while not enough():
            try:
                do(dice)
            except (LeaseLost, Rejected):
                pass
            except Transient as fault:
                faults.append(str(fault))
            with lock:
                steps[do.__name__] += 1

    plan = [receive, infer, infer, send, send, send, ask, correct, tend]
    with ThreadPoolExecutor(len(plan)) as hands:
        for future in [hands.submit(work, seed, do) for seed, do in enumerate(plan)]:
            future.result()
    assert all(steps[do.__name__] > 5 for do in plan), steps
    assert len(faults) <= sum(steps.values()) // 200, (faults[:5], steps)
    assert_sound(database)
    with database.read() as transaction:
        counted = transaction.rows(sa.select(event.c.job_id).where(event.c.name == "reported"))
    assert len(counted) == len({one.job_id for one in counted})


def _at_once(steps: list[Callable[[], T]]) -> list[T]:
    """Run the steps on threads that start together; raises what any of them raised."""
    gate = threading.Barrier(len(steps))

    def run(step: Callable[[], T]) -> T:
        gate.wait()
        return step()

    with ThreadPoolExecutor(len(steps)) as hands:
        return [future.result() for future in [hands.submit(run, step) for step in steps]]
