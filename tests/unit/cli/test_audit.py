"""`audit`: findings as one query, exports in every form, the trail's proof, erasure and feedback."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import sqlalchemy as sa

from cxrnode.core.pseudonyms import Pseudonyms
from cxrnode.store import audit, guards
from cxrnode.store.schema import event, identity, instance, output
from tests.unit.cli.clinic import IDENTITY, OUTPUT_UID, SECRETS, SOP_UID, STUDY_TEXT, Clinic


@pytest.fixture
def delivered(clinic: Clinic) -> Clinic:
    clinic.receive()
    clinic.report()
    clinic.deliver()
    return clinic


def rows(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


def test_what_was_said_on_every_case_is_one_query(delivered: Clinic) -> None:
    delivered.receive(2)
    found = delivered.json("audit", "query", "--findings")
    assert [(one["job"], one["finding"], one["decision"]) for one in found] == [
        (1, "Effusion", "present"),
        (1, "Hernia", "not_assessed"),
        (1, "Nodule", "undetermined"),
        (2, "", ""),
    ]
    for options, expected in (
        (("--finding", "Nodule"), ["Nodule"]),
        (("--finding", "nodule"), ["Nodule"]),
        (("--decision", "present"), ["Effusion"]),
        (("--at-least", "0.4"), ["Effusion", "Nodule"]),
        (("--accession", IDENTITY["accession"], "--decision", "present"), ["Effusion"]),
        (("--patient-id", "NOBODY"), []),
        (("--calling-aet", "ELSEWHERE"), []),
        (("--state", "delivered", "--model", "chest", "--outcome", "analysed"), ["Effusion", "Hernia", "Nodule"]),
        (("--until", "2000-01-01"), []),
    ):
        assert [one["finding"] for one in delivered.json("audit", "query", "--findings", *options)] == expected
    assert delivered.run("audit", "query", "--finding", "Nodule").exit_code == 2
    assert delivered.run("audit", "query", "--findings", "--job", 1).exit_code == 2
    for option in ("--state", "--outcome", "--decision"):
        refused = delivered.run("audit", "query", "--findings", option, "presnt")
        assert (refused.exit_code, "is not one of" in refused.stderr) == (2, True)
    assert "undetermined" in delivered.run("audit", "query", "--findings").stdout


def test_an_export_names_nobody_unless_asked(delivered: Clinic) -> None:
    for kind in ("csv", "jsonl"):
        text = delivered.run("audit", "export", "--format", kind).output
        assert [secret for secret in SECRETS if secret in text] == []
        assert "Effusion" in text
    assert delivered.json("audit", "query", "--event", "identity_viewed") == []
    (first, *_) = rows(delivered.run("audit", "export", "--identity").stdout)
    assert (first["patient_id"], first["accession"]) == (IDENTITY["patient_id"], IDENTITY["accession"])
    assert first["sop_instance_uid"] == f"{SOP_UID}.1"
    assert len(delivered.json("audit", "query", "--event", "identity_viewed")) == 1


def test_csv_json_lines_and_parquet_say_the_same(delivered: Clinic, tmp_path: Path) -> None:
    lines = [json.loads(line) for line in delivered.run("audit", "export", "--format", "jsonl").stdout.splitlines()]
    out = tmp_path / "export.parquet"
    assert delivered.run("audit", "export", "--format", "parquet", "--out", out).exit_code == 0
    assert out.stat().st_mode & 0o077 == 0
    assert pq.read_table(out).to_pylist() == lines
    as_text = [{name: "" if value is None else str(value) for name, value in line.items()} for line in lines]
    assert rows(delivered.run("audit", "export").stdout) == as_text
    assert delivered.run("audit", "export", "--format", "parquet").exit_code == 2
    empty = tmp_path / "none.parquet"
    assert delivered.run("audit", "export", "--format", "parquet", "--out", empty, "--model", "x").exit_code == 0
    assert pq.read_table(empty).num_rows == 0
    assert pq.read_table(empty).schema == pq.read_table(out).schema


def test_text_of_a_peer_is_no_formula_of_a_spreadsheet(clinic: Clinic) -> None:
    clinic.receive(1, calling_aet="=1+2")
    (row,) = rows(clinic.run("audit", "export").stdout)
    assert row["calling_aet"] == "'=1+2"


def test_pseudonyms_are_stable_and_tell_nothing(delivered: Clinic, tmp_path: Path) -> None:
    delivered.receive(2)
    first = delivered.run("audit", "export", "--deidentify").stdout
    assert first == delivered.run("audit", "export", "--deidentify").stdout
    assert [secret for secret in SECRETS if secret in first] == []
    known = delivered.run("audit", "export").stdout
    found, plain = rows(first), rows(known)
    assert len({row["patient_id"] for row in found}) == 1, "one patient"
    assert len({row["sop_instance_uid"] for row in found}) == 2, "two films"
    assert found[0]["patient_id"].startswith("patient-") and found[0]["study_instance_uid"].startswith("2.25.")
    assert found[0]["received_at"][:10] != plain[0]["received_at"][:10]
    assert found[0]["received_at"][10:] == plain[0]["received_at"][10:], "whole days"
    key = delivered.folder / "data" / "pseudonyms.key"
    assert key.stat().st_mode & 0o077 == 0
    key.write_bytes(b"another key of 32 bytes, for sure")
    assert rows(delivered.run("audit", "export", "--deidentify").stdout)[0]["patient_id"] != found[0]["patient_id"]
    key.write_bytes(b"short")
    assert "no key of pseudonyms" in delivered.run("audit", "export", "--deidentify").output


def test_pseudonyms_of_two_kinds_with_one_text_differ() -> None:
    names = Pseudonyms(b"k" * 32)
    assert names.name("patient", "1") != names.name("accession", "1")
    assert (names.name("patient", ""), names.uid("study", "")) == ("", "")
    assert names.shift("a") % 86400 == 0 and 0 < names.shift("a") <= 365 * 86400
    assert "kkk" not in repr(names)


def test_the_preset_has_the_columns_of_the_registry(delivered: Clinic) -> None:
    assert delivered.run("audit", "export", "--preset", "assess-ai").exit_code == 2
    found = rows(delivered.run("audit", "export", "--preset", "assess-ai", "--identity").stdout)
    assert list(found[0]) == [
        *("Patient ID", "Accession Number", "Result Indicator", "AI Result", "Manufacturer", "Model", "Study Date"),
        *("Software Version", "Platform", "Inference Date", "Age", "Sex", "Race", "Ethnicity", "Exam Name"),
        *("Modality", "Body Part Examined", "Contrast Indication"),
    ]
    assert [(one["Result Indicator"], one["AI Result"]) for one in found] == [
        ("Effusion", "Positive"),
        ("Hernia", "Not assessed"),
        ("Nodule", "Indeterminate"),
    ]
    assert (found[0]["Patient ID"], found[0]["Software Version"]) == (IDENTITY["patient_id"], "1.0")
    hidden = rows(delivered.run("audit", "export", "--preset", "assess-ai", "--deidentify").stdout)
    assert STUDY_TEXT not in str(hidden) and hidden[0]["Patient ID"].startswith("patient-")


# ---------------------------------------------------------------------------------------------- the trail


def test_a_whole_trail_is_said_to_be_whole(delivered: Clinic, tmp_path: Path) -> None:
    seal = tmp_path / "seal.json"
    digest = delivered.json("audit", "seal", "--out", seal)["digest"]
    result = delivered.run("audit", "verify", "--seal", seal, "--digest", digest)
    assert (result.exit_code, "the trail is whole" in result.stdout) == (0, True)
    assert delivered.json("audit", "verify")["good"] is True
    assert "no seal" in delivered.run("audit", "verify", "--digest", "0" * 64).stdout
    seal.write_text("{}")
    assert "is no seal that" in delivered.run("audit", "verify", "--seal", seal).output


def test_a_changed_row_and_a_deleted_job_are_named(delivered: Clinic, tmp_path: Path) -> None:
    seal = tmp_path / "seal.json"
    delivered.run("audit", "seal", "--out", seal)
    with delivered.database.write() as transaction:
        guards.remove(transaction.connection)
        chosen = sa.select(event.c.id).where(event.c.name == "reported")
        broken = transaction.scalar(chosen)
        transaction.connection.execute(sa.update(event).where(event.c.id == broken).values(detail="{}"))
        guards.install(transaction.connection)
    result = delivered.run("audit", "verify")
    assert (result.exit_code, f"event {broken} of job 1 (reported)" in result.stdout) == (1, True)
    with delivered.database.write() as transaction:
        guards.remove(transaction.connection)
        transaction.connection.execute(sa.delete(event).where(event.c.job_id == 1))
    assert "job 1 is gone" in delivered.run("audit", "verify", "--seal", seal).stdout


def test_an_identity_is_erased_and_the_trail_stands(delivered: Clinic) -> None:
    heads = [row[0] for row in delivered.json("audit", "verify")["faults"]]
    result = delivered.run("audit", "erase", "--patient-id", "-", "--reason", "asked for", stdin=IDENTITY["patient_id"])
    assert result.exit_code == 1, "stdin has no second line that says yes"
    done = delivered.json("audit", "erase", "--patient-id", IDENTITY["patient_id"], "--reason", "asked for", "--yes")
    assert (done["erased"], done["refused"]) == ([1], [])
    with delivered.database.read() as transaction:
        everything = "\n".join(
            str(tuple(row))
            for table in (identity, instance, output, event)
            for row in transaction.rows(sa.select(table))
        )
    left = [value for value in (*IDENTITY.values(), SOP_UID, OUTPUT_UID, STUDY_TEXT) if len(value) > 1]
    assert [value for value in left if value in everything] == []
    assert delivered.json("audit", "verify")["good"] is True and heads == []
    (found,) = delivered.json("audit", "query", "--event", "identity_erased")
    assert found["detail"]["reason"] == "asked for" and found["instance_id"] == 1
    assert audit.broken_link(delivered.database, 1) is None
    assert len(delivered.json("audit", "query", "--findings")) == 3, "what was said stays"
    again = delivered.run("audit", "erase", 1, "--reason", "again", "--yes")
    assert (again.exit_code, "was erased before" in again.stdout) == (1, True)
    assert "no such film" in delivered.run("audit", "erase", "--patient-id", "X", "--reason", "r", "--yes").output


def test_a_film_that_is_under_way_is_not_erased(clinic: Clinic) -> None:
    clinic.receive()
    assert "is being read" in clinic.run("audit", "erase", 1, "--reason", "r", "--yes").stdout
    clinic.report()
    assert "are being sent" in clinic.run("audit", "erase", 1, "--reason", "r", "--yes").stdout
    assert clinic.run("audit", "erase", "--reason", "r").exit_code == 2


# ---------------------------------------------------------------------------------------------- feedback and stats


def test_truths_are_imported_and_wrong_lines_are_named(delivered: Clinic, tmp_path: Path) -> None:
    table = tmp_path / "truth.csv"
    table.write_text(
        "accession,sop_instance_uid,finding,truth,source\n"
        f"{IDENTITY['accession']},,Effusion,yes,CT\n"
        f",{SOP_UID}.1,Nodule,0,CT\n"
        f"{IDENTITY['accession']},,Effusion,perhaps,CT\n"
        "ACC-UNKNOWN,,Effusion,1,CT\n"
    )
    found = delivered.json("audit", "feedback", "import", table, status=1)
    assert (found["stored"], [one["line"] for one in found["refused"]]) == (2, [4, 5])
    assert "ACC-UNKNOWN" not in delivered.run("audit", "feedback", "import", table).output
    assert delivered.json("audit", "feedback", "import", table, status=1)["same"] == 2
    truths = {one["finding"]: one["truth"] for one in delivered.json("audit", "query", "--findings")}
    assert truths == {"Effusion": True, "Hernia": None, "Nodule": False}
    table.write_text("a,b\n1,2\n")
    assert "needs the columns" in delivered.run("audit", "feedback", "import", table).output


def test_stats_are_shown_and_drawn(delivered: Clinic, tmp_path: Path) -> None:
    assert "nothing was counted yet" in delivered.run("audit", "stats").output
    assert "counted" in delivered.run("audit", "rebuild").stdout
    table = tmp_path / "truth.csv"
    table.write_text("job,finding,truth\n1,Effusion,1\n")
    delivered.run("audit", "feedback", "import", table)
    png = tmp_path / "stats.png"
    shown = delivered.run("audit", "stats", "--png", png)
    assert shown.exit_code == 0, shown.output
    assert all(word in shown.stdout for word in ("Effusion", "too few films", "total", "ARCHIVE", "beside the truth"))
    assert png.read_bytes().startswith(b"\x89PNG")
    found = delivered.json("audit", "stats")
    assert found["model"] == "chest"
    assert [(one["label"], one["present"]) for one in found["positives"]] == [
        ("", 0),
        ("Effusion", 1),
        ("Hernia", 0),
        ("Nodule", 0),
    ]
    assert "nothing was counted of 'other'" in delivered.run("audit", "stats", "--model", "other").output


def test_an_answer_without_a_line_says_so_and_where_the_names_stand(delivered: Clinic) -> None:
    events = delivered.run("audit", "query", "--event", "recieved")
    assert (events.exit_code, events.stderr) == (0, "none found; docs/events.md has the names of events\n")
    findings = delivered.run("audit", "query", "--findings", "--finding", "nodul")
    assert (findings.exit_code, findings.stderr) == (
        0,
        "none found; a finding is written as `cxrnode model show` writes it\n",
    )
    assert delivered.run("audit", "query", "--job", 4711).stderr == "none found\n"
