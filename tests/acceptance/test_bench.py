"""`cxrnode bench` measures the bundle that it was given, in the whole node too."""

from __future__ import annotations

from pathlib import Path

import sqlalchemy as sa

from benchmarks.yardstick import SIDE, yardstick
from cxrnode.bench.endtoend import Bench
from cxrnode.bench.films import SIZES, write_films
from cxrnode.reading.bundle import load_bundle
from cxrnode.store.database import Database
from cxrnode.store.schema import job


def test_the_whole_node_reads_with_the_bundle_that_is_measured(tmp_path: Path) -> None:
    """Found when the shipped bundle was to be measured at another side: the node read with the shipped one as it is."""
    bundle = load_bundle(yardstick(tmp_path / "other"))
    assert bundle.manifest.input.size == SIDE
    films = write_films(tmp_path / "films", 2, next(iter(SIZES)))
    with Bench(tmp_path / "node", tmp_path / "other") as bench:
        burst = bench.burst(films)
    assert burst.films == 2
    database = Database(f"sqlite+pysqlite:///{tmp_path / 'node' / 'data' / 'cxrnode.sqlite'}")
    with database.read() as transaction:
        read = sa.select(sa.func.count()).where(job.c.bundle_digest == bundle.digest)
        assert transaction.scalar(read) == len(films)
    database.close()
