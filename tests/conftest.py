"""What every test shares: the profiles of hypothesis, a clean environment, and the fixtures of `tests.peers`."""

from __future__ import annotations

import os
from pathlib import Path

import hypothesis
import pytest

pytest_plugins = ["tests.peers"]

# No deadline: the machine is shared, and a slow example is no wrong one.
hypothesis.settings.register_profile("default", deadline=None, print_blob=True)
hypothesis.settings.register_profile("quick", deadline=None, max_examples=10, stateful_step_count=15)
hypothesis.settings.load_profile(os.environ.get("CXRNODE_HYPOTHESIS", "default"))

_ACCEPTANCE = Path(__file__).parent / "acceptance"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.is_relative_to(_ACCEPTANCE):
            item.add_marker(pytest.mark.acceptance)


@pytest.fixture(autouse=True)
def _environment_without_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    """A developer's own CXRNODE_CONFIG must not decide a test."""
    for variable in [v for v in os.environ if v.startswith("CXRNODE__") or v == "CXRNODE_CONFIG"]:
        monkeypatch.delenv(variable)
