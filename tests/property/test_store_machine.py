"""The store as a state machine: two workers and two senders that may die at any step, and a clock that jumps.

After each rule every job's life is legal, its chain whole, no job and no object lost, and nothing is settled twice.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest
import sqlalchemy as sa
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from cxrnode.core.lifecycle import DONE, JobEvent, JobState
from cxrnode.errors import LeaseLost, Rejected
from cxrnode.store import audit, circuits, deliveries, disputes, jobs, rejections, resend, settlements
from cxrnode.store.database import Database, Transaction
from cxrnode.store.deliveries import DeliveryClaim
from cxrnode.store.disputes import Policy
from cxrnode.store.jobs import Claim
from cxrnode.store.schema import delivery, delivery_output, event, film, instance, job, output
from cxrnode.store.settlements import Answer
from cxrnode.store.together import settle_together
from cxrnode.store.withdrawals import REJECTIONS, Cause, withdraw
from tests.stores import (
    LEASE,
    LIMITS,
    Clock,
    assert_sound,
    claim,
    empty,
    enqueue,
    finished,
    note_of,
    open_store,
    postgres_store,
    settle,
    take,
    taken,
)

__all__ = ["postgres_store"]

_QUICK = os.environ.get("CXRNODE_HYPOTHESIS") == "quick"

workers = st.sampled_from(("w1", "w2"))
senders = st.sampled_from(("s1", "s2"))
destinations = st.sampled_from(("PACS", "MINI"))


class Crash(BaseException):
    """The process dies here: its transaction is rolled back by the database."""


class Store(RuleBasedStateMachine):
    """What the processes of some nodes do to one store, in any order."""

    database: Database

    def __init__(self) -> None:
        super().__init__()
        empty(self.database)
        self.clock = Clock(self.database)
        self.enqueued: list[int] = []
        self.films = 0
        self.held: dict[str, list[Claim]] = {"w1": [], "w2": []}
        self.sending: dict[str, list[DeliveryClaim]] = {"s1": [], "s2": []}
        #: Settles that came back without an error, by (row, token).
        self.settled_jobs: Counter[tuple[int, int]] = Counter()
        self.settled_deliveries: Counter[tuple[int, int]] = Counter()
        #: Objects that a destination took since the last resend: they must not be sent once more.
        self.tokens: dict[int, int] = {}
        #: What the destinations really have, whatever was recorded: (destination, output) pairs.
        self.archived: set[tuple[str, int]] = set()
        #: What a withdrawal has named, likewise.
        self.rejected: set[tuple[str, int]] = set()

    # ------------------------------------------------------------------------------------------ receive

    @initialize(first=st.sampled_from((("PACS",), ("PACS", "MINI"))))
    def a_day_begins(self, first: tuple[str, ...]) -> None:
        """Some films wait and some are reported: a random walk from nothing seldom comes as far as a delivery."""
        for send_to in (first, ("PACS", "MINI"), ("PACS", "MINI"), ("MINI",)):
            self.receive(send_to, "active", 0)
        for one in claim(self.database, owner="early", limit=2):
            settle(self.database, one)
        self.claim("w1", 1)
        self.take("s1", "PACS", 2)

    @rule(
        send_to=st.sampled_from(((), ("PACS",), ("PACS", "MINI"))),
        mode=st.sampled_from(("active", "active", "shadow")),
        priority=st.integers(0, 2),
    )
    def receive(self, send_to: tuple[str, ...], mode: str, priority: int) -> None:
        self.films += 1
        self.enqueued.append(enqueue(self.database, self.films, send_to=send_to, mode=mode, priority=priority))

    @precondition(lambda self: self.films)
    @rule(data=st.data())
    def receive_again(self, data: st.DataObject) -> None:
        number = data.draw(st.integers(1, self.films))
        with contextlib.suppress(IndexError):
            enqueue(self.database, number)
            raise AssertionError("the same bytes made a job")

    # -------------------------------------------------------------------------------------------- infer

    @rule(worker=workers, limit=st.integers(1, 3))
    def claim(self, worker: str, limit: int) -> None:
        live = self._live(job, JobState.READING)
        got = claim(self.database, owner=worker, limit=limit)
        assert set() == {one.job_id for one in got} & live, "a job with a live lease was claimed"
        for one in got:
            assert one.token > self.tokens.get(one.job_id, 0), "a token came twice"
            self.tokens[one.job_id] = one.token
        lost = [one for one in got if self._value(job.c.losses, job.c.id == one.job_id)]
        assert not lost or len(got) == 1, "a job that lost a worker was not claimed alone"
        self.held[worker] += got

    @precondition(lambda self: any(self.held.values()))
    @rule(
        data=st.data(),
        how=st.sampled_from(("report", "report", "report", "park", "fault", "own fault", "give_back")),
        pixels=st.sampled_from((None, None, "film A", "film B")),
        identity=st.sampled_from(("same", "same", "other", "third")),
        policy=st.sampled_from(("hold", "reissue")),
        crash=st.sampled_from((False, False, True)),
    )
    def settle(
        self, data: st.DataObject, how: str, pixels: str | None, identity: str, policy: Policy, crash: bool
    ) -> None:
        worker = data.draw(st.sampled_from([name for name, held in self.held.items() if held]))
        held = self.held[worker].pop(data.draw(st.integers(0, len(self.held[worker]) - 1)))
        before = self._row(job, held.job_id)
        ours = before.state == JobState.READING and before.token == held.token
        try:
            with self._dying(crash):
                if how == "report":
                    settle(self.database, held, pixels=pixels, identity=identity, policy=policy)
                elif how == "park":
                    jobs.park(self.database, held, "no")
                elif how == "give_back":
                    jobs.give_back(self.database, held)
                else:
                    own = how == "own fault"
                    jobs.fault(self.database, held, "busy", pause=5.0, limits=LIMITS, counts=own, alone=own)
        except LeaseLost:
            assert not ours, "a lease that stands was called lost"
            assert before == self._row(job, held.job_id), "a lost lease wrote"
        except Crash:
            assert before == self._row(job, held.job_id), "half a transaction stands"
            self.held[worker].clear()
        else:
            assert ours, "a lost lease settled"
            self.settled_jobs[held.job_id, held.token] += 1

    @precondition(lambda self: any(self.held.values()))
    @rule(worker=workers, data=st.data(), identity=st.sampled_from(("same", "same", "other")), crash=st.booleans())
    def settle_together(self, worker: str, data: st.DataObject, identity: str, crash: bool) -> None:
        """All that a worker holds at once: what is not plain, or not its any more, is left as it was."""
        pixels = [data.draw(st.sampled_from((None, None, "film A", "film B"))) for _ in self.held[worker]]
        held, self.held[worker] = self.held[worker], []
        ready = [
            finished(self.database, one, pixels=its, identity=identity) for one, its in zip(held, pixels, strict=True)
        ]
        before = {one.job_id: self._row(job, one.job_id) for one in held}
        done = {}
        with contextlib.suppress(Crash), self._dying(crash):
            done = settle_together(self.database, ready)
        for one in held:
            was = before[one.job_id]
            if one.job_id in done:
                assert was.state == JobState.READING and was.token == one.token, "a lost lease settled"
                self.settled_jobs[one.job_id, one.token] += 1
            else:
                assert was == self._row(job, one.job_id), "a job that was left wrote"

    @rule(worker=workers)
    def read_in_good_order(self, worker: str) -> None:
        for one in claim(self.database, owner=worker, limit=2):
            settle(self.database, one)

    @precondition(lambda self: any(self.held.values()))
    @rule(worker=workers)
    def renew(self, worker: str) -> None:
        jobs.renew(self.database, self.held[worker], lease=LEASE)

    @rule(worker=workers, told=st.booleans())
    def worker_dies(self, worker: str, told: bool) -> None:
        self.held[worker].clear()
        if told:
            jobs.release_owner(self.database, worker)

    # --------------------------------------------------------------------------------------------- send

    @rule(sender=senders, destination=destinations, limit=st.integers(1, 3))
    def take(self, sender: str, destination: str, limit: int) -> None:
        live = self._live(delivery, "sending")
        got = take(self.database, destination, owner=sender, limit=limit)
        assert set() == {one.delivery_id for one in got} & live, "a delivery with a live lease was claimed"
        for one in got:
            assert one.parcels, "a delivery without objects"
            its_job, its = self._row(job, one.job_id), self._row(delivery, one.delivery_id)
            if its.act == "withdrawal":
                assert its_job.state in (JobState.SUPERSEDED, JobState.WITHDRAWN), "what stands is withdrawn"
            else:
                assert its_job.state in (JobState.REPORTED, JobState.FAILED), f"a {its_job.state} job is being sent"
                assert not its_job.disputed, "a film in dispute is being sent"
            assert not its.held
        self.sending[sender] += got

    @precondition(lambda self: any(self.sending.values()))
    @rule(
        data=st.data(),
        how=st.sampled_from(("sent", "sent", "sent", "parked", "faulted", "cut", "give_back")),
        crash=st.sampled_from((False, False, True)),
    )
    def deliver(self, data: st.DataObject, how: str, crash: bool) -> None:
        sender = data.draw(st.sampled_from([name for name, held in self.sending.items() if held]))
        held = self.sending[sender].pop(data.draw(st.integers(0, len(self.sending[sender]) - 1)))
        before = self._row(delivery, held.delivery_id)
        ours = before.state == "sending" and before.token == held.token
        part = [Answer(output_id=held.parcels[0].output_id, status=0, done=True)]
        try:
            if not self._begin(held):
                return
            if how == "sent":
                self._archive(held, len(held.parcels))
            elif how == "cut" or (how != "parked" and len(held.parcels) > 1):
                self._archive(held, 1)
            with self._dying(crash):
                if how == "cut":  # the object arrives, its answer does not
                    unsure = held.parcels[0].output_id
                    settlements.settle_faulted(self.database, held, (), "cut", pause=5.0, unsure=unsure)
                elif how == "sent":
                    settlements.settle_sent(self.database, held, taken(held))
                elif how == "parked":
                    settlements.settle_parked(self.database, held, (), "no")
                elif how == "faulted" and len(held.parcels) > 1:
                    settlements.settle_faulted(self.database, held, part, "busy", pause=5.0)
                else:
                    settlements.give_back(self.database, held, part if len(held.parcels) > 1 else (), "aborted")
        except LeaseLost:
            assert not ours, "a lease that stands was called lost"
            assert before == self._row(delivery, held.delivery_id), "a lost lease wrote"
        except Crash:
            assert before == self._row(delivery, held.delivery_id), "half a transaction stands"
            self.sending[sender].clear()
        else:
            assert ours, "a lost lease settled"
            self.settled_deliveries[held.delivery_id, held.token] += 1

    @rule(sender=senders, destination=destinations)
    def send_in_good_order(self, sender: str, destination: str) -> None:
        for one in take(self.database, destination, owner=sender, limit=1):
            if self._begin(one):
                self._archive(one, len(one.parcels))
                settlements.settle_sent(self.database, one, taken(one))

    @rule(sender=senders, told=st.booleans())
    def sender_dies(self, sender: str, told: bool) -> None:
        self.sending[sender].clear()
        if told:
            deliveries.release_owner(self.database, sender)

    @rule(destination=destinations, opens=st.booleans())
    def circuit_turns(self, destination: str, opens: bool) -> None:
        if opens:
            circuits.open_circuit(self.database, destination, "down", base=1.0, cap=8.0)
        else:
            circuits.close_circuit(self.database, destination)

    # ------------------------------------------------------------------------------------- people, time

    @precondition(lambda self: self.enqueued)
    @rule(data=st.data())
    def retry(self, data: st.DataObject) -> None:
        chosen = data.draw(st.sampled_from(self.enqueued))
        with contextlib.suppress(Rejected):
            made = jobs.retry(self.database, chosen, reason="a person")
            if made != chosen:
                self.enqueued.append(made)

    @precondition(lambda self: self.enqueued)
    @rule(data=st.data())
    def resend(self, data: st.DataObject) -> None:
        with contextlib.suppress(Rejected):
            resend.resend(self.database, data.draw(st.sampled_from(self.enqueued)), reason="a person")

    @precondition(lambda self: self.enqueued)
    @rule(data=st.data(), rejection=st.sampled_from(REJECTIONS))
    def withdraw(self, data: st.DataObject, rejection: str) -> None:
        cause = Cause(rejection=rejection, note="a person", by="me")
        with contextlib.suppress(Rejected):
            withdraw(self.database, data.draw(st.sampled_from(self.enqueued)), cause)

    @precondition(lambda self: self.enqueued)
    @rule(data=st.data(), all_right=st.booleans())
    def decide(self, data: st.DataObject, all_right: bool) -> None:
        with contextlib.suppress(Rejected):
            chosen = data.draw(st.sampled_from(self.enqueued))
            disputes.decide(self.database, chosen, reason="a person", by="me", all_right=all_right)

    @rule(crash=st.sampled_from((False, False, True)))
    def make_withdrawals(self, crash: bool) -> None:
        for order in rejections.due(self.database, ("PACS", "MINI"), limit=10):
            with contextlib.suppress(Crash), self._dying(crash):
                rejections.record(self.database, order, note_of(order) if order.objects else ())
            named = {one.sop_instance_uid for one in order.objects}
            its = self._rows(sa.select(output.c.id, output.c.sop_instance_uid).where(output.c.job_id == order.job_id))
            here = {(order.destination, one.id) for one in its if one.sop_instance_uid in named}
            whole = {(order.destination, one.id) for one in its} & self.archived
            notes = {(order.destination, one.id) for one in its if self._row(output, one.id).kind == "rejection"}
            assert whole - notes <= here, "an object that a destination has is not withdrawn from it"
            self.rejected |= here

    @rule()
    def tend(self) -> None:
        with self.database.write() as transaction:
            jobs.expire(transaction, LIMITS)
            deliveries.expire(transaction)

    @rule(seconds=st.sampled_from((0.5, 5.0, LEASE - 1, LEASE + 1, 3600.0, -2.0, -LEASE)))
    def time_passes(self, seconds: float) -> None:
        self.clock.turn(seconds)

    # --------------------------------------------------------------------------------------- invariants

    @invariant()
    def every_life_is_legal_and_every_chain_whole(self) -> None:
        assert_sound(self.database)

    @invariant()
    def no_job_is_lost(self) -> None:
        rows = self._rows(sa.select(job.c.id))
        assert sorted(self.enqueued) == sorted(one.id for one in rows)
        assert self.films == len(self._rows(sa.select(instance.c.id)))

    @invariant()
    def a_job_is_reported_at_most_once(self) -> None:
        ended = (JobEvent.REPORTED, JobEvent.DUPLICATE_FOUND)
        counts = Counter(one.job_id for one in self._rows(sa.select(event.c.job_id).where(event.c.name.in_(ended))))
        assert [job_id for job_id, times in counts.items() if times > 1] == []

    @invariant()
    def nothing_is_settled_twice_under_one_token(self) -> None:
        assert [key for key, times in self.settled_jobs.items() if times > 1] == []
        assert [key for key, times in self.settled_deliveries.items() if times > 1] == []

    @invariant()
    def a_film_is_read_once_for_each_identity(self) -> None:
        analysed = self._rows(
            # A shadow reading makes no active one superfluous.
            sa.select(job.c.pixel_digest, job.c.identity_digest, job.c.mode).where(
                job.c.outcome == "analysed", job.c.revision == 1
            )
        )
        assert len(analysed) == len({tuple(one) for one in analysed})
        of_films = self._rows(sa.select(film.c.job_id, job.c.outcome).join(job, job.c.id == film.c.job_id))
        assert ["analysed"] * len(of_films) == [one.outcome for one in of_films]

    @invariant()
    def leases_stand_exactly_where_something_is_under_way(self) -> None:
        wrong = self._rows(
            sa.select(job.c.id).where((job.c.state == JobState.READING) != job.c.lease_until.is_not(None))
        ) + self._rows(
            sa.select(delivery.c.id).where((delivery.c.state == "sending") != delivery.c.lease_until.is_not(None))
        )
        assert wrong == []

    @invariant()
    def what_is_sent_has_every_object_at_its_destination(self) -> None:
        missing = self._rows(
            sa.select(delivery.c.id)
            .join(delivery_output, delivery_output.c.delivery_id == delivery.c.id)
            .where(delivery.c.state.in_(DONE), delivery_output.c.done.is_(False))
        )
        assert missing == []

    @invariant()
    def what_a_destination_has_is_known(self) -> None:
        chosen = (
            sa.select(delivery.c.destination, delivery_output.c.output_id)
            .join(delivery_output, delivery_output.c.delivery_id == delivery.c.id)
            .where(delivery_output.c.had.is_(True))
        )
        assert self.archived <= {tuple(one) for one in self._rows(chosen)}

    @invariant()
    def what_is_withdrawn_from_a_destination_has_an_order_there(self) -> None:
        """Unless nothing of it ever went there; and no order overtakes the report's delivery."""
        rows = self._rows(
            sa.select(delivery.c.job_id, delivery.c.destination, delivery.c.act, delivery.c.state, job.c.rejection)
            .join(job, job.c.id == delivery.c.job_id)
            .where(job.c.rejection != "")
        )
        told = {(one.job_id, one.destination): one.state for one in rows if one.act == "withdrawal"}
        for one in rows:
            if one.act == "report" and one.state in DONE:
                assert (one.job_id, one.destination) in told
            if one.act == "report" and one.state == "sending":
                assert told[one.job_id, one.destination] == "waiting"

    @invariant()
    def a_job_is_closed_exactly_when_its_deliveries_rest(self) -> None:
        states: dict[int, set[str]] = {}
        reports = sa.select(delivery.c.job_id, delivery.c.state).where(delivery.c.act == "report")
        for one in self._rows(reports):
            states.setdefault(one.job_id, set()).add(one.state)
        for one in self._rows(sa.select(job.c.id, job.c.state).where(job.c.id.in_(list(states)))):
            its = states[one.id]
            if one.state == JobState.DELIVERED:
                assert its == {"sent"}
            elif one.state == JobState.FAILED:
                assert "failed" in its
                assert its <= {"sent", "failed"}
            elif one.state == JobState.REPORTED:
                assert its & {"pending", "sending"}
            else:
                assert one.state in (JobState.SUPERSEDED, JobState.WITHDRAWN)
                assert "pending" not in its

    def teardown(self) -> None:
        """Whatever happened, live workers bring everything to rest."""
        self.clock.turn(1e7)
        for destination in ("PACS", "MINI"):
            circuits.close_circuit(self.database, destination)
        for _ in range(200):
            got = claim(self.database, owner="last")
            for one in got:
                settle(self.database, one)
            sent = [one for destination in ("PACS", "MINI") for one in take(self.database, destination, owner="last")]
            for parcel in sent:
                if self._begin(parcel):
                    self._archive(parcel, len(parcel.parcels))
                    settlements.settle_sent(self.database, parcel, taken(parcel))
            ordered = rejections.due(self.database, ("PACS", "MINI"), limit=100)
            self.make_withdrawals(crash=False)
            if not (got or sent or ordered):
                break
        else:
            raise AssertionError("the queues never drain")
        left = self._rows(sa.select(job.c.id).where(job.c.state.in_((JobState.QUEUED, JobState.READING)))) + self._rows(
            sa.select(delivery.c.id).where(
                delivery.c.state.in_(("waiting", "pending", "sending")), delivery.c.held.is_(False)
            )
        )
        assert left == []
        gone = self._rows(
            sa.select(output.c.id)
            .join(job, job.c.id == output.c.job_id)
            .where(job.c.rejection != "", output.c.kind != "rejection")
        )
        here = {one for one in self.archived if one[1] in {row.id for row in gone}}
        assert here <= self.rejected, "an object of a withdrawn result stays in an archive that was not told"
        assert_sound(self.database)

    # ------------------------------------------------------------------------------------------ private

    def _begin(self, held: DeliveryClaim) -> bool:
        """Take the last look; nothing goes out for a result that is superseded, withdrawn or in dispute by now."""
        its = self._row(job, held.job_id)
        replaced = self._row(delivery, held.delivery_id).act == "report" and (
            its.state in (JobState.SUPERSEDED, JobState.WITHDRAWN) or its.disputed
        )
        begun = deliveries.begin(self.database, held)
        assert begun is not replaced
        return begun

    def _archive(self, held: DeliveryClaim, objects: int) -> None:
        self.archived |= {(held.destination, one.output_id) for one in held.parcels[:objects]}

    @contextlib.contextmanager
    def _dying(self, dies: bool) -> Iterator[None]:
        """Die after the settle's last event and before its commit, if at all."""
        if not dies:
            yield
            return
        whole = audit.note
        with pytest.MonkeyPatch.context() as patch:

            def last_words(transaction: Transaction, name: str, **said: Any) -> None:
                whole(transaction, name, **said)
                raise Crash

            for module in ("jobs", "reports", "deliveries", "settlements", "withdrawals", "disputes", "rejections"):
                patch.setattr(f"cxrnode.store.{module}.note", last_words)
            yield

    def _rows(self, statement: sa.Select[Any]) -> list[Any]:
        with self.database.read() as transaction:
            return list(transaction.rows(statement))

    def _row(self, table: sa.Table, row_id: int) -> Any:
        return self._rows(sa.select(table).where(table.c.id == row_id))[0]

    def _value(self, column: sa.Column[Any], where: sa.ColumnElement[bool]) -> Any:
        return self._rows(sa.select(column).where(where))[0][0]

    def _live(self, table: sa.Table, state: str) -> set[int]:
        chosen = sa.select(table.c.id).where(table.c.state == state, table.c.lease_until >= self.clock.now)
        return {one.id for one in self._rows(chosen)}


def _run(url: str, *, examples: int, steps: int) -> None:
    opened = open_store(url)
    machine = type("StoreMachine", (Store,), {"database": opened})
    settings = hypothesis.settings(
        max_examples=min(examples, 5) if _QUICK else examples,
        stateful_step_count=min(steps, 15) if _QUICK else steps,
        deadline=None,
        suppress_health_check=list(hypothesis.HealthCheck),
    )
    try:
        run_state_machine_as_test(machine, settings=settings)
    finally:
        opened.close()


def test_on_sqlite_nothing_is_lost_or_done_twice_in_any_order(tmp_path: Path) -> None:
    # In memory where there is such a folder: thousands of small commits are made here.
    where = Path("/dev/shm") if os.access("/dev/shm", os.W_OK) else tmp_path
    with tempfile.TemporaryDirectory(dir=where) as folder:
        _run(f"sqlite+pysqlite:///{folder}/cxrnode.sqlite", examples=30, steps=30)


@pytest.mark.peers
def test_on_postgresql_nothing_is_lost_or_done_twice_in_any_order(postgres_store: str) -> None:
    _run(postgres_store, examples=8, steps=25)
