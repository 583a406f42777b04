"""The table of C-STORE statuses."""

import itertools

import pytest

from cxrnode.dicom.statuses import STATUSES, UNKNOWN, StatusClass, classify


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        (0x0000, StatusClass.SUCCESS),
        (0xB000, StatusClass.WARNING),
        (0xB006, StatusClass.WARNING),
        (0xB007, StatusClass.WARNING),
        (0xB123, StatusClass.WARNING),
        (0x0110, StatusClass.TRANSIENT),
        (0x0111, StatusClass.WARNING),
        (0x0117, StatusClass.PERMANENT),
        (0x0122, StatusClass.PERMANENT),
        (0x0124, StatusClass.PERMANENT),
        (0x0210, StatusClass.TRANSIENT),
        (0x0211, StatusClass.PERMANENT),
        (0x0212, StatusClass.PERMANENT),
        (0x0213, StatusClass.TRANSIENT),
        (0xA700, StatusClass.TRANSIENT),
        (0xA7FF, StatusClass.TRANSIENT),
        (0xA900, StatusClass.PERMANENT),
        (0xA9FF, StatusClass.PERMANENT),
        (0xC000, StatusClass.PERMANENT),
        (0xCFFF, StatusClass.PERMANENT),
        (0xFE00, StatusClass.TRANSIENT),
        (0xFF00, StatusClass.TRANSIENT),
    ],
)
def test_a_status_of_the_standard_has_its_class(code: int, expected: StatusClass) -> None:
    assert expected == classify(code).kind


def test_what_no_row_covers_is_tried_again() -> None:
    uncovered = [code for code in range(0x10000) if classify(code) is UNKNOWN]
    assert 0xA800 in uncovered and 0xD000 in uncovered and 0x0002 in uncovered
    assert not [code for code in uncovered if 0xA700 <= code <= 0xA7FF or 0xC000 <= code <= 0xCFFF]
    assert UNKNOWN.kind is StatusClass.TRANSIENT


def test_only_success_and_warnings_count_as_delivered() -> None:
    assert {StatusClass.SUCCESS, StatusClass.WARNING} == {kind for kind in StatusClass if kind.delivered}


def test_a_single_code_beats_the_range_it_lies_in() -> None:
    assert classify(0xB006).title == "B006"
    assert classify(0xB006).gloss != classify(0xB008).gloss


def test_ranges_do_not_overlap_and_titles_are_unique() -> None:
    ranges = sorted((s.first, s.last) for s in STATUSES.values() if s.first != s.last)
    assert all(a[1] < b[0] for a, b in itertools.pairwise(ranges))
    titles = [s.title for s in STATUSES.values()]
    assert sorted(set(titles)) == sorted(titles)
    assert "A7xx" in titles and "Cxxx" in titles


def test_every_row_says_what_it_means_on_one_line() -> None:
    for row in STATUSES.values():
        assert row.gloss and "\n" not in row.gloss and len(row.gloss) <= 64
