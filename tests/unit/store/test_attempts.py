"""Tries to log in: counted once for all consoles, with pauses that double and end."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import sqlalchemy as sa

from cxrnode.store import attempts
from cxrnode.store.attempts import FORGOTTEN, FREE, LONGEST, Key, Kind
from cxrnode.store.database import Database
from cxrnode.store.schema import attempt
from tests.stores import Clock

SECRET = b"k" * 32


def key(kind: Kind = Kind.NAME, value: str = "anna") -> Key:
    return Key(kind=kind, value=value, secret=SECRET)


def rows(database: Database) -> list[tuple[str, int]]:
    with database.read() as transaction:
        return [(row.digest, row.failures) for row in transaction.rows(sa.select(attempt))]


def test_pauses_double_to_their_longest_and_end(database: Database) -> None:
    clock = Clock(database)
    for kind in Kind:
        pauses = []
        for _ in range(FREE + 9):
            assert attempts.begin(database, [key(kind)]) == 0.0
            if (pause := attempts.begin(database, [key(kind)])) == 0.0:
                continue
            pauses.append(round(pause))
            clock.turn(pause)
        assert pauses[:4] == [5, 10, 20, 40]
        assert pauses[-1] == LONGEST[kind]


def test_what_was_right_is_forgotten_and_so_is_what_is_old(database: Database) -> None:
    clock = Clock(database)
    both = [key(), key(Kind.ADDRESS, "192.0.2.1")]
    for _ in range(FREE - 1):
        assert attempts.begin(database, both) == 0.0
    attempts.forget(database, both)
    assert rows(database) == []
    for _ in range(FREE):
        assert attempts.begin(database, both) == 0.0
    assert attempts.begin(database, [key()]) > 0
    clock.turn(FORGOTTEN + 1)
    assert attempts.begin(database, [key(value="otto")]) == 0.0
    assert rows(database) == [(key(value="otto").digest, 1)]


def test_one_key_that_waits_makes_the_try_wait_and_counts_under_no_other(database: Database) -> None:
    Clock(database)
    for _ in range(FREE):
        attempts.begin(database, [key()])
    other = key(Kind.ADDRESS, "192.0.2.1")
    assert attempts.begin(database, [key(), other]) > 0
    assert dict(rows(database)).get(other.digest, 0) == 0


def test_many_at_once_get_as_many_tries_as_one_after_the_other(database: Database) -> None:
    Clock(database)  # stands still: the pause after the last free try is over in five seconds
    with ThreadPoolExecutor(8) as threads:
        waits = list(threads.map(lambda number: attempts.begin(database, [key(), key(value=f"{number}")]), range(24)))
    assert sum(wait == 0.0 for wait in waits) == FREE


def test_the_store_has_neither_names_nor_addresses(database: Database) -> None:
    attempts.begin(database, [key(value="my password"), key(Kind.ADDRESS, "192.0.2.1")])
    with database.read() as transaction:
        said = str(transaction.rows(sa.select(attempt)))
    assert "my password" not in said and "192.0.2.1" not in said
    assert key().digest != Key(kind=Kind.NAME, value="anna", secret=b"other").digest
    assert "anna" not in repr(key())
