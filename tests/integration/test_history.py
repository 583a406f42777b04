"""The generator of large databases: what it writes is what the store would have written, on both databases."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from benchmarks.history import Size, build
from cxrnode.core.findings import Report
from cxrnode.core.lifecycle import job_after
from cxrnode.errors import CxrnodeError
from cxrnode.store import guards, jobs, listing
from cxrnode.store.audit import broken_link
from cxrnode.store.database import Database
from cxrnode.store.jobs import Limits
from cxrnode.store.schema import event, job, metadata
from tests.peers import Postgres

SIZE = Size(jobs=600, events=6000, waiting=20, days=90)


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.peers)], scope="module")
def url(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> str:
    if request.param == "sqlite":
        return f"sqlite+pysqlite:///{tmp_path_factory.mktemp('history') / 'history.sqlite'}"
    postgres: Postgres = request.getfixturevalue("postgres")
    return postgres.new_database()


@pytest.fixture(scope="module")
def history(url: str) -> Iterator[Database]:
    database = Database(url)
    build(database, SIZE)
    yield database
    database.close()


def test_it_has_as_many_jobs_and_events_as_were_asked_for(history: Database) -> None:
    with history.read() as transaction:
        made, noted = (transaction.scalar(sa.select(sa.func.count()).select_from(one)) for one in (job, event))
    assert SIZE.jobs <= made <= SIZE.jobs + 2
    assert abs(noted - SIZE.events) < 0.05 * SIZE.events


def test_every_chain_holds_and_ends_in_its_jobs_state(history: Database) -> None:
    names: dict[int, list[str]] = defaultdict(list)
    with history.read() as transaction:
        for row in transaction.rows(sa.select(event.c.job_id, event.c.name).order_by(event.c.id)):
            names[row.job_id].append(row.name)
        rows = transaction.rows(sa.select(job.c.id, job.c.state))
    assert {job_after(names[row.id]) == row.state for row in rows} == {True}
    assert {broken_link(history, row.id) for row in rows[::7]} == {None}
    assert {"delivered", "queued", "reported", "failed"} <= {row.state for row in rows}


def test_every_report_is_the_one_that_its_digest_names(history: Database) -> None:
    with history.read() as transaction:
        rows = transaction.rows(sa.select(job.c.report, job.c.report_sha256).where(job.c.report.is_not(None)))
    assert len(rows) > SIZE.jobs // 2
    for row in rows:
        report = Report.from_json(row.report)
        assert (report.to_json(), report.sha256) == (row.report, row.report_sha256)


def test_listings_and_claims_work_on_it(history: Database) -> None:
    listed = list(listing.list_jobs(history, listing.JobFilter(), limit=50))
    assert len(listed) == 50 and any(one.deliveries for one in listed)
    claims = jobs.claim(
        *(history,), owner="w", models={"chest": "b" * 64}, engine="e", limit=4, lease=60, limits=Limits()
    )
    assert len(claims) == 4
    for one in claims:
        jobs.give_back(history, one)


def test_its_indexes_are_the_schemas_and_ids_go_on(history: Database) -> None:
    with history.write() as transaction:
        found = sa.inspect(transaction.connection)
        for table in metadata.sorted_tables:
            assert {i["name"] for i in found.get_indexes(table.name)} >= {i.name for i in table.indexes}
        last = transaction.scalar(sa.select(sa.func.max(event.c.id)))
        new = transaction.scalar(
            sa.insert(event).values(at=transaction.now, name="late", hash="").returning(event.c.id)
        )
        assert new == last + 1
        guards.remove(transaction.connection)
        transaction.connection.execute(sa.delete(event).where(event.c.id == new))
        guards.install(transaction.connection)


def test_a_database_that_has_films_is_left_alone(history: Database) -> None:
    with pytest.raises(CxrnodeError, match="has films already"):
        build(history, SIZE)


def test_the_command_takes_a_path(tmp_path: Path) -> None:
    from click.testing import CliRunner

    from benchmarks.history import main

    path = tmp_path / "small.sqlite"
    done = CliRunner().invoke(main, ["--url", str(path), "--jobs", "40", "--events", "400", "--no-reports"])
    assert done.exit_code == 0, done.output
    assert "40 jobs" in done.output or "41 jobs" in done.output
    assert path.exists()
