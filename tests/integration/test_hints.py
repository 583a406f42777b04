"""Hints between machines: what is told on one node is heard on another over PostgreSQL, and only there."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
import sqlalchemy as sa

from cxrnode.store import hints
from cxrnode.store.database import Database
from tests.peers import Postgres

pytestmark = pytest.mark.peers


class Heard:
    """Counts what an ear hears."""

    def __init__(self) -> None:
        self.count = 0
        self._more = threading.Condition()

    def __call__(self) -> None:
        with self._more:
            self.count += 1
            self._more.notify_all()

    def wait(self, count: int, seconds: float = 30.0) -> bool:
        with self._more:
            return self._more.wait_for(lambda: self.count >= count, seconds)


def listening(database: Database, count: int) -> None:
    """Wait until so many connections listen."""
    asked = sa.text(
        "SELECT count(*) FROM pg_stat_activity WHERE query = 'LISTEN cxrnode' AND datname = current_database()"
    )
    for _ in range(600):
        with database.engine.connect() as connection:
            if connection.execute(asked).scalar_one() == count:
                return
        threading.Event().wait(0.05)
    pytest.fail(f"not {count} connections listen within 30 s")


def test_a_hint_is_heard_on_another_machine_by_the_role_that_it_is_for(postgres: Postgres) -> None:
    url = postgres.new_database()
    here, there = Database(url), Database(url)
    infer, send = Heard(), Heard()
    with hints.Ear(there, "infer", infer), hints.Ear(there, "send", send):
        listening(here, 2)
        hints.hint(here, "infer")
        assert infer.wait(1)
        hints.hint(here, "send")
        assert send.wait(1)
    assert (infer.count, send.count) == (1, 1)
    here.close()
    there.close()


def test_an_ear_whose_connection_was_cut_listens_again(postgres: Postgres, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hints, "_AGAIN_SECONDS", 0.1)
    database, heard = Database(postgres.new_database()), Heard()
    with hints.Ear(database, "infer", heard):
        listening(database, 1)
        with database.engine.begin() as connection:
            connection.execute(
                sa.text("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query = 'LISTEN cxrnode'")
            )
        listening(database, 1)
        hints.hint(database, "infer")
        assert heard.wait(1)
    database.close()


def test_a_database_that_is_away_fails_nobody() -> None:
    database = Database("postgresql+psycopg://nobody@127.0.0.1:1/none")
    hints.hint(database, "infer")
    with hints.Ear(database, "infer", lambda: None):
        pass
    database.close()


def test_on_sqlite_there_is_nothing_to_hear(tmp_path: Path) -> None:
    database = Database(f"sqlite+pysqlite:///{tmp_path / 'one.sqlite'}")
    with hints.Ear(database, "infer", lambda: None):
        hints.hint(database, "infer")
        assert not [thread for thread in threading.enumerate() if thread.name.startswith("hints-")]
    database.close()
