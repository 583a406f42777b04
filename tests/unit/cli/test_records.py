"""`instances`, `jobs` and `audit`: what they show, what they hide, and what they change."""

from __future__ import annotations

import datetime
import json
import time

import pytest

from cxrnode.cli.options import who
from cxrnode.core.findings import Scale
from cxrnode.store import circuits, listing
from cxrnode.store.listing import InstanceFilter, JobFilter, list_instances, list_jobs
from tests.unit.cli.clinic import IDENTITY, SECRETS, Clinic


@pytest.fixture
def delivered(clinic: Clinic) -> Clinic:
    clinic.receive()
    clinic.report()
    clinic.deliver()
    return clinic


LOOKS = (
    "instances ls",
    "instances show 1",
    "jobs ls",
    "jobs show 1",
    "audit query",
)


@pytest.mark.parametrize("look", LOOKS)
def test_nothing_says_whose_film_it_is_unless_asked(delivered: Clinic, look: str) -> None:
    text = delivered.run(*look.split()).output + json.dumps(delivered.json(*look.split()))
    assert [secret for secret in SECRETS if secret in text] == []
    assert delivered.json("audit", "query", "--event", "identity_viewed") == []


@pytest.mark.parametrize("look", [look for look in LOOKS if look != "audit query"])
def test_whoever_asks_whose_film_it_is_stands_in_the_audit(delivered: Clinic, look: str) -> None:
    found = delivered.json(*look.split(), "--identity")
    shown = found[0] if isinstance(found, list) else found
    assert shown["identity"]["patient_name"] == IDENTITY["patient_name"]
    (event,) = delivered.json("audit", "query", "--event", "identity_viewed")
    assert (event["instance_id"], event["job_id"], list(event["detail"])) == (1, None, ["by"])
    assert IDENTITY["patient_id"] in delivered.run(*look.split(), "--identity").stdout


def test_an_erased_identity_is_said_to_be_erased(delivered: Clinic) -> None:
    import sqlalchemy as sa

    from cxrnode.store.schema import identity

    with delivered.database.write() as transaction:
        transaction.connection.execute(sa.delete(identity))
    assert "erased" in delivered.run("jobs", "show", 1, "--identity").stdout
    assert "identity" not in delivered.json("instances", "ls", "--identity")[0]


def test_instances_are_listed_newest_first_with_verdict_and_jobs(clinic: Clinic) -> None:
    clinic.receive(1)
    clinic.receive(2, accepted=False, calling_aet="ROUTER")
    rows = clinic.json("instances", "ls")
    assert [(r["id"], r["verdict"], r["calling_aet"], r["jobs"]) for r in rows] == [
        (2, "ignored", "ROUTER", []),
        (1, "accepted", "ARCHIVE", [1]),
    ]
    assert rows[0]["reason"] == "BodyPartExamined names another region"


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (("--verdict", "ignored"), [2]),
        (("--calling-aet", "ARCHIVE"), [3, 1]),
        (("--rule", "chest films"), [3, 1]),
        (("--limit", "2"), [3, 2]),
        (("--since", "1h"), [3, 2, 1]),
        (("--until", "1h"), []),
        (("--since", "2000-01-01", "--verdict", "accepted", "--limit", "1"), [3]),
    ],
)
def test_instances_are_chosen_by_their_options(clinic: Clinic, options: tuple[str, ...], expected: list[int]) -> None:
    clinic.receive(1)
    clinic.receive(2, accepted=False, calling_aet="ROUTER")
    clinic.receive(3)
    assert [row["id"] for row in clinic.json("instances", "ls", *options)] == expected


def test_times_are_utc_in_json_and_local_with_their_offset_for_people(
    clinic: Clinic, monkeypatch: pytest.MonkeyPatch
) -> None:
    clinic.receive()
    monkeypatch.setenv("TZ", "Asia/Kolkata")
    time.tzset()
    try:
        moment = clinic.json("instances", "ls")[0]["received_at"]
        shown = clinic.run("instances", "ls").stdout
    finally:
        monkeypatch.undo()
        time.tzset()
    assert moment.endswith("Z")
    at = datetime.datetime.fromisoformat(moment).astimezone(datetime.timezone(datetime.timedelta(hours=5.5)))
    assert at.isoformat(timespec="seconds") in shown


def test_jobs_are_chosen_by_state_model_and_outcome(clinic: Clinic) -> None:
    clinic.receive(1)
    clinic.report()
    clinic.receive(2)
    clinic.fail()
    clinic.receive(3)

    def ids(*options: str) -> list[int]:
        return [row["id"] for row in clinic.json("jobs", "ls", *options)]

    assert (ids(), ids("--state", "failed"), ids("--state", "queued")) == ([3, 2, 1], [2], [3])
    assert (ids("--outcome", "analysed"), ids("--model", "chest", "--limit", "1"), ids("--model", "x")) == (
        [1],
        [3],
        [],
    )
    assert clinic.run("jobs", "ls", "--state", "done").exit_code == 2


def test_jobs_ls_says_where_each_result_went(delivered: Clinic) -> None:
    (row,) = delivered.json("jobs", "ls")
    assert (row["state"], row["outcome"], row["deliveries"]) == ("delivered", "analysed", {"PACS": "sent"})


def test_an_empty_listing_says_so_beside_the_answer(clinic: Clinic) -> None:
    result = clinic.run("jobs", "ls")
    assert (result.exit_code, result.stderr) == (0, "none found\n")


def test_jobs_show_tells_findings_outputs_deliveries_and_the_way_there(delivered: Clinic) -> None:
    text = delivered.run("jobs", "show", 1).stdout
    lines = [line.split() for line in text.splitlines() if line.strip()]
    assert lines[0] == ["DEMONSTRATION", "MODEL:", "not", "for", "patients"]
    assert ["finding", "score", "rule-out", "rule-in", "decision"] in lines
    assert ["Effusion", "0.910", "0.200", "0.600", "present"] in lines
    assert ["Nodule", "0.400", "0.200", "0.600", "undetermined"] in lines
    assert ["Hernia", "0.050", "-", "-", "not", "assessed"] in lines
    assert ["PACS", "sr", "0x0000", "stored"] in lines
    times = [line for line in lines if line[0].startswith("20")]
    assert (len(times), times[0][1], times[1][1].startswith("+")) == (9, "received", True)


def test_the_events_of_a_job_stand_in_their_order(delivered: Clinic) -> None:
    events = delivered.json("jobs", "show", 1)["events"]
    assert [event["name"] for event in events] == [
        *("received", "accepted", "enqueued", "claimed", "reported"),
        *("delivery_created", "delivery_claimed", "delivery_sent", "delivered"),
    ]


def test_a_calibrated_model_shows_probabilities_and_no_demonstration(clinic: Clinic) -> None:
    clinic.receive()
    clinic.report(demonstration=False, scale=Scale.PROBABILITY)
    text = clinic.run("jobs", "show", 1).stdout
    assert ("probability" in text, " score " in text, "DEMONSTRATION" in text) == (True, False, False)
    assert clinic.json("jobs", "show", 1)["demonstration"] is False


def test_a_refused_delivery_shows_status_comment_and_reason(clinic: Clinic) -> None:
    clinic.receive()
    clinic.report()
    clinic.deliver(status=0xA900, comment="not [red]my[/red] class\x1b[31m")
    result = clinic.run("jobs", "show", 1)
    assert "0xA900" in result.stdout
    assert "not [red]my[/red] class\N{REPLACEMENT CHARACTER}[31m" in result.stdout
    detail = clinic.json("jobs", "show", 1)
    assert (detail["state"], detail["deliveries"][0]["state"]) == ("failed", "failed")
    assert detail["deliveries"][0]["objects"][0]["status"] == 0xA900


def test_a_delivery_that_waits_for_a_destination_says_since_when_it_is_down_why_and_when_it_is_tried(
    clinic: Clinic,
) -> None:
    clinic.receive()
    clinic.report()
    assert clinic.json("jobs", "show", 1)["deliveries"][0]["down"] is None
    assert "PACS is down" not in clinic.run("jobs", "show", 1).stdout
    reason = "unreachable: nothing listens there"
    circuits.open_circuit(clinic.database, "PACS", reason, base=60.0, cap=60.0)
    down = clinic.json("jobs", "show", 1)["deliveries"][0]["down"]
    assert down == {"opened_at": down["opened_at"], "reason": reason, "next_probe_at": down["next_probe_at"]}
    since, tried = (datetime.datetime.fromisoformat(down[key]) for key in ("opened_at", "next_probe_at"))
    assert (tried - since).total_seconds() == pytest.approx(60.0, abs=0.1)
    here = [at.astimezone().isoformat(timespec="seconds") for at in (since, tried)]
    result = clinic.run("jobs", "show", 1)
    assert f"PACS is down since {here[0]}: {reason}; it is tried again at {here[1]}" in result.stdout.splitlines()
    assert [secret for secret in SECRETS if secret in result.stdout] == []
    circuits.close_circuit(clinic.database, "PACS")
    assert "PACS is down" not in clinic.run("jobs", "show", 1).stdout


def test_what_is_sent_already_does_not_wait_for_a_destination_that_is_down(delivered: Clinic) -> None:
    circuits.open_circuit(delivered.database, "PACS", "unreachable", base=60.0, cap=60.0)
    assert delivered.json("jobs", "show", 1)["deliveries"][0]["down"] is None


@pytest.mark.parametrize("noun", ["jobs", "instances"])
def test_what_is_not_there_is_an_answer_of_no(clinic: Clinic, noun: str) -> None:
    result = clinic.run(noun, "show", 77)
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == f"cxrnode: there is no {noun[:-1]} 77; `cxrnode {noun} ls` shows those that are\n"


def test_retry_queues_a_failed_job_again_and_tells_the_audit_why(clinic: Clinic) -> None:
    clinic.receive()
    job_id = clinic.fail()
    assert clinic.json("jobs", "retry", job_id, "--reason", "new decoder") == [
        {"job_id": 1, "ok": True, "detail": "queued as job 1"}
    ]
    assert clinic.json("jobs", "ls")[0]["state"] == "queued"
    (event,) = clinic.json("audit", "query", "--event", "retried")
    assert event["detail"] == {"reason": "new decoder", "by": who()}


def test_retry_of_a_reported_job_makes_its_next_revision(delivered: Clinic) -> None:
    assert delivered.json("jobs", "retry", 1, "--reason", "again")[0]["detail"] == "queued as job 2"
    detail = delivered.json("jobs", "show", 2)
    assert (detail["revision"], detail["predecessor"], delivered.json("jobs", "show", 1)["successor"]) == (2, 1, 2)


def test_a_retry_that_is_refused_stops_no_other_and_ends_in_1(clinic: Clinic) -> None:
    clinic.receive()
    clinic.fail()
    done = clinic.json("jobs", "retry", 99, 1, "--reason", "x", status=1)
    assert [(one["job_id"], one["ok"]) for one in done] == [(99, False), (1, True)]


def test_a_retry_needs_a_reason_and_either_ids_or_a_state(clinic: Clinic) -> None:
    assert clinic.run("jobs", "retry", 1).exit_code == 2
    assert clinic.run("jobs", "retry", "--reason", "x").exit_code == 2
    assert clinic.run("jobs", "retry", 1, "--state", "failed", "--reason", "x").exit_code == 2
    assert clinic.run("jobs", "retry", 1, "--yes", "--reason", "x").exit_code == 2


def test_all_failed_jobs_are_retried_after_a_yes(clinic: Clinic) -> None:
    for number in (1, 2, 3):
        clinic.receive(number)
        clinic.fail()
    no = clinic.run("jobs", "retry", "--state", "failed", "--reason", "x", stdin="n\n")
    assert (no.exit_code, len(clinic.json("jobs", "ls", "--state", "failed"))) == (1, 3)
    done = clinic.json("jobs", "retry", "--state", "failed", "--model", "chest", "--yes", "--reason", "x")
    assert ([one["job_id"] for one in done], clinic.json("jobs", "ls", "--state", "failed")) == ([1, 2, 3], [])
    assert clinic.json("jobs", "retry", "--state", "failed", "--yes", "--reason", "x") == []


def test_resend_makes_a_delivery_due_again(delivered: Clinic) -> None:
    assert delivered.json("jobs", "resend", 1, "--reason", "archive was restored")[0]["ok"] is True
    assert delivered.json("jobs", "ls")[0]["deliveries"] == {"PACS": "pending"}
    assert [o["done"] for o in delivered.json("jobs", "show", 1)["deliveries"][0]["objects"]] == [False]


def test_resend_of_what_is_under_way_is_refused(clinic: Clinic) -> None:
    clinic.receive()
    clinic.report()
    (done,) = clinic.json("jobs", "resend", 1, "--reason", "x", status=1)
    assert done["detail"] == "job 1: its deliveries are under way already"


def test_the_audit_is_chosen_by_job_event_and_time(delivered: Clinic) -> None:
    def names(*options: str) -> list[str]:
        return [event["name"] for event in delivered.json("audit", "query", *options)]

    assert names("--job", "1", "--limit", "2") == ["enqueued", "claimed"]
    assert names("--instance", "1", "--limit", "2") == ["received", "accepted"]
    assert (names("--event", "delivered"), names("--since", "1h", "--event", "reported")) == (
        ["delivered"],
        ["reported"],
    )
    assert (names("--until", "1d"), delivered.run("audit", "query", "--since", "soon").exit_code) == ([], 2)


def test_the_audit_table_says_what_an_event_holds(delivered: Clinic) -> None:
    text = delivered.run("audit", "query", "--event", "accepted").stdout
    assert "reason=frontal chest radiograph  rule=chest films" in text


def test_a_listing_walks_through_many_windows(clinic: Clinic, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listing, "WINDOW", 3)
    monkeypatch.setattr(listing, "PAGE", 2)
    for number in range(1, 11):
        clinic.receive(number, calling_aet="RARE" if number in (1, 8) else "ARCHIVE")
    database = clinic.database
    assert [row.id for row in list_instances(database, InstanceFilter(), limit=100)] == list(range(10, 0, -1))
    assert [row.id for row in list_instances(database, InstanceFilter(), limit=4)] == [10, 9, 8, 7]
    assert [row.id for row in list_instances(database, InstanceFilter(calling_aet="RARE"), limit=100)] == [8, 1]
    assert [row.id for row in list_jobs(database, JobFilter(), limit=100)] == list(range(10, 0, -1))
    assert list(list_instances(database, InstanceFilter(since=time.time() + 60), limit=100)) == []
