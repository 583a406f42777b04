"""The page of events is held against the code: what is written down somewhere must be named there."""

from __future__ import annotations

import re

from tests.peers import REPOSITORY

PACKAGE = REPOSITORY / "cxrnode"
PAGE = (REPOSITORY / "docs" / "events.md").read_text()


def names(pattern: str) -> set[str]:
    """What the pattern's group finds in the modules of the daemon."""
    found: set[str] = set()
    for folder in ("dicom", "roles", "store", "web"):
        for path in (PACKAGE / folder).rglob("*.py"):
            found |= set(re.findall(pattern, path.read_text()))
    return found | set(re.findall(pattern, (PACKAGE / "supervisor.py").read_text()))


def test_every_event_of_the_audit_trail_is_named() -> None:
    written = names(r'note\(\s*transaction,\s*"([a-z_]+)"')
    assert {"received", "circuit_opened"} <= written
    assert {name for name in written | {"accepted", "ignored"} if f"`{name}`" not in PAGE} == set()


def test_every_line_of_the_log_is_named() -> None:
    written = names(r'log\.(?:info|warning|error)\(\s*"([a-z_]+)"') | names(r'\.report(?:_address)?\(\s*"([a-z_]+)"')
    assert {"association_rejected", "role_ready", "spool_full"} <= written
    assert {name for name in written if f"`{name}`" not in PAGE} == set()
