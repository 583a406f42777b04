"""The site that each test of the command line has to itself."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.unit.cli.clinic import Clinic


@pytest.fixture(scope="session")
def founded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A site as it is before its first film, made once: the migrations take half a second."""
    clinic = Clinic.found(tmp_path_factory.mktemp("founded") / "clinic")
    clinic.database.close()
    return clinic.folder


@pytest.fixture
def clinic(founded: Path, tmp_path: Path) -> Iterator[Clinic]:
    made = Clinic.at(Path(shutil.copytree(founded, tmp_path / "clinic")))
    yield made
    made.database.close()
