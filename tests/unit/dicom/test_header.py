"""Reading headers: tolerant of what sites send, closed to what would exhaust the receiver."""

import struct
import zlib
from pathlib import Path

import pydicom
import pytest
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)

from cxrnode.core.digests import Kind, digest_of, kind_of
from cxrnode.core.identity import IMPLEMENTATION_CLASS_UID
from cxrnode.core.routing import Answer, Association, Reason, Rule, gate, route
from cxrnode.dicom.header import (
    dataset_digest,
    dataset_offset,
    header_of,
    identity_of,
    read_header,
    to_header,
    undecoded,
)
from cxrnode.errors import Rejected

LENIENT = [Rule(name="lenient", unsure="read")]
CR = "1.2.840.10008.5.1.4.1.1.1"


def film(**changes: object) -> Dataset:
    """A small CR header without pixels."""
    dataset = Dataset()
    dataset.SOPClassUID, dataset.SOPInstanceUID = CR, "1.2.3.4"
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID = "1.2.3", "1.2.3.1"
    dataset.Modality, dataset.BodyPartExamined, dataset.ViewPosition = "CR", "CHEST", "PA"
    dataset.PatientID, dataset.PatientName, dataset.PatientBirthDate = "4711", "Doe^Jane", "19700101"
    dataset.AccessionNumber, dataset.StudyDate = "A1", "20260102"
    dataset.Rows, dataset.Columns, dataset.PhotometricInterpretation = 600, 600, "MONOCHROME2"
    for keyword, value in changes.items():
        setattr(dataset, keyword, value)
    return dataset


def save(path: Path, dataset: Dataset, syntax: UID = ExplicitVRLittleEndian) -> Path:
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = syntax
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    dataset.save_as(path, enforce_file_format=True)
    return path


def dataset_bytes(path: Path) -> bytes:
    return path.read_bytes()[dataset_offset(path) :]


@pytest.mark.parametrize(
    "syntax",
    [ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian],
)
def test_a_header_reads_the_same_in_every_encoding(tmp_path: Path, syntax: UID) -> None:
    header = to_header(read_header(save(tmp_path / "a.dcm", film(), syntax)))
    assert (header.modality, header.body_part, header.view_position, header.rows) == ("CR", "CHEST", "PA", 600)
    assert header.age_years == 56.0
    assert gate(header).answer is Answer.ACCEPT


def test_the_pixel_data_are_not_read(tmp_path: Path) -> None:
    dataset = film(PixelData=b"\0" * 40_000_000)
    dataset["PixelData"].VR = "OB"
    assert "PixelData" not in read_header(save(tmp_path / "a.dcm", dataset))


def test_a_header_of_more_than_16_mib_is_refused(tmp_path: Path) -> None:
    dataset = film()
    dataset.add_new(0x00091001, "OB", b"\0" * (17 * 1024 * 1024))
    with pytest.raises(Rejected, match="16 MiB"):
        read_header(save(tmp_path / "a.dcm", dataset))


def test_a_deflated_bomb_is_inflated_no_further_than_the_limit(tmp_path: Path) -> None:
    body = struct.pack("<HH2sHI", 0x0009, 0x1001, b"OB", 0, 80 * 1024 * 1024) + b"\0" * (80 * 1024 * 1024)
    small = save(tmp_path / "a.dcm", film(), DeflatedExplicitVRLittleEndian)
    deflater = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    start = small.read_bytes()[: dataset_offset(small)]
    bomb = tmp_path / "bomb.dcm"
    bomb.write_bytes(start + deflater.compress(body) + deflater.flush())
    assert bomb.stat().st_size < 1024 * 1024
    with pytest.raises(Rejected):
        read_header(bomb)


@pytest.mark.parametrize("depth", [40, 3000])
def test_sequences_nested_too_deep_are_refused(tmp_path: Path, depth: int) -> None:
    tag = struct.pack("<HH", 0x0008, 0x1140)
    item = struct.pack("<HHI", 0xFFFE, 0xE000, 0xFFFFFFFF)
    ends = struct.pack("<HHI", 0xFFFE, 0xE00D, 0) + struct.pack("<HHI", 0xFFFE, 0xE0DD, 0)
    opening = tag + b"SQ\0\0" + struct.pack("<I", 0xFFFFFFFF) + item
    path = save(tmp_path / "a.dcm", film())
    path.write_bytes(path.read_bytes()[: dataset_offset(path)] + opening * depth + ends * depth)
    with pytest.raises(Rejected, match="nested"):
        read_header(path)


def test_sequences_of_defined_length_nested_too_deep_are_refused(tmp_path: Path) -> None:
    inner = Dataset()
    for _ in range(40):
        outer = Dataset()
        outer.ReferencedImageSequence = Sequence([inner])
        inner = outer
    with pytest.raises(Rejected, match="nested"):
        read_header(save(tmp_path / "a.dcm", film(ReferencedImageSequence=Sequence([inner]))))


@pytest.mark.parametrize("content", [b"", b"\x1f\x8b\x08" + b"\0" * 400, b"GET / HTTP/1.1\r\n" * 20, b"\0" * 4096])
def test_what_is_not_dicom_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.dcm"
    path.write_bytes(content)
    with pytest.raises(Rejected):
        read_header(path)


def test_a_file_that_is_not_there_is_no_fault_of_the_film(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read_header(tmp_path / "none.dcm")


def test_a_data_set_without_preamble_and_meta_is_read(tmp_path: Path) -> None:
    path = save(tmp_path / "a.dcm", film(), ImplicitVRLittleEndian)
    bare = tmp_path / "bare.dcm"
    bare.write_bytes(dataset_bytes(path))
    assert to_header(read_header(bare)).body_part == "CHEST"
    assert dataset_offset(bare) == 0


def test_the_digest_covers_the_data_set_and_not_its_meta(tmp_path: Path) -> None:
    path = save(tmp_path / "a.dcm", film())
    again = pydicom.dcmread(path)
    again.file_meta.SourceApplicationEntityTitle = "ANOTHER"
    again.file_meta.ImplementationVersionName = "X"
    again.preamble = b"P" * 128
    other = tmp_path / "b.dcm"
    again.save_as(other, enforce_file_format=True)
    assert path.read_bytes() != other.read_bytes()
    for kind in Kind:
        digests = {dataset_digest(path, kind), dataset_digest(other, kind)}
        assert digests == {digest_of(dataset_bytes(path), kind)}
    assert dataset_bytes(path)[:4] == b"\x08\x00\x16\x00"


def test_the_digest_tells_two_data_sets_apart(tmp_path: Path) -> None:
    first = save(tmp_path / "a.dcm", film())
    assert dataset_digest(first) != dataset_digest(save(tmp_path / "b.dcm", film(PatientID="4712")))


def test_the_start_of_the_data_set_is_found_where_the_length_of_group_2_lies(tmp_path: Path) -> None:
    path = save(tmp_path / "a.dcm", film())
    raw = bytearray(path.read_bytes())
    raw[140:144] = struct.pack("<I", 7)
    lying = tmp_path / "lying.dcm"
    lying.write_bytes(raw)
    assert dataset_offset(lying) == dataset_offset(path)


def test_a_number_that_is_none_counts_as_zero(tmp_path: Path) -> None:
    path = save(tmp_path / "a.dcm", film(NumberOfFrames="1"))
    path.write_bytes(path.read_bytes().replace(b"IS\x02\x001 ", b"IS\x02\x00xx"))
    assert to_header(read_header(path)).frames == 0


def test_several_values_bytes_and_emptiness_are_survived() -> None:
    dataset = film(BodyPartExamined=["CHEST", "HAND"], ViewPosition=None, Modality="", PatientAge="garbage")
    dataset.add_new(0x00081030, "UN", b"\xff\xfeTHORAX\0")
    dataset.add_new(0x00080008, "CS", [""])
    header = to_header(dataset)
    assert header.body_part == "CHEST\\HAND"
    assert (header.view_position, header.modality, header.age_years) == ("", "", 56.0)
    assert "THORAX" in header.study_description


def test_codes_are_read_with_their_modifiers() -> None:
    def code(value: str) -> Dataset:
        item = Dataset()
        item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, "SCT", "x"
        return item

    view = code("272479007")
    view.ViewModifierCodeSequence = Sequence([code("399196006")])
    header = to_header(film(ViewCodeSequence=Sequence([view]), AnatomicRegionSequence=Sequence([code("816094009")])))
    assert header.view_codes == ("272479007",)
    assert header.view_modifier_codes == ("399196006",)
    assert header.region_codes == ("816094009",)


@pytest.mark.parametrize(
    "changes",
    [
        {"Manufacturer": "cxrnode project"},
        {"Manufacturer": "CXRNODE"},
        {"InstanceCreatorUID": IMPLEMENTATION_CLASS_UID},
    ],
)
def test_our_own_outputs_are_known_by_their_maker(changes: dict[str, str]) -> None:
    assert gate(to_header(film(**changes))).reason is Reason.OWN_OUTPUT


def test_a_series_description_alone_does_not_make_an_output_ours() -> None:
    assert not to_header(film(SeriesDescription="AI heatmap (NOT FOR DIAGNOSIS)", Manufacturer="Other")).own_output


def test_the_meta_that_the_receiver_wrote_does_not_make_a_film_ours(tmp_path: Path) -> None:
    path = save(tmp_path / "a.dcm", film())
    dataset = pydicom.dcmread(path)
    dataset.file_meta.ImplementationClassUID = UID(IMPLEMENTATION_CLASS_UID)
    dataset.save_as(path, enforce_file_format=True)
    assert not to_header(read_header(path)).own_output


def test_the_identity_is_read_and_kept_out_of_the_header() -> None:
    dataset = film(IssuerOfPatientID="HOSP", PatientSex="F")
    identity = identity_of(dataset)
    assert (identity.patient_id, identity.issuer, identity.patient_name) == ("4711", "HOSP", "Doe^Jane")
    assert (identity.birth_date, identity.sex, identity.accession) == ("19700101", "F", "A1")
    assert (identity.study_uid, identity.series_uid, identity.sop_uid) == ("1.2.3", "1.2.3.1", "1.2.3.4")
    values = str(to_header(dataset).as_json())
    assert not any(secret in values for secret in ("4711", "Doe", "19700101", "A1"))


def test_to_look_a_value_up_in_an_undecoded_copy_leaves_the_bytes_of_its_data_set(tmp_path: Path) -> None:
    source = read_header(save(tmp_path / "a.dcm", film()))
    assert identity_of(undecoded(source)).patient_name == "Doe^Jane"
    assert isinstance(source.get_item("PatientName"), RawDataElement)
    identity_of(source)
    assert not isinstance(source.get_item("PatientName"), RawDataElement), "without a copy its bytes are gone"


def test_japanese_names_are_read_as_their_character_set_says(data_dir: Path) -> None:
    for path in sorted((data_dir / "dicom" / "chest_charset").glob("*.dcm")):
        assert "やまだ^たろう" in identity_of(read_header(path)).patient_name, path.name


def test_every_chest_film_at_hand_is_accepted_where_doubt_is_read(data_dir: Path) -> None:
    files = sorted((data_dir / "dicom" / "chest").iterdir())
    verdicts = {f.name: route(to_header(read_header(f)), Association(), LENIENT) for f in files}
    assert len(verdicts) == 4
    assert {name for name, verdict in verdicts.items() if not verdict.accepted} == set()


def test_every_other_image_at_hand_is_ignored_by_its_header_even_where_doubt_is_read(data_dir: Path) -> None:
    files = sorted((data_dir / "dicom" / "negative").iterdir())
    verdicts = {f.name: route(to_header(read_header(f)), Association(), LENIENT) for f in files}
    assert len(verdicts) == 17
    assert {name for name, verdict in verdicts.items() if verdict.accepted} == set()
    assert all(verdict.reason for verdict in verdicts.values())


def test_every_malformed_file_at_hand_has_a_header_or_is_refused(data_dir: Path) -> None:
    outcomes: set[str] = set()
    for path in sorted((data_dir / "dicom" / "malformed").iterdir()):
        try:
            outcomes.add(gate(to_header(read_header(path))).answer)
            assert kind_of(dataset_digest(path)) is Kind.BLAKE3
        except Rejected as refused:
            outcomes.add(str(refused).split(":")[0])
    assert {Answer.REJECT, "not a DICOM file"} <= outcomes


@pytest.mark.parametrize("size", [10, 64 * 1024 - 700, 64 * 1024, 64 * 1024 + 1, 1 << 20])
@pytest.mark.parametrize("many", [1, 5])
@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian, DeflatedExplicitVRLittleEndian])
def test_a_header_is_read_whole_wherever_the_first_read_ends(tmp_path: Path, size: int, many: int, syntax: UID) -> None:
    dataset = film()
    for number in range(many):
        dataset.add_new(0x00111010 + number, "OB", bytes([number]) * (size // 2 * 2))
    dataset.PerformedProcedureStepID = "behind it"  # (0040,0253)
    path = save(tmp_path / "film.dcm", dataset, syntax)
    with path.open("rb") as file:
        expected = header_of(file)
    found = read_header(path)
    assert found == expected
    assert found.PerformedProcedureStepID == "behind it"
    cut = tmp_path / "cut.dcm"
    cut.write_bytes(path.read_bytes()[:-3])
    told = []
    with cut.open("rb") as file:
        for way in ("path", "file"):
            try:
                told.append(str(read_header(cut) if way == "path" else header_of(file)))
            except Rejected as fault:
                told.append(str(fault))
    assert told[0] == told[1]
