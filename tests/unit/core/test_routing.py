"""The header gate and the rules, held against tag combinations rather than files."""

import dataclasses
import datetime
import tomllib
from pathlib import Path
from typing import Any

import pytest

from cxrnode.core.header import Header, Identity, age_in_years
from cxrnode.core.routing import (
    Answer,
    Association,
    IntendedUse,
    Reason,
    Rule,
    gate,
    route,
    within_intended_use,
)
from cxrnode.core.views import View, view_of
from cxrnode.core.words import DEFAULT_WORDS, WordList
from cxrnode.errors import ConfigError

CR = "1.2.840.10008.5.1.4.1.1.1"
DX = "1.2.840.10008.5.1.4.1.1.1.1"
DX_FOR_PROCESSING = "1.2.840.10008.5.1.4.1.1.1.1.1"
SC = "1.2.840.10008.5.1.4.1.1.7"
FRONTAL = Header(
    sop_class_uid=DX,
    modality="DX",
    presentation_intent="FOR PRESENTATION",
    rows=2500,
    columns=2000,
    photometric="MONOCHROME2",
    body_part="CHEST",
    view_position="PA",
)
ANYONE = Association(calling_aet="MODALITY1", called_aet="CXRNODE", host="10.0.0.1")


def header(**changes: Any) -> Header:
    return dataclasses.replace(FRONTAL, **changes)


def answer(**changes: Any) -> tuple[Answer, Reason]:
    said = gate(header(**changes))
    return said.answer, said.reason


def test_a_frontal_chest_film_is_accepted() -> None:
    assert gate(FRONTAL).answer is Answer.ACCEPT


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"own_output": True}, Reason.OWN_OUTPUT),
        ({"sop_class_uid": DX_FOR_PROCESSING}, Reason.FOR_PROCESSING),
        ({"presentation_intent": "FOR PROCESSING"}, Reason.FOR_PROCESSING),
        ({"sop_class_uid": "1.2.840.10008.5.1.4.1.1.2"}, Reason.SOP_CLASS),
        ({"sop_class_uid": "1.2.840.10008.5.1.4.1.1.88.33"}, Reason.SOP_CLASS),
        ({"sop_class_uid": ""}, Reason.SOP_CLASS),
        ({"sop_class_uid": SC, "modality": "OT"}, Reason.NOT_RADIOGRAPH),
        ({"modality": "MG"}, Reason.NOT_RADIOGRAPH),
        ({"image_type": ("ORIGINAL", "PRIMARY", "LOCALIZER")}, Reason.LOCALIZER),
        ({"samples": 3, "photometric": "RGB"}, Reason.COLOUR),
        ({"photometric": "PALETTE COLOR"}, Reason.COLOUR),
        ({"frames": 12}, Reason.MULTIFRAME),
        ({"rows": 0}, Reason.NO_IMAGE),
        ({"rows": 511}, Reason.TOO_SMALL),
        ({"columns": 400}, Reason.TOO_SMALL),
        ({"body_part": "HAND"}, Reason.NOT_CHEST),
        ({"body_part": "TSPINE"}, Reason.NOT_CHEST),
        ({"body_part": "", "region_codes": ("29836001",)}, Reason.NOT_CHEST),
        ({"body_part": "", "study_description": "XR ABDOMEN AP"}, Reason.NOT_CHEST),
        ({"body_part": "", "series_description": "Röntgen Knie rechts"}, Reason.NOT_CHEST),
        ({"body_part": "", "series_description": "Columna lumbar"}, Reason.NOT_CHEST),
        ({"body_part": "", "series_description": "腹部臥位"}, Reason.NOT_CHEST),
        ({"view_position": "LL"}, Reason.LATERAL),
        ({"view_position": "RL"}, Reason.LATERAL),
        ({"view_position": "LATERAL"}, Reason.LATERAL),
        ({"view_position": "", "view_codes": ("399173006",)}, Reason.LATERAL),
        ({"view_position": "", "view_codes": ("R-10236",)}, Reason.LATERAL),
        ({"view_position": "", "patient_orientation": ("P", "F")}, Reason.LATERAL),
        ({"view_position": "", "series_description": "Thorax seitlich"}, Reason.LATERAL),
        ({"view_position": "", "series_description": "Thorax de profil"}, Reason.LATERAL),
        ({"view_position": "", "series_description": "胸部側面"}, Reason.LATERAL),
        ({"view_position": "RAO"}, Reason.OBLIQUE),
        ({"view_position": "", "view_codes": ("399135007",)}, Reason.OBLIQUE),
        ({"view_position": "", "series_description": "CHEST LORDOTIC"}, Reason.OBLIQUE),
        ({"view_position": "LLD"}, Reason.DECUBITUS),
        ({"view_position": "", "series_description": "Chest decub"}, Reason.DECUBITUS),
        ({"view_position": "", "view_codes": ("399061009",)}, Reason.OTHER_VIEW),
    ],
)
def test_a_film_of_another_kind_is_rejected_with_its_own_reason(changes: dict[str, Any], reason: Reason) -> None:
    assert answer(**changes) == (Answer.REJECT, reason)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"body_part": ""}, Reason.REGION_MISSING),
        ({"body_part": "UNKNOWN"}, Reason.REGION_MISSING),
        ({"body_part": "XYZZY"}, Reason.REGION_CONTRADICTORY),
        ({"body_part": "HAND", "series_description": "Chest PA"}, Reason.REGION_CONTRADICTORY),
        ({"body_part": "CHEST", "study_description": "XR KNEE"}, Reason.REGION_CONTRADICTORY),
        ({"body_part": "CHEST", "series_description": "Abdomen AP"}, Reason.REGION_CONTRADICTORY),
        ({"region_codes": ("818981001",)}, Reason.REGION_CONTRADICTORY),
        ({"body_part": "CHESTABDOMEN"}, Reason.REGION_CONTRADICTORY),
        ({"region_codes": ("416550000",)}, Reason.REGION_CONTRADICTORY),
        ({"view_position": ""}, Reason.VIEW_MISSING),
        ({"view_position": "", "study_description": "CHEST PA"}, Reason.VIEW_MISSING),
        ({"view_codes": ("399173006",)}, Reason.VIEW_CONTRADICTORY),
        ({"view_position": "LL", "view_codes": ("272479007",)}, Reason.VIEW_CONTRADICTORY),
        ({"series_description": "Chest LAT"}, Reason.VIEW_CONTRADICTORY),
        ({"patient_orientation": ("A", "F")}, Reason.VIEW_CONTRADICTORY),
        ({"study_description": "CHEST LATERAL"}, Reason.VIEW_CONTRADICTORY),
        ({"view_modifier_codes": ("111069",)}, Reason.VIEW_CONTRADICTORY),
        ({"series_description": "Chest PA bone suppressed"}, Reason.PROCESSED),
        ({"modality": ""}, Reason.INCOMPLETE),
    ],
)
def test_a_header_that_lacks_or_contradicts_itself_makes_the_gate_unsure(
    changes: dict[str, Any], reason: Reason
) -> None:
    assert answer(**changes) == (Answer.UNSURE, reason)


@pytest.mark.parametrize(
    "changes",
    [
        {"sop_class_uid": CR, "modality": "CR", "presentation_intent": ""},
        {"sop_class_uid": SC, "modality": "CR", "presentation_intent": ""},
        {"view_position": "P->A"},
        {"view_position": "AP SUPINE"},
        {"view_position": "", "view_codes": ("399348003",)},
        {"view_position": "", "series_description": "Thorax p.a. stehend"},
        {"view_position": "", "series_description": "Thorax de face"},
        {"view_position": "", "series_description": "RX TÓRAX FRENTE"},
        {"view_position": "", "series_description": "胸部正面"},
        {"body_part": "", "series_description": "RX Torace AP"},
        {"body_part": "", "region_codes": ("51185008",)},
        {"body_part": "", "study_description": "X-Thorax"},
        {"study_description": "XR CHEST 2 VIEWS, PA AND LATERAL"},
        {"study_description": "CHEST AND ABDOMEN"},
        {"patient_orientation": ("L", "F")},
        {"laterality": "R"},
    ],
)
def test_the_ways_in_which_sites_say_frontal_chest_are_accepted(changes: dict[str, Any]) -> None:
    assert answer(**changes) == (Answer.ACCEPT, Reason.FRONTAL_CHEST)


def test_words_are_matched_whole_and_without_case_accents_and_punctuation() -> None:
    assert answer(view_position="", series_description="PALMA latissimus")[1] is Reason.VIEW_MISSING
    assert answer(view_position="", series_description="TÓRAX  P.A.")[0] is Answer.ACCEPT


def test_a_site_adds_its_own_words() -> None:
    words = DEFAULT_WORDS.extended(pa=("przednie",))
    film = header(view_position="", series_description="klatka przednie")
    assert gate(film).answer is Answer.UNSURE
    assert gate(film, words).answer is Answer.ACCEPT


def test_a_word_list_refuses_a_field_it_does_not_have_by_name() -> None:
    with pytest.raises(ConfigError, match=r"words\.sideways .* lateral"):
        WordList.from_mapping({"sideways": ["quer"]})


def test_a_reason_never_repeats_what_free_text_holds() -> None:
    secret = "DOE^JANE"
    for field in ("body_part", "view_position", "series_description", "study_description", "protocol_name"):
        verdict = route(header(**{field: f"{secret} LATERAL HAND"}), ANYONE, [Rule(name="r")])
        assert secret not in verdict.reason + verdict.gate.text


def test_the_first_rule_that_matches_decides() -> None:
    rules = [
        Rule(name="other", when={"calling_aet": ("CT*",)}),
        Rule(name="first", when={"Modality": ("CR", "DX")}),
        Rule(name="second"),
    ]
    verdict = route(FRONTAL, ANYONE, rules)
    assert (verdict.accepted, verdict.rule_name) == (True, "first")


def test_a_film_that_no_rule_matches_is_ignored_and_says_what_did_not_hold() -> None:
    verdict = route(FRONTAL, ANYONE, [Rule(name="ct room", when={"calling_aet": ("CT1", "CT2")})])
    assert not verdict.accepted
    assert verdict.reason == 'no rule matches: "ct room": calling_aet is not CT1 or CT2'


def test_a_rejected_film_is_ignored_with_the_reason_of_the_gate_whatever_the_rules_say() -> None:
    verdict = route(header(view_position="LL"), ANYONE, [Rule(name="all", unsure="read")])
    assert (verdict.accepted, verdict.gate.reason, verdict.rule) == (False, Reason.LATERAL, None)


def test_doubt_follows_the_rule() -> None:
    film = header(view_position="")
    assert not route(film, ANYONE, [Rule(name="strict")]).accepted
    assert route(film, ANYONE, [Rule(name="lenient", unsure="read")]).accepted


@pytest.mark.parametrize(
    ("when", "matches"),
    [
        ({"Modality": ("DX",)}, True),
        ({"Modality": ("dx",)}, True),
        ({"Modality": ("C?", "D*")}, True),
        ({"Modality": ("CR",)}, False),
        ({"calling_aet": ("MODALITY*",), "called_aet": ("CXRNODE",)}, True),
        ({"calling_aet": ("MODALITY*",), "called_aet": ("OTHER",)}, False),
        ({"host": ("10.0.*",)}, True),
        ({"StationName": ("",)}, True),
        ({"StationName": ("*",)}, True),
        ({"StationName": ("?*",)}, False),
        ({"study_age": ("7d",)}, True),
        ({"study_age": ("2d",)}, False),
        ({"study_age": ("12h",)}, False),
        ({"study_age": ("1w",)}, True),
        ({"patient_age": ("18-",)}, True),
        ({"patient_age": ("-44",)}, False),
        ({"patient_age": ("-45",)}, True),
        ({"patient_age": ("0-17", "40-50")}, True),
    ],
)
def test_conditions_match_with_wildcards_and_ages(when: dict[str, tuple[str, ...]], matches: bool) -> None:
    film = header(study_date="20261118", age_years=45.5)
    verdict = route(film, ANYONE, [Rule(name="r", when=when)], today=datetime.date(2026, 11, 21))
    assert verdict.accepted is matches


def test_a_study_of_unknown_date_is_of_no_age() -> None:
    assert not route(FRONTAL, ANYONE, [Rule(name="r", when={"study_age": ("999w",)})]).accepted


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        ({"name": "r", "when": {"PatientName": "DOE*"}}, r"when\.PatientName is not known; .*Modality"),
        ({"name": "r", "when": {"study_age": "soon"}}, "study_age is written like"),
        ({"name": "r", "when": {"Modality": []}}, "has no values"),
        ({"name": "r", "unsure": "maybe"}, "unsure must be"),
        ({"name": "r", "priorty": 1}, "priorty is not known"),
        ({"when": {}}, "needs a name"),
        ({"name": "r", "when": ["Modality"]}, "must be a table"),
        ({"name": "r", "when": {"Modality": 5}}, "strings"),
    ],
)
def test_a_wrong_rule_is_refused_by_the_key_that_is_wrong(raw: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Rule.from_mapping(raw)


def test_the_rules_that_ship_as_examples_are_rules() -> None:
    files = sorted((Path(__file__).parents[3] / "config" / "rules").glob("*.toml"))
    assert len(files) >= 3
    for file in files:
        rules = [Rule.from_mapping(raw) for raw in tomllib.loads(file.read_text())["rules"]]
        assert route(FRONTAL, ANYONE, rules[-1:], today=datetime.date(2026, 1, 1)).reason


@pytest.mark.parametrize(
    ("changes", "use", "refused"),
    [
        ({"age_years": 45.0}, {"age_min": 18}, None),
        ({"age_years": 3.0}, {"age_min": 18}, "age, 3 years"),
        ({"age_years": 90.9}, {"age_max": 90}, None),
        ({"age_years": 91.0}, {"age_max": 90}, "age, 91 years"),
        ({"age_years": None}, {}, None),
        ({"age_years": None}, {"unknown_age": "ignore"}, "unknown"),
        ({"view_position": "AP"}, {"views": ("PA",)}, "view, AP"),
        ({"view_position": "LL"}, {}, "view, lateral"),
        ({"view_position": ""}, {"views": ("PA",)}, None),
        ({"view_position": "FRONTAL"}, {"views": ("PA",)}, None),
        ({"modality": "CR"}, {"modalities": ("DX",)}, "modality"),
        ({"modality": "RG"}, {}, "modality"),
    ],
)
def test_the_intended_use_is_checked(changes: dict[str, Any], use: dict[str, Any], refused: str | None) -> None:
    said = within_intended_use(header(**changes), IntendedUse(**use))
    assert (said is None) if refused is None else (said is not None and refused in said)


@pytest.mark.parametrize(
    ("changes", "view"),
    [
        ({}, View.PA),
        ({"view_position": "AP"}, View.AP),
        ({"view_position": "AP", "view_codes": ("272479007",)}, View.FRONTAL),
        ({"view_codes": ("399033003",)}, View.PA),
        ({"view_position": "", "series_description": "AP bedside"}, View.AP),
        ({"view_position": "", "study_description": "CHEST PA AND LAT"}, View.UNKNOWN),
        ({"view_position": ""}, View.UNKNOWN),
        ({"view_position": "LL"}, View.LATERAL),
    ],
)
def test_the_view_is_the_one_that_the_strongest_evidence_names(changes: dict[str, Any], view: View) -> None:
    assert view_of(header(**changes), DEFAULT_WORDS) is view


@pytest.mark.parametrize(
    ("age", "born", "taken", "years"),
    [
        ("045Y", "", "", 45.0),
        ("81", "", "", 81.0),
        ("006M", "", "", 0.5),
        ("", "19700102", "20260101", 55.0),
        ("", "1970.01.01", "2026-01-01", 56.0),
        ("000Y", "19800101", "20260101", 46.0),
        ("000Y", "", "", 0.0),
        ("999Y", "", "", None),
        ("", "19700101", "", None),
        ("", "20270101", "20260101", None),
        ("", "20250701", "20260101", 0.5),
        ("old", "00000000", "20261399", None),
        ("", "", "", None),
    ],
)
def test_ages_come_from_the_age_string_else_from_two_dates(
    age: str, born: str, taken: str, years: float | None
) -> None:
    assert age_in_years(age, born, taken) == years


def test_a_header_survives_its_json_and_a_newer_one_is_read_without_what_is_unknown() -> None:
    film = header(image_type=("ORIGINAL", "PRIMARY"), age_years=44.0)
    assert Header.from_json(film.as_json()) == film
    assert Header.from_json({**film.as_json(), "invented": 1}) == film
    assert Header.from_json({}) == Header()


def test_an_identity_shows_nothing_of_itself() -> None:
    person = Identity(patient_id="4711", patient_name="DOE^JANE", study_uid="1.2.3")
    assert "4711" not in repr(person) + str(person) + f"{person!r}"
    assert person.digest == Identity(patient_id=" 4711 ", study_uid="1.2.3").digest
    assert person.digest != Identity(patient_id="4712", study_uid="1.2.3").digest
