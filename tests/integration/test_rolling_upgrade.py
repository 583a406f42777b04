"""Two versions on one database: the code from before the last migration works beside this one, on this one's schema."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
import sqlalchemy as sa

from benchmarks.fleet import fill
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


@pytest.mark.peers
@pytest.mark.slow
def test_the_version_before_reads_beside_this_one_on_the_new_schema(before: Path, postgres: Postgres) -> None:
    assert upgrade.OLDEST <= schema_of(before) < upgrade.HEAD
    url = postgres.new_database()
    database = Database(url)
    upgrade.upgrade(database)
    fill(database, FILMS)
    # The older one starts on the newer schema, and says nothing against it.
    asked = "import sys; from cxrnode.store import upgrade; from cxrnode.store.database import Database\n"
    asked += "upgrade.require(Database(sys.argv[1])); assert not upgrade.upgrade(Database(sys.argv[1]))"
    environment = {**os.environ, "PYTHONPATH": str(before)}
    subprocess.run([sys.executable, "-c", asked, url], cwd=before, env=environment, check=True, timeout=60)
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
