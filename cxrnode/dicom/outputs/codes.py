"""The codes of what we say: findings, sites, decisions and the other concepts of the report, as one table.

Findings come in two schemes. "SCT" takes a code of SNOMED CT or DICOM where one could be verified; "99CXRNODE" takes
our own for sites that may not use SNOMED CT outside DICOM's subset. Codes for which no public source agreed (pleural
thickening) are our own in both. Sites and decisions stand in DICOM's own context groups and are the same in both.
"""

from __future__ import annotations

import dataclasses
import hashlib
import re

from cxrnode.core.findings import Concept, Decision
from cxrnode.dicom.outputs.encoding import ascii_text

PRIVATE = "99CXRNODE"


def _dcm(value: str, meaning: str) -> Concept:
    return Concept(value=value, scheme="DCM", meaning=meaning)


def _sct(value: str, meaning: str) -> Concept:
    return Concept(value=value, scheme="SCT", meaning=meaning)


def _own(value: str, meaning: str) -> Concept:
    return Concept(value=value, scheme=PRIVATE, meaning=meaning)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class FindingCodes:
    """A finding in either scheme, and where it is found."""

    standard: Concept
    private: Concept
    site: Concept


LUNG = _sct("39607008", "Lung")
HEART = _sct("80891009", "Heart")
PLEURA = _sct("3120008", "Pleura")
DIAPHRAGM = _sct("5798000", "Diaphragm")
CHEST = _sct("816094009", "Chest")


def _finding(standard: Concept, private: str, meaning: str, site: Concept) -> FindingCodes:
    return FindingCodes(standard=standard, private=_own(private, meaning), site=site)


FINDINGS: dict[str, FindingCodes] = {
    "Atelectasis": _finding(_sct("46621007", "Atelectasis"), "ATELECTASIS", "Atelectasis", LUNG),
    "Cardiomegaly": _finding(_sct("8186001", "Cardiomegaly"), "CARDIOMEGALY", "Cardiomegaly", HEART),
    "Effusion": _finding(_sct("60046008", "Pleural effusion"), "EFFUSION", "Pleural effusion", PLEURA),
    # SNOMED CT has no plain "infiltration" of the lung; DICOM has (CID 6102).
    "Infiltration": _finding(_dcm("112121", "Infiltrate"), "INFILTRATION", "Infiltrate", LUNG),
    "Mass": _finding(_sct("309529002", "Lung mass"), "MASS", "Lung mass", LUNG),
    "Nodule": _finding(_sct("786838002", "Nodule of lung"), "NODULE", "Nodule of lung", LUNG),
    "Pneumonia": _finding(_sct("233604007", "Pneumonia"), "PNEUMONIA", "Pneumonia", LUNG),
    "Pneumothorax": _finding(_sct("36118008", "Pneumothorax"), "PNEUMOTHORAX", "Pneumothorax", PLEURA),
    "Consolidation": _finding(_sct("95436008", "Lung consolidation"), "CONSOLIDATION", "Lung consolidation", LUNG),
    "Edema": _finding(_sct("19242006", "Pulmonary edema"), "EDEMA", "Pulmonary edema", LUNG),
    "Emphysema": _finding(_sct("87433001", "Pulmonary emphysema"), "EMPHYSEMA", "Pulmonary emphysema", LUNG),
    "Fibrosis": _finding(_sct("51615001", "Fibrosis of lung"), "FIBROSIS", "Fibrosis of lung", LUNG),
    "Pleural_Thickening": _finding(
        _own("PLEURAL_THICK", "Pleural thickening"), "PLEURAL_THICK", "Pleural thickening", PLEURA
    ),
    "Hernia": _finding(_sct("39839004", "Diaphragmatic hernia"), "HERNIA", "Diaphragmatic hernia", DIAPHRAGM),
}

#: CID 240. A finding that is not assessed has no entry: nothing may be said about its presence.
PRESENCE: dict[Decision, Concept] = {
    Decision.PRESENT: _sct("52101004", "Present"),
    Decision.ABSENT: _sct("272519000", "Absent"),
    Decision.UNDETERMINED: _sct("373068000", "Undetermined"),
}

#: The procedure where the film states none. (413815006 "Chest imaging" is imaging guidance in CID 12246.)
PLAIN_CHEST_XRAY = _sct("399208008", "Plain chest X-ray")

IMAGING_MEASUREMENT_REPORT = _dcm("126000", "Imaging Measurement Report")
LANGUAGE = _dcm("121049", "Language of Content Item and Descendants")
US_ENGLISH = Concept(value="en-US", scheme="RFC5646", meaning="English (United States)")
OBSERVER_TYPE = _dcm("121005", "Observer Type")
DEVICE = _dcm("121007", "Device")
DEVICE_UID = _dcm("121012", "Device Observer UID")
DEVICE_NAME = _dcm("121013", "Device Observer Name")
DEVICE_MANUFACTURER = _dcm("121014", "Device Observer Manufacturer")
DEVICE_MODEL = _dcm("121015", "Device Observer Model Name")
DEVICE_SERIAL = _dcm("121016", "Device Observer Serial Number")
PROCEDURE_REPORTED = _dcm("121058", "Procedure reported")
IMAGE_LIBRARY = _dcm("111028", "Image Library")
IMAGE_LIBRARY_GROUP = _dcm("126200", "Image Library Group")
LIBRARY_SOURCE = _sct("260753009", "Source")
MODALITY = _dcm("121139", "Modality")
PIXEL_ROWS = _dcm("110910", "Pixel Data Rows")
PIXEL_COLUMNS = _dcm("110911", "Pixel Data Columns")
PIXELS = Concept(value="{pixels}", scheme="UCUM", meaning="Pixels")
IMAGING_MEASUREMENTS = _dcm("126010", "Imaging Measurements")
MEASUREMENT_GROUP = _dcm("125007", "Measurement Group")
TRACKING_IDENTIFIER = _dcm("112039", "Tracking Identifier")
TRACKING_UID = _dcm("112040", "Tracking Unique Identifier")
FINDING = _dcm("121071", "Finding")
FINDING_SITE = _sct("363698007", "Finding Site")
ALGORITHM_NAME = _dcm("111001", "Algorithm Name")
ALGORITHM_VERSION = _dcm("111003", "Algorithm Version")
ALGORITHM_PARAMETERS = _dcm("111002", "Algorithm Parameters")
ALGORITHM_MANUFACTURER = _dcm("122405", "Algorithm Manufacturer")
ALGORITHM_FAMILY = _dcm("111000", "Algorithm Family")
ARTIFICIAL_INTELLIGENCE = _dcm("123110", "Artificial Intelligence")
PROBABILITY = _dcm("122157", "Probability")
PERCENT = Concept(value="%", scheme="UCUM", meaning="Percent")
#: A score that no representative set was calibrated for: not a probability, and of no unit.
AI_SCORE = _own("AI_SCORE", "AI score, not a probability")
NO_UNITS = Concept(value="1", scheme="UCUM", meaning="no units")
SOURCE_OF_MEASUREMENT = _dcm("121112", "Source of Measurement")
QUALITATIVE_EVALUATIONS = Concept(value="C0034375", scheme="UMLS", meaning="Qualitative Evaluations")
SUMMARY = _dcm("121111", "Summary")
COMMENT = _dcm("121106", "Comment")
#: The text report: a title that no list of radiologists' reports knows, so that none files it as one.
AI_READING = _own("AI_READING", "AI reading of one chest film, not a diagnosis")
AI_STUDY = _own("AI_STUDY", "AI readings of one study, not a diagnosis")
FINDINGS_HEADING = _own("AI_FINDINGS", "Findings by AI")
PROVENANCE_HEADING = _own("AI_PROVENANCE", "How it was read")
FILM = _own("AI_FILM", "Film")
READ = _own("AI_READ", "Read")
PLAUSIBILITY = _own("PLAUSIBILITY", "Plausibility of the film for the model")

#: Title and text of a key object (CID 7010, TID 2010).
OF_INTEREST = _dcm("113000", "Of Interest")
REJECTED_FOR_QUALITY = _dcm("113001", "Rejected for Quality Reasons")
REJECTED_FOR_SAFETY = _dcm("113037", "Rejected for Patient Safety Reasons")
INCORRECT_WORKLIST_ENTRY = _dcm("113038", "Incorrect Modality Worklist Entry")
KEY_OBJECT_DESCRIPTION = _dcm("113012", "Key Object Description")

#: Explanation by gradient-weighted class activation (CID 217), and what the film is to the picture (CID 7202).
GRAD_CAM = _dcm("130403", "Gradient-weighted class activation")
PROCESSED_SOURCE = _dcm("121322", "Source image for image processing operation")

_MODALITIES = {
    "CR": _dcm("CR", "Computed Radiography"),
    "DX": _dcm("DX", "Digital Radiography"),
    "RG": _dcm("RG", "Radiographic imaging"),
    "OT": _dcm("OT", "Other Modality"),
}


def finding_concept(label: str, scheme: str, overrides: tuple[tuple[str, Concept], ...] = ()) -> Concept:
    """The code of a finding: the site's own, else from the table; a label outside it gets a code of our scheme."""
    for name, concept in overrides:
        if name == label:
            return concept
    known = FINDINGS.get(label)
    if known is not None:
        return known.standard if scheme == "SCT" else known.private
    value = re.sub(r"[^A-Z0-9]+", "_", ascii_text(label).upper())
    if len(value) > 16:  # the longest SH; the digest keeps two long labels apart
        value = f"{value[:9]}_{hashlib.sha256(label.encode()).hexdigest()[:6].upper()}"
    return _own(value, ascii_text(label.replace("_", " "))[:64])


def finding_site(label: str) -> Concept:
    """Where a finding is found; the chest for a label outside the table. Never a side: the model has none."""
    known = FINDINGS.get(label)
    return known.site if known is not None else CHEST


def modality_concept(modality: str) -> Concept:
    """The modality of the film (CID 29); Other Modality where it is none that takes a radiograph."""
    return _MODALITIES.get(modality, _MODALITIES["OT"])
