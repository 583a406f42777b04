"""What the console finds and counts, against the rows themselves: a history of 600 jobs on both databases."""

from __future__ import annotations

import dataclasses
import html
import re
import secrets
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from starlette.testclient import TestClient

from benchmarks.console import visiting
from cxrnode.core.quality import share
from cxrnode.store import agreement, search
from cxrnode.store.database import Database, Row
from cxrnode.store.overview import overview
from cxrnode.store.schema import delivery, event, feedback, finding, identity, instance, job
from cxrnode.store.search import Wanted, Whose
from cxrnode.web.words import title
from tests.histories import history, url

__all__ = ["history", "url"]

DAY = 86400.0


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Rows:
    """Everything, read once."""

    jobs: dict[int, Row]
    films: dict[int, Row]
    findings: dict[tuple[int, str], Row]
    now: float


@pytest.fixture(scope="module")
def rows(history: Database) -> Rows:
    with history.read() as transaction:
        return Rows(
            jobs={row.id: row for row in transaction.rows(sa.select(job))},
            films={row.id: row for row in transaction.rows(sa.select(instance))},
            findings={(row.job_id, row.label): row for row in transaction.rows(sa.select(finding))},
            now=transaction.now,
        )


def by_hand(rows: Rows, wanted: Wanted) -> dict[int, float]:
    """The jobs that are like this, with the score of the finding asked for: by looking at every one."""
    found = {}
    for one in rows.jobs.values():
        said = rows.findings.get((one.id, wanted.finding or ""))
        if wanted.finding and (
            said is None
            or (wanted.decision is not None and said.decision != wanted.decision)
            or (wanted.least is not None and said.score < wanted.least)
            or (wanted.most is not None and said.score > wanted.most)
        ):
            continue
        mine = {name: getattr(one, name) for name in ("state", "outcome", "model", "mode", "disputed")}
        mine["calling_aet"] = rows.films[one.instance_id].calling_aet
        if any(getattr(wanted, name) not in (None, value) for name, value in mine.items()):
            continue
        if wanted.since is not None and one.created_at < wanted.since:
            continue
        if wanted.until is not None and one.created_at >= wanted.until:
            continue
        found[one.id] = said.score if said is not None else 0.0
    return found


SEARCHES: dict[str, dict[str, Any]] = {
    "all": {},
    "failed": {"state": "failed"},
    "delivered": {"state": "delivered"},
    "queued": {"state": "queued"},
    "duplicates": {"outcome": "duplicate"},
    "not analysed": {"outcome": "not_analysed"},
    "no outcome is asked of a state": {"state": "reported", "outcome": "duplicate"},
    "shadow": {"mode": "shadow"},
    "model and outcome": {"model": "chest", "outcome": "not_analysed"},
    "sender": {"calling_aet": "ICU_MOB1"},
    "sender and state": {"calling_aet": "WARD_CR1", "state": "failed"},
    "no such sender": {"calling_aet": "NOWHERE"},
    "present": {"finding": "Effusion", "decision": "present"},
    "by score": {"finding": "Nodule", "least": 0.1, "most": 0.2},
    "by score, none": {"finding": "Hernia", "least": 0.9999},
    "finding alone": {"finding": "Mass"},
    "finding and sender": {"finding": "Effusion", "decision": "undetermined", "calling_aet": "ER_DX1"},
    "finding and state": {"finding": "Effusion", "least": 0.05, "state": "withdrawn"},
    "finding and model": {"finding": "Effusion", "decision": "present", "model": "candidate"},
    "disputed": {"disputed": True},
}


@pytest.mark.parametrize("name", SEARCHES)
@pytest.mark.parametrize("times", [(None, None), (60.0, None), (None, 30.0), (50.0, 20.0)], ids=str)
def test_a_search_finds_what_looking_at_every_job_finds(
    history: Database, rows: Rows, name: str, times: tuple[float | None, float | None]
) -> None:
    since, until = (None if days is None else rows.now - days * DAY for days in times)
    wanted = Wanted(**SEARCHES[name], since=since, until=until)
    expected = by_hand(rows, wanted)
    seen: list[int] = []
    before: int | None = None
    while True:
        page = search.search(history, wanted, before=before, limit=37)
        seen += [row.id for row in page.rows]
        if wanted.finding:
            assert page.scores == {row.id: expected[row.id] for row in page.rows}
        if page.before is None:
            break
        assert before is None or page.before < before
        before = page.before
    assert seen == sorted(expected, reverse=True)


def test_a_search_whose_time_is_up_goes_on_from_where_it_was(
    history: Database, rows: Rows, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(search, "_FIRST", 40)
    monkeypatch.setattr(search, "_WIDEST", 40)
    wanted = Wanted(finding="Effusion", decision="present")
    expected = sorted(by_hand(rows, wanted), reverse=True)
    seen: list[int] = []
    before, pages = None, 0
    while True:
        page = search.search(history, wanted, before=before, limit=50, seconds=0.0)
        seen += [row.id for row in page.rows]
        pages += 1
        if page.before is None:
            break
        if len(page.rows) < 50:  # the time was up: it says how far it came
            assert page.looked_back_to == rows.jobs[page.before].created_at
        before = page.before
    assert seen == expected and pages > len(rows.jobs) // 80


def test_a_patients_films_are_found_whoever_sent_them(history: Database, rows: Rows) -> None:
    with history.read() as transaction:
        people = {row.instance_id: row for row in transaction.rows(sa.select(identity))}
    one = people[rows.jobs[300].instance_id]
    for whose, key in ((Whose(accession=one.accession), "accession"), (Whose(patient_id=one.patient_id), "patient_id")):
        page = search.search_whose(history, whose, Wanted(), by="anna", why="a call")
        expected = [
            number for number, row in rows.jobs.items() if getattr(people[row.instance_id], key) == getattr(one, key)
        ]
        assert [row.id for row in page.rows] == sorted(expected, reverse=True)
    with history.read() as transaction:
        said = transaction.rows(sa.select(event.c.detail).where(event.c.name == "searched"))
    assert said and not any(one.accession in row.detail or one.patient_id in row.detail for row in said)


def test_the_overview_counts_what_there_is(history: Database, rows: Rows) -> None:
    now = overview(history, models=["chest", "candidate"], destinations=["PACS"])
    with history.read() as transaction:
        sent = transaction.rows(sa.select(delivery))
    jobs = rows.jobs.values()
    queued = Counter(row.model for row in jobs if row.state == "queued")
    assert {one.name: one.count for one in now.queues} == {"chest": queued["chest"], "candidate": queued["candidate"]}
    oldest = min(row.created_at for row in jobs if row.state == "queued")
    assert now.oldest == pytest.approx(now.now - oldest)
    assert now.reading == 0 and now.disputed == 0
    assert now.failed == sum(row.state == "failed" and row.settled_at > now.now - 30 * DAY for row in jobs)
    recent = [row for row in rows.films.values() if row.received_at >= now.hours[0].at]
    assert sum(hour.accepted for hour in now.hours) == sum(row.verdict == "accepted" for row in recent)
    assert sum(hour.ignored for hour in now.hours) == sum(row.verdict == "ignored" for row in recent)
    assert now.last_received == max(row.received_at for row in rows.films.values())
    way = now.ways[0]
    assert way.failed == sum(row.state == "failed" for row in sent) > 0
    assert now.pace.count == sum(
        row.state == "delivered" and row.revision == 1 and row.settled_at >= now.hours[0].at for row in jobs
    )
    assert way.waiting == 0 and way.well
    assert way.last_sent == pytest.approx(max(row.settled_at for row in sent if row.state == "sent"), abs=3600)


# ---------------------------------------------------------------------------------------------- QA


@pytest.fixture(scope="module")
def client(history: Database) -> Iterator[TestClient]:
    with visiting(history, http=False) as (asking, _token):
        yield asking


def _counted(rows: Rows, model: str, first: int, last: int) -> list[Row]:
    """The readings that a span of days counts: all that were reported, whatever became of them."""
    return [
        row
        for row in rows.jobs.values()
        if row.model == model and row.report is not None and first <= row.created_at // DAY <= last
    ]


def test_the_quality_pages_figures_are_those_of_the_rows(rows: Rows, client: TestClient) -> None:
    body = client.get("/api/v1/quality?model=chest&days=90").json()
    span = body["span"]
    counted = _counted(rows, "chest", span["first"], span["last"])
    whole = Counter[str]()
    decisions: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for point in body["positives"]:
        if point["label"]:
            decisions[point["label"]].update({d: point[d] for d in ("present", "undetermined", "absent")})
        else:
            whole.update(films=point["films"], refused=point["refused"])
    assert whole["films"] == len(counted) > 300
    assert whole["refused"] == sum(row.outcome == "not_analysed" for row in counted) > 0
    ids = {row.id for row in counted if row.outcome == "analysed"}
    for label, counts in decisions.items():
        said = Counter(one.decision for (number, name), one in rows.findings.items() if name == label and number in ids)
        assert {key: n for key, n in counts.items() if n} == {k: n for k, n in said.items() if k != "not_assessed"}
    page = client.get("/qa?model=chest&days=90&finding=Effusion&by=view").text
    text = html.unescape(re.sub(r"\s+", " ", re.sub("<[^>]+>", " ", page)))
    assert f"{whole['films']} films read by chest in 90 days, {whole['refused']} not analysed" in text
    for label, counts in decisions.items():
        one = share(counts["present"], sum(counts.values()))
        if one.value is not None and one.low is not None and one.high is not None:
            line = f"{100 * one.value:.1f} % {100 * one.low:.1f}–{100 * one.high:.1f}"
            assert re.search(re.escape(title(label)) + r"[^%]*?" + re.escape(line), text), (label, line)
    for view in ("AP", "PA"):
        its = [
            rows.findings[number, "Effusion"].decision
            for number in ids
            if f'"view_position": "{view}"' in rows.films[rows.jobs[number].instance_id].header
        ]
        assert re.search(rf"{view} [^%]*?{100 * its.count('present') / len(its):.1f} %", text), view


def test_drift_is_that_of_the_rows(rows: Rows, client: TestClient) -> None:
    body = client.get("/api/v1/quality?model=chest&days=90").json()
    span = body["span"]
    for one in body["drift"]:
        for side, first, last in (
            ("reference", span["first"], span["last"] - 7),
            ("window", span["last"] - 6, span["last"]),
        ):
            counted = [
                row for row in _counted(rows, "chest", first, last) if row.outcome == "analysed" or not one["label"]
            ]
            assert one[f"{side}_films"] == sum(one[side]) == len(counted)
        assert (one["psi"] is None) == (min(one["reference_films"], one["window_films"]) < 100)


def test_agreement_is_that_of_the_rows(history: Database, rows: Rows, client: TestClient) -> None:
    with history.read() as transaction:
        given = transaction.rows(sa.select(feedback).order_by(feedback.c.id))
    truth = {(row.instance_id, row.label): row.truth for row in given if row.truth is not None}
    newest = {
        row.instance_id: row.id for row in rows.jobs.values() if row.model == "chest" and row.state == "delivered"
    }
    by_label: defaultdict[str, list[tuple[str, bool]]] = defaultdict(list)
    for (film, label), true in truth.items():
        by_label[label].append((rows.findings[newest[film], label].decision, true))
    found = {one.label: one for one in agreement.agreement(history, "chest", since=0, until=rows.now)}
    assert {label: one.films for label, one in found.items()} == {label: len(said) for label, said in by_label.items()}
    for label, said in by_label.items():
        hits = sum(decision == "present" for decision, true in said if true)
        assert found[label].sensitivity == share(hits, sum(true for _, true in said))
    body = client.get("/api/v1/quality?model=chest&days=90").json()
    assert {one["label"]: one["films"] for one in body["agreement"]} == {
        label: one.films for label, one in found.items()
    }


def test_every_step_of_the_benchmark_is_answered(history: Database) -> None:
    from benchmarks.console import measure

    found = list(measure(history, rounds=1, http=False))
    assert [one.name for one in found if set(one.statuses) != {200}] == []
    assert len(found) > 60


def test_the_benchmark_prints_a_table_and_writes_its_figures(url: str, history: Database, tmp_path: Path) -> None:
    import json

    from click.testing import CliRunner

    from benchmarks.console import main

    file = tmp_path / f"{secrets.token_hex(2)}.json"
    done = CliRunner().invoke(main, ["--url", url, "--rounds", "2", "--http", "--only", "api: j", "--json", str(file)])
    assert "over HTTP" in done.output and "api: job" in done.output
    figures = json.loads(file.read_text())
    assert figures["http"] and {one["name"] for one in figures["pages"]} >= {"api: job", "api: jobs, failed"}
    assert all(one["p50"] <= one["p95"] <= one["worst"] for one in figures["pages"])
