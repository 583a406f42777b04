"""What the acceptance tests share: sites that are always stopped, and films drawn once a session."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from cxrnode.phantom.dicom import write_phantoms
from tests.acceptance.site import Site

MakeSite = Callable[..., Site]


@pytest.fixture
def make_site(tmp_path: Path) -> Iterator[MakeSite]:
    """Make a site in a folder of its own; it is drained at the end of the test, whatever happened."""
    made: list[Site] = []

    def make(pacs: tuple[str, int], **options: Any) -> Site:
        folder = tmp_path / f"site{len(made)}"
        folder.mkdir()
        made.append(Site(folder, pacs=pacs, **options))
        return made[-1]

    yield make
    for site in made:
        if site._process is not None:
            site.stop()
        site.database.close()


@pytest.fixture(scope="session")
def phantoms(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, ...]:
    """Fifty films of 1024 x 848, of fifty patients."""
    return write_phantoms(tmp_path_factory.mktemp("phantoms"), range(50), rows=1024, cols=848)
