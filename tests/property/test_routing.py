"""Whatever a header holds, the gate answers, and what must never be read never is."""

import dataclasses

from hypothesis import given
from hypothesis import strategies as st

from cxrnode.core.header import Header
from cxrnode.core.routing import Answer, Association, IntendedUse, Rule, gate, route, within_intended_use

UIDS = st.sampled_from(
    [
        *("", "1.2.840.10008.5.1.4.1.1.1", "1.2.840.10008.5.1.4.1.1.1.1", "1.2.840.10008.5.1.4.1.1.1.1.1"),
        *("1.2.840.10008.5.1.4.1.1.7", "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.5.1.4.1.1.104.1"),
    ]
)
REGIONS = st.sampled_from(["", "CHEST", "THORAX", "HAND", "ABDOMEN", "CHESTABDOMEN", "胸部", "UNKNOWN", "??"])
VIEWS = st.sampled_from(["", "PA", "AP", "LL", "RL", "LLD", "RAO", "LATERAL", "P->A", "FRONTAL", "CC"])
WORDS = st.sampled_from(
    [
        *("chest", "thorax", "PA", "AP", "lateral", "LAT", "oblique", "decub", "abdomen", "knee", "2 views", "and"),
        *("erect", "portable", "seitlich", "profil", "face", "側面", "正面", "&", "XR", "", "bone suppressed"),
    ]
)
TEXTS = st.lists(WORDS, max_size=4).map(" ".join) | st.text(max_size=20)
CODES = st.lists(
    st.sampled_from(["272479007", "399348003", "399173006", "R-10236", "816094009", "85562004", "416550000", "x"]),
    max_size=3,
).map(tuple)
HEADERS = st.builds(
    Header,
    sop_class_uid=UIDS,
    modality=st.sampled_from(["", "CR", "DX", "OT", "CT", "MG", "RG"]),
    presentation_intent=st.sampled_from(["", "FOR PRESENTATION", "FOR PROCESSING", "?"]),
    image_type=st.lists(st.sampled_from(["ORIGINAL", "PRIMARY", "LOCALIZER", ""]), max_size=4).map(tuple),
    samples=st.integers(0, 4),
    frames=st.integers(0, 3),
    rows=st.integers(-1, 4000),
    columns=st.integers(-1, 4000),
    photometric=st.sampled_from(["", "MONOCHROME1", "MONOCHROME2", "RGB"]),
    body_part=REGIONS,
    region_codes=CODES,
    view_position=VIEWS | st.text(max_size=8),
    view_codes=CODES,
    view_modifier_codes=CODES,
    patient_orientation=st.lists(st.sampled_from(["L", "R", "A", "P", "F", "H", ""]), max_size=2).map(tuple),
    study_description=TEXTS,
    series_description=TEXTS,
    protocol_name=TEXTS,
    requested_procedure=TEXTS,
    performed_procedure=TEXTS,
    processing_description=TEXTS,
    age_years=st.none() | st.floats(0, 130),
    study_date=st.text(max_size=9),
    own_output=st.booleans(),
)
#: Films that only their texts and tags of region and view can keep from being accepted.
FILMS = HEADERS.map(
    lambda h: dataclasses.replace(
        h,
        sop_class_uid="1.2.840.10008.5.1.4.1.1.1",
        modality="CR",
        presentation_intent="",
        image_type=(),
        samples=1,
        frames=1,
        rows=2000,
        columns=2000,
        photometric="MONOCHROME2",
        own_output=False,
    )
)
LENIENT = Rule(name="lenient", unsure="read")


@given(HEADERS)
def test_the_gate_answers_for_any_header(header: Header) -> None:
    said = gate(header)
    assert said.text
    verdict = route(header, Association(), [LENIENT])
    assert verdict.accepted is (said.answer is not Answer.REJECT)
    assert within_intended_use(header, IntendedUse()) is None or verdict.reason


@given(HEADERS)
def test_what_is_no_film_for_presentation_is_read_under_no_rule(header: Header) -> None:
    barred = (
        header.own_output
        or header.presentation_intent == "FOR PROCESSING"
        or header.sop_class_uid == "1.2.840.10008.5.1.4.1.1.1.1.1"
        or header.samples != 1
        or header.frames != 1
        or min(header.rows, header.columns) < 512
        or "LOCALIZER" in header.image_type
    )
    if barred:
        assert not route(header, Association(), [LENIENT]).accepted


@given(FILMS, st.sampled_from(["LL", "RL", "LLD", "RLO", "LAO", "LATERAL", "Left lateral", "CC"]))
def test_a_tag_that_is_not_frontal_is_never_accepted(header: Header, view: str) -> None:
    assert gate(dataclasses.replace(header, view_position=view)).answer is not Answer.ACCEPT


@given(FILMS, st.sampled_from(["399173006", "399198007", "R-10236", "399182000", "399135007"]))
def test_a_lateral_or_oblique_code_is_never_accepted(header: Header, code: str) -> None:
    assert gate(dataclasses.replace(header, view_codes=(*header.view_codes, code))).answer is not Answer.ACCEPT


@given(FILMS, st.sampled_from(["lat", "Chest LATERAL", "Thorax seitl.", "profil", "胸部側面", "oblique", "decubitus"]))
def test_a_text_of_the_image_that_says_sideways_is_never_accepted(header: Header, text: str) -> None:
    assert gate(dataclasses.replace(header, series_description=text)).answer is not Answer.ACCEPT


@given(FILMS, st.sampled_from(["HAND", "KNEE", "ABDOMEN", "SKULL", "LSPINE", "HIP", "EXTREMITY"]))
def test_another_body_part_is_never_accepted(header: Header, part: str) -> None:
    assert gate(dataclasses.replace(header, body_part=part)).answer is not Answer.ACCEPT


@given(HEADERS)
def test_the_header_survives_the_store(header: Header) -> None:
    assert Header.from_json(header.as_json()) == header
