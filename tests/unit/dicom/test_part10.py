"""Files as bytes: what is in memory is read as a file would be."""

from __future__ import annotations

import io
import os

from hypothesis import given
from hypothesis import strategies as st

from cxrnode.dicom.part10 import Held

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
