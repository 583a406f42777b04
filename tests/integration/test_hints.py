"""Hints between machines: what is told on one node is heard on another over PostgreSQL, and only there."""

from __future__ import annotations

import contextlib
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


def listening(database: Database, count: int, without: frozenset[int] = frozenset()) -> frozenset[int]:
    """Wait until so many connections listen, and return the ids of their processes on the server.

    A query is shown from its start, and a process that was told to end is shown until it has: an idle one has done its
    LISTEN, and `without` leaves out those that are about to go.
    """
    asked = sa.text(
        "SELECT pid FROM pg_stat_activity"
        " WHERE query = 'LISTEN cxrnode' AND state = 'idle' AND datname = current_database()"
    )
    for _ in range(600):
        with database.engine.connect() as connection:
            found = frozenset(connection.execute(asked).scalars()) - without
        if len(found) == count:
            return found
        threading.Event().wait(0.05)
    pytest.fail(f"not {count} connections listen within 30 s")


def test_a_hint_is_heard_on_another_machine_by_the_role_that_it_is_for(postgres: Postgres) -> None:
    url = postgres.new_database()
    infer, send = Heard(), Heard()
    with (
        contextlib.closing(Database(url)) as here,
        contextlib.closing(Database(url)) as there,
        hints.Ear(there, "infer", infer),
        hints.Ear(there, "send", send),
    ):
        listening(here, 2)
        hints.hint(here, "infer")
        assert infer.wait(1)
        hints.hint(here, "send")
        assert send.wait(1)
    assert (infer.count, send.count) == (1, 1)


def test_an_ear_whose_connection_was_cut_listens_again(postgres: Postgres, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hints, "_AGAIN_SECONDS", 0.1)
    database, heard = Database(postgres.new_database()), Heard()
    with contextlib.closing(database), hints.Ear(database, "infer", heard):
        cut = listening(database, 1)
        with database.engine.begin() as connection:
            connection.execute(sa.text("SELECT pg_terminate_backend(:pid)"), {"pid": next(iter(cut))})
        listening(database, 1, without=cut)
        hints.hint(database, "infer")
        assert heard.wait(1)


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
