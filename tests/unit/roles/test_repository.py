"""Audit messages: valid by the schema of PS3.15 A.5.1, told once each, with what A.5.3 wants in them."""

from __future__ import annotations

import functools
import time
from pathlib import Path
from typing import Any

import pytest
import rnc2rng
from lxml import etree
from structlog.testing import capture_logs

from cxrnode.core import atna
from cxrnode.core.atna import Participant, Patient
from cxrnode.core.header import Identity
from cxrnode.roles import repository
from cxrnode.store import details, erasure, settlements
from cxrnode.store.audit import EventFilter, note, query
from cxrnode.store.database import Database
from tests.integration.scripted import certificates
from tests.peers import REPOSITORY, wait_until
from tests.receivers import tls_syslog, udp_syslog
from tests.stores import IDENTITY, Clock, delivered, receive, reported, take_one
from tests.unit.roles.conftest import MakeContext


@functools.cache
def schema() -> etree.RelaxNG:
    grammar = rnc2rng.load(str(REPOSITORY / "tests" / "audit_message.rnc"))
    return etree.RelaxNG(etree.fromstring(rnc2rng.dumps(grammar).encode()))


def parsed(datagram: bytes) -> etree._Element:
    """The message of a datagram, after the schema found nothing wrong with it."""
    header, _, text = datagram.partition(b"\xef\xbb\xbf")
    assert b" DICOM+RFC3881 - " in header and header.startswith((b"<85>1 ", b"<84>1 ")), header
    found = etree.fromstring(text)
    schema().assertValid(found)
    return found


def codes(found: etree._Element) -> tuple[str, str, str]:
    """(event, its types, outcome)."""
    event = found.find("EventIdentification")
    kinds = ",".join(one.get("csd-code") for one in event.findall("EventTypeCode"))
    return event.find("EventID").get("csd-code"), kinds, event.get("EventOutcomeIndicator")


HERE = Participant(user="42", aets=("CXRNODE",), address="node.example.org")
THERE = Participant(user="PACS", aets=("ORTHANC",), address="192.0.2.1", requestor=True)
WHO = Patient(
    identity=Identity(patient_id="P<1>&", patient_name="Ünïc\x07ode^\"Q'", accession="A1", study_uid="1.2.3"),
    instances=(("1.2.840.10008.5.1.4.1.1.7", 3),),
)
RECORDS = {
    "start": atna.application(HERE, started=True, at=1.0, source="NODE"),
    "stop": atna.application(HERE, started=False, at=1.0, source="NODE"),
    "begun": atna.begun(HERE, THERE, WHO, at=1.0, source="NODE"),
    "in": atna.transferred(THERE, HERE, WHO, at=1.0, source="NODE"),
    "out, refused": atna.transferred(HERE, THERE, WHO, at=1.0, source="NODE", outcome=atna.Outcome.MINOR),
    "of nobody": atna.accessed(THERE, Patient(identity=Identity()), at=1.5e9, source="NODE"),
    "login": atna.authenticated(THERE, HERE, login=True, good=False, at=1.0, source="NODE"),
    "logout": atna.authenticated(THERE, HERE, login=False, good=True, at=1.0, source="NODE"),
    "alert": atna.security_alert(atna.NODE_AUTHENTICATION, HERE, said="who?", at=1.0, source="N", nodes=("10.0.0.1",)),
}


@pytest.mark.parametrize("record", RECORDS.values(), ids=RECORDS)
def test_every_kind_of_message_is_valid(record: atna.Record) -> None:
    text = atna.to_xml(record)
    schema().assertValid(etree.fromstring(text))
    assert "\n" not in text


def test_the_schema_refuses_what_is_not_valid() -> None:
    text = atna.to_xml(RECORDS["in"])
    for before, after in (
        ('EventOutcomeIndicator="0"', 'EventOutcomeIndicator="1"'),
        ("csd-code", "code"),
        ('UserIsRequestor="true"', ""),
        ("ParticipantObjectName>", "Name>"),
        ("ActiveParticipant", "Participant"),
    ):
        assert before in text
        assert not schema().validate(etree.fromstring(text.replace(before, after))), before


def test_a_transfer_names_both_sides_the_study_and_the_patient() -> None:
    found = etree.fromstring(atna.to_xml(RECORDS["in"]))
    roles = {
        one.find("RoleIDCode").get("csd-code"): one.get("AlternativeUserID")
        for one in found.findall("ActiveParticipant")
    }
    assert roles == {"110153": "AETITLES=ORTHANC", "110152": "AETITLES=CXRNODE"}
    study, person = found.findall("ParticipantObjectIdentification")
    assert (study.get("ParticipantObjectID"), study.get("ParticipantObjectTypeCodeRole")) == ("1.2.3", "3")
    assert study.find("ParticipantObjectDescription/SOPClass").get("NumberOfInstances") == "3"
    assert (person.get("ParticipantObjectID"), person.find("ParticipantObjectName").text) == ("P<1>&", "Ünïcode^\"Q'")


REFUSED: dict[str, Any] = {
    "calling_aet": "",
    "called_aet": "",
    "address": "192.0.2.9",
    "cause": "tls",
    "reason": "certificate not accepted",
}


def test_a_refused_peer_is_a_security_alert_that_names_it(make_context: MakeContext, database: Database) -> None:
    with udp_syslog() as got:
        context = make_context(atna=configured(got.port))
        repository.tell_activity(context, started=True)
        with database.write() as transaction:
            note(transaction, "association_refused", **REFUSED)
        record = repository._record(context, next(query(database, EventFilter(name="association_refused"), limit=1)))
    assert record is not None
    found = etree.fromstring(atna.to_xml(record))
    schema().assertValid(found)
    assert found.findtext("EventIdentification/EventOutcomeDescription") == (
        "association refused: certificate not accepted"
    )
    assert found.find("ParticipantObjectIdentification").get("ParticipantObjectID") == "192.0.2.9"


def configured(port: int, **more: object) -> dict[str, object]:
    return {"server": {"host": "127.0.0.1", "port": port, **more}, "source": "HOSPITAL-CXR"}


def test_nothing_is_sent_unless_configured(database: Database, make_context: MakeContext) -> None:
    context = make_context()
    delivered(database)
    repository.tell_repository(context)
    repository.tell_activity(context, started=True)


@pytest.mark.slow
def test_what_happens_is_told_once_in_its_order(database: Database, clock: Clock, make_context: MakeContext) -> None:
    delivered(database, 1)  # before the repository was configured: not told
    with udp_syslog() as got:
        context = make_context(atna=configured(got.port))
        repository.tell_activity(context, started=True)
        delivered(database, 2)
        reported(database, 3)
        settlements.settle_parked(database, take_one(database), (), "refused")
        details.reveal(database, [2], by="dr_a")
        with database.write() as transaction:
            said: tuple[tuple[str, dict[str, Any]], ...] = (
                ("logged_in", {"account": "dr_a", "address": "192.0.2.7"}),
                ("login_refused", {"account": "", "address": "192.0.2.8"}),
                ("logged_out", {"account": "dr_a"}),
                ("account_changed", {"account": "dr_b", "by": "dr_a"}),
                ("association_refused", REFUSED),
                ("result_viewed", {"by": "dr_a"}),
            )
            for name, detail in said:
                job_id = 2 if name == "result_viewed" else None
                note(transaction, name, job_id=job_id, **detail)
        clock.turn(61.0)
        repository.tell_repository(context)
        repository.tell_repository(context)
        wait_until(lambda: len(got) == 14, seconds=30, what="fourteen messages")
        found = [parsed(one) for one in got]
    assert [codes(one) for one in found] == [
        ("110100", "110120", "0"),
        ("110104", "", "0"),  # film 2 in
        ("110102", "", "0"),  # its results begin to go out
        ("110104", "", "0"),  # and did
        ("110104", "", "0"),  # film 3 in
        ("110102", "", "0"),
        ("110104", "", "4"),  # its results refused
        ("110103", "", "0"),
        ("110114", "110122", "0"),
        ("110114", "110122", "4"),
        ("110114", "110123", "0"),
        ("110113", "110137", "4"),
        ("110113", "110126", "4"),
        ("110103", "", "0"),
    ]
    assert {one.find("AuditSourceIdentification").get("AuditSourceID") for one in found} == {"HOSPITAL-CXR"}
    patients = {
        one.get("ParticipantObjectID")
        for message in found
        for one in message.findall("ParticipantObjectIdentification")
        if one.get("ParticipantObjectTypeCode") == "1"
    }
    assert patients == {IDENTITY["patient_id"]}


def test_a_node_that_was_held_up_does_not_call_back_the_one_that_went_further(
    database: Database, clock: Clock, make_context: MakeContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It put the follower where it had stood itself, and what the other had told was told once more."""
    with udp_syslog() as got:
        context = make_context(atna=configured(got.port))
        repository.tell_activity(context, started=True)
        delivered(database, 1)
        clock.turn(61.0)
        send = repository._send

        def held_up(*given: Any) -> None:
            monkeypatch.setattr(repository, "_send", send)
            send(*given)
            delivered(database, 2)
            clock.turn(61.0)
            repository.tell_repository(context)  # another node, after the lease ended

        monkeypatch.setattr(repository, "_send", held_up)
        repository.tell_repository(context)
        wait_until(lambda: len(got) >= 10, seconds=30, what="ten messages")
        told = len(got)
        repository.tell_repository(context)
        time.sleep(0.3)  # nothing more comes
    assert (told, len(got)) == (10, 10)


def test_an_erased_patient_is_unknown(database: Database, clock: Clock, make_context: MakeContext) -> None:
    with udp_syslog() as got:
        context = make_context(atna=configured(got.port))
        repository.tell_repository(context)
        delivered(database, 1)
        erasure.erase(database, [1], by="qa", reason="asked for")
        clock.turn(61.0)
        repository.tell_repository(context)
        wait_until(lambda: len(got) == 3, seconds=30, what="three messages")
        text = "".join(one.decode() for one in got)
    assert [value for value in IDENTITY.values() if len(value) > 1 and value in text] == []
    assert 'ParticipantObjectID="unknown"' in text


@pytest.mark.peers
def test_over_tls_nothing_is_lost_while_the_repository_is_away(
    database: Database, clock: Clock, make_context: MakeContext, tmp_path: Path
) -> None:
    pem = certificates(tmp_path)
    tls = {"ca": str(pem["ca"]), "cert": str(pem["client"]), "key": str(pem["client_key"])}
    with tls_syslog(pem["server"], pem["server_key"], ca=pem["ca"]) as got:
        port = got.port
        repository.tell_repository(make_context(atna=configured(port, tls=tls)))
    receive(database, 1)
    clock.turn(61.0)
    with capture_logs() as logged:
        repository.tell_repository(make_context(atna=configured(port, tls=tls)))
    assert [one["event"] for one in logged] == ["repository_not_told"]
    with tls_syslog(pem["server"], pem["server_key"], ca=pem["ca"]) as got:
        context = make_context(atna=configured(got.port, tls=tls))
        repository.tell_repository(context)
        repository.tell_repository(context)
        wait_until(lambda: len(got) == 1, seconds=30, what="one message")
        assert codes(parsed(got[0]))[0] == "110104"
