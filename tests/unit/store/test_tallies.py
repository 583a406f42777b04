"""The tallies: every reading once, however often it is counted, and the same as the rows they are made of."""

from __future__ import annotations

import dataclasses
import json
import random
from collections import Counter
from typing import Any

import pytest
import sqlalchemy as sa

from cxrnode.core.findings import Decision, Outcome, Plausibility, Thresholds, decide
from cxrnode.core.header import Header
from cxrnode.core.quality import ratio_bin, score_bin, time_bin
from cxrnode.core.views import view_of
from cxrnode.core.words import WordList
from cxrnode.store import jobs, receipt, reports, series, settlements, sources, tallies
from cxrnode.store.database import Database
from cxrnode.store.receipt import Order
from cxrnode.store.schema import daily, daily_pair, daily_time, event, finding, hourly, instance, job
from cxrnode.store.series import Span
from tests.stores import LEASE, LIMITS, START, Clock, arrival, claim, outputs, report, take, taken

WORDS = WordList()
DAY = 86400.0
BANDS = {None: "unknown", 0.5: "0-17", 17.9: "0-17", 18.0: "18-29", 45.0: "40-49", 89.0: "80-89", 101.0: "90+"}
LABELS = ("Effusion", "Nodule", "Hernia")
FIRST = int(START // DAY)


def header(chance: random.Random) -> dict[str, Any]:
    return Header(
        modality="DX",
        view_position=chance.choice(("PA", "AP", "", "LL")),
        sex=chance.choice(("M", "F", "", "x")),
        age_years=chance.choice(tuple(BANDS)),
        station_name=chance.choice(("ROOM1", "ROOM2", "")),
        manufacturer="Maker",
        model_name="Plate 5",
    ).as_json()


def film(database: Database, number: int, chance: random.Random, *, shadow: bool = True) -> None:
    """Receive a film for an active and a shadow model."""
    came = dataclasses.replace(arrival(number), calling_aet=chance.choice(("CR1", "CR2")), header=header(chance))
    orders = [Order(model="chest", mode="active", outputs=("sr",), send_to=("PACS",))]
    orders += [Order(model="candidate", mode="shadow", outputs=(), send_to=())] if shadow else []
    receipt.record(database, came, orders, ageing=60.0, config_digest="c" * 64)


def read(database: Database, chance: random.Random, *, limit: int = 100) -> int:
    """Read what is queued; a tenth is refused as implausible."""
    models = {"chest": "b" * 64, "candidate": "d" * 64}
    held = jobs.claim(database, owner="w", models=models, engine="t", limit=limit, lease=LEASE, limits=LIMITS)
    for one in held:
        refused = chance.random() < 0.1
        base = report(one, outcome=Outcome.NOT_ANALYSED if refused else Outcome.ANALYSED)
        limits = Thresholds(rule_out=0.2, rule_in=0.6)
        said = tuple(
            dataclasses.replace(
                base.findings[0],
                label=label,
                index=index,
                score=(score := chance.random()),
                thresholds=limits if label != "Hernia" else None,
                decision=decide(score, limits if label != "Hernia" else None),
            )
            for index, label in enumerate(LABELS)
        )
        whole = dataclasses.replace(
            base,
            findings=() if refused else said,
            plausibility=Plausibility(distance=2.5 if refused else chance.random() * 2, limit=2.0),
        )
        made = outputs(one, 1) if one.mode == "active" else []
        reports.settle_report(database, one, whole, made, saliency=None, preview=None)
    return len(held)


def deliver(database: Database) -> None:
    for held in take(database, limit=100):
        settlements.settle_sent(database, held, taken(held))


def filled(database: Database, clock: Clock, *, films: int = 21) -> None:
    """Films over three days, most of them read and sent; two thirds are read by a shadow model, too."""
    chance = random.Random(7)
    for number in range(films):
        film(database, number, chance, shadow=number % 3 != 0)
        clock.turn(chance.random() * 7 * DAY / films)
        if number % 7 == 6:
            clock.turn(5.0)
            read(database, chance)
            clock.turn(9.0)
            deliver(database)
    read(database, chance)


def count_all(database: Database) -> int:
    total = 0
    while done := tallies.count(database, WORDS, limit=7):
        total += done
    return total


def expected_daily(database: Database) -> dict[tuple[Any, ...], Counter[str]]:
    """The histograms, from the raw rows alone, in the plainest way."""
    made: dict[tuple[Any, ...], Counter[str]] = {}
    with database.read() as transaction:
        rows = transaction.rows(
            sa.select(job, instance.c.calling_aet, instance.c.header)
            .join(instance, instance.c.id == job.c.instance_id)
            .where(job.c.report.is_not(None))
        )
        for row in rows:
            found = transaction.rows(sa.select(finding).where(finding.c.job_id == row.id))
            head = Header.from_json(json.loads(row.header))
            plausibility = json.loads(row.report)["plausibility"]
            place = {
                "calling_aet": row.calling_aet,
                "device": head.station_name or "Maker Plate 5",
                "view": str(view_of(head, WORDS)),
                "sex": head.sex if head.sex in ("M", "F") else "unknown",
                "age_band": {
                    None: "unknown",
                    0.5: "0-17",
                    17.9: "0-17",
                    18.0: "18-29",
                    45.0: "40-49",
                    89.0: "80-89",
                }.get(head.age_years, "90+"),
            }
            parts = {
                "all": (),
                "aet": ("calling_aet",),
                "device": ("device",),
                "view": ("view",),
                "sex": ("sex",),
                "age": ("age_band",),
                "cell": ("calling_aet", "view", "sex", "age_band"),
            }
            for part, columns in parts.items():
                where = tuple(place[c] if c in columns else "" for c in place)
                start = (part, row.model, int(row.created_at // DAY), row.mode, row.bundle_digest[:12], *where)
                whole = made.setdefault(("", *start), Counter())
                whole["films"] += 1
                whole["refused"] += row.outcome == "not_analysed"
                whole[f"b{ratio_bin(plausibility['distance'] / plausibility['limit']):02}"] += 1
                for one in found:
                    tally = made.setdefault((one.label, *start), Counter())
                    tally["films"] += 1
                    tally[one.decision] += 1
                    tally[f"b{score_bin(one.score):02}"] += 1
    return made


def stored_daily(database: Database) -> dict[tuple[Any, ...], Counter[str]]:
    names = ("label", "part", "model", "day", "mode", "bundle", "calling_aet", "device", "view", "sex", "age_band")
    with database.read() as transaction:
        rows = transaction.rows(sa.select(daily))
    return {
        tuple(row._mapping[name] for name in names): Counter(
            {name: row._mapping[name] for name in tallies.COUNTED if row._mapping[name]}
        )
        for row in rows
    }


def everything(database: Database) -> dict[str, list[tuple[Any, ...]]]:
    tables = (daily, daily_time, daily_pair, hourly)
    with database.read() as transaction:
        return {
            table.name: sorted(
                tuple(round(v, 9) if isinstance(v, float) else v for v in row)
                for row in transaction.rows(sa.select(table))
            )
            for table in tables
        }


def test_the_tallies_are_those_of_the_raw_rows(database: Database, clock: Clock) -> None:
    filled(database, clock)
    assert count_all(database) > 30
    histograms_are_those_of_the_findings(database)
    times_are_those_of_the_events(database)
    pairs_are_those_of_the_findings(database)
    series_are_by_day_and_group(database)


def histograms_are_those_of_the_findings(database: Database) -> None:
    expected = {key: +tally for key, tally in expected_daily(database).items()}
    assert {len(key) for key in expected} == {11}
    assert expected == stored_daily(database)
    assert len({key[3] for key in expected}) >= 3, "several days"


def test_what_is_counted_twice_or_rebuilt_is_the_same(database: Database, clock: Clock) -> None:
    filled(database, clock)
    tallies.count_hours(database, most=1000)
    count_all(database)
    before = everything(database)
    assert count_all(database) == 0
    tallies.count_hours(database, most=1000)
    assert before == everything(database)
    with database.write() as transaction:  # whatever befell them
        transaction.connection.execute(sa.update(daily).values(films=daily.c.films + 5))
        transaction.connection.execute(sa.delete(daily_time))
        transaction.connection.execute(sa.delete(hourly))
    told: list[int] = []
    assert tallies.rebuild(database, WORDS, told=lambda day, _jobs: told.append(day)) > 30
    assert before == everything(database)
    assert told == list(range(told[0], told[-1] + 1)) and len(told) >= 3
    for day in tallies.days(database):  # a rebuild that was stopped is finished by the next count
        tallies.forget(database, day)
    assert everything(database)["daily"] == []
    count_all(database)
    assert before == everything(database)


def times_are_those_of_the_events(database: Database) -> None:
    with database.read() as transaction:
        at = {
            (row.job_id, row.name): row.at
            for row in transaction.rows(sa.select(event).where(event.c.name.in_(("reported", "delivered"))))
        }
        rows = transaction.rows(
            sa.select(job, instance.c.received_at).join(instance, instance.c.id == job.c.instance_id)
        )
    expected: Counter[tuple[Any, ...]] = Counter()
    for row in rows:
        day = int(row.created_at // DAY)
        if (reported := at.get((row.id, "reported"))) is None:
            continue
        expected[day, row.model, "queue", time_bin(row.claimed_at - row.received_at)] += 1
        expected[day, row.model, "reading", time_bin(reported - row.claimed_at)] += 1
        expected[day, row.model, "report", time_bin(reported - row.received_at)] += 1
        if (sent := at.get((row.id, "delivered"))) is not None:
            expected[day, row.model, "delivery", time_bin(sent - reported)] += 1
            expected[day, row.model, "total", time_bin(sent - row.received_at)] += 1
    with database.read() as transaction:
        stored = {tuple(row[:4]): row.jobs for row in transaction.rows(sa.select(daily_time))}
    assert dict(expected) == stored
    assert {key[2] for key in expected} == {"queue", "reading", "report", "delivery", "total"}
    (total,) = [one for one in series.turnaround(database, Span(first=FIRST, last=FIRST + 9)) if one.stage == "total"]
    assert total.jobs == sum(n for key, n in expected.items() if key[2] == "total") and total.p50 is not None


def pairs_are_those_of_the_findings(database: Database) -> None:
    one, other = job.alias(), job.alias()
    mine, theirs = finding.alias(), finding.alias()
    with database.read() as transaction:
        rows = transaction.rows(
            sa.select(mine.c.label, mine.c.score, mine.c.decision, theirs.c.score, theirs.c.decision)
            .join_from(mine, one, one.c.id == mine.c.job_id)
            .join(other, (other.c.instance_id == one.c.instance_id) & (other.c.model == "candidate"))
            .join(theirs, (theirs.c.job_id == other.c.id) & (theirs.c.label == mine.c.label))
            .where(one.c.model == "chest")
        )
    found = {c.label: c for c in series.comparison(database, "chest", "candidate", Span(first=FIRST, last=FIRST + 9))}
    assert sorted(found) == sorted(LABELS)
    for label, shown in found.items():
        pairs = [row for row in rows if row[0] == label]
        assert shown.films == len(pairs) > 5
        assert shown.both == sum(row[2] == row[4] == Decision.PRESENT for row in pairs)
        assert shown.only_active == sum(row[2] == Decision.PRESENT != row[4] for row in pairs)
        assert shown.only_shadow == sum(row[4] == Decision.PRESENT != row[2] for row in pairs)
        assert shown.neither == shown.films - shown.both - shown.only_active - shown.only_shadow
        assert shown.shift == pytest.approx(sum(row[3] - row[1] for row in pairs) / len(pairs))
        assert shown.distance == pytest.approx(sum(abs(row[3] - row[1]) for row in pairs) / len(pairs))


def test_a_shadow_reading_waits_for_the_active_one_of_its_film(database: Database) -> None:
    chance = random.Random(1)
    film(database, 1, chance)
    (held,) = jobs.claim(
        database, owner="w", models={"candidate": "d" * 64}, engine="t", limit=5, lease=LEASE, limits=LIMITS
    )
    reports.settle_report(database, held, report(held), [], saliency=None, preview=None)
    assert count_all(database) == 0
    (held,) = claim(database)
    reports.settle_report(database, held, report(held), outputs(held, 1), saliency=None, preview=None)
    assert count_all(database) == 2
    span = series.last_days(database, 2)
    assert [c.films for c in series.comparison(database, "chest", "candidate", span)] == [1]


def series_are_by_day_and_group(database: Database) -> None:
    span = Span(first=FIRST, last=FIRST + 9)
    (known,) = [one for one in series.models(database) if one.model == "chest"]
    assert (known.labels, known.bundles, known.modes) == (tuple(sorted(LABELS)), ("b" * 12,), ("active",))
    whole = series.positives(database, "chest", span, label="Effusion")
    for by in ("aet", "device", "view", "sex", "age"):
        groups = series.positives(database, "chest", span, label="Effusion", by=by)
        assert len({one.group for one in groups}) >= 2
        for point in whole:
            assert point.films == sum(one.films for one in groups if one.day == point.day)
            assert point.present == sum(one.present for one in groups if one.day == point.day)
    bins = series.distribution(database, "chest", "Effusion", span)
    assert sum(bins) == sum(one.films for one in whole)
    drift = {one.label: one for one in series.drift(database, "chest", reference=span, window=span)}
    assert drift["Effusion"].psi is None, "21 films say nothing of a drift"
    assert drift["Effusion"].reference == drift["Effusion"].window == bins


def test_a_shift_of_the_scores_is_past_the_limit(database: Database) -> None:
    def fill(day: int, low: float, high: float) -> None:
        chance = random.Random(day)
        rows = []
        for label, least, most in (("Effusion", low, high), ("Nodule", 0.1, 0.4)):
            row = dict.fromkeys((*tallies.KEY, *tallies.COUNTED), 0) | dict.fromkeys(tallies.GROUP, "")
            row |= {"part": "all", "model": "chest", "label": label, "day": day, "mode": "active", "bundle": "b"}
            for _ in range(500):
                row[f"b{score_bin(chance.uniform(least, most)):02}"] += 1  # type: ignore[operator]
            row["films"] = 500
            rows.append(row)
        with database.write() as transaction:
            transaction.connection.execute(sa.insert(daily), rows)

    fill(100, 0.1, 0.4)
    fill(200, 0.3, 0.8)
    found = {
        one.label: one
        for one in series.drift(database, "chest", reference=Span(first=90, last=110), window=Span(first=190, last=210))
    }
    assert (found["Effusion"].shifted, found["Nodule"].shifted) == (True, False)
    assert found["Effusion"].ks is not None and found["Effusion"].ks_limit is not None
    assert found["Effusion"].ks > found["Effusion"].ks_limit
    assert found["Nodule"].ks is not None and found["Nodule"].ks_limit is not None
    assert found["Nodule"].ks < found["Nodule"].ks_limit


# ---------------------------------------------------------------------------------------------- sources


def send(database: Database, clock: Clock, aet: str, number: int, *, every: float, films: int) -> None:
    """Films as `receive` records them, all in one insert; every second is accepted."""
    rows = []
    for index in range(films):
        came = dataclasses.asdict(arrival(f"{number}.{index}"))
        row = {name: value for name, value in came.items() if name in instance.c}
        row["dataset_sha256"] = came["dataset_digest"]
        verdict = "accepted" if index % 2 == 0 else "ignored"
        rows.append({**row, "calling_aet": aet, "received_at": clock.now, "verdict": verdict, "header": "{}"})
        clock.turn(every)
    with database.write() as transaction:
        transaction.connection.execute(sa.insert(instance), rows)


def test_volume_is_counted_by_sender_and_hour(database: Database, clock: Clock) -> None:
    send(database, clock, "CR1", 1, every=600.0, films=12)
    tallies.count_hours(database)
    send(database, clock, "CR2", 2, every=600.0, films=6)
    tallies.count_hours(database)
    found = series.volume(database, since=START, until=clock.now)
    with database.read() as transaction:
        rows = transaction.rows(sa.select(instance.c.calling_aet, instance.c.received_at, instance.c.verdict))
    received = Counter((row.calling_aet, int(row.received_at // 3600)) for row in rows)
    accepted = Counter((row.calling_aet, int(row.received_at // 3600)) for row in rows if row.verdict == "accepted")
    assert {(one.calling_aet, int(one.at // 3600)): one.received for one in found} == dict(received)
    assert {(one.calling_aet, int(one.at // 3600)): one.accepted for one in found if one.accepted} == dict(accepted)


@pytest.mark.parametrize("every", [10.0, 600.0])
def test_a_source_is_silent_within_three_of_its_usual_intervals(database: Database, clock: Clock, every: float) -> None:
    send(database, clock, "CR1", 1, every=every, films=int(DAY / every) + 30)
    clock.turn(-every)  # now: the moment of its last film
    tallies.count_hours(database, most=100)
    for factor, silent in ((2.9, False), (3.1, True)):
        clock.turn(every * factor)
        tallies.count_hours(database)
        (found,) = sources.sources(database)
        assert found.silent is silent
        assert found.usual == pytest.approx(every)
        clock.turn(-every * factor)


def test_a_night_is_no_silence_of_a_room_that_works_by_day(database: Database, clock: Clock) -> None:
    midnight = (FIRST + 1) * DAY
    clock.turn(midnight - clock.now)
    for day in range(4):
        clock.turn(midnight + day * DAY + 8 * 3600 - clock.now)
        send(database, clock, "ROOM", day, every=900.0, films=40)  # 8:00 to 18:00
    tallies.count_hours(database, most=1000)
    clock.turn(midnight + 4 * DAY + 7.5 * 3600 - clock.now)
    tallies.count_hours(database, most=1000)
    assert [one.silent for one in sources.sources(database)] == [False]
    clock.turn(0.5 * 3600 + 3.5 * 900.0)  # 8:52, and the room should have sent since 8:00
    tallies.count_hours(database, most=1000)
    assert [one.silent for one in sources.sources(database)] == [True]


def test_films_that_come_all_at_once_are_no_habit_of_a_second(database: Database, clock: Clock) -> None:
    """A router that sends studies of thirty films every hour: the pause within a study is not its interval."""
    for study in range(26):
        send(database, clock, "ROUTER", study, every=1.0, films=30)
        clock.turn(3600.0)
    tallies.count_hours(database, most=100)
    (found,) = sources.sources(database)
    assert found.usual is not None and found.usual > 3000
    assert not found.silent


def test_too_few_films_are_no_habit(database: Database, clock: Clock) -> None:
    send(database, clock, "CR1", 1, every=7200.0, films=19)
    clock.turn(86400.0)
    tallies.count_hours(database, most=100)
    assert [(one.usual, one.silent) for one in sources.sources(database)] == [(None, False)]


@pytest.mark.parametrize("later", [44.0, 3600.0, 20 * 3600.0, 5 * DAY])
def test_the_films_of_a_first_day_are_no_habit(database: Database, clock: Clock, later: float) -> None:
    """A new site tries the way with a burst of films, and then nobody sends any."""
    send(database, clock, "CR1", 1, every=2.0, films=60)
    clock.turn(later)
    tallies.count_hours(database, most=1000)
    assert [(one.films, one.usual, one.silent) for one in sources.sources(database)] == [(60, None, False)]


def test_the_first_film_after_a_day_makes_a_habit(database: Database, clock: Clock) -> None:
    send(database, clock, "CR1", 1, every=2.0, films=60)
    clock.turn(DAY)
    send(database, clock, "CR1", 2, every=2.0, films=1)
    tallies.count_hours(database, most=1000)
    (found,) = sources.sources(database)
    assert found.usual == pytest.approx(DAY + 2.0)  # the burst was no habit of two seconds, and is none now
    assert not found.silent


@pytest.mark.parametrize(
    ("years", "band"),
    [
        (None, "unknown"),
        (0.0, "0-17"),
        (17.99, "0-17"),
        (18.0, "18-29"),
        (39.9, "30-39"),
        (90.0, "90+"),
        (120.0, "90+"),
    ],
)
def test_ages_have_bands(years: float | None, band: str) -> None:
    assert tallies.age_band(years) == band
