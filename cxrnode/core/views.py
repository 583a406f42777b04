"""What a header says about body region and view, in codes, defined terms and free text. Pure; decides nothing.

Codes and terms weigh more than text; text of the image (series, protocol, processing) weighs more than text of the
study, which may speak of several films. `core.routing` turns this evidence into an answer. Only the names of
attributes and words of the list leave this module, never the text itself: free text may name the patient.
"""

# ruff: noqa: SIM905 - tables of codes are read and compared as words, not as quoted lists
from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from enum import StrEnum

from cxrnode.core.header import Header
from cxrnode.core.words import WordList, mentions, plain


class View(StrEnum):
    """The projection of a film, as far as the header tells."""

    PA = "PA"
    AP = "AP"
    FRONTAL = "frontal"
    LATERAL = "lateral"
    OBLIQUE = "oblique"
    DECUBITUS = "decubitus"
    OTHER = "other"
    UNKNOWN = "unknown"


FRONTAL_VIEWS = frozenset({View.PA, View.AP, View.FRONTAL})

_CHEST_CODES = frozenset({"816094009", "51185008", "T-D3000", "39607008", "T-28000"})
#: Chest together with neighbours (babygrams): neither chest nor something else.
_MIXED_CODES = frozenset(
    "416775004 R-FAB56 416550000 R-FAB55 417437006 R-FAB52 416319003 R-FAB54 416152001 R-FAB53 38266002 T-D0010".split()
)
#: PS3.16 CID 4009 and 4031, SNOMED CT and SRT values, less the chest, its mixtures and what lies within it.
_OTHER_CODES = frozenset(
    """
    818981001 818982008 85856004 T-15420 70258002 T-15750 53505006 T-59900 28273000 T-60610 34707002 T-60600
    89837001 T-74000 72001000 T-12700 371195002 T-D0821 76752008 T-04000 80144004 T-12770 122494005 T-11501
    1217257000 51299004 T-12310 64688005 T-11BF0 71854001 T-59300 79741001 T-64500 38848004 T-58200 16953009
    T-15430 32849002 T-56000 110861005 T-DD163 66019005 T-D0300 81745001 T-AA000 371398005 T-D0801 91397008
    T-11196 71341001 T-12710 87342007 T-12750 7569003 T-D8800 56459004 T-D9700 14975008 T-D8500 28231008 T-63000
    85562004 T-D8700 69536005 T-D1100 774007 T-D1000 29836001 T-D2500 24136001 T-15710 85050009 T-12410 34516001
    T-58600 22356005 T-12340 361078006 T-AB959 661005 T-D1213 21306003 T-58400 72696002 T-D9200 14742008 T-59000
    4596009 T-24100 303270005 T-50007 30021000 T-D9400 61685007 T-D9000 122496007 T-11503 1217253001 91609006
    T-11180 59066005 T-11133 70925003 T-11170 102292000 T-14668 30608006 T-13600 74386004 T-11149 45048000
    T-D1600 55024004 T-11102 363654007 T-D14AE 15776009 T-65000 69930009 T-65010 110621006 T-65600 2095001
    T-22000 45289007 T-61100 64234005 T-12730 816092008 1231522001 706342009 R-FE0C7 41216001 T-92000 34402009
    T-59600 113197003 T-11300 1217254007 39723000 T-15680 54735007 T-11AD0 79601000 T-12280 42575006 T-D1460
    58742003 T-12980 16982005 T-D2220 89546000 T-11100 30315005 T-58000 421060004 T-D04FF 7844006 T-15610
    56873002 T-11210 69695003 T-57000 54019009 T-61300 27949001 T-15770 53620006 T-15290 68367000 T-D9100
    122495006 T-11502 1217256009 76505004 T-D8810 29707007 T-D9800 40983000 T-D8200 53120007 T-D8000 431491007
    T-7000B 87953007 T-73000 13648007 T-75000 110639002 T-88920 110517009 T-11011 74670003 T-15460 13881006
    T-11166 113345001 T-D4000
    """.split()
)

#: PS3.16 CID 4010, DX View, with the SRT values of older objects.
_VIEW_CODES: dict[str, View] = {
    **dict.fromkeys(("272479007", "R-40888", "R-10214"), View.PA),
    **dict.fromkeys(("399348003", "R-10206"), View.AP),
    **dict.fromkeys(("399033003", "R-10202"), View.FRONTAL),
    **dict.fromkeys(
        "399067008 R-102CD 399173006 R-10236 399198007 R-10232 399352003 R-10228 399260004 R-10224"
        " 30730003 G-A145".split(),
        View.LATERAL,
    ),
    **dict.fromkeys(
        "399312000 R-10208 399160007 R-10204 399132005 R-10252 260427002 R-40783 399099002 R-10230 399135007 R-10220"
        " 399184004 R-10238 399006002 R-10212 260426006 R-40782 399368009 R-10226 399004004 R-10246 399225005 R-10250"
        " 399288005 R-10248 399182000 R-102C1 399059000 R-10216 399356000 R-40985 399236003 R-10234 399038007 R-10210"
        " 399325008 R-10254".split(),
        View.OBLIQUE,
    ),
    **dict.fromkeys(
        "399242004 R-102C6 399061009 R-10241 399196006 R-10244 399162004 R-10242 399335002 R-102C4 260499007 R-40810"
        " 399351005 R-102C7 399316002 R-102C8 399272005 R-102C5 399071006 R-102C3 399255003 R-10256 399110001 R-102C2"
        " 119376003 G-8300 399360002 R-10257".split(),
        View.OTHER,
    ),
}
#: PS3.16 CID 4011 values that turn a frontal code into something else: caudad, cephalad (lordotic), crosstable.
_MODIFIER_CODES = {
    **dict.fromkeys(("399162004", "R-10242", "399196006", "R-10244"), View.OTHER),
    "111069": View.LATERAL,
}
#: View Position: the defined terms of PS3.3 C.8.1.1, C.8.11.5 and the mammographic ones, and habits of vendors.
_VIEW_POSITIONS: dict[str, View] = {
    "ap": View.AP,
    "pa": View.PA,
    **dict.fromkeys("ll rl lat l r llat rlat lm ml lmo xtl xtable".split(), View.LATERAL),
    **dict.fromkeys("lld rld ldec rdec".split(), View.DECUBITUS),
    **dict.fromkeys("llo rlo rao lao rpo lpo ao po mlo obl siso".split(), View.OBLIQUE),
    **dict.fromkeys("cc xccl xccm fb iso cv at ax axial".split(), View.OTHER),
}
#: Defined terms (PS3.16 Annex L) that in free text are ordinary words, or mean a view in another language.
_OTHER_BODY_PARTS = frozenset({"face", "back", "heart"})
_FILLERS = frozenset({"", "unknown", "other", "default", "none", "n a", "na", "unspecified", "undefined", "general"})


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class RegionEvidence:
    """Who says chest and who says something else. Each tuple holds the names of attributes."""

    chest_tags: tuple[str, ...]
    other_tags: tuple[str, ...]
    chest_image: tuple[str, ...]
    other_image: tuple[str, ...]
    chest_study: tuple[str, ...]
    other_study: tuple[str, ...]
    unknown_tag: bool


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ViewEvidence:
    """Which views are named by tags, by text of the image and by text of the study, each with its attributes."""

    tags: Mapping[View, tuple[str, ...]]
    image: Mapping[View, tuple[str, ...]]
    study: Mapping[View, tuple[str, ...]]


_IMAGE_TEXT = {
    "SeriesDescription": "series_description",
    "ProtocolName": "protocol_name",
    "AcquisitionDeviceProcessingDescription": "processing_description",
}
_STUDY_TEXT = {
    "StudyDescription": "study_description",
    "RequestedProcedureDescription": "requested_procedure",
    "PerformedProcedureStepDescription": "performed_procedure",
}


def region_evidence(header: Header, words: WordList) -> RegionEvidence:
    """Collect what the header says about the body region."""
    codes = {c.strip().upper() for c in header.region_codes}
    body = header.body_part
    filler = plain(body).strip() in _FILLERS
    chest_body, other_body = mentions(body, words.chest), mentions(body, words.other_regions)
    other_body |= plain(body).strip() in _OTHER_BODY_PARTS
    chest_tags = [*(["AnatomicRegionSequence"] if codes & (_CHEST_CODES | _MIXED_CODES) else [])]
    other_tags = [*(["AnatomicRegionSequence"] if codes & (_OTHER_CODES | _MIXED_CODES) else [])]
    chest_tags += ["BodyPartExamined"] if chest_body else []
    other_tags += ["BodyPartExamined"] if other_body else []
    return RegionEvidence(
        chest_tags=tuple(chest_tags),
        other_tags=tuple(other_tags),
        chest_image=_naming(header, _IMAGE_TEXT, words.chest),
        other_image=_naming(header, _IMAGE_TEXT, words.other_regions),
        chest_study=_naming(header, _STUDY_TEXT, words.chest),
        other_study=_naming(header, _STUDY_TEXT, words.other_regions),
        unknown_tag=not (filler or chest_body or other_body),
    )


def view_evidence(header: Header, words: WordList) -> ViewEvidence:
    """Collect what the header says about the view."""
    tags: dict[View, tuple[str, ...]] = {}

    def say(view: View, source: str) -> None:
        tags[view] = tuple(dict.fromkeys((*tags.get(view, ()), source)))

    position = plain(header.view_position).strip()
    if position in _VIEW_POSITIONS:
        say(_VIEW_POSITIONS[position], "ViewPosition")
    elif position and position not in _FILLERS:
        for view, said in _lists(words).items():
            if mentions(header.view_position, said):
                say(view, "ViewPosition")
    for code in header.view_codes:
        if view_of_code := _VIEW_CODES.get(code.strip().upper()):
            say(view_of_code, "ViewCodeSequence")
    for code in header.view_modifier_codes:
        if turned := _MODIFIER_CODES.get(code.strip().upper()):
            say(turned, "ViewModifierCodeSequence")
    # PS3.3 C.7.6.1.1.1: rows that run to anterior or posterior show the patient from the side.
    if header.patient_orientation and header.patient_orientation[0].strip().upper()[:1] in ("A", "P"):
        say(View.LATERAL, "PatientOrientation")
    return ViewEvidence(tags=tags, image=_views(header, _IMAGE_TEXT, words), study=_views(header, _STUDY_TEXT, words))


def view_of(header: Header, words: WordList) -> View:
    """Return the one view that the strongest evidence names; UNKNOWN where there is none or it disagrees."""
    evidence = view_evidence(header, words)
    for named in (evidence.tags, evidence.image, evidence.study):
        if not named:
            continue
        if len(named) == 1:
            return next(iter(named))
        if set(named) <= FRONTAL_VIEWS:
            exact = set(named) - {View.FRONTAL}
            return exact.pop() if len(exact) == 1 else View.FRONTAL
        return View.UNKNOWN
    return View.UNKNOWN


def is_processed(header: Header, words: WordList) -> bool:
    """Whether the image's own text says that it shows a processed film: one energy of two, bones suppressed."""
    return bool(_naming(header, _IMAGE_TEXT, words.processed))


def _naming(header: Header, fields: Mapping[str, str], words: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(keyword for keyword, field in fields.items() if mentions(getattr(header, field), words))


def _views(header: Header, fields: Mapping[str, str], words: WordList) -> dict[View, tuple[str, ...]]:
    found = {view: _naming(header, fields, said) for view, said in _lists(words).items()}
    return {view: sources for view, sources in found.items() if sources}


def _lists(words: WordList) -> dict[View, tuple[str, ...]]:
    return {
        View.PA: words.pa,
        View.AP: words.ap,
        View.FRONTAL: words.frontal,
        View.LATERAL: words.lateral,
        View.OBLIQUE: words.oblique,
        View.DECUBITUS: words.decubitus,
    }
