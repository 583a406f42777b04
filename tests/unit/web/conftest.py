"""A console over a store of its own, asked in the process: no port, no browser."""

from __future__ import annotations

import dataclasses
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx2 as httpx
import pytest
from starlette.testclient import TestClient

from cxrnode.config import Config, parse_config
from cxrnode.spool import FolderSpool
from cxrnode.store import accounts
from cxrnode.store.database import Database
from cxrnode.web.app import application
from cxrnode.web.console import Console
from cxrnode.web.passwords import hashed
from tests.stores import open_store, sqlite_template

__all__ = ["sqlite_template"]

PASSWORD = "correct horse battery"
_HASH = hashed(PASSWORD)


@dataclasses.dataclass(slots=True)
class Visitor:
    """Somebody with a browser: keeps cookies, and brings the form's token back."""

    client: TestClient
    csrf: str = ""

    def get(self, path: str, **options: Any) -> httpx.Response:
        return self.client.get(path, follow_redirects=False, **options)

    def post(self, path: str, fields: dict[str, Any] | None = None, **options: Any) -> httpx.Response:
        data = {"csrf": self.csrf, **(fields or {})}
        return self.client.post(path, data=data, follow_redirects=False, **options)

    def login(self, name: str, password: str = PASSWORD, **more: str) -> httpx.Response:
        """Log in, and read the token of the forms."""
        answer = self.post("/login", {"name": name, "password": password, **more})
        if answer.status_code == 303:
            found = re.search(r'name="csrf" value="([0-9a-f]+)"', self.get("/").text)
            assert found is not None
            self.csrf = found[1]
        return answer


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class House:
    """A console with its store, and visitors to it."""

    config: Config
    database: Database
    spool: FolderSpool
    console: Console
    visitor: Callable[..., Visitor]


Make = Callable[..., House]


@pytest.fixture
def make_house(tmp_path: Path, sqlite_template: Path) -> Iterator[Make]:
    """Make a console with the users vera (viewer), otto (operator), anna and bert (admins)."""
    made: list[House] = []

    def make(**sections: Any) -> House:
        copy = tmp_path / f"store{len(made)}.sqlite"
        shutil.copyfile(sqlite_template, copy)
        raw: dict[str, Any] = {
            "node": {"data_dir": str(tmp_path)},
            "nodes": {
                "PACS": {"aet": "ORTHANC", "host": "127.0.0.1", "port": 4242},
                "MODALITY": {"aet": "MODALITY", "host": "127.0.0.1", "port": 104, "can_send": True},
            },
            "models": {"chest": {"bundle": "demo"}, "candidate": {"bundle": "other", "mode": "shadow"}},
            "rules": [{"name": "films", "models": ["chest", "candidate"], "send_to": ["PACS"]}],
            "spool": {"min_free": "1 MiB"},
        }
        config = parse_config({**raw, **sections})
        database = open_store(f"sqlite+pysqlite:///{copy}")
        for name, role in (("vera", "viewer"), ("otto", "operator"), ("anna", "admin"), ("bert", "admin")):
            accounts.add(database, name, role, _HASH, by="test")
        spool = FolderSpool(tmp_path / f"spool{len(made)}")
        console = Console(config=config, database=database, spool=spool, key=b"k" * 32)
        app = application(console)

        def visitor(name: str = "", *, address: str = "127.0.0.1", base: str = "http://127.0.0.1:8042") -> Visitor:
            one = Visitor(TestClient(app, base_url=base, client=(address, 50000), raise_server_exceptions=True))
            if name:
                assert one.login(name).status_code == 303
            return one

        house = House(config=config, database=database, spool=spool, console=console, visitor=visitor)
        made.append(house)
        return house

    yield make
    for house in made:
        house.database.close()


@pytest.fixture
def house(make_house: Make) -> House:
    return make_house()
