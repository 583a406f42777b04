"""Why a film has no result: each way is found by who has the console alone, and mended there where it can be."""

from __future__ import annotations

import dataclasses
import html
import re
import time
import tomllib

import pytest
import sqlalchemy as sa

from cxrnode.config import parse_config
from cxrnode.core.findings import Outcome
from cxrnode.store import associations, circuits, fleet, jobs, loading, notices, originals, receipt, reports
from cxrnode.store.associations import Asked
from cxrnode.store.fleet import Process
from cxrnode.store.schema import delivery, event, job
from tests.stores import (
    IDENTITY,
    arrival,
    claim_one,
    delivered,
    enqueue,
    report,
    reported,
    settle,
    take_one,
)
from tests.unit.web.conftest import House, Make, Visitor


def said(visitor: Visitor, path: str) -> str:
    """The words of a page."""
    answer = visitor.get(path)
    assert answer.status_code == 200, path
    return html.unescape(re.sub(r"\s+", " ", re.sub("<[^>]+>", " ", answer.text)))


def state(house: House, job_id: int) -> str:
    with house.database.read() as transaction:
        return str(transaction.scalar(sa.select(job.c.state).where(job.c.id == job_id)))


def test_no_rule_wanted_it(house: House) -> None:
    """There is no job of it: it stands among the films, by its patient, with the reason and the rules."""
    made = receipt.record(house.database, arrival(1, accepted=False), (), ageing=60.0, config_digest="c" * 64)
    delivered(house.database, 2)
    anna = house.visitor("anna")
    found = anna.post("/films", {"patient_id": IDENTITY["patient_id"]}).text
    assert f'href="/films/{made.instance_id}"' in found and "no rule wants it" in found
    listed = said(anna, "/films?verdict=ignored")
    assert "no rule wants it" in listed and "a frontal chest film" not in listed
    page = said(anna, f"/films/{made.instance_id}")
    assert "Ignored. no rule wants it" in page
    assert "films" in page and "[[rules]]" in page and "send the film again" in page
    assert IDENTITY["patient_id"] not in page
    nobody = re.sub("<[^>]+>", "", anna.post("/jobs", {"patient_id": "NOBODY"}).text)
    assert "Films shows those that came and were not read" in nobody


def test_its_association_was_refused(house: House) -> None:
    """It never came: the page of the associations shows who was refused, and the lines admit that AE title."""
    asked = Asked(
        calling_aet="NEWROOM",
        called_aet="CXRNODE",
        address="192.0.2.9",
        outcome="rejected",
        cause="unknown",
        reason="no node has this AE title",
        contexts={"proposed": [["1.2.840.10008.5.1.4.1.1.1.1", ["1.2.840.10008.1.2"]]]},
    )
    tls = dataclasses.replace(asked, calling_aet="", outcome="failed", cause="tls", reason="wrong version number")
    associations.record(house.database, [asked, tls])
    anna = house.visitor("anna")
    assert "refused in the last hour" in said(anna, "/")
    assert "look at refused associations" in re.sub("<[^>]+>", "", anna.post("/films", {"accession": "NEVER"}).text)
    page = anna.get("/associations?outcome=rejected").text
    lines = html.unescape(re.search(r"<code id=\"lines-\d+\">([^<]+)</code>", page)[1])  # type: ignore[index]
    raw = tomllib.loads(lines)
    assert parse_config(raw).peers["NEWROOM"].can_send
    assert "1 presentation context proposed" in said(anna, "/associations?outcome=rejected")
    failed = said(anna, "/associations?outcome=failed")
    assert "wrong version number" in failed and "could not be secured" in failed


def test_it_was_parked_and_is_read_again(house: House) -> None:
    job_id = enqueue(house.database, 1)
    jobs.park(house.database, claim_one(house.database), "the spool has no file")
    anna = house.visitor("anna")
    assert "1 job failed in 30 days" in said(anna, "/")
    assert "It failed. the spool has no file" in said(anna, f"/jobs/{job_id}")
    assert anna.post(f"/jobs/{job_id}/act", {"act": "retry", "reason": "brought back"}).status_code == 303
    assert state(house, job_id) == "queued"
    assert "It waits to be read" in said(anna, f"/jobs/{job_id}")


def test_it_waits_for_a_pacs_that_is_down_and_goes_out_when_that_answers(house: House) -> None:
    job_id = reported(house.database, 1)
    circuits.open_circuit(house.database, "PACS", "unreachable: no connection", base=60.0, cap=60.0)
    anna = house.visitor("anna")
    assert "PACS is down: unreachable" in said(anna, "/")
    page = said(anna, f"/jobs/{job_id}")
    assert "PACS is down: unreachable: no connection." in page and "cxrnode echo PACS" in page
    assert re.search(r"tried again and again, the next time in (59|60) s, .* It is down since 2\d{3}-\S+ \S+;", page)
    circuits.close_circuit(house.database, "PACS")
    assert "PACS is down" not in said(anna, f"/jobs/{job_id}")


def test_its_delivery_was_given_up_and_is_sent_again(house: House) -> None:
    from cxrnode.store import settlements

    job_id = reported(house.database, 1)
    settlements.settle_parked(house.database, take_one(house.database), (), "sr answered 0xA900")
    anna = house.visitor("anna")
    assert "sr answered 0xA900" in said(anna, f"/jobs/{job_id}")
    assert anna.post(f"/jobs/{job_id}/act", {"act": "resend", "reason": "the PACS was mended"}).status_code == 303
    with house.database.read() as transaction:
        assert transaction.scalar(sa.select(delivery.c.state).where(delivery.c.job_id == job_id)) == "pending"


def test_its_source_is_not_in_the_archive_yet(house: House) -> None:
    job_id = reported(house.database, 1)
    reason = "the film is not there yet (require_source)"
    assert originals.await_original(house.database, take_one(house.database), reason, pause=30.0)
    page = said(house.visitor("anna"), f"/jobs/{job_id}")
    assert f"PACS did not take it yet: {reason}" in page and "tried again by itself" in page


def test_its_model_is_in_shadow_and_can_be_activated(house: House) -> None:
    job_id = enqueue(house.database, 1, mode="shadow", models=("candidate",), send_to=())
    anna = house.visitor("anna")
    assert "A shadow model reads and is recorded; it never sends." in said(anna, f"/jobs/{job_id}")
    fields = {"subject": "model:candidate", "value": "active", "reason": "compared"}
    assert anna.post("/models/change", fields).status_code == 303
    assert house.console.in_force().mode("candidate", "shadow") == "active"


def test_its_model_is_disabled_or_reading_is_paused(house: House) -> None:
    job_id = enqueue(house.database, 1)
    anna = house.visitor("anna")
    for subject, value, expected in (
        ("queue:reading", "paused", "Reading is paused by anna: a disk"),
        ("model:chest", "disabled", "The model chest is disabled."),
    ):
        assert expected not in said(anna, f"/jobs/{job_id}")
        anna.post("/models/change", {"subject": subject, "value": value, "reason": "a disk"})
        assert expected in said(anna, f"/jobs/{job_id}")


def test_its_model_could_not_be_loaded(house: House) -> None:
    job_id = enqueue(house.database, 1)
    anna = house.visitor("anna")
    assert "No process that lives has loaded the model chest." in said(anna, f"/jobs/{job_id}")
    reason = "demo/weights.safetensors: its digest is not the manifest's; copy the bundle again"
    for _ in range(3):  # infer is started again and again
        loading.refused(house.database, "chest", node="ward", reason=reason)
    with house.database.read() as transaction:
        assert transaction.scalar(sa.select(sa.func.count()).where(event.c.name == "model_not_loaded")) == 1
    for path in ("/", "/models", f"/jobs/{job_id}"):
        assert reason in said(anna, path) and "ward" in said(anna, path)
    assert "cxrnode model verify chest" in said(anna, f"/jobs/{job_id}")
    models = {"chest": "b" * 64}
    process = Process(owner="w/infer/1", node="ward", role="infer", version="1", revision="1", models=models)
    fleet.beat(house.database, process)
    notices.loaded(house.database, "chest", report(claim_one(house.database)).reader)
    for path in ("/", "/models", f"/jobs/{job_id}"):
        assert "loaded by" not in said(anna, path) and "No process that lives" not in said(anna, path)


def test_it_was_not_analysed_and_says_why(house: House) -> None:
    job_id = enqueue(house.database, 1)
    held = claim_one(house.database)
    refused = dataclasses.replace(
        report(held, outcome=Outcome.NOT_ANALYSED), reason="outside the model's intended use: age 3", findings=()
    )
    assert reports.settle_report(house.database, held, refused, [], saliency=None, preview=None).stands
    page = said(house.visitor("anna"), f"/jobs/{job_id}")
    assert "Not analysed. outside the model's intended use: age 3" in page


def test_it_is_late(make_house: Make) -> None:
    house = make_house(notices={"late_after": "10m"})
    job_id = enqueue(house.database, 1)
    anna = house.visitor("anna")
    assert "It is late" not in said(anna, f"/jobs/{job_id}")
    with house.database.write() as transaction:
        transaction.connection.execute(sa.update(job).values(created_at=time.time() - 1200))
    assert "It is late: it waits longer than notices.late_after" in said(anna, f"/jobs/{job_id}")
    assert "films wait longer than notices.late_after" in said(anna, "/")


def test_it_is_the_duplicate_of_another_job(house: House) -> None:
    first = reported(house.database, 1)
    second = enqueue(house.database, 2)
    assert not settle(house.database, claim_one(house.database), pixels="instance 1")
    page = said(house.visitor("anna"), f"/jobs/{second}")
    assert f"was read before, as job {first}" in page


def test_films_are_found_by_sender_verdict_and_time_and_pages_follow_each_other(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    from cxrnode.store import instances
    from cxrnode.store.listing import InstanceFilter

    for number in range(9):
        receipt.record(
            house.database,
            dataclasses.replace(arrival(number, accepted=number % 3 == 0), calling_aet=f"ROOM{number % 2}"),
            (),
            ageing=60.0,
            config_digest="c" * 64,
        )
    monkeypatch.setattr(instances, "_FIRST", 2)
    monkeypatch.setattr(instances, "_WIDEST", 2)
    for chosen, expected in (
        (InstanceFilter(), list(range(9, 0, -1))),
        (InstanceFilter(verdict="accepted"), [7, 4, 1]),
        (InstanceFilter(verdict="ignored", calling_aet="ROOM1"), [8, 6, 2]),
        (InstanceFilter(calling_aet="NOBODY"), []),
        (InstanceFilter(since=time.time() + 60), []),
        (InstanceFilter(until=time.time() - 60), []),
    ):
        seen: list[int] = []
        before = None
        while True:
            page = instances.search_instances(house.database, chosen, before=before, limit=2, seconds=0.0)
            seen += [row.id for row in page.rows]
            if (before := page.before) is None:
                break
        assert seen == expected, chosen
