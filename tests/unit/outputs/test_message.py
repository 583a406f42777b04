"""The HL7 message, read by a parser that is not ours (hl7apy), and held against the structured report."""

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import Any

import pydicom
import pytest
from hl7apy.core import Message
from hl7apy.parser import parse_message
from pydicom.dataset import Dataset

from cxrnode.core.findings import Decision, Outcome, Scale
from cxrnode.dicom.outputs import OutputSettings, build_outputs
from cxrnode.dicom.outputs.common import DISCLAIMER, Subject
from cxrnode.dicom.outputs.message import build_withdrawn_message
from tests.unit.outputs.sources import make_report, make_source

SETTINGS = OutputSettings(hl7_names=("HOSPITAL", "RIS", "RADIOLOGY"))
HL7 = frozenset({"hl7"})


def sent(source: Dataset | None = None, **changes: Any) -> bytes:
    [message] = build_outputs(source or make_source(), make_report(**changes), None, None, SETTINGS, HL7)
    return message.data


def parsed(data: bytes, codec: str = "utf-8") -> Message:
    return parse_message(data.decode(codec), find_groups=True)


def rows(message: Message) -> list[list[str]]:
    """The fields of each OBX, as they stand in the message."""
    segments = message.to_er7().split("\r")
    return [[*segment.split("|"), *[""] * 20] for segment in segments if segment.startswith("OBX")]


def test_an_independent_parser_finds_the_message_well_formed(tmp_path: Path) -> None:
    report = tmp_path / "report"
    assert parsed(sent()).validate(report_file=str(report))
    # Code systems that are younger than its tables are all that it remarks.
    said = {re.sub(r" in element .*", "", line) for line in report.read_text().splitlines()}
    assert said <= {f"Warning: Value {name} not in table HL70396" for name in ("SCT", "99CXRNODE", "UCUM")}


def test_the_message_says_whose_film_of_which_order_it_is() -> None:
    message = parsed(sent())
    head = message.MSH
    assert [head.msh_3.value, head.msh_4.value, head.msh_5.value, head.msh_6.value] == [
        *("CXRNODE", "HOSPITAL", "RIS", "RADIOLOGY"),
    ]
    assert (head.msh_9.value, head.msh_12.value) == ("ORU^R01^ORU_R01", "2.5.1")
    assert head.msh_7.value == "20260901102000+0900"
    result = message.ORU_R01_PATIENT_RESULT
    patient = result.ORU_R01_PATIENT.PID
    assert (patient.pid_3.value, patient.pid_7.value, patient.pid_8.value) == ("SYN001^^^SYNHOSP", "19700101", "O")
    order = result.ORU_R01_ORDER_OBSERVATION
    assert (order.ORC.orc_2.value, order.ORC.orc_3.value) == ("PL1", "FI1")
    assert (order.OBR.obr_18.value, order.OBR.obr_19.value) == ("ACC0001", "RP1")
    assert order.OBR.obr_4.value == "399208008^Plain chest X-ray^SCT^30745-4^XR Chest Views^LN"
    assert order.OBR.obr_7.value == "20260901101500"
    assert order.OBR.obr_25.value == "P"  # preliminary: nobody has seen it
    study = rows(message)[0]
    assert study[2:6] == ["ST", "113014^DICOM Study^DCM", "", str(make_source().StudyInstanceUID)]
    assert study[11] == "O"


def test_the_message_says_what_the_structured_report_says() -> None:
    report = make_report()
    [sr] = build_outputs(make_source(), report, None, None, SETTINGS, frozenset({"sr"}))
    tree = pydicom.dcmread(io.BytesIO(sr.data)).ContentSequence
    [measurements] = [item for item in tree if item.ConceptNameCodeSequence[0].CodeValue == "126010"]
    expected = []
    for group in measurements.ContentSequence:
        [score] = [item for item in group.ContentSequence if item.ValueType == "NUM"]
        [answer] = [
            item
            for item in group.ContentSequence
            if item.ValueType == "CODE"
            and item.ConceptCodeSequence[0].CodeMeaning in ("Present", "Absent", "Undetermined")
        ]
        finding = answer.ConceptNameCodeSequence[0]
        value = answer.ConceptCodeSequence[0]
        expected.append(
            (
                f"{finding.CodeValue}^{finding.CodeMeaning}^{finding.CodingSchemeDesignator}",
                f"{value.CodeValue}^{value.CodeMeaning}^{value.CodingSchemeDesignator}",
                str(score.MeasuredValueSequence[0].NumericValue),
            )
        )
    told = rows(parsed(sent()))
    coded = {row[4]: row for row in told if row[2] == "CE"}
    scores = {row[4]: row for row in told if row[2] == "NM"}
    assert [(coded[n][3], coded[n][5], scores[n][5]) for n in coded] == expected
    assert len(expected) == 12
    assert {row[7] for row in scores.values()} == {"present at or above 0.500, absent below 0.200"}
    assert {row[3] for row in scores.values()} == {"AI_SCORE^AI score, not a probability^99CXRNODE"}
    assert {row[8] for row in coded.values() if "Present" in row[5]} == {"A"}
    assert {row[8] for row in coded.values() if "Present" not in row[5]} == {""}
    assert {row[11] for row in told} == {"O", "P"}
    text = {row[3]: row[5] for row in told}
    assert "Not assessed: Pleural Thickening, Hernia." in text["59776-5^Procedure findings Narrative^LN"]
    assert text["121106^Comment^DCM"] == DISCLAIMER
    assert text["111001^Algorithm Name^DCM"] == "chest-densenet121"
    assert text["111003^Algorithm Version^DCM"] == "1.4.0"
    assert "weights=sha256:" + "cd" * 32 in {row[5] for row in told}
    for label in ("39839004", "PLEURAL_THICK"):  # not assessed: no answer at all
        assert label not in "".join(row[3] for row in told)


def test_a_probability_is_told_in_percent() -> None:
    told = rows(parsed(sent(scale=Scale.PROBABILITY)))
    score = next(row for row in told if row[2] == "NM")
    assert (score[3], score[5], score[6]) == ("122157^Probability^DCM", "12.0", "%^Percent^UCUM")


def test_a_demonstration_is_marked_and_calls_nothing_abnormal() -> None:
    message = parsed(sent(demonstration=True))
    assert message.MSH.msh_11.value == "T"
    assert parsed(sent()).MSH.msh_11.value == "P"
    told = rows(message)
    assert {row[8] for row in told} == {""}
    assert any(row[5] == "chest-densenet121 (DEMONSTRATION MODEL)" for row in told)
    assert "DEMONSTRATION MODEL" in told[1][5]


def test_a_film_that_was_not_analysed_has_no_finding_and_says_why() -> None:
    message = parsed(sent(outcome=Outcome.NOT_ANALYSED, reason="the film is too small | or not"))
    told = rows(message)
    assert [row for row in told if row[2] in ("CE", "NM")] == []
    assert told[1][5].startswith("AI: not analysed. Reason: the film is too small \\F\\ or not.")
    assert message.ORU_R01_PATIENT_RESULT.ORU_R01_ORDER_OBSERVATION.OBR.obr_25.value == "X"


def test_delimiters_and_line_ends_in_values_change_no_structure() -> None:
    source = make_source(
        AccessionNumber="A|B^C&D~E\\F", PatientName="O'Ne|ll^An~na^M&M", PatientID="1\r2", StudyDescription="x"
    )
    message = sent(source)
    found = parsed(message)
    order = found.ORU_R01_PATIENT_RESULT.ORU_R01_ORDER_OBSERVATION.OBR
    assert order.obr_18.value == "A\\F\\B\\S\\C\\T\\D\\R\\E\\E\\F"
    assert b"|O'Ne\\F\\ll^An\\R\\na^M\\T\\M^^^^L|" in message
    assert b"|1 2^^^SYNHOSP|" in message
    assert {line[:3] for line in message.decode().split("\r")} == {"MSH", "PID", "ORC", "OBR", "OBX", ""}


@pytest.mark.parametrize(
    ("charset", "name", "expected", "codec", "said"),
    [
        (None, b"Doe^Jane", "Doe^Jane^^^^^L", "ascii", "ASCII"),
        ("ISO_IR 6", b"Doe^Jane", "Doe^Jane^^^^^L", "ascii", "ASCII"),
        ("ISO_IR 100", "Müller^Jörg^^Dr.^jun.".encode("latin-1"), "Müller^Jörg^^jun.^Dr.^^L", "latin-1", "8859/1"),
        ("ISO_IR 144", "Люк^Иван".encode("iso8859-5"), "Люк^Иван^^^^^L", "iso8859-5", "8859/5"),
        ("ISO_IR 192", "Nguyễn^Ana".encode(), "Nguyễn^Ana^^^^^L", "utf-8", "UNICODE UTF-8"),
        ("GB18030", "王^小东".encode("gb18030"), "王^小东^^^^^L", "utf-8", "UNICODE UTF-8"),
        (
            "\\ISO 2022 IR 87",
            b"Yamada^Tarou=\x1b$B;3ED\x1b(B^\x1b$BB@O:\x1b(B",
            "Yamada^Tarou^^^^^L^A~山田^太郎^^^^^L^I",
            "utf-8",
            "UNICODE UTF-8",
        ),
        # Mislabelled: what nobody can read is not made up.
        (None, "王^小东".encode("gbk"), "^^^^^^U", "ascii", "ASCII"),
        ("ISO_IR 192", b"M\xfcller^J", "^^^^^^U", "utf-8", "UNICODE UTF-8"),
        ("ISO_IR 999", b"M\xfcller^J", "^^^^^^U", "utf-8", "UNICODE UTF-8"),
        ("ISO_IR 100", b"", "^^^^^^U", "latin-1", "8859/1"),
    ],
)
def test_names_keep_their_letters_and_the_message_says_which_set_they_are_in(
    charset: str | None, name: bytes, expected: str, codec: str, said: str
) -> None:
    declared = charset.encode() if charset is not None and "\\" in charset else charset
    data = sent(make_source(SpecificCharacterSet=declared, PatientName=name))
    segments = data.decode(codec).split("\r")
    assert segments[0].split("|")[17] == said
    assert segments[1].split("|")[5] == expected
    assert parsed(data, codec).validate()


def test_what_the_header_lacks_or_has_wrong_is_left_out() -> None:
    source = make_source(
        PatientBirthDate=b"00000000",
        PatientSex=b"X",
        StudyTime=b"25:99",
        RequestAttributesSequence=None,
        IssuerOfPatientID=None,
    )
    found = parsed(sent(source))
    result = found.ORU_R01_PATIENT_RESULT
    assert (result.ORU_R01_PATIENT.PID.pid_7.value, result.ORU_R01_PATIENT.PID.pid_8.value) == ("", "U")
    order = result.ORU_R01_ORDER_OBSERVATION
    assert (order.OBR.obr_3.value, order.OBR.obr_7.value, order.ORC.orc_2.value) == ("ACC0001", "20260901", "")


def test_the_same_report_has_the_same_message_and_another_revision_another_control_id() -> None:
    assert sent() == sent()
    ids = {parsed(data).MSH.msh_10.value for data in (sent(), sent(revision=2), sent(outcome=Outcome.NOT_ANALYSED))}
    assert len(ids) == 3
    assert all(re.fullmatch("[A-Z2-7]{20}", one) for one in ids)


def test_addresses_change_the_message_and_no_dicom_object() -> None:
    kinds = frozenset({"sr", "hl7"})
    there, elsewhere = (
        build_outputs(make_source(), make_report(), None, None, settings, kinds)
        for settings in (SETTINGS, OutputSettings())
    )
    assert there[0] == elsewhere[0]
    assert there[1].sop_instance_uid != elsewhere[1].sop_instance_uid


def test_a_withdrawn_message_posts_every_finding_as_wrong_and_says_why() -> None:
    subject = Subject(make_source(), make_report(), SETTINGS, at=1_780_000_000.0, act=("withdrawal",))
    found = parsed(build_withdrawn_message(subject, "wrong patient.").data)
    assert found.validate()
    told = rows(found)
    assert {row[11] for row in told} == {"O", "W"}
    assert told[1][5].startswith("AI RESULT WITHDRAWN: wrong patient. Do not use it.")
    decided = [f for f in make_report().findings if f.decision is not Decision.NOT_ASSESSED]
    # The answer and the number of each: a score without its answer would stand as if nothing had happened.
    first = rows(parsed(sent()))
    assert [row[2:6] for row in told[2:]] == [[*row[2:5], '""'] for row in first if row[2] in ("CE", "NM")]
    assert len(told[2:]) == 2 * len(decided)
    assert found.ORU_R01_PATIENT_RESULT.ORU_R01_ORDER_OBSERVATION.OBR.obr_25.value == "C"
    assert "absent" not in told[1][5].lower()
