"""Two versions on one database: the code from before the last migration works beside this one, on this one's schema."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
import sqlalchemy as sa

from benchmarks.fleet import fill
from cxrnode.core.digests import Kind
from cxrnode.store import upgrade
from cxrnode.store.audit import broken_link
from cxrnode.store.database import Database
from cxrnode.store.schema import event, job
from tests.earlier import earlier_tree, schema_of
from tests.peers import REPOSITORY, Postgres

FILMS = 120


@pytest.fixture(scope="module")
def before(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tree from before the last migration, whose benchmark has a worker that claims and settles."""
    return earlier_tree(tmp_path_factory.mktemp("before"))


def worker(tree: Path, url: str, owner: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "benchmarks.fleet", "--worker", "sleep", "--url", url, "--owner", owner]
    return subprocess.Popen(
        # So slow that the other one comes to claim something, even where it is held up for seconds.
        [*command, "--batch", "4", "--outputs", "2", "--model-ms", "25"],
        cwd=tree,
        env={**os.environ, "PYTHONPATH": str(tree)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def ask(tree: Path, url: str, what: str) -> subprocess.CompletedProcess[str]:
    """Let the code of a tree do something with a database."""
    imports = "import sys; from cxrnode.store import upgrade; from cxrnode.store.database import Database\n"
    command = [sys.executable, "-c", f"{imports}database = Database(sys.argv[1]); {what}", url]
    environment = {**os.environ, "PYTHONPATH": str(tree)}
    return subprocess.run(command, cwd=tree, env=environment, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.peers
def test_a_database_that_was_begun_with_digests_which_the_version_before_does_not_know_is_closed_to_it(
    before: Path, postgres: Postgres
) -> None:
    closed = schema_of(before) < "0011"
    url = postgres.new_database()
    with contextlib.closing(Database(url)) as database:
        upgrade.upgrade(database)
    for enter in ("require", "upgrade"):
        asked = ask(before, url, f"upgrade.{enter}(database)")
        assert (asked.returncode != 0, "SchemaMismatch: the database has schema" in asked.stderr) == (closed, closed)


@pytest.mark.peers
@pytest.mark.slow
def test_the_version_before_reads_beside_this_one_on_the_new_schema(before: Path, postgres: Postgres) -> None:
    assert upgrade.OLDEST <= schema_of(before) < upgrade.HEAD
    url = postgres.new_database()
    assert ask(before, url, "upgrade.upgrade(database)").returncode == 0  # the older one began it
    database = Database(url)
    assert upgrade.upgrade(database)
    assert upgrade.digests(database) is Kind.SHA256  # the older one knows no other
    fill(database, FILMS)
    # The older one starts on the newer schema, and says nothing against it.
    asked = ask(before, url, "upgrade.require(database); assert not upgrade.upgrade(database)")
    assert asked.returncode == 0, asked.stderr
    both = [worker(before, url, "old"), worker(REPOSITORY, url, "new")]
    for one in both:
        assert one.stdout is not None and one.stdout.readline() == "ready\n"
    for one in both:
        assert one.stdin is not None
        one.stdin.write("go\n")
        one.stdin.close()
    assert [one.wait(90) for one in both] == [0, 0]
    for one in both:
        assert one.stdout is not None
        one.stdout.close()
    with database.read() as transaction:
        states = Counter(row.state for row in transaction.rows(sa.select(job.c.state)))
        names = Counter(row.name for row in transaction.rows(sa.select(event.c.name)))
        details = [row.detail for row in transaction.rows(sa.select(event.c.detail).where(event.c.name == "claimed"))]
        ids = [row.id for row in transaction.rows(sa.select(job.c.id))]
    assert states == {"reported": FILMS}
    assert (names["claimed"], names["reported"], names["delivery_created"]) == (FILMS, FILMS, FILMS)
    assert {owner for owner in ("old", "new") if any(f'"owner":"{owner}"' in one for one in details)} == {"old", "new"}
    assert [one for one in ids if broken_link(database, one) is not None] == []
    database.close()
