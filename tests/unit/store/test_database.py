"""The connection: what a fault of the database becomes, and what its text may say."""

from __future__ import annotations

import dataclasses
import sqlite3
import time
from pathlib import Path

import pytest
import sqlalchemy as sa

from cxrnode.errors import ConfigError, Transient
from cxrnode.store import receipt, upgrade
from cxrnode.store.database import Database
from cxrnode.store.schema import identity
from tests.peers import unused_port
from tests.stores import IDENTITY, arrival, receive


def test_a_database_that_is_down_is_a_passing_fault_that_names_no_password() -> None:
    url = f"postgresql+psycopg://cxrnode:hunter2@127.0.0.1:{unused_port()}/cxrnode"
    database = Database(url)
    with pytest.raises(Transient) as caught:
        receive(database, 1)
    text = str(caught.value)
    assert "does not answer: OperationalError" in text
    assert ("refused" in text, text.endswith("start it, and check database.url and its rights")) == (True, True)
    assert [secret for secret in ("hunter2", *_secrets()) if secret in text] == []
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__


def test_a_folder_that_is_not_there_is_a_passing_fault(tmp_path: Path) -> None:
    database = Database(f"sqlite+pysqlite:///{tmp_path}/missing/cxrnode.sqlite")
    with pytest.raises(Transient, match="does not answer"):
        receive(database, 1)


@pytest.mark.parametrize(
    "url", ["postgres://cxrnode:hunter2@db/cxrnode", "hunter2", "mysql://cxrnode:hunter2@db/cxrnode"]
)
def test_a_url_of_no_database_is_refused_with_an_example_and_without_its_text(url: str) -> None:
    with pytest.raises(ConfigError, match=r"write it like postgresql\+psycopg://") as caught:
        Database(url)
    assert "hunter2" not in str(caught.value)


def test_a_file_that_may_not_be_written_to_is_said_in_sqlites_own_word(tmp_path: Path) -> None:
    file = tmp_path / "cxrnode.sqlite"
    made = Database(f"sqlite+pysqlite:///{file}")
    upgrade.upgrade(made)
    made.close()
    readonly = Database(f"sqlite+pysqlite:///file:{file}?mode=ro&uri=true")
    with pytest.raises(Transient, match=r"does not answer: OperationalError \(SQLITE_READONLY\)"):
        receive(readonly, 1)
    readonly.close()


def test_a_store_without_its_tables_is_a_fault_whose_text_holds_no_parameters(database_url: str) -> None:
    database = Database(database_url)
    with pytest.raises((Transient, sa.exc.ProgrammingError)) as caught:
        receive(database, 1)
    assert [secret for secret in _secrets() if secret in str(caught.value)] == []
    database.close()


def test_a_bug_in_a_statement_shows_no_parameters(database: Database) -> None:
    with pytest.raises(sa.exc.IntegrityError) as caught, database.write() as transaction:
        transaction.connection.execute(sa.insert(identity).values({**IDENTITY, "instance_id": None}))
    said = str(caught.value).split("DETAIL:")[0]  # PostgreSQL's own detail shows the row: never logged, see telemetry
    assert [secret for secret in _secrets() if secret in said] == []


def test_when_every_connection_is_taken_that_is_a_passing_fault(database: Database) -> None:
    database.close()
    database.engine = sa.create_engine(database.engine.url, pool_size=1, max_overflow=0, pool_timeout=0.05)
    with (
        database.engine.connect(),
        pytest.raises(Transient, match="has no connection free"),
        database.read(),
    ):
        pass
    database.close()


def test_the_time_is_the_databases_in_utc(database: Database) -> None:
    before = time.time()
    with database.read() as transaction:
        assert before - 1.0 < transaction.now < time.time() + 1.0


def test_what_fails_half_way_leaves_nothing(database: Database) -> None:
    two_orders = dataclasses.replace(arrival(1), header={"Modality": object()})
    with pytest.raises(TypeError):
        receipt.record(database, two_orders, [], ageing=1.0, config_digest="")
    assert receive(database, 1).new


def test_texts_of_any_script_are_kept_as_they_are(database: Database) -> None:
    who = {**IDENTITY, "patient_name": "山田^太郎=やまだ^たろう", "accession": "a'b\\c%d\"e"}
    receipt.record(database, dataclasses.replace(arrival(1), identity=who), [], ageing=1.0, config_digest="")
    with database.read() as transaction:
        stored = transaction.row(sa.select(identity))
    assert stored is not None
    assert {"instance_id": 1, "header": b"", **who} == dict(stored._mapping)  # nothing else of a header was given


def test_sqlite_waits_for_the_disk_and_checks_its_references(tmp_path: Path) -> None:
    database = Database(f"sqlite+pysqlite:///{tmp_path / 'cxrnode.sqlite'}")
    pragmas = ("synchronous", "foreign_keys", "busy_timeout", "journal_mode")
    with database.read() as transaction:
        found = [transaction.scalar(sa.text(f"PRAGMA {name}")) for name in pragmas]
    journal = "wal" if sqlite3.sqlite_version_info >= (3, 51, 3) else "truncate"
    assert [2, 1, 30000, journal] == found
    database.close()


def _secrets() -> list[str]:
    return [value for value in IDENTITY.values() if len(value) > 1]
