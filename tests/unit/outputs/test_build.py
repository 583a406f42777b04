"""The outputs of a report together: which there are, their UIDs and numbers, and that the same gives the same bytes."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.uid import JPEGBaseline8Bit

from cxrnode.core.findings import Outcome, Report
from cxrnode.dicom.outputs import Output, OutputSettings, build_outputs
from cxrnode.dicom.outputs.encoding import Attributes, element
from cxrnode.errors import ConfigError
from tests.unit.outputs.sources import SCORES, make_film, make_report, make_saliency, make_source

FILM, SALIENCY = make_film(400, 340), make_saliency()
BOTH = frozenset({"sr", "heatmap"})


def outputs(report: Report | None = None, source: Dataset | None = None, **settings: Any) -> tuple[Output, ...]:
    return build_outputs(source or make_source(), report or make_report(), FILM, SALIENCY, OutputSettings(**settings))


def read(output: Output) -> Dataset:
    return pydicom.dcmread(io.BytesIO(output.data))


def test_a_report_the_summary_first_and_one_heatmap_for_each_finding_present() -> None:
    made = [(o.kind, o.label, o.instance_number) for o in outputs()]
    assert made == [("sr", "", 1), ("summary", "", 1), ("heatmap", "Cardiomegaly", 2), ("heatmap", "Effusion", 3)]


def test_top_ranked_findings_fill_up_to_the_minimum_and_none_goes_over_the_maximum() -> None:
    more = [o.label for o in outputs(min_findings=4)][2:]
    fewer = [o.label for o in outputs(max_findings=1)][2:]
    assert (more, fewer) == (["Cardiomegaly", "Effusion", "Consolidation", "Infiltration"], ["Cardiomegaly"])


def test_the_summary_is_made_even_when_nothing_is_shown() -> None:
    assert [o.kind for o in outputs(make_report(tuple(0.1 * s for s in SCORES)))] == ["sr", "summary"]


@pytest.mark.parametrize("film", [FILM, None], ids=["with its film", "without a film"])
def test_a_film_that_was_not_analysed_gets_a_report_and_a_page_and_no_heatmap(film: Any) -> None:
    report = make_report(outcome=Outcome.NOT_ANALYSED, reason="the pixels cannot be decoded")
    made = build_outputs(make_source(), report, film, None, OutputSettings(), BOTH)
    assert [o.kind for o in made] == ["sr", "summary"]


def test_a_model_without_maps_gets_a_summary_and_no_heatmap() -> None:
    made = build_outputs(make_source(), make_report(), FILM, None, OutputSettings(), BOTH)
    assert [o.kind for o in made] == ["sr", "summary"]


def test_only_the_kinds_asked_for_are_made() -> None:
    made = [
        [o.kind for o in build_outputs(make_source(), make_report(), FILM, SALIENCY, OutputSettings(), frozenset({k}))]
        for k in ("sr", "heatmap")
    ]
    assert made == [["sr"], ["summary", "heatmap", "heatmap"]]


def test_a_kind_that_does_not_exist_is_refused() -> None:
    with pytest.raises(ValueError, match="fax"):
        build_outputs(make_source(), make_report(), FILM, SALIENCY, OutputSettings(), frozenset({"fax"}))


def test_a_duplicate_has_no_outputs() -> None:
    assert outputs(make_report(outcome=Outcome.DUPLICATE)) == ()


@pytest.mark.parametrize(
    "wrong",
    [
        {"style": "rainbow"},
        {"sr_class": "basic"},
        {"scheme": "ICD"},
        {"max_px": 300},
        {"min_findings": 7},
        {"encoding": "gif"},
    ],
)
def test_settings_that_make_no_sense_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        OutputSettings(**wrong)


def test_each_object_says_of_itself_what_its_output_says() -> None:
    for output in outputs():
        ds = read(output)
        assert (ds.SOPClassUID, ds.SOPInstanceUID, ds.file_meta.TransferSyntaxUID, ds.InstanceNumber) == (
            output.sop_class_uid,
            output.sop_instance_uid,
            output.transfer_syntax_uid,
            output.instance_number,
        )
        assert (ds.file_meta.MediaStorageSOPInstanceUID, ds.Manufacturer) == (output.sop_instance_uid, "cxrnode")


def test_all_objects_stand_in_the_study_of_the_film_in_two_series_of_their_own() -> None:
    source = make_source()
    read_back = [read(o) for o in outputs(source=source)]
    series = {(ds.Modality, ds.SeriesInstanceUID, int(ds.SeriesNumber)) for ds in read_back}
    assert {ds.StudyInstanceUID for ds in read_back} == {source.StudyInstanceUID}
    assert sorted((m, n) for m, _, n in series) == [("OT", 9002), ("SR", 9001)]
    assert source.SeriesInstanceUID not in {uid for _, uid, _ in series}


def test_two_films_of_a_study_have_series_of_their_own_that_name_view_and_time() -> None:
    one = read(outputs(source=make_source())[1])
    other = read(outputs(source=make_source(SOPInstanceUID="1.2.3.4", ViewPosition="AP", AcquisitionTime="101730"))[1])
    assert one.SeriesInstanceUID != other.SeriesInstanceUID
    assert (one.SeriesDescription, other.SeriesDescription) == (
        "AI maps PA 10:15:00 (not for diagnosis)",
        "AI maps AP 10:17:30 (not for diagnosis)",
    )


def test_a_demonstration_model_is_named_as_one_in_every_series_and_the_name_fits() -> None:
    found = outputs(make_report(demonstration=True), make_source(ViewPosition="ANTEROPOSTER"))
    descriptions = [read(o).SeriesDescription for o in found]
    assert [d for d in descriptions if "DEMONSTRATION MODEL" not in d or len(d) > 64 or "10:15:00" not in d] == []


CHANGES: dict[str, dict[str, Any]] = {
    "pixel digest": {"pixel_digest": "99" * 32},
    "identity digest": {"identity_digest": "99" * 32},
    "revision": {"revision": 2},
    "outcome": {"outcome": Outcome.NOT_ANALYSED, "reason": "late"},
    "bundle": {"reader": dataclasses.replace(make_report().reader, bundle_digest="99" * 32)},
}


@pytest.mark.parametrize("what", CHANGES)
def test_what_changes_the_content_changes_every_uid(what: str) -> None:
    one, other = outputs(), outputs(make_report(**CHANGES[what]))
    assert {o.sop_instance_uid for o in one} & {o.sop_instance_uid for o in other} == set()
    assert {read(o).SeriesInstanceUID for o in one} & {read(o).SeriesInstanceUID for o in other} == set()


@pytest.mark.parametrize(
    "setting", [{"style": "contour"}, {"encoding": "jpeg"}, {"timezone": "Asia/Tokyo"}, {"max_px": 1100}]
)
def test_a_setting_that_changes_the_bytes_changes_every_uid(setting: dict[str, Any]) -> None:
    assert {o.sop_instance_uid for o in outputs()} & {o.sop_instance_uid for o in outputs(**setting)} == set()


def test_no_two_objects_share_a_uid() -> None:
    uids = [o.sop_instance_uid for o in outputs(min_findings=6)]
    assert len(set(uids)) == len(uids)


def test_the_pixels_are_single_frame_rgb_of_the_stated_size() -> None:
    for output in outputs()[1:]:
        ds = read(output)
        assert (ds.pixel_array.shape, ds.pixel_array.dtype, ds.PhotometricInterpretation) == (
            (ds.Rows, ds.Columns, 3),
            np.dtype("uint8"),
            "RGB",
        )
        assert max(ds.Rows, ds.Columns) <= 1200
        assert "PixelSpacing" not in ds


def test_as_jpeg_the_pictures_are_lossy_and_say_so() -> None:
    plain, lossy = outputs()[1], outputs(encoding="jpeg")[1]
    ds = read(lossy)
    assert (ds.LossyImageCompression, ds.LossyImageCompressionMethod, lossy.transfer_syntax_uid) == (
        "01",
        "ISO_10918_1",
        "1.2.840.10008.1.2.4.50",
    )
    assert len(lossy.data) < len(plain.data) / 4
    assert np.abs(ds.pixel_array.astype(int) - read(plain).pixel_array).mean() < 3


def test_a_lossy_film_makes_lossy_pictures() -> None:
    stated = make_source(
        LossyImageCompression="01", LossyImageCompressionRatio=[7.5], LossyImageCompressionMethod="ISO_15444_1"
    )
    silent = make_source()
    silent.file_meta.TransferSyntaxUID = JPEGBaseline8Bit
    found = []
    for source in (stated, silent, make_source()):
        ds = read(outputs(source=source)[1])
        found.append((ds.LossyImageCompression, str(ds.get("LossyImageCompressionMethod", ""))))
    assert found == [("01", "ISO_15444_1"), ("01", "ISO_10918_1"), ("00", "")]


PROGRAM = """
import hashlib
from tests.unit.outputs.sources import READ_AT, make_film, make_report, make_saliency, make_source
from cxrnode.dicom.outputs import KINDS, OPTIONAL, OutputSettings, build_outputs
from cxrnode.dicom.outputs.study import FilmRead, build_study_summary
from cxrnode.dicom.outputs.withdrawal import Rejection, Withdrawal, build_withdrawal
from tests.unit.outputs.sources import sent_object
made = []
unzoned = {"TimezoneOffsetFromUTC": None}
for changes, zone in (({}, None), (unzoned, "Europe/Berlin"), (unzoned, None)):
    settings = OutputSettings(timezone=zone, urgent=("Effusion",))
    film, source = make_film(400, 340), make_source(**changes)
    sent = build_outputs(source, make_report(), film, make_saliency(), settings, KINDS | OPTIONAL)
    objects = tuple(sent_object(o.kind, o.label, o.data) for o in sent if o.kind != "hl7")
    order = Withdrawal(rejection=Rejection.SAFETY, reason="recalled", at=READ_AT + 60, objects=objects)
    made += [*sent, *build_withdrawal(source, make_report(), order, settings)]
    read = FilmRead(source=source, report=make_report(), preview=film)
    made += build_study_summary([read], settings, at=READ_AT + 60)
print(hashlib.sha256(b"".join(o.data for o in made)).hexdigest())
"""


def test_the_same_report_gives_the_same_bytes_in_every_time_zone_and_locale_and_process() -> None:
    root = Path(__file__).parents[3]
    found = set()
    for zone, locale, seed in (
        ("Pacific/Auckland", "tr_TR.UTF-8", "1"),
        ("America/New_York", "C", "2"),
        ("UTC", "POSIX", "3"),
    ):
        environment = {**os.environ, "TZ": zone, "LC_ALL": locale, "PYTHONHASHSEED": seed, "PYTHONPATH": str(root)}
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM],
            env=environment,
            cwd=root,
            capture_output=True,
            text=True,
            check=True,
            timeout=60,
        )
        found.add(done.stdout.strip())
    assert len(found) == 1
    assert len(found.pop()) == 64


def test_the_arguments_are_not_changed() -> None:
    source, film, saliency = make_source(), FILM.copy(), SALIENCY.copy()
    film.flags.writeable = saliency.flags.writeable = False
    before = hashlib.sha256(film.tobytes() + saliency.tobytes()).hexdigest()
    build_outputs(source, make_report(), film, saliency, OutputSettings(), BOTH)
    assert hashlib.sha256(film.tobytes() + saliency.tobytes()).hexdigest() == before
    assert source == make_source()


def test_all_outputs_of_a_large_film_cost_under_eighty_milliseconds_of_a_core() -> None:
    film, source, report = make_film(3000, 2500), make_source(3000, 2500), make_report()
    # The least of many: what else runs on the machine makes a try dearer, never cheaper. One cheap enough is proof.
    best = 9.9
    for _ in range(40):
        start = time.process_time()
        build_outputs(source, report, film, SALIENCY, OutputSettings(), BOTH)
        best = min(best, time.process_time() - start)
        if best < 0.080:
            break
    assert best < 0.080


def test_attributes_are_written_in_the_order_of_their_tags() -> None:
    one = Attributes().put("PatientID", "1").put("Modality", "SR").put("Rows", 5)
    other = Attributes().put("Rows", 5).put("Modality", "SR").put("PatientID", "1")
    assert one.encode() == other.encode()
    assert one.encode().startswith(b"\x08\x00\x60\x00CS\x02\x00SR\x10\x00\x20\x00LO\x02\x001 ")


def test_a_value_too_long_for_its_length_field_is_refused() -> None:
    with pytest.raises(ValueError, match="0010,0020"):
        element(0x00100020, "LO", b"x" * 70_000)


def test_pydicom_reads_back_what_was_put() -> None:
    inner = Attributes().put("CodeValue", "T-1").put("CodeMeaning", "odd")
    content = Attributes().put_items("ProcedureCodeSequence", [inner, inner]).put_items("ReferencedStudySequence")
    content.put("ImageType", "DERIVED", "SECONDARY").put("StudyInstanceUID", "1.2.3").put("Columns", 7)
    ds = pydicom.dcmread(io.BytesIO(content.encode()), force=True)
    assert ([i.CodeMeaning for i in ds.ProcedureCodeSequence], len(ds.ReferencedStudySequence)) == (["odd", "odd"], 0)
    assert (list(ds.ImageType), ds.StudyInstanceUID, ds.Columns) == (["DERIVED", "SECONDARY"], "1.2.3", 7)
