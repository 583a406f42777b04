"""The one part of a multipart answer, however the network cuts it."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cxrnode.dicom.wado import FirstPart
from cxrnode.errors import Rejected, Transient

FILE = b"\0" * 128 + b"DICM" + b"pixels\r\n--not-the-boundary\r\n--bound" * 3


def body(*parts: bytes, boundary: bytes = b"boundary") -> bytes:
    made = b"".join(b"--" + boundary + b"\r\nContent-Type: application/dicom\r\n\r\n" + one + b"\r\n" for one in parts)
    return made + b"--" + boundary + b"--\r\n"


def taken(pieces: list[bytes], boundary: bytes = b"boundary") -> bytes:
    found = bytearray()
    part = FirstPart(found.extend)
    for piece in pieces:
        part.take(piece)
    part.end(boundary)
    return bytes(found)


@given(st.lists(st.integers(0, len(body(FILE))), max_size=40))
def test_the_file_comes_out_whole_wherever_the_body_is_cut(cuts: list[int]) -> None:
    whole = body(FILE)
    edges = sorted({0, len(whole), *cuts})
    assert taken([whole[a:b] for a, b in itertools.pairwise(edges)]) == FILE


def test_a_preamble_before_the_first_delimiter_is_left_out() -> None:
    assert taken([b"\r\n" + body(FILE)]) == FILE


def test_several_parts_another_boundary_and_no_multipart_are_refused() -> None:
    with pytest.raises(Rejected, match="several instances"):
        taken([body(FILE, FILE)])
    with pytest.raises(Rejected, match="not of the form"):
        taken([body(FILE)], b"other")
    with pytest.raises(Rejected, match="no multipart"):
        taken([b"x" * 20_000])
    with pytest.raises(Rejected, match="not of the form"):
        taken([b"DICM"])


@pytest.mark.parametrize("length", [len(body(FILE)) - 14, 200])
def test_a_body_that_breaks_off_is_no_file(length: int) -> None:
    with pytest.raises(Transient, match="broke off"):
        taken([body(FILE)[:length]])


def test_what_follows_the_part_is_not_held() -> None:
    part = FirstPart(lambda piece: None)
    part.take(body(FILE))
    for _ in range(100):
        part.take(b"x" * 100_000)
    assert len(part._held) < 100
