"""Alerts from what is wrong to who is told: each rule is met when it is, and each channel is told once."""

from __future__ import annotations

import datetime
from collections.abc import Callable
from pathlib import Path

import pytest
import sqlalchemy as sa
from structlog.testing import capture_logs

from cxrnode.core.quality import score_bin
from cxrnode.errors import Transient
from cxrnode.reading.engine import NotFinite
from cxrnode.roles import alerts as duties
from cxrnode.roles import channels, conditions
from cxrnode.roles.context import Context
from cxrnode.store import alerts, circuits, fleet, jobs, receipt, settlements, tallies
from cxrnode.store.alerts import Condition
from cxrnode.store.database import Database
from cxrnode.store.fleet import Process
from cxrnode.store.schema import daily
from tests.peers import unused_port, wait_until
from tests.receivers import mail_server, udp_syslog, webhook
from tests.stores import IDENTITY, Clock, arrival, claim_one, delivered, enqueue, reported, take_one
from tests.unit.roles.conftest import MakeContext


def met(context: Context, rule: str) -> list[tuple[str, str, str]]:
    """(subject, severity, text) of each condition of a rule."""
    looked = {**conditions.OFTEN, **conditions.OWN, **conditions.SELDOM}[rule](context)
    found = [(one.subject, str(one.severity), one.text) for one in looked]
    assert [value for value in IDENTITY.values() if len(value) > 1 and value in str(found)] == []
    return found


def test_a_queue_that_is_old_is_said_of_films_and_of_results(
    database: Database, clock: Clock, make_context: MakeContext
) -> None:
    context = make_context(alerts={"queue_age": "10m"})
    enqueue(database, 1)
    clock.turn(599.0)
    assert met(context, "queue_age") == []
    clock.turn(61.0)
    assert met(context, "queue_age") == [("chest", "warning", "a film has been waiting for chest for 11 min")]
    jobs.park(database, claim_one(database), "no")
    assert met(context, "queue_age") == []
    reported(database, 2)
    clock.turn(4000.0)
    ((subject, _, text),) = met(context, "queue_age")
    assert (subject, text) == ("PACS", "a result has been waiting to be sent to PACS for 67 min")
    circuits.open_circuit(database, "PACS", "down", base=1.0, cap=1.0)
    assert met(context, "queue_age") == []  # said by another rule


def test_failures_in_a_row_are_those_since_the_last_success(database: Database, make_context: MakeContext) -> None:
    context = make_context(alerts={"failures": 3})
    for number in range(2):
        enqueue(database, number)
        jobs.park(database, claim_one(database), "no")
    assert met(context, "failures") == []
    delivered(database, 5)
    for number in range(6, 9):
        enqueue(database, number)
        jobs.park(database, claim_one(database), "no")
    assert met(context, "failures") == [("chest", "critical", "the last 3 films of chest failed")]
    delivered(database, 10)
    assert met(context, "failures") == []
    for number in range(11, 14):
        reported(database, number)
        settlements.settle_parked(database, take_one(database), (), "no")
    assert met(context, "failures") == [("PACS", "critical", "the last 3 results for PACS failed")]
    assert met(make_context(alerts={"failures": 0}), "failures") == []


def test_a_destination_is_down_when_it_is_for_long_enough(
    database: Database, clock: Clock, make_context: MakeContext
) -> None:
    context = make_context()
    circuits.open_circuit(database, "PACS", "no answer at 127.0.0.1:4242", base=1.0, cap=1.0)
    circuits.open_circuit(database, "NOT_CONFIGURED", "x", base=1.0, cap=1.0)
    clock.turn(299.0)
    assert met(context, "destination_down") == []
    clock.turn(2.0)
    assert [one[:2] for one in met(context, "destination_down")] == [("PACS", "critical")]
    circuits.close_circuit(database, "PACS")
    assert met(context, "destination_down") == []


HUGE = "1000000 GiB"


def named(make_context: MakeContext, tmp_path: Path, node: str, *, disk: str) -> Context:
    """A node of this name whose disk has less than `disk`, or more."""
    return make_context(node={"data_dir": str(tmp_path), "name": node}, alerts={"disk": disk, "hold": "1s"})


def test_a_disk_that_fills_is_a_warning_and_then_critical(make_context: MakeContext) -> None:
    assert met(make_context(alerts={"disk": "0 B"}), "disk") == []
    full = make_context(alerts={"disk": HUGE})
    ((subject, severity, text),) = met(full, "disk")
    assert (subject, severity) == (full.config.node_name, "warning")
    assert text.startswith(f"{full.config.node_name} has ") and text.endswith(" MiB left for the spool")
    both = make_context(alerts={"disk": HUGE}, spool={"min_free": HUGE})
    assert [one[1] for one in met(both, "disk")] == ["critical"]


def look(context: Context, clock: Clock) -> None:
    """Look for as long as a condition must hold."""
    for _ in range(2):
        duties.watch_disk(context)
        clock.turn(1.5)


def test_each_node_looks_at_its_own_disk_alone(
    make_context: MakeContext, tmp_path: Path, database: Database, clock: Clock
) -> None:
    full, other = (named(make_context, tmp_path, node, disk=HUGE) for node in ("ward", "attic"))
    well, best = (named(make_context, tmp_path, node, disk="0 B") for node in ("ward", "attic"))

    for node in ("ward", "attic"):
        fleet.beat(database, Process(owner=node, node=node, role="tend", version="1", revision="1"))

    def open_of() -> list[str]:
        return [one.subject for one in alerts.open_alerts(database) if one.rule == "disk"]

    for context, expected in (
        (best, []),
        (full, ["ward"]),
        (best, ["ward"]),  # another node's disk says nothing of this one's
        (other, ["ward", "attic"]),
        (well, ["attic"]),
        (best, []),
    ):
        look(context, clock)
        assert open_of() == expected
        duties.watch_alerts(context)  # whoever has that duty says nothing of disks
        assert open_of() == expected


def test_the_disk_of_a_node_that_is_lost_is_no_alert(
    make_context: MakeContext, tmp_path: Path, database: Database, clock: Clock
) -> None:
    """It cannot end it any more; that the node is silent is said otherwise."""
    for node in ("ward", "attic"):
        fleet.beat(database, Process(owner=node, node=node, role="tend", version="1", revision="1"))
        look(named(make_context, tmp_path, node, disk=HUGE), clock)
    clock.turn(fleet.SILENT_SECONDS + 1)
    fleet.beat(database, Process(owner="attic", node="attic", role="tend", version="1", revision="1"))
    duties.watch_alerts(named(make_context, tmp_path, "attic", disk=HUGE))
    assert [one.subject for one in alerts.open_alerts(database)] == ["attic"]


def test_a_silent_source_is_an_alert_within_three_of_its_intervals(
    database: Database, clock: Clock, make_context: MakeContext
) -> None:
    """The whole way: films, silence, alert, a mail's worth of text, and recovery with the next film."""
    context = make_context(alerts={"disk": "0 B"})  # whatever this machine has left
    hour = 3600.0
    for number in range(26):  # a day and an hour: before a day there is no habit
        receipt.record(database, arrival(number, accepted=False), [], ageing=60.0, config_digest="c" * 64)
        clock.turn(hour)
    raised_after = None
    clock.turn(1.9 * hour)
    for look in range(40):
        tallies.count_hours(database, most=100)
        duties.watch_alerts(context)
        if [one.rule for one in alerts.open_alerts(database)] == ["silence"]:
            raised_after = 2.9 * hour + look * 15.0
            break
        clock.turn(15.0)
    assert raised_after is not None and 3 * hour < raised_after <= 3 * hour + 15.0
    (found,) = alerts.open_alerts(database)
    assert found.subject == "MODALITY" and "it sends every 60 min or more often" in found.text
    receipt.record(database, arrival(99, accepted=False), [], ageing=60.0, config_digest="c" * 64)
    duties.watch_alerts(context)
    assert alerts.open_alerts(database) == ()
    assert met(make_context(alerts={"silence": 0}), "silence") == []


def test_scores_that_are_no_numbers_are_said(database: Database, make_context: MakeContext) -> None:
    context = make_context()
    enqueue(database, 1)
    jobs.park(database, claim_one(database), "no")
    assert met(context, "model_fault") == []
    assert conditions.NOT_FINITE in str(NotFinite())
    enqueue(database, 2)
    jobs.park(database, claim_one(database), str(NotFinite()))
    ((subject, severity, text),) = met(context, "model_fault")
    assert (subject, severity) == ("chest", "critical") and "on 1 films" in text


def test_drift_past_the_limit_names_the_findings(database: Database, clock: Clock, make_context: MakeContext) -> None:
    today = int(clock.now // 86400)

    def fill(day: int, score: float) -> None:
        row = dict.fromkeys((*tallies.KEY, *tallies.COUNTED), 0) | dict.fromkeys(tallies.GROUP, "")
        row |= {"part": "all", "model": "chest", "label": "Effusion", "day": day, "mode": "active", "bundle": "b"}
        row |= {"films": 500, f"b{score_bin(score):02}": 500}
        with database.write() as transaction:
            transaction.connection.execute(sa.insert(daily).values(**row))

    fill(today - 30, 0.2)
    assert met(make_context(), "drift") == []
    fill(today, 0.7)
    ((subject, _, text),) = met(make_context(), "drift")
    assert subject == "chest" and "Effusion" in text
    assert met(make_context(alerts={"drift": 0}), "drift") == []
    assert met(make_context(alerts={"drift": 50.0}), "drift") == []


def certificate(path: Path, *, days: float) -> Path:
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "test")])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=100))
        .not_valid_after(now + datetime.timedelta(days=days))
        .sign(key, hashes.SHA256())
    )
    path.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    return path


@pytest.mark.parametrize(("days", "expected"), [(40.0, []), (10.0, ["warning"]), (-1.0, ["critical"])])
def test_a_certificate_that_ends_is_said(
    tmp_path: Path, make_context: MakeContext, days: float, expected: list[str]
) -> None:
    good = certificate(tmp_path / "ca.pem", days=1000)
    ends = certificate(tmp_path / "ours.pem", days=days)
    tls = {"ca": str(good), "cert": str(ends), "key": str(ends)}
    found = met(make_context(listen={"tls": tls}), "certificate")
    assert [one[1] for one in found] == expected
    assert all(one[0] == "listen cert" for one in found)


# ---------------------------------------------------------------------------------------------- who is told

DOWN = Condition(rule="destination_down", subject="PACS", text="down for 6 min", remedy="look", severity="critical")
LATE = Condition(rule="queue_age", subject="chest", text="late", remedy="look")


def raise_both(database: Database, clock: Clock, found: tuple[Condition, ...] = (DOWN, LATE)) -> None:
    for _ in range(2):
        alerts.observe(database, found, rules=("destination_down", "queue_age"), hold=60.0)
        clock.turn(60.0)


@pytest.mark.slow
def test_each_way_is_told_once_of_the_beginning_and_of_the_end(
    database: Database, clock: Clock, make_context: MakeContext, tmp_path: Path
) -> None:
    (tmp_path / "token").write_text("SECRET-TOKEN\n")
    with mail_server() as mails, webhook() as posts, udp_syslog() as lines:
        context = make_context(
            alerts={
                "email": {"server": "127.0.0.1", "port": mails.port, "security": "none", "sender": "node@example.org"}
                | {"to": ["a@example.org", "b@example.org"]},
                "webhook": {"url": f"http://127.0.0.1:{posts.port}/x", "auth": {"file": str(tmp_path / "token")}},
                "syslog": {"host": "127.0.0.1", "port": lines.port},
            }
        )
        duties.tell_alerts(context)
        raise_both(database, clock)
        duties.tell_alerts(context)
        duties.tell_alerts(context)
        (mail,) = mails
        assert mail["Subject"] == "[CXRNODE] ALERT: destination down PACS and 1 more"
        assert (mail["From"], mail["To"], mail["X-Rcpt"]) == (
            "node@example.org",
            "a@example.org, b@example.org",
            "a@example.org,b@example.org",
        )
        body = mail.get_content()
        assert "destination_down PACS: down for 6 min" in body and "What to do: look" in body and "queue_age" in body
        ((headers, posted),) = posts
        assert headers["Authorization"] == "Bearer SECRET-TOKEN"
        assert [(one["rule"], one["phase"], one["severity"]) for one in posted["alerts"]] == [
            ("destination_down", "raised", "critical"),
            ("queue_age", "raised", "warning"),
        ]
        raise_both(database, clock, (LATE,))
        clock.turn(31.0)
        duties.tell_alerts(context)
        assert mails[1]["Subject"] == "[CXRNODE] over: destination down PACS" and len(mails) == 2
        assert [one["phase"] for one in posts[1][1]["alerts"]] == ["ended"]
        wait_until(lambda: len(lines) == 3, seconds=30, what="three lines of syslog")
        assert b"<27>1 " in lines[0] and b"<28>1 " in lines[1] and b"<29>1 " in lines[2]


def test_what_is_raised_soon_after_goes_with_it(database: Database, clock: Clock, make_context: MakeContext) -> None:
    with webhook() as posts:
        context = make_context(
            alerts={"webhook": {"url": f"http://127.0.0.1:{posts.port}"}, "group": "30s", "hold": "1s"}
        )
        alerts.observe(database, [DOWN], rules=("destination_down", "queue_age"), hold=0.0)
        duties.tell_alerts(context)
        clock.turn(20.0)
        alerts.observe(database, [DOWN, LATE], rules=("destination_down", "queue_age"), hold=0.0)
        duties.tell_alerts(context)
        assert posts == []
        clock.turn(11.0)
        duties.tell_alerts(context)
    ((_, posted),) = posts
    assert [one["rule"] for one in posted["alerts"]] == ["destination_down", "queue_age"]


def test_a_way_that_fails_is_tried_again_and_stops_no_other(
    database: Database, clock: Clock, make_context: MakeContext
) -> None:
    with webhook(status=500) as bad, udp_syslog() as lines:
        context = make_context(
            alerts={
                "webhook": {"url": f"http://127.0.0.1:{bad.port}"},
                "syslog": {"host": "127.0.0.1", "port": lines.port},
            }
        )
        raise_both(database, clock)
        with capture_logs() as logged:
            duties.tell_alerts(context)
            duties.tell_alerts(context)
    assert [one["event"] for one in logged] == ["alert_not_told"] * 2
    assert logged[0]["reason"] == "the webhook answered 500"
    assert len(bad) == 2
    assert alerts.untold(database, "syslog") == [] and len(alerts.untold(database, "webhook")) == 2


FAULTS: dict[str, Callable[[int], dict[str, object]]] = {
    "email": lambda port: {"email": {"server": "127.0.0.1", "port": port, "sender": "a@b.c", "to": ["d@e.f"]}},
    "webhook": lambda port: {"webhook": {"url": f"http://127.0.0.1:{port}"}},
}


@pytest.mark.parametrize("name", FAULTS)
def test_nobody_there_is_a_passing_fault(make_context: MakeContext, name: str) -> None:
    context = make_context(alerts=FAULTS[name](unused_port()))
    (tell,) = channels.configured(context.config).values()
    with pytest.raises(Transient):
        tell([channels.trial(context.config, 0.0)])
