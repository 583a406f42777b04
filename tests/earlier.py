"""The version from before the last migration, out of the project's history: what a fleet has that is being upgraded."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from tests.peers import REPOSITORY, absent


def git(*arguments: str) -> str:
    """Ask git; the test is skipped by name, or fails, where there is no history."""
    done = subprocess.run(["git", *arguments], cwd=REPOSITORY, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        absent(f"no history of the project here: git {arguments[0]}", "CXRNODE_REQUIRE_PEERS")
    return done.stdout.strip()


def earlier_tree(folder: Path) -> Path:
    """Write the package, the configuration and the benchmarks of that version into a folder; return it."""
    if git("rev-parse", "--is-shallow-repository") == "true":
        pytest.skip("a shallow clone has no earlier code to run")
    last = git("log", "-1", "--diff-filter=A", "--format=%H", "--", "cxrnode/store/migrations/versions")
    archive = folder / "tree.tar"
    git("archive", "--output", str(archive), f"{last}^", "cxrnode", "config", "benchmarks")
    subprocess.run(["tar", "x", "-f", archive, "-C", folder], check=True)
    return folder


def schema_of(tree: Path) -> str:
    """The schema that the code of a tree brings a database to."""
    text = (tree / "cxrnode" / "store" / "upgrade.py").read_text()
    found = re.search(r'^HEAD = "(\d+)"$', text, re.MULTILINE)
    assert found is not None
    return found[1]
