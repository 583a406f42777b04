"""Alerts: raised when a condition holds, ended when it is gone for as long, each told once to each channel."""

from __future__ import annotations

from cxrnode.store import alerts, audit
from cxrnode.store.alerts import Condition
from cxrnode.store.audit import EventFilter
from cxrnode.store.database import Database
from tests.stores import Clock

DOWN = Condition(
    rule="destination_down", subject="PACS", text="PACS does not answer", remedy="look", severity="critical"
)
LATE = Condition(rule="queue_age", subject="chest", text="a film waits for 20 min")
RULES = ("destination_down", "queue_age")
HOLD = 60.0


def observe(database: Database, *found: Condition, rules: tuple[str, ...] = RULES) -> list[tuple[str, bool]]:
    """What was raised (True) or ended by this look."""
    return [(one.rule, one.ended_at is None) for one in alerts.observe(database, found, rules=rules, hold=HOLD)]


def test_a_condition_is_raised_once_when_it_holds_and_ended_when_it_is_gone_for_as_long(
    database: Database, clock: Clock
) -> None:
    assert observe(database, DOWN) == []
    clock.turn(59.0)
    assert (observe(database, DOWN), alerts.open_alerts(database)) == ([], ())
    clock.turn(1.0)
    assert observe(database, DOWN) == [("destination_down", True)]
    clock.turn(1.0)
    assert observe(database, DOWN) == []
    (found,) = alerts.open_alerts(database)
    assert (found.subject, found.severity, found.text) == ("PACS", "critical", "PACS does not answer")
    clock.turn(10.0)
    assert observe(database) == []
    clock.turn(30.0)
    assert observe(database, DOWN) == []  # it was not over
    clock.turn(10.0)
    assert observe(database) == []
    clock.turn(60.0)
    assert observe(database) == [("destination_down", False)]
    assert alerts.open_alerts(database) == ()
    assert [one.name for one in audit.query(database, EventFilter(), limit=9)] == ["alert_raised", "alert_ended"]


def test_what_does_not_hold_is_never_raised(database: Database, clock: Clock) -> None:
    observe(database, LATE)
    clock.turn(59.0)
    observe(database)
    clock.turn(100.0)
    observe(database, LATE)
    assert (alerts.open_alerts(database), alerts.recent(database, limit=9)) == ((), ())


def test_rules_that_were_not_looked_at_stay_as_they_are(database: Database, clock: Clock) -> None:
    for _ in range(2):
        observe(database, DOWN, LATE)
        clock.turn(HOLD)
    for _ in range(3):
        observe(database, rules=("queue_age",))
        clock.turn(HOLD)
    assert [one.rule for one in alerts.open_alerts(database)] == ["destination_down"]


def test_the_gravest_stand_first(database: Database, clock: Clock) -> None:
    for _ in range(2):
        observe(database, LATE, DOWN)
        clock.turn(HOLD)
    assert [one.rule for one in alerts.open_alerts(database)] == ["destination_down", "queue_age"]


def test_each_channel_is_told_of_both_once(database: Database, clock: Clock) -> None:
    for _ in range(2):
        observe(database, DOWN)
        clock.turn(HOLD)
    (new,) = alerts.untold(database, "email")
    assert (new.phase, new.alert.rule) == ("raised", "destination_down")
    alerts.told(database, "email", [new])
    alerts.told(database, "email", [new])
    assert alerts.untold(database, "email") == []
    assert [one.phase for one in alerts.untold(database, "webhook")] == ["raised"]
    for _ in range(2):
        observe(database)
        clock.turn(HOLD)
    assert [one.phase for one in alerts.untold(database, "email")] == ["ended"]
    assert [one.phase for one in alerts.untold(database, "webhook")] == ["raised", "ended"]
    alerts.told(database, "email", alerts.untold(database, "email"))
    assert alerts.untold(database, "email") == []
    clock.turn(2 * 86400.0)
    assert alerts.untold(database, "webhook") == []


def test_the_past_is_paged_from_the_newest(database: Database, clock: Clock) -> None:
    for _ in range(3):
        for _ in range(2):
            observe(database, DOWN)
            clock.turn(HOLD)
        for _ in range(2):
            observe(database)
            clock.turn(HOLD)
    first = alerts.recent(database, limit=2)
    second = alerts.recent(database, limit=2, before=first[-1].id)
    assert [one.id for one in (*first, *second)] == [3, 2, 1]
