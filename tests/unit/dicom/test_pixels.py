"""The display pipeline: against highdicom's own rendering, and against the standard's formulas where that fails."""

import hashlib
import io
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import highdicom
import numpy as np
import numpy.typing as npt
import pydicom
import pytest
from blake3 import blake3
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLSLossless,
    RLELossless,
)

from cxrnode.core.digests import Kind
from cxrnode.dicom import header, pixels
from cxrnode.dicom.compressed import DECODERS
from cxrnode.dicom.pixels import Film, Limits, decode, decode_film
from cxrnode.errors import Rejected, UnreadableImage

Stored = npt.NDArray[np.int64]


def scene(bits: int = 12, rows: int = 96, columns: int = 80) -> Stored:
    """A ramp with texture over the whole range of stored values, int64 (rows, columns)."""
    top = (1 << bits) - 1
    ramp = np.linspace(0, top, rows * columns).reshape(rows, columns)
    noise = np.random.default_rng(0).normal(0, top / 50, ramp.shape)
    return np.clip(np.rint(ramp + noise), 0, top).astype(np.int64)


def film(stored: Stored | None = None, *, bits: int = 12, signed: bool = False, **changes: Any) -> Dataset:
    """A DX FOR PRESENTATION with these stored values; a keyword given as None is left out."""
    stored = scene(bits) if stored is None else stored
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = UID("1.2.840.10008.5.1.4.1.1.1.1")
    dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = UID("1.2.3.4")
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID = "1.2.3", "1.2.3.1"
    dataset.PatientID, dataset.PatientName, dataset.Modality = "1", "A^B", "DX"
    dataset.PatientBirthDate, dataset.PatientSex, dataset.StudyDate = "", "", "20260101"
    dataset.StudyTime, dataset.AccessionNumber, dataset.StudyID = "", "", ""
    dataset.ReferringPhysicianName, dataset.InstanceNumber, dataset.SeriesNumber = "", 1, 1
    dataset.Rows, dataset.Columns = stored.shape
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.BitsAllocated = 8 if bits <= 8 else 16
    dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = bits, bits - 1, int(signed)
    dataset.PresentationIntentType, dataset.PresentationLUTShape = "FOR PRESENTATION", "IDENTITY"
    dataset.WindowCenter, dataset.WindowWidth = (1 << bits) / 2, (1 << bits)
    dataset.RescaleSlope, dataset.RescaleIntercept, dataset.RescaleType = 1, 0, "US"
    dataset.PixelData = stored.astype(f"<{'i' if signed else 'u'}{dataset.BitsAllocated // 8}").tobytes()
    dataset["PixelData"].VR = "OW"
    for keyword, value in changes.items():
        if value is None:
            del dataset[keyword]
        else:
            setattr(dataset, keyword, value)
    return dataset


def lut(entries: int, first: int, bits: int, data: npt.NDArray[Any]) -> Sequence:
    item = Dataset()
    item.add_new(0x00283002, "US", [entries % 65536, first, bits])
    item.add_new(0x00283006, "US", [int(v) for v in data])
    return Sequence([item])


def save(folder: Path, dataset: Dataset, name: str = "film.dcm") -> Path:
    dataset.save_as(folder / name, enforce_file_format=True)
    return folder / name


def decoded(folder: Path, dataset: Dataset) -> Film:
    return decode_film(save(folder, dataset))


def highdicoms(dataset: Dataset) -> npt.NDArray[np.float64]:
    """What highdicom shows, as float64 (H, W) in [0, 255]."""
    buffer = io.BytesIO()
    dataset.save_as(buffer, enforce_file_format=True)
    buffer.seek(0)
    image = highdicom.imread(buffer)
    shown = image.get_frame(
        1, apply_voi_transform=True, apply_presentation_lut=True, voi_output_range=(0.0, 255.0), dtype=np.float64
    )
    return np.asarray(shown, dtype=np.float64)


def worst(film: Film, oracle: npt.NDArray[np.float64]) -> float:
    return float(np.abs(film.display.astype(np.float64) - oracle).max())


CURVE_12 = np.rint(4095 * np.linspace(0, 1, 4096) ** 1.6)
GOLDEN: dict[str, Callable[[], Dataset]] = {
    "full window": film,
    "narrow window": lambda: film(WindowCenter=1800, WindowWidth=900),
    "window of odd width": lambda: film(WindowCenter=1800.5, WindowWidth=901),
    "several windows": lambda: film(WindowCenter=[2000, 1200], WindowWidth=[1500, 800]),
    "sigmoid": lambda: film(WindowCenter=2000, WindowWidth=1500, VOILUTFunction="SIGMOID"),
    "linear exact": lambda: film(WindowCenter=2000, WindowWidth=1500, VOILUTFunction="LINEAR_EXACT"),
    "MONOCHROME1 and INVERSE": lambda: film(PhotometricInterpretation="MONOCHROME1", PresentationLUTShape="INVERSE"),
    "MONOCHROME1 alone": lambda: film(PhotometricInterpretation="MONOCHROME1", PresentationLUTShape=None),
    "MONOCHROME2 alone": lambda: film(PresentationLUTShape=None),
    "contradictory polarity": lambda: film(PhotometricInterpretation="MONOCHROME1"),
    "rescale": lambda: film(RescaleSlope=2.5, RescaleIntercept=-1000, WindowCenter=3000, WindowWidth=5000),
    "negative rescale": lambda: film(RescaleSlope=-1, RescaleIntercept=4095, WindowCenter=1500, WindowWidth=2000),
    "modality LUT": lambda: film(
        ModalityLUTSequence=lut(4096, 0, 16, CURVE_12 * 16),
        RescaleSlope=None,
        RescaleIntercept=None,
        RescaleType=None,
        WindowCenter=30000,
        WindowWidth=40000,
    ),
    "VOI LUT of 16 bits": lambda: film(VOILUTSequence=lut(4096, 0, 16, CURVE_12 * 16)),
    "VOI LUT of 16 bits over a part": lambda: film(VOILUTSequence=lut(2048, 1000, 16, CURVE_12[::2] * 16)),
    "8 bits": lambda: film(bits=8),
    "10 bits": lambda: film(bits=10),
    "14 bits": lambda: film(bits=14),
    "15 bits": lambda: film(bits=15),
    "16 bits": lambda: film(bits=16),
    "signed 12 bits": lambda: film(scene() - 2048, signed=True, WindowCenter=0, WindowWidth=3000),
    "signed 16 bits": lambda: film(scene(16) - 32768, bits=16, signed=True, WindowCenter=100, WindowWidth=30000),
}


@pytest.mark.parametrize("case", GOLDEN)
def test_the_film_looks_as_highdicom_shows_it(tmp_path: Path, case: str) -> None:
    dataset = GOLDEN[case]()
    oracle = highdicoms(dataset)
    assert worst(decoded(tmp_path, dataset), oracle) <= 1.0
    assert np.ptp(oracle) > 100.0


def test_a_window_of_width_1_is_a_threshold(tmp_path: Path) -> None:
    """PS3.3 C.11.2.1.2.1, where highdicom 0.28 divides by zero."""
    shown = decoded(tmp_path, film(WindowCenter=2000, WindowWidth=1)).display
    assert np.array_equal(shown, np.where(scene() <= 1999, 0, 255))


@pytest.mark.parametrize("bits", [10, 12])
def test_a_voi_lut_of_10_or_12_bits_fills_its_own_range(tmp_path: Path, bits: int) -> None:
    """highdicom 0.28 refuses these descriptors; they are the usual ones in DX."""
    curve = np.rint(((1 << bits) - 1) * np.linspace(0, 1, 4096) ** 1.6)
    shown = decoded(tmp_path, film(VOILUTSequence=lut(4096, 0, bits, curve)))
    expected = curve[scene()] / ((1 << bits) - 1) * 255.0
    assert worst(shown, expected) <= 0.5001
    assert shown.window == f"VOI LUT of {bits} bits"


def test_a_voi_lut_comes_before_the_window(tmp_path: Path) -> None:
    assert decoded(tmp_path, GOLDEN["VOI LUT of 16 bits"]()).window == "VOI LUT of 16 bits"


def test_a_lut_packed_as_bytes_reads_as_one_of_words(tmp_path: Path) -> None:
    words = film(VOILUTSequence=lut(4096, 0, 12, CURVE_12))
    packed = film(VOILUTSequence=lut(4096, 0, 12, CURVE_12))
    packed.VOILUTSequence[0].add_new(0x00283006, "OW", CURVE_12.astype("<u2").tobytes())
    assert np.array_equal(decoded(tmp_path, words).display, decoded(tmp_path, packed).display)


def test_a_lut_of_65536_entries_says_0(tmp_path: Path) -> None:
    dataset = film(bits=16, VOILUTSequence=lut(65536, 0, 16, np.arange(4)))
    dataset.VOILUTSequence[0].add_new(0x00283006, "OW", np.arange(65536)[::-1].astype("<u2").tobytes())
    assert worst(decoded(tmp_path, dataset), 255.0 - scene(16) / 65535 * 255.0) <= 0.5001


@pytest.mark.parametrize(
    "changes",
    [
        {"WindowCenter": None, "WindowWidth": None},
        {"WindowWidth": 0},
        {"WindowWidth": -5},
        {"WindowCenter": "", "WindowWidth": ""},
    ],
)
def test_without_a_usable_window_half_a_percent_at_each_end_is_black_and_white(
    tmp_path: Path, changes: dict[str, Any]
) -> None:
    shown = decoded(tmp_path, film(**changes))
    low, high = np.percentile(scene(), [0.5, 99.5])
    expected = np.clip((scene() - low) / (high - low), 0, 1) * 255.0
    assert worst(shown, expected) <= 1.0
    assert shown.window.startswith("no window: percentiles")


def test_an_8_bit_film_without_a_window_is_shown_as_it_is(tmp_path: Path) -> None:
    shown = decoded(tmp_path, film(scene(8) // 2, bits=8, WindowCenter=None, WindowWidth=None))
    assert np.array_equal(shown.display, scene(8) // 2)


def test_an_empty_slope_counts_as_one(tmp_path: Path) -> None:
    shown = decoded(tmp_path, film(RescaleSlope=""))
    assert np.array_equal(shown.display, decoded(tmp_path, film()).display)
    assert shown.notes == ("RescaleSlope is empty or 0: taken as 1",)


def test_one_scene_looks_alike_in_either_polarity(tmp_path: Path) -> None:
    inverse = film(4095 - scene(), PhotometricInterpretation="MONOCHROME1", PresentationLUTShape="INVERSE")
    straight = decoded(tmp_path, film()).display.astype(int)
    assert np.abs(straight - decoded(tmp_path, inverse).display).max() <= 1


def test_contradictory_polarity_is_noted(tmp_path: Path) -> None:
    shown = decoded(tmp_path, GOLDEN["contradictory polarity"]())
    assert any("contradicts" in note for note in shown.notes)
    assert decoded(tmp_path, film()).notes == ()


def test_the_first_of_several_windows_is_used_and_said(tmp_path: Path) -> None:
    assert decoded(tmp_path, GOLDEN["several windows"]()).window == "window 2000/1500 LINEAR (first of several)"


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
def test_padding_is_black_in_either_polarity(tmp_path: Path, photometric: str) -> None:
    stored = scene()
    stored[:10] = 3000
    dataset = film(stored, PhotometricInterpretation=photometric, PresentationLUTShape=None)
    dataset.add_new(0x00280120, "US", 3000)
    shown = decoded(tmp_path, dataset).display
    assert shown[:10].max() == 0
    assert shown[10:].max() > 200


def test_a_range_of_padding_is_black_and_does_not_count_for_the_percentiles(tmp_path: Path) -> None:
    stored = np.clip(scene(), 1000, 3000)
    stored[:40] = 4090
    dataset = film(stored, WindowCenter=None, WindowWidth=None)
    dataset.add_new(0x00280120, "US", 4095)
    dataset.add_new(0x00280121, "US", 4080)
    shown = decoded(tmp_path, dataset)
    assert shown.display[:40].max() == 0
    assert "to 3000)" in shown.window


def test_padding_of_a_signed_film_is_found_under_the_wrong_vr(tmp_path: Path) -> None:
    stored = scene(16) - 32768
    stored[:10] = -2000
    dataset = film(stored, bits=16, signed=True, WindowCenter=0, WindowWidth=60000)
    dataset.add_new(0x00280120, "US", 65536 - 2000)
    assert decoded(tmp_path, dataset).display[:10].max() == 0


def test_overlays_in_the_high_bits_are_not_shown(tmp_path: Path) -> None:
    plain = decoded(tmp_path, film())
    stored = scene()
    stored[5:20, 5:20] |= 0xF000
    overlaid = decoded(tmp_path, film(stored))
    assert np.array_equal(plain.display, overlaid.display)
    assert plain.pixel_digest == overlaid.pixel_digest


def test_stored_bits_that_lie_high_in_the_cell_are_found(tmp_path: Path) -> None:
    shifted = film(scene() << 4)
    shifted.HighBit = 15
    assert decoded(tmp_path, shifted).pixel_digest == decoded(tmp_path, film()).pixel_digest


def test_big_endian_films_look_the_same(tmp_path: Path) -> None:
    dataset = film()
    big = film()
    big.PixelData = scene().astype(">u2").tobytes()
    big.file_meta.TransferSyntaxUID = ExplicitVRBigEndian
    path = tmp_path / "big.dcm"
    pydicom.dcmwrite(path, big, enforce_file_format=True, little_endian=False, implicit_vr=False)
    assert decode_film(path).pixel_digest == decoded(tmp_path, dataset).pixel_digest


def test_a_rectangular_shutter_hides_what_lies_outside(tmp_path: Path) -> None:
    dataset = film(np.full((96, 80), 4000))
    dataset.ShutterShape = "RECTANGULAR"
    dataset.ShutterLeftVerticalEdge, dataset.ShutterRightVerticalEdge = 11, 70
    dataset.ShutterUpperHorizontalEdge, dataset.ShutterLowerHorizontalEdge = 21, 90
    visible = decoded(tmp_path, dataset).display > 0
    expected = np.zeros((96, 80), dtype=bool)
    expected[20:90, 10:70] = True
    assert np.array_equal(visible, expected)


def test_circular_and_polygonal_shutters_hide_together(tmp_path: Path) -> None:
    dataset = film(np.full((96, 80), 4000))
    dataset.ShutterShape = ["CIRCULAR", "POLYGONAL"]
    dataset.CenterOfCircularShutter, dataset.RadiusOfCircularShutter = [48, 40], 30
    dataset.VerticesOfThePolygonalShutter = [1, 1, 1, 40, 96, 40, 96, 1]
    visible = decoded(tmp_path, dataset).display > 0
    row, column = np.mgrid[1:97, 1:81]
    expected = ((row - 48) ** 2 + (column - 40) ** 2 <= 900) & (column <= 40)
    assert np.array_equal(visible, expected)


@pytest.mark.parametrize("edges", [(60, 20), (None, 20)])
def test_a_shutter_that_hides_all_or_lacks_an_edge_is_left_out_and_noted(
    tmp_path: Path, edges: tuple[int | None, int]
) -> None:
    dataset = film(ShutterShape="RECTANGULAR", ShutterUpperHorizontalEdge=1, ShutterLowerHorizontalEdge=96)
    if edges[0] is not None:
        dataset.ShutterLeftVerticalEdge = edges[0]
    dataset.ShutterRightVerticalEdge = edges[1]
    shown = decoded(tmp_path, dataset)
    assert np.array_equal(shown.display, decoded(tmp_path, film()).display)
    assert len(shown.notes) == 1


@pytest.mark.parametrize(
    ("syntax", "bits", "signed"),
    [
        (syntax, bits, signed)
        for syntax in (JPEG2000Lossless, JPEGLSLossless, RLELossless)
        for bits, signed in ((8, False), (12, False), (16, False), (12, True), (16, True))
        if not (signed and syntax == JPEGLSLossless)  # pydicom encodes none of these
    ],
)
def test_every_lossless_encoding_of_a_film_has_one_digest_and_one_look(
    tmp_path: Path, syntax: UID, bits: int, signed: bool
) -> None:
    stored = scene(bits) - ((1 << (bits - 1)) if signed else 0)
    raw = decoded(tmp_path, film(stored, bits=bits, signed=signed))
    packed = film(stored, bits=bits, signed=signed)
    packed.compress(syntax, generate_instance_uid=False)
    shown = decoded(tmp_path, packed)
    assert shown.pixel_digest == raw.pixel_digest
    assert np.array_equal(shown.display, raw.display)


def test_a_coerced_header_does_not_change_the_digest(tmp_path: Path) -> None:
    raw = decoded(tmp_path, film())
    coerced = film(PatientID="2", PatientName="C^D", SOPInstanceUID="9.9", StudyDescription="x", WindowCenter=1000)
    assert decoded(tmp_path, coerced).pixel_digest == raw.pixel_digest


def test_the_cell_size_does_not_change_the_digest(tmp_path: Path) -> None:
    wide = film(scene(8), bits=8, BitsAllocated=16, PixelData=scene(8).astype("<u2").tobytes())
    assert decoded(tmp_path, wide).pixel_digest == decoded(tmp_path, film(bits=8)).pixel_digest


def test_one_changed_pixel_changes_the_digest(tmp_path: Path) -> None:
    stored = scene()
    stored[50, 50] ^= 1
    assert decoded(tmp_path, film(stored)).pixel_digest != decoded(tmp_path, film()).pixel_digest


def test_another_shape_of_the_same_values_changes_the_digest(tmp_path: Path) -> None:
    turned = film(scene().reshape(80, 96))
    assert decoded(tmp_path, turned).pixel_digest != decoded(tmp_path, film()).pixel_digest


def test_the_digest_is_what_it_was_when_the_first_was_stored(tmp_path: Path) -> None:
    values = np.arange(48 * 64).reshape(48, 64)
    start = b"cxrnode pixels 1\n48\n64\nMONOCHROME2\n"
    whole = start + values.astype("<u2").tobytes()
    path = save(tmp_path, film(values))
    assert decode_film(path, digests=Kind.SHA256).pixel_digest == hashlib.sha256(whole).hexdigest()
    assert decode_film(path).pixel_digest == f"blake3:{blake3(whole).digest(28).hex()}"


def test_a_film_is_decoded_into_memory_that_is_given_and_refers_to_nothing_else(tmp_path: Path) -> None:
    path, room = save(tmp_path, film()), np.full(96 * 80 + 5, 7, np.uint8)
    content = bytearray(path.read_bytes())
    shown = decode(memoryview(content), into=room)
    content[:] = bytes(len(content))
    assert np.array_equal(shown.display, decode_film(path).display)
    assert np.array_equal(room[: 96 * 80].reshape(96, 80), shown.display)
    assert room[96 * 80 :].tolist() == [7] * 5


@pytest.mark.parametrize("longest", [10, 1 << 20])
def test_pixels_are_the_same_whether_they_are_copied_or_stay_where_they_lie(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, longest: int
) -> None:
    big = film(bits=8)
    big.PixelData = big.PixelData + b"\0" * 10  # some writers pad
    before = [decoded(tmp_path, one).pixel_digest for one in (film(), big)]
    monkeypatch.setattr("cxrnode.dicom.pixels._LONGEST_COPIED", longest)
    assert [decoded(tmp_path, one).pixel_digest for one in (film(), big)] == before


def test_the_source_has_no_pixels_and_the_film_is_uint8(tmp_path: Path) -> None:
    shown = decoded(tmp_path, film())
    assert "PixelData" not in shown.source
    assert shown.display.dtype == np.dtype(np.uint8)
    assert shown.display.shape == (96, 80)


@pytest.mark.parametrize(
    ("changes", "element"),
    [
        ({"PixelData": None}, "PixelData"),
        ({"PixelData": b"\0" * 100}, "PixelData ends early"),
        ({"Rows": None}, "Rows"),
        ({"Rows": 0}, "Rows"),
        ({"BitsAllocated": 64}, "BitsAllocated"),
        ({"BitsStored": 17}, "BitsStored"),
        ({"BitsStored": 1}, "BitsStored"),
        ({"SamplesPerPixel": 3, "PhotometricInterpretation": "RGB"}, "PhotometricInterpretation"),
        ({"PhotometricInterpretation": "PALETTE COLOR"}, "PhotometricInterpretation"),
        ({"NumberOfFrames": 2}, "NumberOfFrames"),
        ({"VOILUTSequence": lut(4096, 0, 77, CURVE_12)}, "VOILUTSequence"),
    ],
)
def test_an_image_that_cannot_be_read_is_refused_by_the_element_at_fault(
    tmp_path: Path, changes: dict[str, Any], element: str
) -> None:
    with pytest.raises(UnreadableImage, match=element):
        decoded(tmp_path, film(**changes))


def test_more_pixels_than_the_limit_are_refused_before_anything_is_decoded(tmp_path: Path) -> None:
    bomb = film()
    bomb.compress(RLELossless, generate_instance_uid=False)
    bomb.Rows, bomb.Columns = 60000, 60000
    with pytest.raises(UnreadableImage, match="more than the limit"):
        decoded(tmp_path, bomb)
    with pytest.raises(UnreadableImage, match="more than the limit"):
        decode_film(save(tmp_path, film()), Limits(pixels=1000))


@pytest.mark.parametrize("syntax", [JPEG2000Lossless, JPEGLSLossless])
def test_a_stream_that_declares_another_size_than_the_header_is_refused(tmp_path: Path, syntax: UID) -> None:
    bomb = film()
    bomb.compress(syntax, generate_instance_uid=False)
    data = bytearray(bomb.PixelData)
    if syntax == JPEG2000Lossless:
        at = data.index(b"\xff\x4f\xff\x51") + 8
        data[at : at + 8] = struct.pack(">II", 50000, 50000)
    else:
        at = data.index(b"\xff\xf7") + 5
        data[at : at + 4] = struct.pack(">HH", 50000, 50000)
    bomb.PixelData = bytes(data)
    with pytest.raises(UnreadableImage, match="declares 50000 x 50000"):
        decoded(tmp_path, bomb)


def test_a_damaged_stream_is_refused(tmp_path: Path) -> None:
    broken = film()
    broken.compress(JPEG2000Lossless, generate_instance_uid=False)
    data = bytes(broken.PixelData)
    broken.PixelData = data[: len(data) // 3]
    broken["PixelData"].is_undefined_length = True
    with pytest.raises((UnreadableImage, Rejected)):
        decoded(tmp_path, broken)


def test_no_decoder_under_the_gpl_is_ever_asked() -> None:
    jpeg = [DECODERS[f"1.2.840.10008.1.2.4.{n}"] for n in (50, 51, 57, 70, 80, 81)]
    assert not any("pylibjpeg" in names for names in jpeg)


def test_a_message_names_no_patient(tmp_path: Path) -> None:
    with pytest.raises(UnreadableImage) as refused:
        decoded(tmp_path, film(PixelData=b"\0", PatientID="4711", PatientName="Doe^Jane"))
    assert "4711" not in str(refused.value)
    assert "Doe" not in str(refused.value)


def test_a_deflated_film_is_inflated_up_to_64_mib_and_no_further(tmp_path: Path) -> None:
    small = film()
    small.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    assert decoded(tmp_path, small).pixel_digest == decoded(tmp_path, film()).pixel_digest
    bomb = film(np.zeros((6000, 6000), dtype=np.int64))
    bomb.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    with pytest.raises(Rejected, match="larger than 64 MiB"):
        decoded(tmp_path, bomb)


def _element(tag: int, vr: bytes, value: bytes) -> bytes:
    length = struct.pack("<HI", 0, len(value)) if vr == b"OW" else struct.pack("<H", len(value))
    return struct.pack("<HH", tag >> 16, tag & 0xFFFF) + vr + length + value


#: What stands about the pixels, and whether the whole file is parsed then, beside the header.
UNUSUAL: dict[str, tuple[Callable[[bytes, int], bytes], bool]] = {
    "nothing": (lambda whole, at: whole, False),
    "a long value": (lambda whole, at: whole[:at] + _element(0x7FDF0010, b"OW", bytes(70_000)) + whole[at:], False),
    "padding": (lambda whole, at: whole + _element(0xFFFCFFFC, b"OW", bytes(8)), True),
    "a byte": (lambda whole, at: whole + b"\0", True),
    "another window": (lambda whole, at: whole + _element(0x00281050, b"DS", b"10"), True),
    "pixels again": (lambda whole, at: whole + _element(0x00281050, b"DS", b"10") + whole[at:], True),
    "other pixels": (lambda whole, at: whole[:at] + _element(0x7FE00008, b"OW", bytes(8)) + whole[at:], True),
    "pixels cut off": (lambda whole, at: whole[:-2], True),
}


@pytest.mark.parametrize("name", UNUSUAL)
def test_pixels_are_found_behind_the_header_where_nothing_else_is(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    buffer = io.BytesIO()
    film(WindowCenter=1800, WindowWidth=900).save_as(buffer, enforce_file_format=True)
    whole = buffer.getvalue()
    change, parsed_whole = UNUSUAL[name]
    given = memoryview(change(whole, whole.index(b"\xe0\x7f\x10\0OW")))
    parsed: list[bool] = []

    def parse(*args: Any, **settings: Any) -> Dataset:
        parsed.append(not settings["stop_before_pixels"])
        return header.parse(*args, **settings)

    monkeypatch.setattr(pixels, "parse", parse)
    if name == "pixels cut off":
        with pytest.raises(UnreadableImage, match="ends early"):
            decode(given)
        assert parsed == [False, True]
        return
    shown = decode(given)
    assert parsed == [False, True] if parsed_whole else parsed == [False]
    expected = decode(memoryview(whole))
    assert (shown.window, shown.pixel_digest) == (expected.window, expected.pixel_digest)
    np.testing.assert_array_equal(shown.display, expected.display)
    assert "PixelData" not in shown.source and shown.source.PatientID == "1"


def test_in_a_deflated_file_no_pixels_are_looked_for_where_they_lie(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What stands there is what a stranger made of it, not the film that is in it."""
    deflated = film()
    deflated.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian

    def never(*_: Any) -> None:
        raise AssertionError("it looked")

    expected = decoded(tmp_path, film()).pixel_digest
    monkeypatch.setattr(pixels, "_plain", never)
    assert decoded(tmp_path, deflated).pixel_digest == expected
