"""Whose film it is: bytes kept in every character set, odd headers mended on a copy, times in the film's own zone."""

from __future__ import annotations

import copy
import dataclasses
import io
import warnings
from pathlib import Path
from typing import Any

import hypothesis
import hypothesis.strategies as st
import pydicom
import pytest
from pydicom.datadict import tag_for_keyword
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from cxrnode.core.findings import Report
from cxrnode.dicom.outputs import KINDS, OPTIONAL, Output, OutputSettings, build_outputs
from cxrnode.dicom.outputs.source import clean_date, clean_sex, clean_time
from cxrnode.errors import ConfigError
from tests.unit.outputs.sources import make_film, make_report, make_saliency, make_source

FILM, SALIENCY = make_film(200, 170), make_saliency()
SR_ALONE = frozenset({"sr"})

#: (declared set, name, study description, patient id) as bytes on the wire (PS3.5 H, I, J, K; and what PACS see).
NAMES: dict[str, tuple[str | None, bytes, bytes]] = {
    "Latin-1": ("ISO_IR 100", "Müller^Jörg".encode("latin-1"), "Thorax, Übersicht".encode("latin-1")),
    "Cyrillic": ("ISO_IR 144", "Люкceмбypг^Aннa".encode("iso8859-5"), "Грудная клетка".encode("iso8859-5")),
    "UTF-8": ("ISO_IR 192", "Wang^XiaoDong=王^小东".encode(), "胸部正位".encode()),
    "half-width katakana": ("ISO_IR 13", "ﾔﾏﾀﾞ^ﾀﾛｳ".encode("shift_jis"), "ﾑﾈ".encode("shift_jis")),
    "Japanese": (
        "\\ISO 2022 IR 87",
        b"Yamada^Tarou=\x1b$B;3ED\x1b(B^\x1b$BB@O:\x1b(B=\x1b$B$d$^$@\x1b(B^\x1b$B$?$m$&\x1b(B",
        b"\x1b$B6;It\x1b(B",
    ),
    "Korean": (
        "\\ISO 2022 IR 149",
        b"Hong^Gildong=\x1b$)C\xfb\xf3^\x1b$)C\xd1\xce\xd4\xd7=\x1b$)C\xc8\xab^\x1b$)C\xb1\xe6\xb5\xbf",
        b"\x1b$)C\xc8\xe4\xba\xce",
    ),
    "GB18030": ("GB18030", "Wang^XiaoDong=王^小东".encode("gb18030"), "胸部正位片".encode("gb18030")),
    "GBK without a declaration": (None, "王^小东".encode("gbk"), "胸部".encode("gbk")),
    "a set that does not exist": ("ISO_IR 999", "Müller^Jörg".encode("latin-1"), "Übersicht".encode("latin-1")),
    "mislabelled": ("ISO_IR 192", "Müller^Jörg".encode("latin-1"), "Übersicht".encode("latin-1")),
}


def raw(ds: Dataset, keyword: str) -> bytes:
    """The value as it stands in the file, without padding."""
    tag = tag_for_keyword(keyword)
    assert tag is not None
    value: object = ds.get_item(tag).value
    assert isinstance(value, bytes)
    return value.rstrip(b" \0")


#: Of DICOM objects; a message is made of ASCII alone.
EVERY_KIND = (KINDS | OPTIONAL) - {"hl7"}


def outputs(source: Dataset, report: Report | None = None, **settings: Any) -> tuple[Output, ...]:
    """Every kind of output, the urgent flag among them."""
    flagging = OutputSettings(urgent=("Effusion",), **settings)
    made = build_outputs(source, report or make_report(), FILM, SALIENCY, flagging, EVERY_KIND)
    assert {one.kind for one in made} == {*EVERY_KIND, "summary"}
    return made


def read(output: Output) -> Dataset:
    return pydicom.dcmread(io.BytesIO(output.data))


def named_source(which: str) -> Dataset:
    charset, name, text = NAMES[which]
    item = Dataset()
    item.PatientID = "OLD1"
    item.add_new(0x00100021, "UN", text)
    return make_source(
        SpecificCharacterSet=charset.encode() if charset else None,
        PatientName=name,
        StudyDescription=text,
        ReferringPhysicianName=name,
        OtherPatientIDsSequence=Sequence([item]),
    )


#: pydicom loses the bytes of text that does not fit its declared set once it has decoded it: only as read.
CASES = [(which, decoded) for which in NAMES for decoded in (False, True) if (which, decoded) != ("mislabelled", True)]


@pytest.mark.parametrize(("which", "decoded"), CASES)
def test_names_keep_their_bytes_and_their_character_set(which: str, decoded: bool) -> None:
    charset, name, text = NAMES[which]
    source = named_source(which)
    if decoded:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            str(source.PatientName)
    for output in outputs(source):
        ds = read(output)
        assert (raw(ds, "PatientName"), raw(ds, "ReferringPhysicianName"), raw(ds, "StudyDescription")) == (
            name,
            name,
            text,
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            other = ds.OtherPatientIDsSequence[0]
            assert raw(other, "IssuerOfPatientID") == text
        assert raw_charset(output.data) == charset


def raw_charset(data: bytes) -> str | None:
    """The value of (0008,0005) in a file, found by its tag and VR."""
    at = data.find(b"\x08\x00\x05\x00CS")
    if at < 0:
        return None
    length = int.from_bytes(data[at + 6 : at + 8], "little")
    return data[at + 8 : at + 8 + length].decode().strip()


@pytest.mark.parametrize("which", ["Latin-1", "Cyrillic", "UTF-8", "Japanese", "Korean", "GB18030"])
def test_text_that_was_decoded_before_goes_out_as_it_came_in(which: str) -> None:
    source = named_source(which)
    for element in source.iterall():  # the gate has looked at every attribute
        str(element.value)
    assert raw(read(outputs(source)[0]), "StudyDescription") == NAMES[which][2]


def test_our_own_strings_are_ascii_whatever_the_model_is_called() -> None:
    report = make_report()
    report = dataclasses.replace(report, reader=dataclasses.replace(report.reader, name="modèle 胸"))
    for output in outputs(named_source("Japanese"), report):
        assert raw(read(output), "ManufacturerModelName") == b"modele ?"


ODD: dict[str, tuple[str, bytes, bytes]] = {
    "sex U": ("PatientSex", b"U", b""),
    "sex in a small letter": ("PatientSex", b"m", b"M"),
    "birth date of zeros": ("PatientBirthDate", b"00000000", b""),
    "birth date with dashes": ("PatientBirthDate", b"1970-01-01", b"19700101"),
    "31 February": ("PatientBirthDate", b"19700231", b""),
    "study time with colons": ("StudyTime", b"10:15:00", b"101500"),
    "seven digits of a second": ("StudyTime", b"101500.1234567", b"101500.123456"),
    "study time of nonsense": ("StudyTime", b"quarter past", b""),
    "age without a unit": ("PatientAge", b"56", b""),
    "name of 70 letters": ("PatientName", b"N" * 70, b"N" * 70),
    "long accession number": ("AccessionNumber", b"A" * 24, b"A" * 24),
    "empty patient id": ("PatientID", b"", b""),
    "unknown time zone": ("TimezoneOffsetFromUTC", b"JST", b""),
}


@pytest.mark.parametrize("which", ODD)
def test_an_odd_header_is_mended_on_the_copy_and_never_refused(which: str) -> None:
    keyword, value, expected = ODD[which]
    changes: dict[str, Any] = {keyword: value}
    source = make_source(**changes)
    before = copy.deepcopy(source)
    for output in outputs(source):
        ds = read(output)
        assert (raw(ds, keyword) if keyword in ds else b"") == expected
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert source == before


@pytest.mark.parametrize(
    "keyword",
    [
        "PatientName",
        "PatientID",
        "PatientBirthDate",
        "PatientSex",
        "StudyDate",
        "StudyTime",
        "StudyID",
        "AccessionNumber",
    ],
)
def test_what_is_missing_is_empty_and_not_invented(keyword: str) -> None:
    changes: dict[str, Any] = {keyword: None}
    for output in outputs(make_source(**changes)):
        assert raw(read(output), keyword) == b""


def test_a_film_without_most_of_its_header_still_gets_all_outputs() -> None:
    keep = ("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID")
    bare = Dataset()
    for keyword in keep:
        setattr(bare, keyword, make_source()[keyword].value)
    assert [o.kind for o in outputs(bare)] == [
        *("sr", "text", "summary", "heatmap", "heatmap", "pdf", "gsps", "key_object")
    ]


def test_private_attributes_are_not_taken_over() -> None:
    source = make_source()
    source.private_block(0x0011, "ACME", create=True).add_new(1, "LO", "a secret")
    for output in outputs(source):
        assert b"a secret" not in output.data


def test_no_patient_is_named_on_a_picture_or_in_a_text_of_ours() -> None:
    source = make_source(PatientName="Doe^Jane", PatientID="P-4711", AccessionNumber="ACC9")
    for output in outputs(source):
        ds = read(output)
        ours = [str(ds.get(k, "")) for k in ("SeriesDescription", "DerivationDescription", "ImageComments")]
        assert [t for t in ours if "Doe" in t or "4711" in t or "ACC9" in t] == []


# ------------------------------------------------------------------------------------------------ times

ZONES: dict[str, tuple[dict[str, Any], str | None, str, str, str]] = {
    # what the film states, the configured zone -> date, time, offset of the output (read at 01:20 UTC, 1 September)
    "the film's own": ({"TimezoneOffsetFromUTC": "+0900"}, "Europe/Berlin", "20260901", "102000.250000", "+0900"),
    "the film's own, west": ({"TimezoneOffsetFromUTC": "-0330"}, None, "20260831", "215000.250000", "-0330"),
    "configured, summer": ({"TimezoneOffsetFromUTC": None}, "Europe/Berlin", "20260901", "032000.250000", "+0200"),
    "configured, a film of the winter": (
        {"TimezoneOffsetFromUTC": None, "StudyDate": "20260115"},
        "Europe/Berlin",
        "20260901",
        "022000.250000",
        "+0100",
    ),
    "configured, study date unknown": (
        {"TimezoneOffsetFromUTC": None, "StudyDate": ""},
        "America/St_Johns",
        "20260831",
        "225000.250000",
        "-0230",
    ),
    "neither": ({"TimezoneOffsetFromUTC": None}, None, "20260901", "012000.250000", ""),
}


@pytest.mark.parametrize("which", ZONES)
def test_times_are_in_the_zone_of_the_study(which: str) -> None:
    changes, zone, date, time, offset = ZONES[which]
    for output in outputs(make_source(**changes), timezone=zone):
        ds = read(output)
        made = "PresentationCreation" if output.kind == "gsps" else "Content"
        assert (ds[f"{made}Date"].value, ds[f"{made}Time"].value) == (date, time)
        assert ds.get("TimezoneOffsetFromUTC", "") == offset
        assert (ds.SeriesTime, ds.InstanceCreationTime, ds.StudyTime) == (time, time, "101500")


@pytest.mark.parametrize(
    ("stated", "expected"), [(None, ("042000.250000", "+0300")), ("-0330", ("215000.250000", "-0330"))]
)
def test_the_zone_of_the_sender_goes_before_that_of_the_node_and_after_the_films_own(
    stated: str | None, expected: tuple[str, str]
) -> None:
    source = make_source(TimezoneOffsetFromUTC=stated)
    report = make_report(timezone="Europe/Helsinki")
    made = outputs(source, report, timezone="Europe/Berlin")
    assert {(read(o).SeriesTime, read(o).TimezoneOffsetFromUTC) for o in made} == {expected}
    other = outputs(source, make_report(), timezone="Europe/Berlin")
    assert {o.sop_instance_uid for o in made} & {o.sop_instance_uid for o in other} == set()


def test_a_zone_that_does_not_exist_is_refused_at_start() -> None:
    with pytest.raises(ConfigError, match="Mars/Olympus"):
        OutputSettings(timezone="Mars/Olympus")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("20260228", "20260228"),
        ("2026.02.28", "20260228"),
        ("20260230", ""),
        ("2026-02/28", ""),
        ("", ""),
        ("2026", ""),
    ],
)
def test_a_date_is_kept_mended_or_dropped(text: str, expected: str) -> None:
    assert clean_date(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [("10", "10"), ("1015", "1015"), ("10:15", "1015"), ("101560.5", "101560.5"), ("246000", ""), ("10156", "")],
)
def test_a_time_is_kept_mended_or_dropped(text: str, expected: str) -> None:
    assert clean_time(text) == expected


@pytest.mark.parametrize(("text", "expected"), [("M", "M"), (" f ", "F"), ("W", ""), ("male", "")])
def test_a_sex_is_one_of_three_or_empty(text: str, expected: str) -> None:
    assert clean_sex(text) == expected


ANYTHING = st.binary(max_size=80).filter(lambda b: b"\\" not in b)
FIELDS = (
    "PatientName",
    "PatientID",
    "PatientBirthDate",
    "PatientSex",
    "PatientAge",
    "StudyDate",
    "StudyTime",
    "AcquisitionTime",
    "StudyID",
    "AccessionNumber",
    "StudyDescription",
    "ViewPosition",
    "SeriesNumber",
    "TimezoneOffsetFromUTC",
    "PatientOrientation",
    "SpecificCharacterSet",
)


@hypothesis.given(
    changes=st.dictionaries(st.sampled_from(FIELDS), ANYTHING),
    zone=st.sampled_from([None, "Europe/Berlin", "Asia/Kathmandu"]),
)
@hypothesis.settings(max_examples=60, deadline=None)
def test_no_header_makes_an_output_fail_or_changes_whose_it_is(changes: dict[str, Any], zone: str | None) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        source = make_source(**changes)
        for output in build_outputs(source, make_report(), FILM, SALIENCY, OutputSettings(timezone=zone), SR_ALONE):
            ds = read(output)
            for keyword in ("PatientName", "PatientID", "AccessionNumber", "StudyInstanceUID"):
                assert raw(ds, keyword) == raw(source, keyword)
            assert clean_date(raw(ds, "PatientBirthDate").decode("latin-1")) == raw(ds, "PatientBirthDate").decode()
            assert raw(ds, "PatientSex") in (b"", b"M", b"F", b"O")
            assert len(ds.SeriesDescription) <= 64


def test_a_character_set_with_a_nul_in_it_is_left_out_and_the_name_kept() -> None:
    source = make_source(SpecificCharacterSet=b"ISO\0IR", PatientName=b"Doe^Jane")
    for output in outputs(source):
        ds = read(output)
        assert (raw(ds, "PatientName"), "SpecificCharacterSet" in ds) == (b"Doe^Jane", False)


@pytest.mark.parametrize("name", ["chrJapMulti.dcm", "chrJapMultiExplicitIR6.dcm"])
def test_real_japanese_headers_keep_their_names(name: str, data_dir: Path) -> None:
    source = pydicom.dcmread(data_dir / "dicom" / "chest_charset" / name)
    wanted = raw(source, "PatientName")
    assert wanted.startswith(b"\x1b$B")
    assert {raw(read(o), "PatientName") for o in outputs(source)} == {wanted}
