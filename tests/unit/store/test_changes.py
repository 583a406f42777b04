"""Change control: what is in force, who asked, who consented; and that a claim obeys it."""

from __future__ import annotations

import time
from collections.abc import Mapping

import pytest
import sqlalchemy as sa

from cxrnode.errors import Rejected
from cxrnode.store import changes, jobs
from cxrnode.store.audit import EventFilter, query
from cxrnode.store.database import Database
from cxrnode.store.schema import job
from tests.stores import LEASE, LIMITS, MODELS, assert_sound, enqueue, reported, row

CONFIGURED = {"chest": "active", "candidate": "shadow"}


def ask(database: Database, wanted: Mapping[str, str], *, by: str = "anna", consent: bool = False) -> list[str]:
    made = changes.ask(database, wanted, configured=CONFIGURED, reason="because", by=by, consent=consent)
    return [one.state for one in made]


def claim(database: Database, modes: Mapping[str, str]) -> list[jobs.Claim]:
    return jobs.claim(database, owner="w", models=MODELS, engine="e", limit=10, lease=LEASE, limits=LIMITS, modes=modes)


def test_what_was_looked_up_a_second_ago_is_looked_up_again_however_long_that_took(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second began at the end of the look: on a busy machine films went by what had been changed long before."""
    board, look = changes.Switchboard(database), changes.in_force

    def held_up(where: Database) -> changes.InForce:
        found = look(where)
        ask(database, {"model:chest": "disabled"})
        time.sleep(changes.FRESH_SECONDS + 0.1)
        return found

    with monkeypatch.context() as changed:
        changed.setattr(changes, "in_force", held_up)
        assert board.now().mode("chest", "active") == "active"
    assert board.now().mode("chest", "active") == "disabled"


def test_what_people_say_stands_over_the_configuration_until_they_say_otherwise(database: Database) -> None:
    assert dict(changes.modes(changes.in_force(database), CONFIGURED)) == CONFIGURED
    ask(database, {"model:candidate": "active", "model:chest": "shadow"})
    found = changes.in_force(database)
    assert dict(changes.modes(found, CONFIGURED)) == {"chest": "shadow", "candidate": "active"}
    assert found.switches["model:chest"].before == "active"
    ask(database, {changes.READING: "paused"})
    assert changes.in_force(database).paused(changes.READING)
    assert not changes.in_force(database).paused(changes.SENDING)
    names = [one.name for one in query(database, EventFilter(), limit=100)]
    assert names == ["change_asked", "change_applied"] * 3


def test_with_consent_a_second_person_decides_and_stopping_needs_nobody(database: Database) -> None:
    assert ask(database, {"model:candidate": "active"}, consent=True) == ["asked"]
    assert changes.in_force(database).switches == {}
    with pytest.raises(Rejected, match="waits for consent"):
        ask(database, {"model:candidate": "disabled"}, consent=True)
    (one,) = changes.list_changes(database, state="asked")
    decide = {"configured": CONFIGURED, "reason": "", "agree": True}
    with pytest.raises(Rejected, match="another person must consent"):
        changes.decide(database, one.id, by="anna", **decide)  # type: ignore[arg-type]
    done = changes.decide(database, one.id, by="bert", **decide)  # type: ignore[arg-type]
    assert (done.state, done.decided_by) == ("applied", "bert")
    with pytest.raises(Rejected, match="applied already"):
        changes.decide(database, one.id, by="bert", **decide)  # type: ignore[arg-type]
    assert ask(database, {changes.SENDING: "paused", "model:chest": "disabled"}, consent=True) == ["applied"] * 2
    assert ask(database, {changes.SENDING: "running"}, consent=True) == ["asked"]
    (one,) = changes.list_changes(database, state="asked")
    changes.decide(database, one.id, agree=False, configured=CONFIGURED, reason="not yet", by="bert")
    assert changes.in_force(database).paused(changes.SENDING)


@pytest.mark.parametrize(
    ("wanted", "said"),
    [
        ({"model:chest": "active"}, "is active already"),
        ({"model:other": "active"}, "no model 'other'"),
        ({"model:chest": "paused"}, "cannot be paused"),
        ({"queue:other": "paused"}, "cannot be paused"),
        ({"nothing": "active"}, "cannot be active"),
    ],
)
def test_what_cannot_be_is_refused_whole(database: Database, wanted: dict[str, str], said: str) -> None:
    with pytest.raises(Rejected, match=said):
        ask(database, {changes.READING: "paused", **wanted})
    assert changes.in_force(database).switches == {}
    with pytest.raises(Rejected, match="needs a reason"):
        changes.ask(database, {changes.READING: "paused"}, configured={}, reason=" ", by="anna", consent=False)


def test_a_job_works_in_the_mode_in_force_at_its_claim(database: Database) -> None:
    job_id = enqueue(database)
    (held,) = claim(database, {"chest": "shadow"})
    assert (held.mode, row(database, job, job_id).mode) == ("shadow", "shadow")
    (told,) = query(database, EventFilter(job_id=job_id, name="claimed"), limit=5)
    assert told.detail["mode"] == "shadow"
    assert_sound(database)


def test_a_revision_waits_for_an_active_model(database: Database) -> None:
    first = reported(database)
    second = jobs.retry(database, first, reason="again")
    assert claim(database, {"chest": "shadow"}) == []
    (held,) = claim(database, {"chest": "active"})
    assert held.job_id == second
    assert_sound(database)


def test_films_of_a_model_disabled_while_active_wait_and_nobody_waits_for_a_shadow(database: Database) -> None:
    ask(database, {"model:chest": "disabled", "model:candidate": "disabled"})
    found = changes.in_force(database)
    assert found.mode_of_jobs("chest", "active") == "active"
    assert found.mode_of_jobs("candidate", "shadow") is None
    enqueue(database)
    assert (
        jobs.claim(
            database, owner="w", models={}, engine="e", limit=1, lease=LEASE, limits=LIMITS, modes={"chest": "disabled"}
        )
        == []
    )
    with database.read() as transaction:
        assert transaction.scalar(sa.select(job.c.state)) == "queued"
