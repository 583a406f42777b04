"""A thousand hostile conversations and films, as `make fuzz` holds ten thousand: the node stays up and stays small."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.fuzz.__main__ import tell
from tests.fuzz.run import run


@pytest.mark.timeout(900)
def test_a_thousand_hostile_peers_and_films_end_with_a_status_and_a_reason(tmp_path: Path) -> None:
    result = run(1000, 1, tmp_path / "fuzz")
    tell(result)
    assert result.wrong == []
    assert sum(result.endings.values()) == 1000
    # The mutations are neither so mild that all is taken nor so wild that nothing is.
    assert result.endings["status 0x0000"] > 100
    assert result.endings["aborted"] > 20
    assert result.endings["film decoded"] > 20
    assert result.endings["film unreadable"] > 20
