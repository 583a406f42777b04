"""`jobs retry | resend | withdraw | decide`: what they change, what they say, and what the audit knows of it."""

from __future__ import annotations

import pytest

from cxrnode.cli.options import who
from tests.unit.cli.clinic import Clinic


@pytest.fixture
def delivered(clinic: Clinic) -> Clinic:
    clinic.receive()
    clinic.report()
    clinic.deliver()
    return clinic


@pytest.fixture
def disputed(delivered: Clinic) -> Clinic:
    """One film under two identities: job 1 was delivered, job 2 is held."""
    delivered.receive(2)
    delivered.report(number=2, pixels="a" * 64)
    return delivered


def test_withdraw_takes_back_what_was_sent_and_tells_the_audit_who_and_why(delivered: Clinic) -> None:
    said = delivered.json("jobs", "withdraw", 1, "--reason", "patient-safety", "--note", "the wrong side is marked")
    assert said == [
        {"job_id": 1, "ok": True, "detail": "withdrawn; deliveries cancelled: 0, destinations to be told: 1"}
    ]
    (listed,) = delivered.json("jobs", "ls")
    assert (listed["state"], listed["rejection"], listed["withdrawals"]) == (
        "withdrawn",
        "patient-safety",
        {"PACS": "waiting"},
    )
    (event,) = delivered.json("audit", "query", "--event", "withdrawn")
    assert event["detail"] == {"rejection": "patient-safety", "reason": "the wrong side is marked", "by": who()}
    table = delivered.run("jobs", "ls").stdout
    assert "PACS withdrawal waiting" in " ".join(table.split())
    assert "patient-safety: the wrong side is marked" in delivered.run("jobs", "show", 1).stdout


def test_what_was_not_sent_is_cancelled(clinic: Clinic) -> None:
    clinic.receive()
    clinic.report()
    (said,) = clinic.json("jobs", "withdraw", 1, "--reason", "quality")
    assert said["detail"] == "withdrawn; deliveries cancelled: 1, destinations to be told: 0"
    assert clinic.json("jobs", "ls")[0]["deliveries"] == {"PACS": "cancelled"}


def test_a_second_withdrawal_is_refused_and_ends_in_1(delivered: Clinic) -> None:
    delivered.json("jobs", "withdraw", 1, "--reason", "quality")
    done = delivered.json("jobs", "withdraw", 1, 77, "--reason", "quality", status=1)
    assert [one["detail"] for one in done] == [
        "job 1: its result is withdrawn already, for quality; `cxrnode jobs resend` sends the note again",
        "there is no job 77; `cxrnode jobs ls` shows those that are",
    ]


@pytest.mark.parametrize("options", [[], ["--reason", "a whim"]])
def test_a_withdrawal_has_one_of_three_reasons(delivered: Clinic, options: list[str]) -> None:
    assert delivered.run("jobs", "withdraw", 1, *options).exit_code == 2


def test_decide_lets_one_identity_go_and_withdraws_the_other(disputed: Clinic) -> None:
    assert [(one["id"], one["disputed"]) for one in disputed.json("jobs", "ls")] == [(2, True), (1, True)]
    assert "cxrnode jobs decide" in disputed.run("jobs", "show", 2).stdout
    (refused,) = disputed.json("jobs", "resend", 2, "--reason", "x", status=1)
    assert "`cxrnode jobs decide`" in refused["detail"]
    (said,) = disputed.json("jobs", "decide", 2, "--reason", "a typing error")
    assert said["detail"] == "deliveries released: 1, jobs withdrawn: 1"
    assert [(one["id"], one["state"]) for one in disputed.json("jobs", "ls")] == [(2, "reported"), (1, "withdrawn")]
    (event,) = disputed.json("audit", "query", "--event", "identity_decided")
    assert (event["job_id"], event["detail"]) == (2, {"reason": "a typing error", "by": who(), "all_right": False})
    assert disputed.json("jobs", "decide", 2, "--reason", "again", status=1)[0]["ok"] is False
    (undone,) = disputed.json("jobs", "decide", 1, "--reason", "it was no typing error")
    assert undone["detail"] == "deliveries released: 0, jobs withdrawn: 2, read again as job 3"


def test_decide_can_find_every_identity_right(disputed: Clinic) -> None:
    (said,) = disputed.json("jobs", "decide", 2, "--all-right", "--reason", "two orders")
    assert said["detail"] == "deliveries released: 1, jobs withdrawn: none"


def test_a_revision_is_listed_with_the_job_whose_place_it_takes(delivered: Clinic) -> None:
    delivered.json("jobs", "retry", 1, "--reason", "a new model")
    assert [(one["revision"], one["predecessor"]) for one in delivered.json("jobs", "ls")] == [(2, 1), (1, None)]
    assert "2 of job 1" in delivered.run("jobs", "ls").stdout
    (event,) = delivered.json("audit", "query", "--event", "revision_asked")
    assert event["detail"] == {"reason": "a new model", "by": who(), "revision": 2, "job": 2, "model": "chest"}


def test_another_model_reads_the_film_where_it_is_configured(delivered: Clinic) -> None:
    refused = delivered.run("jobs", "retry", 1, "--model", "other", "--reason", "x")
    assert (refused.exit_code, "the configuration has no model 'other'; it has chest" in refused.stderr) == (2, True)
    text = delivered.config.read_text()
    delivered.config.write_text(
        f'{text}\n[models.better]\nbundle = "better"\n[models.try]\nbundle = "x"\nmode = "shadow"'
    )
    (said,) = delivered.json("jobs", "retry", 1, "--model", "try", "--reason", "x", status=1)
    assert "its model is a shadow now" in said["detail"]
    delivered.json("jobs", "retry", 1, "--model", "better", "--reason", "a better model")
    assert delivered.json("jobs", "ls")[0]["model"] == "better"
