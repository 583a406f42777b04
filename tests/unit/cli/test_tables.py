"""How answers look, and how times are read."""

from __future__ import annotations

import datetime
import time

import click
import pytest

from cxrnode.cli.audit import said
from cxrnode.cli.options import Moment
from cxrnode.cli.tables import plain, span, to_json, utc


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.0124, "12 ms"), (3.4, "3.40 s"), (125, "2 min 5 s"), (12_000, "3 h 20 min"), (-0.5, "-500 ms"), (0, "0 ms")],
)
def test_a_span_is_told_in_the_unit_that_fits(seconds: float, text: str) -> None:
    assert span(seconds) == text


def test_control_characters_never_reach_a_terminal() -> None:
    assert plain("a\x1b[2J\nb\u202e") == "a\ufffd[2J\ufffdb\ufffd"


def test_json_gives_times_as_utc_and_leaves_numbers_alone() -> None:
    given = {"at": 0.0, "settled_at": None, "received_at": 1.5, "score": 0.25, "list": [{"not_before": 2.0}]}
    assert to_json(given) == {
        "at": "1970-01-01T00:00:00.000Z",
        "settled_at": None,
        "received_at": "1970-01-01T00:00:01.500Z",
        "score": 0.25,
        "list": [{"not_before": "1970-01-01T00:00:02.000Z"}],
    }
    assert utc(None) is None


def test_the_detail_of_an_event_is_one_line() -> None:
    assert said({"statuses": {"0x0000": 2}, "reason": "why", "n": 3}) == 'n=3  reason=why  statuses={"0x0000": 2}'
    assert said({"bundle": "d" * 64}) == "bundle=dddddddddddd"


def test_a_moment_is_so_long_ago_or_a_date_with_or_without_its_zone() -> None:
    moment = Moment()
    before = time.time()
    assert before - 7200 <= moment.convert("2h", None, None) <= time.time() - 7200
    assert moment.convert("1970-01-01T01:00+01:00", None, None) == 0.0
    assert moment.convert("2026-11-21", None, None) == datetime.datetime(2026, 11, 21).astimezone().timestamp()
    with pytest.raises(click.BadParameter, match="is no time"):
        moment.convert("yesterday", None, None)
