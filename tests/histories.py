"""A made-up history of 600 jobs on either database, as `benchmarks.history` writes it, for tests that only read."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from benchmarks.history import Size, build
from cxrnode.store.database import Database
from tests.peers import Postgres

SIZE = Size(jobs=600, events=6000, waiting=20, days=90)


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.peers)], scope="module")
def url(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> str:
    if request.param == "sqlite":
        return f"sqlite+pysqlite:///{tmp_path_factory.mktemp('history') / 'history.sqlite'}"
    postgres: Postgres = request.getfixturevalue("postgres")
    return postgres.new_database()


@pytest.fixture(scope="module")
def history(url: str) -> Iterator[Database]:
    database = Database(url)
    build(database, SIZE)
    yield database
    database.close()
