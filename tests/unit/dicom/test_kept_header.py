"""The header that is kept of a film: everything that outputs read of it, in its own bytes, and no more than that."""

from __future__ import annotations

from typing import Any

import pydicom
import pytest
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.tag import Tag

from cxrnode.core.findings import Outcome, Reader, Report
from cxrnode.dicom.header import identity_of
from cxrnode.dicom.kept_header import LONGEST_SEQUENCES, LONGEST_VALUE, keep_header, read_kept_header
from cxrnode.dicom.outputs import OutputSettings, build_outputs
from cxrnode.dicom.outputs.notice import build_notice
from tests.unit.outputs.sources import code, make_source

REPORT = Report(
    outcome=Outcome.NOT_ANALYSED,
    reason="no result within 30 minutes of the film's receipt",
    read_at=1_788_225_600.25,
    revision=1,
    reader=Reader(
        name="demo",
        version="1.0",
        bundle_digest="b" * 64,
        weights_digest="e" * 64,
        calibration="none",
        demonstration=True,
        engine="test",
    ),
)
KINDS = frozenset({"sr", "heatmap", "text", "pdf", "hl7"})


def restored(source: Dataset) -> Dataset:
    """What the store gives back of it."""
    syntax = str(source.file_meta.TransferSyntaxUID)
    return read_kept_header(keep_header(source), transfer_syntax_uid=syntax)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"PatientName": None, "TimezoneOffsetFromUTC": None, "ViewPosition": None, "RequestAttributesSequence": None},
        {"SpecificCharacterSet": "ISO_IR 100", "PatientName": b"Sch\xf6n^J\xfcrgen"},
        {
            "SpecificCharacterSet": ["", "ISO 2022 IR 87"],
            "PatientName": b"Yamada^Tarou=\x1b$B;3ED\x1b(B^\x1b$BB@O:\x1b(B",
        },
        {"SpecificCharacterSet": "ISO_IR 6", "PatientName": b"\xe4\xbd\xa0\xe5\xa5\xbd"},
        {"PatientSex": b"U", "PatientBirthDate": b"00000000", "StudyTime": b"10:15:00", "Rows": 4000},
        {
            "LossyImageCompression": "01",
            "LossyImageCompressionRatio": b"12.5",
            "LossyImageCompressionMethod": "ISO_10918_1",
        },
    ],
)
@pytest.mark.parametrize("build", [build_notice, lambda s, r, o, k: build_outputs(s, r, None, None, o, k)])
def test_outputs_made_of_it_are_those_made_of_the_whole_header(changes: dict[str, Any], build: Any) -> None:
    settings = OutputSettings(timezone="Europe/Berlin")
    whole = build(make_source(**changes), REPORT, settings, KINDS)
    kept = build(restored(make_source(**changes)), REPORT, settings, KINDS)
    assert len(whole) == 5
    assert [one.data for one in kept] == [one.data for one in whole]


def test_it_says_whose_film_it_is_as_the_film_does() -> None:
    assert identity_of(restored(make_source())) == identity_of(make_source())


def test_it_is_small_and_holds_nothing_that_no_output_reads() -> None:
    source = make_source()
    source.add_new(0x00110010, "LO", "PRIVATE")
    source.add_new(0x00111001, "UN", b"secret")
    kept = restored(source)
    assert len(keep_header(source)) < 2048
    assert not [e for e in kept if e.tag.is_private]
    assert "PixelSpacing" not in kept


def test_values_and_sequences_beyond_reason_are_left_out_and_nothing_is_refused() -> None:
    source = make_source(StudyDescription=b"x" * (LONGEST_VALUE + 1), PatientName=b"y" * LONGEST_VALUE)
    source.ProcedureCodeSequence = Sequence(
        [code(str(number), "99TEST", "a code") for number in range(LONGEST_SEQUENCES // 30)]
    )
    kept = restored(source)
    assert ("StudyDescription" in kept, "ProcedureCodeSequence" in kept) == (False, False)
    assert len(kept.PatientName) == LONGEST_VALUE


@pytest.mark.parametrize(
    ("tag", "vr", "value"),
    [
        (0x00280010, "US", b"\1\2\3"),
        (0x00280010, "FD", b"abc "),
        (0x00400275, "LO", b"abcd"),
        (0x00400275, "UN", b"abcd"),
        (0x00400275, "SQ", b"abcdefghijkl"),
        (0x00081032, "LO", b"abcd"),
        (0x00540220, "LO", b"abcd"),
    ],
)
@pytest.mark.parametrize("build", [build_notice, lambda s, r, o, k: build_outputs(s, r, None, None, o, k)])
def test_what_breaks_its_vr_or_is_no_sequence_counts_as_missing(tag: int, vr: str, value: bytes, build: Any) -> None:
    def broken() -> Dataset:
        source = make_source()
        raw = RawDataElement(Tag(tag), vr, len(value), value, 0, is_implicit_VR=False, is_little_endian=True)
        source._dict[Tag(tag)] = raw
        return source

    whole = build(broken(), REPORT, OutputSettings(), KINDS)
    assert [one.data for one in build(restored(broken()), REPORT, OutputSettings(), KINDS)] == [o.data for o in whole]


def test_an_empty_header_is_kept_as_nothing() -> None:
    empty = Dataset()
    empty.file_meta = pydicom.dataset.FileMetaDataset()
    assert keep_header(empty) == b""
    assert len(read_kept_header(b"", transfer_syntax_uid="1.2.840.10008.1.2")) == 0
