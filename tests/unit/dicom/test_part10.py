"""Files as bytes: what is in memory is read as a file would be."""

from __future__ import annotations

import io
import os
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cxrnode.dicom import part10
from cxrnode.dicom.part10 import Held, Part10
from cxrnode.errors import Rejected

_STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("read"), st.integers(-1, 60), st.none()),
        st.tuples(st.just("seek"), st.integers(0, 60), st.just(os.SEEK_SET)),
        st.tuples(st.just("seek"), st.integers(0, 60), st.sampled_from((os.SEEK_CUR, os.SEEK_END))),
    ),
    max_size=20,
)


@given(st.binary(max_size=50), _STEPS)
def test_bytes_in_memory_are_read_as_a_file_is(content: bytes, steps: list[tuple[str, int, int | None]]) -> None:
    held, file = Held(memoryview(content)), io.BytesIO(content)
    for what, number, whence in steps:
        if what == "read":
            assert held.read(number) == file.read(number)
        else:
            assert held.seek(number, whence or 0) == file.seek(number, whence or 0)
        assert held.tell() == file.tell()


def _meta(*elements: tuple[int, bytes, bytes], length: int | None = None) -> bytes:
    """Preamble and group 0002 of these elements, and the beginning of a data set."""
    group = b"".join(
        b"\x02\0"
        + number.to_bytes(2, "little")
        + vr
        + (b"\0\0" + len(value).to_bytes(4, "little") if vr == b"OB" else len(value).to_bytes(2, "little"))
        + value
        for number, vr, value in elements
    )
    told = len(group) if length is None else length
    head = bytes(128) + b"DICM" + b"\x02\0\0\0UL\x04\0" + told.to_bytes(4, "little")
    return head + group + b"\x08\0\x05\0CS\x0a\0ISO_IR 100"


_CLASS, _INSTANCE, _SYNTAX = (
    (2, b"UI", b"1.2.840.10\0"),
    (3, b"UI", b"1.2.3.4\0"),
    (16, b"UI", b"1.2.840.10008.1.2.1\0"),
)
_WHOLE = _meta((1, b"OB", b"\0\1"), _CLASS, _INSTANCE, _SYNTAX, (0x13, b"SH", b"MADE"))


def _by_pydicom(data: bytes, monkeypatch: pytest.MonkeyPatch) -> Part10:
    with monkeypatch.context() as patch:
        patch.setattr(Part10, "_of_plain", lambda data: None)
        return Part10.of(data)


def test_a_group_as_it_should_be_is_read_as_pydicom_reads_it(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = _by_pydicom(_WHOLE, monkeypatch)

    def never(*_: Any) -> None:
        raise AssertionError("pydicom was asked")

    monkeypatch.setattr(part10, "_read_file_meta_info", never)
    assert Part10.of(_WHOLE) == expected
    assert expected.pair == ("1.2.840.10", "1.2.840.10008.1.2.1") and _WHOLE[expected.offset :].startswith(
        b"\x08\0\x05"
    )


@pytest.mark.parametrize(
    "data",
    [
        _meta(_CLASS, _INSTANCE, _SYNTAX, length=7),
        _meta(_CLASS, _INSTANCE, _SYNTAX, length=100_000),
        _meta(_CLASS, _INSTANCE, (3, b"UI", b"1.2.5\0"), _SYNTAX),
        _meta((2, b"UI", b"1.2 "), _INSTANCE, _SYNTAX),
        _meta((2, b"LO", b"1.2\0"), _INSTANCE, _SYNTAX),
        _WHOLE[:128] + _WHOLE[132:],
        _WHOLE[:150],
        _meta(_CLASS, _SYNTAX),
        b"",
    ],
)
def test_any_other_group_is_pydicoms_to_read(data: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    assert Part10._of_plain(data) is None
    try:
        expected = _by_pydicom(data, monkeypatch)
    except Rejected as refused:
        with pytest.raises(Rejected, match=str(refused)[:30]):
            Part10.of(data)
        return
    assert Part10.of(data) == expected
