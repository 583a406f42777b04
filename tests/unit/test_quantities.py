"""Durations and sizes, as people write them."""

from __future__ import annotations

import pytest

from cxrnode.quantities import duration_text, parse_duration, parse_size


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("30s", 30),
        ("5m", 300),
        ("PT5M", 300),
        ("pt1h30m", 5400),
        ("P2D", 172_800),
        ("P1DT12H", 129_600),
        ("P2W", 1_209_600),
        ("PT0.5S", 0.5),
        ("250 ms", 0.25),
        ("1.5h", 5400),
        ("1h 30m", 5400),
        (" 7d ", 604_800),
    ],
)
def test_a_duration_is_read(text: str, seconds: float) -> None:
    assert seconds == parse_duration(text)


@pytest.mark.parametrize(
    "text", ["", "5", "5 minutes", "-5s", "P", "PT", "P1Y", "P1M", "P1DT", "s", "5m5", "1e3s", "nan"]
)
def test_what_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is no duration"):
        parse_duration(text)


@pytest.mark.parametrize(
    ("text", "size"),
    [("5 GiB", 5 * 1024**3), ("512MiB", 512 * 1024**2), ("250 MB", 250_000_000), ("1.5 kib", 1536), ("0 B", 0)],
)
def test_a_size_is_read(text: str, size: int) -> None:
    assert size == parse_size(text)


@pytest.mark.parametrize("text", ["", "5", "5 G", "GiB", "-1 GiB", "5 ib", "5 GiB/s"])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is no size"):
        parse_size(text)


@pytest.mark.parametrize("text", ["30s", "5m", "2h", "7d", "90s", "2w", "0.5s"])
def test_a_duration_is_written_as_it_is_read(text: str) -> None:
    assert parse_duration(duration_text(parse_duration(text))) == parse_duration(text)
    assert duration_text(parse_duration("604800s")) == "1w"
