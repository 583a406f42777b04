"""The list of associations: bounded, counted, and the lines that admit a refused modality."""

from __future__ import annotations

import dataclasses
import tomllib
from typing import Any

import pytest

from cxrnode.config import parse_config
from cxrnode.core.associations import Cause, admitting
from cxrnode.store import associations
from cxrnode.store.associations import Asked, list_associations, prune, record
from cxrnode.store.audit import EventFilter, query
from cxrnode.store.database import Database
from tests.stores import Clock

REFUSED = Asked(calling_aet="CRROOM", called_aet="CXRNODE", address="192.0.2.7", outcome="rejected", cause="unknown")
GRANTED = Asked(
    calling_aet="MODALITY",
    called_aet="CXRNODE",
    address="192.0.2.8",
    outcome="accepted",
    contexts={"accepted": {"1.2.840.10008.5.1.4.1.1.1.1": "1.2.840.10008.1.2.1"}, "refused": []},
    objects=2,
)


def test_a_peer_that_is_refused_again_and_again_has_one_row_that_counts(database: Database, clock: Clock) -> None:
    record(database, [REFUSED, GRANTED, REFUSED, GRANTED])
    clock.turn(60.0)
    record(database, [REFUSED])
    found = list_associations(database)
    assert [(one.asked.outcome, one.times) for one in found] == [("accepted", 1), ("accepted", 1), ("rejected", 3)]
    assert found[-1].at == clock.now
    assert found[0].asked == GRANTED
    assert associations.rejected_since(database, 3600.0) == 1
    clock.turn(7200.0)
    record(database, [REFUSED])
    assert [one.times for one in list_associations(database, outcome="rejected")] == [1, 3]


def test_only_the_newest_of_each_outcome_are_kept(database: Database) -> None:
    record(database, [GRANTED] * 30 + [REFUSED])
    assert prune(database, kept=10) == 20
    found = list_associations(database, limit=100)
    assert [one.asked.outcome for one in found] == ["rejected"] + ["accepted"] * 10
    assert prune(database, kept=10) == 0
    assert len(list_associations(database, before=found[3].id, limit=100)) == len(found) - 4


@pytest.mark.parametrize("title", ["CRROOM", "Room 1.2", 'A"B', "ÄÖ", "ANY-SCP"])
def test_the_lines_shown_admit_the_peer_as_they_are_copied(title: str) -> None:
    lines = admitting(Cause.UNKNOWN, calling_aet=title, called_aet="CXRNODE", address="192.0.2.7")
    if not title.isascii():
        assert "aet" in tomllib.loads(lines)["nodes"]["__"]
        return
    config = parse_config(tomllib.loads("[log]\nlevel = 'info'\n" + lines))
    (node,) = config.peers.values()
    assert (node.aet, node.host, node.can_send) == (title, "192.0.2.7", True)


def test_other_refusals_have_their_own_lines_or_none() -> None:
    said: dict[str, Any] = {"calling_aet": "A", "called_aet": "B", "address": "192.0.2.7", "node": "ROOM"}
    assert parse_config(tomllib.loads(admitting(Cause.CALLED_AET, **said))).node.ae_title == "B"
    assert parse_config(tomllib.loads(admitting(Cause.LIMIT, **said))).listen.max_associations == 100
    assert tomllib.loads(admitting(Cause.MAY_NOT_SEND, **said)) == {"nodes": {"ROOM": {"can_send": True}}}
    assert admitting(Cause.BUSY, **said) == ""
    assert parse_config(tomllib.loads(admitting(Cause.CONNECTIONS, **said))).listen.max_associations == 100
    assert tomllib.loads(admitting(Cause.TLS, authority='/etc/a"b/ca.pem', **said)) == {
        "listen": {"tls": {"ca": '/etc/a"b/ca.pem'}}
    }
    assert admitting(Cause.TLS, **said) == ""
    assert set(tomllib.loads(admitting(Cause.SPEAKS_TLS, **said))["listen"]["tls"]) == {"ca", "cert", "key"}
    assert admitting(Cause.PDU, **said) == admitting(Cause.BROKEN, **said) == ""


def test_a_refusal_is_an_event_once_an_hour_for_each_peer_and_cause(database: Database, clock: Clock) -> None:
    def told() -> list[dict[str, Any]]:
        return [dict(one.detail) for one in query(database, EventFilter(name="association_refused"), limit=500)]

    tls = dataclasses.replace(REFUSED, calling_aet="", outcome="failed", cause="tls", reason="wrong version number")
    record(database, [REFUSED, GRANTED, REFUSED, tls])
    assert [(one["calling_aet"], one["cause"]) for one in told()] == [("CRROOM", "unknown"), ("", "tls")]
    clock.turn(3700.0)
    record(database, [REFUSED])
    assert len(told()) == 3
    # Whoever makes up AE titles fills neither the trail nor the disk.
    record(database, [dataclasses.replace(REFUSED, calling_aet=f"MADEUP{number}") for number in range(300)])
    assert len(told()) == 2 + associations._MOST_EVENTS
    clock.turn(3700.0)
    record(database, [dataclasses.replace(REFUSED, calling_aet="LATER")])
    assert told()[-1]["calling_aet"] == "LATER"
