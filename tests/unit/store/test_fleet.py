"""The list of all machines' processes: what they say of themselves, and when one of them is taken to be lost."""

from __future__ import annotations

import dataclasses

from cxrnode.store import fleet
from cxrnode.store.database import Database
from cxrnode.store.fleet import Process
from tests.stores import Clock

READER = Process(
    owner="one/infer/1",
    node="one",
    role="infer",
    version="0.1.0",
    revision="0002",
    device="torch cpu",
    models={"chest": "b" * 64},
    config_digest="c" * 64,
)
SENDER = dataclasses.replace(READER, owner="one/send/2", role="send", device="", models={})
OTHER = dataclasses.replace(READER, owner="two/infer/3", node="two", version="0.2.0", device="torch cuda")


def test_a_machine_is_put_together_of_its_processes(database: Database, clock: Clock) -> None:
    for one in (READER, SENDER, OTHER):
        fleet.beat(database, one)
    first, second = fleet.members(database)
    assert (first.node, first.alive, first.roles) == ("one", True, {"infer": 1, "send": 1})
    assert (first.devices, first.models, first.versions) == (("torch cpu",), {"chest": "b" * 64}, ("0.1.0",))
    assert (second.node, second.versions, second.devices) == ("two", ("0.2.0",), ("torch cuda",))
    assert first.started_at == first.beat_at == clock.now


def test_what_is_renewed_keeps_its_start_and_takes_what_is_new(database: Database, clock: Clock) -> None:
    fleet.beat(database, dataclasses.replace(READER, device="", models={}))
    clock.turn(10.0)
    fleet.beat(database, READER)
    (member,) = fleet.members(database)
    assert (member.started_at, member.beat_at) == (clock.now - 10.0, clock.now)
    assert member.models == {"chest": "b" * 64}


def test_a_process_without_a_word_is_lost_and_its_machine_silent_when_all_are(database: Database, clock: Clock) -> None:
    fleet.beat(database, READER)
    fleet.beat(database, SENDER)
    assert fleet.loaded(database) == {"chest"}
    clock.turn(fleet.SILENT_SECONDS + 1)
    fleet.beat(database, SENDER)
    (member,) = fleet.members(database)
    assert (member.alive, member.roles, member.models) == (True, {"send": 1}, {})
    assert fleet.loaded(database) == frozenset()
    clock.turn(fleet.SILENT_SECONDS + 1)
    (member,) = fleet.members(database)
    assert (member.alive, member.roles) == (False, {"infer": 1, "send": 1})
    assert member.silent_for == fleet.SILENT_SECONDS + 1


def test_a_process_that_ends_is_struck_out_and_one_that_was_lost_a_while_later(
    database: Database, clock: Clock
) -> None:
    for one in (READER, SENDER):
        fleet.beat(database, one)
    fleet.leave(database, READER.owner)
    assert fleet.members(database)[0].roles == {"send": 1}
    assert fleet.forget(database, after=3600) == 0
    clock.turn(3601)
    assert fleet.forget(database, after=3600) == 1
    assert fleet.members(database) == []


def test_a_machine_that_starts_anew_leaves_no_ghost_of_its_former_life(database: Database, clock: Clock) -> None:
    for one in (READER, SENDER, OTHER):
        fleet.beat(database, one)
    fleet.begin(database, "one")
    fleet.beat(database, dataclasses.replace(SENDER, owner="one/send/9"))
    assert [(one.node, one.roles) for one in fleet.members(database)] == [("one", {"send": 1}), ("two", {"infer": 1})]
