"""A context for the duties of `tend`, on both databases."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cxrnode.config import parse_config
from cxrnode.roles.context import Context
from cxrnode.spool import FolderSpool
from cxrnode.store.database import Database
from tests.stores import clock, database, postgres_store, sqlite_template, store_url

__all__ = ["clock", "database", "postgres_store", "sqlite_template", "store_url"]

MakeContext = Callable[..., Context]


@pytest.fixture
def make_context(tmp_path: Path, database: Database) -> MakeContext:
    def make(**sections: Any) -> Context:
        config = parse_config(
            {
                "node": {"data_dir": str(tmp_path)},
                "nodes": {"PACS": {"aet": "ORTHANC", "host": "127.0.0.1", "port": 4242}},
                "models": {"chest": {"bundle": "demo"}},
                "spool": {"min_free": "1 MiB"},
                **sections,
            }
        )
        return Context(
            config=config,
            database=database,
            spool=FolderSpool(tmp_path / "spool"),
            owner="test",
            stopping=threading.Event(),
            beat=lambda: None,
            ready=lambda: None,
        )

    return make
