"""The header gate: is this the header of a frontal chest radiograph for presentation? Pure; knows no rules.

Header evidence that is missing or contradicts itself makes the answer unsure, never a guess.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from enum import StrEnum

from cxrnode.core import views
from cxrnode.core.header import Header
from cxrnode.core.views import FRONTAL_VIEWS, View
from cxrnode.core.words import DEFAULT_WORDS, WordList, plain

#: The shortest side of a film that is read, in pixels.
SMALLEST_SIDE = 512
#: PS3.4 B.5: CR, DX for presentation, Secondary Capture.
_CR = "1.2.840.10008.5.1.4.1.1.1"
_DX = "1.2.840.10008.5.1.4.1.1.1.1"
_SC = "1.2.840.10008.5.1.4.1.1.7"
_DX_FOR_PROCESSING = "1.2.840.10008.5.1.4.1.1.1.1.1"
_RADIOGRAPHIC = frozenset({"CR", "DX", "RG"})


class Answer(StrEnum):
    """What the header gate says."""

    ACCEPT = "accept"
    REJECT = "reject"
    UNSURE = "unsure"


class Reason(StrEnum):
    """Why, in one word for tables and metrics; the sentence beside it is for people."""

    FRONTAL_CHEST = "frontal_chest"
    OWN_OUTPUT = "own_output"
    FOR_PROCESSING = "for_processing"
    SOP_CLASS = "sop_class"
    NOT_RADIOGRAPH = "not_radiograph"
    LOCALIZER = "localizer"
    COLOUR = "colour"
    MULTIFRAME = "multiframe"
    NO_IMAGE = "no_image"
    TOO_SMALL = "too_small"
    NOT_CHEST = "not_chest"
    LATERAL = "lateral"
    OBLIQUE = "oblique"
    DECUBITUS = "decubitus"
    OTHER_VIEW = "other_view"
    INCOMPLETE = "incomplete"
    REGION_MISSING = "region_missing"
    REGION_CONTRADICTORY = "region_contradictory"
    VIEW_MISSING = "view_missing"
    VIEW_CONTRADICTORY = "view_contradictory"
    PROCESSED = "processed"
    NO_RULE = "no_rule"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Gate:
    """The answer of the header gate. `text` names attributes, never what free text holds."""

    answer: Answer
    reason: Reason
    text: str


def gate(header: Header, words: WordList | None = None) -> Gate:
    """Say whether the header is that of a frontal chest radiograph for presentation (reasons in `Reason`)."""
    words = words or DEFAULT_WORDS
    return _of_object(header) or _of_region(header, words) or _of_view(header, words)


def _of_object(h: Header) -> Gate | None:
    """The kind of object, before any look at region and view: a rejection, a doubt, or None."""
    if h.own_output:
        return _reject(Reason.OWN_OUTPUT, "made by cxrnode itself: own outputs are never read")
    if h.sop_class_uid == _DX_FOR_PROCESSING or h.presentation_intent.upper() == "FOR PROCESSING":
        return _reject(Reason.FOR_PROCESSING, "a film FOR PROCESSING; send the one FOR PRESENTATION")
    if h.sop_class_uid not in (_CR, _DX, _SC):
        return _reject(Reason.SOP_CLASS, "the SOP class is not CR, DX for presentation or Secondary Capture")
    modality = h.modality.upper()
    if modality and modality not in _RADIOGRAPHIC:
        return _reject(Reason.NOT_RADIOGRAPH, "Modality is not CR, DX or RG: not a radiograph")
    if any(value.upper() in ("LOCALIZER", "SCOUT") for value in h.image_type):
        return _reject(Reason.LOCALIZER, "ImageType says localizer")
    photometric = h.photometric.upper()
    if h.samples != 1 or (photometric and photometric not in ("MONOCHROME1", "MONOCHROME2")):
        return _reject(Reason.COLOUR, "a colour image; radiographs have one grey sample a pixel")
    if h.frames != 1:
        return _reject(Reason.MULTIFRAME, "NumberOfFrames is not 1")
    if h.rows < 1 or h.columns < 1:
        return _reject(Reason.NO_IMAGE, "Rows or Columns are missing: no image")
    if min(h.rows, h.columns) < SMALLEST_SIDE:
        return _reject(Reason.TOO_SMALL, f"{h.columns} x {h.rows} pixels; the short side must have {SMALLEST_SIDE}")
    return None


def _of_region(header: Header, words: WordList) -> Gate | None:
    said = views.region_evidence(header, words)
    chest_text, other_text = said.chest_image or said.chest_study, said.other_image or said.other_study
    if said.chest_tags and said.other_tags:
        return _unsure(Reason.REGION_CONTRADICTORY, f"{_and(said.chest_tags, said.other_tags)} name several regions")
    if said.other_tags or (not said.chest_tags and other_text and not chest_text):
        sources = said.other_tags or other_text
        if chest_text:
            text = f"{_and(sources)} names another region, {_and(chest_text)} chest"
            return _unsure(Reason.REGION_CONTRADICTORY, text)
        return _reject(Reason.NOT_CHEST, f"not chest, says {_and(sources)}")
    if said.other_image:
        return _unsure(Reason.REGION_CONTRADICTORY, f"{_and(said.other_image)} names another region than the chest")
    if said.other_study and not said.chest_study:
        return _unsure(Reason.REGION_CONTRADICTORY, f"{_and(said.other_study)} names another region than the chest")
    if not said.chest_tags and said.unknown_tag:
        return _unsure(Reason.REGION_CONTRADICTORY, "BodyPartExamined holds a value that is not known")
    if not said.chest_tags and not said.chest_image and (not said.chest_study or said.other_study):
        return _unsure(Reason.REGION_MISSING, "nothing says clearly which body region this is")
    return None


def _of_view(header: Header, words: WordList) -> Gate:
    said = views.view_evidence(header, words)
    side_tags, side_image, side_study = (_sideways(named) for named in (said.tags, said.image, said.study))
    front_tags, front_image, front_study = (_frontal(named) for named in (said.tags, said.image, said.study))
    if side_tags or (not front_tags and (side_image or (side_study and not front_study))):
        kind, sources = _first(side_tags or side_image or side_study)
        frontal = front_tags or front_image
        if frontal:
            return _unsure(Reason.VIEW_CONTRADICTORY, f"{_and(sources)} says {kind}, {_and(frontal)} frontal")
        return _reject(_VIEW_REASONS[kind], f"{kind} view, says {_and(sources)}; only frontal films are read")
    if side_image or (side_study and not front_study):
        kind, sources = _first(side_image or side_study)
        return _unsure(Reason.VIEW_CONTRADICTORY, f"{_and(sources)} says {kind}, {_and(front_tags)} frontal")
    if not front_tags and not front_image:
        known = "only StudyDescription and the like name a view" if said.study else "nothing names the view"
        return _unsure(Reason.VIEW_MISSING, known)
    if header.view_position and not front_tags and plain(header.view_position).strip():
        return _unsure(Reason.VIEW_MISSING, "ViewPosition holds a value that is not known")
    if views.is_processed(header, words):
        return _unsure(Reason.PROCESSED, "its texts say that the film was processed (one energy, bones suppressed)")
    if not header.modality or not header.photometric:
        return _unsure(Reason.INCOMPLETE, "Modality or PhotometricInterpretation is missing")
    return Gate(answer=Answer.ACCEPT, reason=Reason.FRONTAL_CHEST, text="frontal chest radiograph")


_VIEW_REASONS = {
    View.DECUBITUS: Reason.DECUBITUS,
    View.OBLIQUE: Reason.OBLIQUE,
    View.LATERAL: Reason.LATERAL,
    View.OTHER: Reason.OTHER_VIEW,
}


def _sideways(named: Mapping[View, tuple[str, ...]]) -> dict[View, tuple[str, ...]]:
    """The views that are not frontal, the most specific first: a decubitus film is often called lateral too."""
    return {view: named[view] for view in _VIEW_REASONS if view in named}


def _frontal(named: Mapping[View, tuple[str, ...]]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(source for view in View if view in FRONTAL_VIEWS for source in named.get(view, ())))


def _first(named: Mapping[View, tuple[str, ...]]) -> tuple[View, tuple[str, ...]]:
    return next(iter(named.items()))


def _and(*sources: tuple[str, ...]) -> str:
    return " and ".join(dict.fromkeys(name for group in sources for name in group))


def _reject(reason: Reason, text: str) -> Gate:
    return Gate(answer=Answer.REJECT, reason=reason, text=text)


def _unsure(reason: Reason, text: str) -> Gate:
    return Gate(answer=Answer.UNSURE, reason=reason, text=text)
