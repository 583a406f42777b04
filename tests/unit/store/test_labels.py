"""A finding is found by its name as people write it."""

from __future__ import annotations

import pytest
import sqlalchemy as sa

from cxrnode.store import labels, records
from cxrnode.store.database import Database
from cxrnode.store.records import RecordFilter
from cxrnode.store.schema import finding
from cxrnode.store.search import Wanted, Whose, search, search_whose
from tests.stores import IDENTITY, reported


@pytest.fixture
def named(database: Database) -> Database:
    """Three jobs with a finding each; two models spell one of them otherwise."""
    for number, label in enumerate(("Pleural_Thickening", "Nodule", "nodule"), start=1):
        job_id = reported(database, number)
        with database.write() as transaction:
            chosen = sa.update(finding).where(finding.c.job_id == job_id, finding.c.label == "Effusion")
            transaction.connection.execute(chosen.values(label=label))
    return database


@pytest.mark.parametrize(
    ("written", "meant", "job"),
    [
        ("Pleural_Thickening", "Pleural_Thickening", 1),
        ("pleural thickening", "Pleural_Thickening", 1),
        ("PLEURAL-THICKENING", "Pleural_Thickening", 1),
        ("  Pleural  thickening ", "Pleural_Thickening", 1),
        ("Nodule", "Nodule", 2),
        ("nodule", "nodule", 3),  # as it is written comes first
        ("Pleural", "Pleural", None),
        ("%", "%", None),
    ],
)
def test_case_and_what_stands_between_words_do_not_matter(
    named: Database, written: str, meant: str, job: int | None
) -> None:
    found = [job] if job is not None else []
    assert labels.spelled(named, written) == meant
    assert [row.id for row in search(named, Wanted(finding=written)).rows] == found
    whose = Whose(patient_id=IDENTITY["patient_id"])
    assert [row.id for row in search_whose(named, whose, Wanted(finding=written), by="t", why="t").rows] == found
    assert [row.job for row in records.records(named, RecordFilter(label=written))] == found


def test_a_name_that_two_models_spell_otherwise_is_one_of_theirs(named: Database) -> None:
    assert labels.spelled(named, "NODULE") in ("Nodule", "nodule")
