"""Accounts and sessions, on both databases."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from cxrnode.errors import Rejected
from cxrnode.store import accounts
from cxrnode.store.audit import EventFilter, query
from cxrnode.store.database import Database
from tests.stores import Clock, open_store

SECRET = "s" * 43


def told(database: Database, name: str) -> list[dict[str, Any]]:
    return [dict(one.detail) for one in query(database, EventFilter(name=name), limit=100)]


def opened(database: Database, name: str = "anna", secret: str = SECRET, **more: Any) -> None:
    said: dict[str, Any] = {"kind": accounts.BROWSER, "purpose": "a call", "seconds": 3600.0} | more
    accounts.open_session(database, name, secret, **said)


def test_a_session_is_found_by_its_secret_of_which_only_the_digest_is_kept(database: Database, clock: Clock) -> None:
    accounts.add(database, "anna", "admin", "hash", by="root")
    opened(database)
    found = accounts.session_of(database, SECRET, idle=600.0)
    assert found is not None and (found.account, found.role, found.purpose) == ("anna", "admin", "a call")
    assert accounts.session_of(database, "t" * 43, idle=600.0) is None
    assert SECRET not in str(told(database, "logged_in"))
    accounts.close_session(database, SECRET)
    assert accounts.session_of(database, SECRET, idle=600.0) is None
    assert [one["account"] for one in told(database, "logged_out")] == ["anna"]


def test_a_session_ends_by_its_time_and_by_idleness_and_is_kept_by_use(database: Database, clock: Clock) -> None:
    accounts.add(database, "anna", "viewer", "hash", by="root")
    opened(database)
    for _ in range(7):
        clock.turn(500.0)
        assert accounts.session_of(database, SECRET, idle=600.0) is not None
    clock.turn(101.0)  # the hour is over
    assert accounts.session_of(database, SECRET, idle=600.0) is None
    opened(database, secret="u" * 43)
    clock.turn(700.0)
    assert accounts.session_of(database, "u" * 43, idle=600.0) is None


def test_a_change_of_an_account_is_in_force_for_who_is_logged_in(database: Database, clock: Clock) -> None:
    accounts.add(database, "anna", "admin", "hash", by="root")
    opened(database)
    accounts.change(database, "anna", role="viewer", by="root")
    found = accounts.session_of(database, SECRET, idle=600.0)
    assert found is None or found.role == "viewer"
    accounts.change(database, "anna", disabled=True, by="root")
    assert accounts.session_of(database, SECRET, idle=600.0) is None
    assert accounts.find(database, "anna") is None
    assert [one.disabled for one in accounts.list_accounts(database)] == [True]
    assert len(told(database, "account_changed")) == 2


def test_what_is_no_account_is_refused(database: Database) -> None:
    accounts.add(database, "anna", "admin", "hash", by="root")
    with pytest.raises(Rejected):
        accounts.add(database, "anna", "viewer", "hash", by="root")
    with pytest.raises(Rejected):
        accounts.add(database, "bert", "king", "hash", by="root")
    with pytest.raises(Rejected):
        accounts.change(database, "nobody", role="viewer", by="root")


def test_consoles_that_start_at_once_share_one_secret(store_url: str) -> None:
    found: list[bytes] = []
    start = threading.Barrier(4)

    def ask() -> None:
        database = open_store(store_url)
        start.wait()
        found.append(accounts.shared_secret(database, "forms"))
        database.close()

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    assert len(found) == 4 and len(set(found)) == 1 and len(found[0]) == 32
