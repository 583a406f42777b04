"""The page of the machines: what each of them says, who is silent, and whose version or configuration differs."""

from __future__ import annotations

import re

import sqlalchemy as sa

from cxrnode.store import fleet
from cxrnode.store.fleet import Process
from cxrnode.store.schema import process
from cxrnode.store.upgrade import HEAD
from tests.unit.web.conftest import House


def _process(node: str, role: str, **more: str) -> Process:
    values = {"version": "0.2.0", "revision": HEAD, "config_digest": "c" * 64, **more}
    return Process(owner=f"{node}/{role}/1", node=node, role=role, **values)  # type: ignore[arg-type]


def _said(house: House) -> str:
    text = re.sub(r"<[^>]+>", " ", house.visitor("vera").get("/nodes").text)
    return re.sub(r"\s+", " ", text)


def test_nobody_is_listed_where_nothing_runs(house: House) -> None:
    assert "nothing runs on this database" in _said(house)


def test_each_machine_stands_with_its_roles_version_device_and_last_word(house: House) -> None:
    fleet.beat(house.database, _process("alpha", "receive"))
    fleet.beat(house.database, _process("alpha", "infer", device="onnxruntime 1.31 cpu float32"))
    fleet.beat(house.database, _process("beta", "send"))
    text = _said(house)
    assert "alpha at work infer, receive 0.2.0" in text and "onnxruntime 1.31 cpu float32" in text
    assert f"schema {HEAD}" in text
    assert "What to look at alpha" in text and "Silent" not in text and "differ" not in text


def test_a_silent_machine_an_older_one_and_another_configuration_are_said(house: House) -> None:
    fleet.beat(house.database, _process("alpha", "infer"))
    fleet.beat(house.database, _process("beta", "infer", version="0.1.0", revision="0001", config_digest="d" * 64))
    fleet.beat(house.database, _process("gamma", "infer"))
    with house.database.write() as transaction:
        gone = sa.update(process).where(process.c.node == "gamma")
        transaction.connection.execute(gone.values(beat_at=transaction.now - 100))
    text = _said(house)
    assert "gamma silent" in text and text.count("Silent: it was lost") == 1
    assert text.count("Not the newest version") == 1
    assert text.count("configurations differ") == 2  # of those that live


def test_it_is_not_for_strangers(house: House) -> None:
    answer = house.visitor().get("/nodes")
    assert answer.status_code in (302, 303) and "/login" in answer.headers["location"]
