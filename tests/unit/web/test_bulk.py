"""Deeds for all jobs that a search finds: counted, confirmed by their number, done batch by batch, and no other job."""

from __future__ import annotations

import html
import re

import pytest
import sqlalchemy as sa

from cxrnode.store import jobs
from cxrnode.store.schema import event, job
from cxrnode.web import matching
from tests.stores import claim_one, enqueue, reported
from tests.unit.web.conftest import House
from tests.unit.web.test_api import program

RETRY = {"act": "retry", "reason": "the disk is back", "state": "failed"}


def failed(house: House, number: int) -> int:
    """A job that was parked."""
    job_id = enqueue(house.database, number)
    jobs.park(house.database, claim_one(house.database), "the spool has no file")
    return job_id


def states(house: House) -> dict[int, str]:
    with house.database.read() as transaction:
        return {row.id: row.state for row in transaction.rows(sa.select(job.c.id, job.c.state))}


def hidden(text: str) -> dict[str, str]:
    """The hidden fields of the last form of a page."""
    form = text[text.rindex("<form") :]
    return {key: html.unescape(value) for key, value in re.findall(r'name="(\w+)" value="([^"]*)"', form)}


def test_all_that_match_are_counted_confirmed_and_read_again_and_no_other(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(matching, "BATCH", 3)
    broken = [failed(house, number) for number in range(7)]
    other = reported(house.database, 50)
    otto = house.visitor("otto")
    assert 'formaction="/jobs/all"' in otto.get("/jobs?state=failed").text
    asked = otto.post("/jobs/all", RETRY)
    assert asked.status_code == 200 and "Read again: 7 jobs" in asked.text
    assert set(states(house).values()) == {"failed", "reported"}  # nothing was done yet
    fields = hidden(asked.text)
    later = failed(house, 60)
    wrong = otto.post("/jobs/all", {**fields, "count": "8"})
    assert wrong.status_code == 409 and "7 jobs match" in wrong.text
    page = otto.post("/jobs/all", {**fields, "count": "7"})
    assert "Read again: 3 of 3" in page.text
    assert [number for number, state in states(house).items() if state == "queued"] == broken[-3:]
    for _ in range(2):
        page = otto.post("/jobs/all", hidden(page.text))
    assert "Go on" not in page.text
    now = states(house)
    assert {now[number] for number in broken} == {"queued"}
    assert (now[other], now[later]) == ("reported", "failed")
    with house.database.read() as transaction:
        said = transaction.rows(sa.select(event.c.detail).where(event.c.name == "retried"))
    assert len(said) == 7 and all('"by":"otto"' in row[0] and "the disk is back" in row[0] for row in said)


def test_nobody_acts_on_every_job_or_without_a_reason_or_as_a_viewer(house: House) -> None:
    failed(house, 1)
    otto = house.visitor("otto")
    for fields, said in (
        ({**RETRY, "state": ""}, "every job"),
        ({**RETRY, "reason": " "}, "say why"),
        ({**RETRY, "act": "burn"}, "nothing that can be done"),
        ({**RETRY, "count": "1", "expected": "1", "before": "x"}, "before is a number"),
    ):
        answer = otto.post("/jobs/all", fields)
        assert (answer.status_code, said in html.unescape(answer.text)) == (409, True), said
    assert house.visitor("vera").post("/jobs/all", RETRY).status_code == 403
    assert set(states(house).values()) == {"failed"}


def test_what_matches_nothing_or_too_much_is_not_done(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    otto = house.visitor("otto")
    assert "No job is like this" in otto.post("/jobs/all", RETRY).text
    for number in range(6):
        failed(house, number)
    monkeypatch.setattr(matching, "MOST", 4)
    monkeypatch.setattr(matching, "_PAGE", 2)
    page = otto.post("/jobs/all", RETRY).text
    assert "More match than can be counted" in page and 'name="expected"' not in page


def test_a_program_says_how_many_and_goes_on_by_next(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(matching, "BATCH", 2)
    broken = [failed(house, number) for number in range(5)]
    asking = program(house)
    assert asking.client.post("/api/v1/jobs/act", json={**RETRY, "count": 4}).status_code == 409
    done: list[int] = []
    body: dict[str, object] = {**RETRY, "count": 5, "model": "chest"}
    while True:
        answer = asking.client.post("/api/v1/jobs/act", json=body).json()
        done += [one["job_id"] for one in answer["done"] if one["ok"]]
        if answer["next"] is None:
            break
        body["before"] = answer["next"]
    assert done == sorted(broken, reverse=True)
