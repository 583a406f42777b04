"""The short form of `make torture`: each kind of fault once, on both databases, and the whole accounting."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from tests.peers import Postgres
from tests.torture.__main__ import tell
from tests.torture.films import make_films
from tests.torture.node import make_bundle
from tests.torture.run import run_seed

FILMS = 40


@pytest.mark.timeout(1200)
@pytest.mark.parametrize("database", ["sqlite", pytest.param("postgresql", marks=pytest.mark.peers)])
def test_nothing_is_lost_and_nothing_reported_twice_under_every_fault(
    database: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    cluster: Postgres | None = request.getfixturevalue("postgres") if database == "postgresql" else None
    films = make_films(tmp_path / "films", FILMS)
    outcome = run_seed(1, films, tmp_path / "node", bundle=make_bundle(tmp_path / "bundle"), cluster=cluster)
    tell([outcome])
    print(json.dumps(dataclasses.asdict(outcome)))
    assert {name: found for name, found in outcome.violations.items() if found} == {}
