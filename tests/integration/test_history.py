"""The generator of large databases: what it writes is what the store would have written, on both databases."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from benchmarks.history import build
from cxrnode.core.findings import Report
from cxrnode.core.lifecycle import job_after
from cxrnode.core.words import WordList
from cxrnode.errors import CxrnodeError
from cxrnode.store import guards, jobs, listing, tallies
from cxrnode.store.audit import broken_link
from cxrnode.store.database import Database
from cxrnode.store.jobs import Limits
from cxrnode.store.schema import association, daily, daily_pair, daily_time, event, feedback, hourly, job, metadata
from tests.histories import SIZE, history, url

__all__ = ["history", "url"]


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


def _tallies(database: Database) -> dict[str, dict[tuple[Any, ...], tuple[Any, ...]]]:
    """The rows of the tallies by their keys; sums of differences to nine digits."""
    found: dict[str, dict[tuple[Any, ...], tuple[Any, ...]]] = {}
    for table in (daily, daily_time, daily_pair, hourly):
        key, rest = list(table.primary_key.columns), [c for c in table.c if not c.primary_key]
        with database.read() as transaction:
            rows = transaction.rows(sa.select(*key, *rest))
        found[table.name] = {
            tuple(row)[: len(key)]: tuple(round(one, 9) for one in tuple(row)[len(key) :]) for row in rows
        }
    return found


def test_its_tallies_are_those_that_are_made_anew_from_the_jobs(history: Database) -> None:
    written = _tallies(history)
    with history.read() as transaction:
        flags = transaction.rows(sa.select(job.c.id, job.c.counted).order_by(job.c.id))
    tallies.rebuild(history, WordList())
    anew = _tallies(history)
    last = max(hour for hour, _ in written["hourly"])  # an hour may have begun meanwhile
    anew["hourly"] = {key: row for key, row in anew["hourly"].items() if key[0] <= last}
    for name in written:
        assert written[name] == anew[name], name
    assert len(written["daily"]) > 1000 and len(written["daily_pair"]) > 10
    with history.read() as transaction:
        assert transaction.rows(sa.select(job.c.id, job.c.counted).order_by(job.c.id)) == flags


def test_what_people_found_out_is_among_it(history: Database) -> None:
    with history.read() as transaction:
        assert transaction.scalar(sa.select(sa.func.count()).select_from(association)) == 15_000
        truths = transaction.rows(sa.select(feedback.c.job_id, feedback.c.label).limit(5))
    assert all(row.label for row in truths)
