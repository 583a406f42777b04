"""The duty of `tend` that seals each day: once a day, told outside, and never a reason to stop."""

from __future__ import annotations

import json
from pathlib import Path

from structlog.testing import capture_logs

from cxrnode.roles.sealing import DailySeal
from cxrnode.store import seals
from cxrnode.store.database import Database
from cxrnode.store.seals import Exported
from tests.peers import wait_until
from tests.receivers import udp_syslog
from tests.stores import Clock, delivered
from tests.unit.roles.conftest import MakeContext


def test_a_day_is_sealed_once_and_its_seal_goes_outside(
    database: Database, clock: Clock, make_context: MakeContext, tmp_path: Path
) -> None:
    folder = tmp_path / "seals"
    with udp_syslog() as got, capture_logs() as logged:
        context = make_context(audit={"seals": str(folder), "syslog": {"host": "127.0.0.1", "port": got.port}})
        seal_day = DailySeal()
        seal_day(context)  # there is nothing to seal
        assert list(tmp_path.glob("seals/*")) == []
        delivered(database, 1)
        for _ in range(3):
            seal_day(context)
            clock.turn(60.0)
        clock.turn(86400.0)
        delivered(database, 2)
        seal_day(context)
        wait_until(lambda: len(got) == 2, seconds=30, what="two messages")
    files = sorted(folder.iterdir())
    assert [one["event"] for one in logged if one["event"].startswith("seal")] == ["sealed", "sealed"]
    assert [one.name for one in files] == ["CXRNODE-000001.seal.json", "CXRNODE-000002.seal.json"]
    newest = seals.latest(database)
    assert newest is not None and newest.digest.encode() in got[1]
    kept = Exported.from_json(files[1].read_text())
    assert kept.seal == newest
    assert json.loads(files[0].read_text()) != json.loads(files[1].read_text())


def test_a_seal_that_nobody_takes_stands_in_the_log_and_the_database(
    database: Database, clock: Clock, make_context: MakeContext, tmp_path: Path
) -> None:
    in_the_way = tmp_path / "file"
    in_the_way.write_text("no folder")
    delivered(database, 1)
    context, seal_day = make_context(audit={"seals": str(in_the_way)}), DailySeal()
    with capture_logs() as logged:
        seal_day(context)
        assert [one["event"] for one in logged] == ["sealed", "seal_not_written"]
        in_the_way.unlink()
        seal_day(context)
        (file,) = in_the_way.iterdir()
        assert Exported.from_json(file.read_text()).seal == seals.latest(database)
        file.unlink()  # somebody collected it
        seal_day(context)
    assert list(in_the_way.iterdir()) == []
    assert len(logged) == 2
    newest = seals.latest(database)
    assert newest is not None and logged[0]["digest"] == newest.digest


def test_a_seal_whose_writer_was_killed_before_it_was_told_gets_its_file_from_the_next(
    database: Database, clock: Clock, make_context: MakeContext, tmp_path: Path
) -> None:
    delivered(database, 1)
    taken = seals.take(database)
    assert taken is not None
    DailySeal()(make_context(audit={"seals": str(tmp_path / "seals")}))
    (file,) = (tmp_path / "seals").iterdir()
    assert Exported.from_json(file.read_text()).seal == taken
