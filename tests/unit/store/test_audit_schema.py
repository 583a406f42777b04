"""The page of the schema: its queries run on both databases and say what is there; its names are the schema's."""

from __future__ import annotations

import re

import pytest
import sqlalchemy as sa

from cxrnode.core.words import WordList
from cxrnode.store import feedback, tallies
from cxrnode.store.database import Database
from cxrnode.store.feedback import Given
from cxrnode.store.receipt import record
from cxrnode.store.schema import daily, event, metadata
from tests.peers import REPOSITORY
from tests.stores import IDENTITY, arrival, claim_one, delivered, enqueue

PAGE = (REPOSITORY / "docs" / "audit-schema.md").read_text()
QUERIES = re.findall(r"```sql\n(.*?);\n```", PAGE, flags=re.DOTALL)


@pytest.fixture
def filled(database: Database) -> Database:
    from cxrnode.store import jobs

    for number in (1, 2):
        feedback.give(database, [Given(job_id=delivered(database, number), label="Effusion", truth=True, by="qa")])
    record(database, arrival(3, accepted=False), [], ageing=60.0, config_digest="c" * 64)
    enqueue(database, 4)
    jobs.park(database, claim_one(database), "the film cannot be decoded")
    while tallies.count(database, WordList()):
        pass
    return database


def test_each_query_of_the_page_runs_and_finds_what_it_asks_for(filled: Database) -> None:
    assert len(QUERIES) == 10
    found = []
    for query in QUERIES:
        with filled.read() as transaction:
            found.append(transaction.rows(sa.text(query.replace("ACC-0815", IDENTITY["accession"]))))
    (cases, present, ignored, without, by_aet, by_group, slow, answers, truth, story) = found
    assert [(row.model, row.label, row.decision) for row in cases] == [("chest", "Effusion", "present")] * 2
    assert [row.id for row in present] == [2, 1]
    assert [tuple(row) for row in ignored] == [("MODALITY", "no rule wants it", 1)]
    assert [(row.id, row.reason) for row in without] == [(3, "the film cannot be decoded")]
    assert sum(row.films for row in by_aet) == 2 and {row.share for row in by_aet} == {1.0}
    assert [tuple(row) for row in by_group] == [("unknown", "unknown", 2, 2)]
    assert len(slow) == 2 and all(row.seconds >= 0 for row in slow)
    assert [tuple(row) for row in answers] == [("PACS", "heatmap", 0, 2), ("PACS", "sr", 0, 2)]
    assert [tuple(row) for row in truth] == [("Effusion", 2, 0, 0, 0)]
    assert [row.name for row in story][:4] == ["received", "accepted", "enqueued", "claimed"]
    assert story[0].seconds is None and all(row.seconds >= 0 for row in story[1:])


def test_every_table_and_the_columns_that_are_named_are_the_schemas() -> None:
    named = {}
    for row in re.findall(r"^\| `(\w+)` \| .*? \| (.*) \|$", PAGE, flags=re.MULTILINE):
        named[row[0]] = set(re.findall(r"`(\w+)`", row[1]))
    others = PAGE.split("The other tables are the node's own: ")[1].split(".\n")[0]
    known = set(named) | set(re.findall(r"`(\w+)`", others))
    assert {table for table in metadata.tables if table not in known} == set()
    assert {name: columns - set(metadata.tables[name].c.keys()) for name, columns in named.items()} == {
        name: set() for name in named
    }
    assert len(named) >= 15 and daily.name in named and event.name in named
