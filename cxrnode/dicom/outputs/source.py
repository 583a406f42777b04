"""What an output takes over from its film: identity and study, byte for byte, and what is said about the film.

Text is copied as the bytes it came in, together with the film's SpecificCharacterSet, so that a name reads in the
PACS as it did before, even where the set is wrong. Dates, times, sex and age that no reader accepts are mended or
left empty, on the copy alone. A film is never refused for its header, and nothing is invented.
"""

from __future__ import annotations

import datetime
import re

from pydicom.charset import convert_encodings, default_encoding, encode_string
from pydicom.datadict import dictionary_VR, keyword_for_tag
from pydicom.dataset import Dataset
from pydicom.multival import MultiValue
from pydicom.tag import Tag
from pydicom.valuerep import PersonName

from cxrnode.dicom.header import PARSE_FAULTS
from cxrnode.dicom.outputs.encoding import Attributes, ascii_text, tag_and_vr

_TEXT = frozenset(
    {"AE", "AS", "CS", "DA", "DS", "DT", "IS", "LO", "LT", "PN", "SH", "ST", "TM", "UC", "UI", "UR", "UT"}
)

#: Taken over where the film has them (PS3.3 C.7.1.1, C.7.2.1, C.7.2.2, C.12.1); the first group is of type 2.
_TYPE_2 = (
    "PatientName",
    "PatientID",
    "PatientBirthDate",
    "PatientSex",
    "StudyDate",
    "StudyTime",
    "StudyID",
    "AccessionNumber",
    "ReferringPhysicianName",
)
_OPTIONAL = (
    "SpecificCharacterSet",
    "StudyInstanceUID",
    "IssuerOfPatientID",
    "TypeOfPatientID",
    "PatientAge",
    "PatientIdentityRemoved",
    "DeidentificationMethod",
    "StudyDescription",
    "ClinicalTrialSponsorName",
    "ClinicalTrialProtocolID",
    "ClinicalTrialProtocolName",
    "ClinicalTrialSiteID",
    "ClinicalTrialSiteName",
    "ClinicalTrialSubjectID",
    "ClinicalTrialSubjectReadingID",
)
#: What outputs copy as text, and as sequences.
COPIED_TEXT = (*_TYPE_2, *_OPTIONAL)
COPIED_SEQUENCES = (
    "IssuerOfPatientIDQualifiersSequence",
    "OtherPatientIDsSequence",
    "DeidentificationMethodCodeSequence",
    "IssuerOfAccessionNumberSequence",
    "ProcedureCodeSequence",
)

_DATE = re.compile(r"(\d{4})([-./]?)(\d{2})\2(\d{2})", re.ASCII)
_TIME = re.compile(r"(\d{2}):?(?:(\d{2}):?(?:(\d{2})(\.\d+)?)?)?", re.ASCII)
_AGE = re.compile(r"\d{3}[DWMY]", re.ASCII)

_VIEWS = {
    "272479007": "PA",
    "R-10214": "PA",
    "399348003": "AP",
    "R-10206": "AP",
    "399033003": "frontal",
}


def raw_value(source: Dataset, keyword: str, around: Dataset | None = None) -> bytes:
    """The value of a text attribute as bytes in the film's own character set, without padding; b"" where absent.

    `around` is the film's data set where `source` is an item in it.
    """
    tag, vr = tag_and_vr(keyword)
    return _raw(source, tag, vr, around) or b""


def plain(source: Dataset, keyword: str) -> str:
    """The value of an attribute as stripped ASCII, for our own strings and decisions."""
    return ascii_text(raw_value(source, keyword).decode("latin-1")).strip(" \0")


def clean_date(text: str) -> str:
    """A DA value (PS3.5 6.2): YYYYMMDD of a day that exists, also from YYYY-MM-DD and the like; else ""."""
    found = _DATE.fullmatch(text.strip(" \0"))
    if not found:
        return ""
    year, month, day = int(found[1]), int(found[3]), int(found[4])
    try:
        datetime.date(year, month, day)
    except ValueError:
        return ""
    return f"{found[1]}{found[3]}{found[4]}"


def clean_time(text: str) -> str:
    """A TM value (PS3.5 6.2): HHMMSS.FFFFFF or a beginning of it, also from HH:MM:SS; else ""."""
    found = _TIME.fullmatch(text.strip(" \0"))
    if not found or int(found[1]) > 23 or int(found[2] or 0) > 59 or int(found[3] or 0) > 60:
        return ""
    return "".join(part or "" for part in (found[1], found[2], found[3], (found[4] or "")[:7]))


def clean_sex(text: str) -> str:
    """M, F or O (PS3.3 C.7.1.1), also in small letters; else ""."""
    letter = text.strip(" \0").upper()
    return letter if letter in ("M", "F", "O") else ""


def clean_age(text: str) -> str:
    """An AS value such as 056Y; else ""."""
    return text.strip(" \0") if _AGE.fullmatch(text.strip(" \0")) else ""


_CLEAN = {"DA": clean_date, "TM": clean_time, "AS": clean_age}


def copy_identity(source: Dataset, target: Attributes) -> None:
    """Put patient, study and character set of the film into an output; missing attributes of type 2 are empty."""
    for keyword in COPIED_TEXT:
        tag, vr = tag_and_vr(keyword)
        value = _raw(source, tag, vr)
        if keyword == "PatientSex" and value:
            value = clean_sex(value.decode("latin-1")).encode()
        elif keyword == "SpecificCharacterSet" and value and b"\0" in value:
            value = b""  # names no set, and there are readers, pydicom among them, that cannot open a file that has it
        elif vr in _CLEAN and value:
            value = _CLEAN[vr](value.decode("latin-1")).encode()
        if value or keyword in _TYPE_2:
            target.put_raw(tag, vr, value or b"")
    for keyword in COPIED_SEQUENCES:
        items = copied_items(source, keyword)
        if items:
            target.put_items(keyword, items)


def copied_items(source: Dataset, keyword: str, inherited: Dataset | None = None) -> list[Attributes]:
    """The items of a sequence, their standard text attributes and sequences copied; [] where there are none.

    An item without a SpecificCharacterSet has that of the data set it stands in (PS3.3 C.12.1.1.2): `inherited`.
    """
    around = source if "SpecificCharacterSet" in source or inherited is None else inherited
    return [_copied(child, around) for child in items_of(source, keyword)]


def items_of(source: Dataset, keyword: str) -> tuple[Dataset, ...]:
    """The items of a sequence; () where it is absent, of another VR, or cannot be read."""
    try:
        return tuple(source[keyword].value or ()) if keyword in source and source[keyword].VR == "SQ" else ()
    except PARSE_FAULTS:
        return ()


def view_of(source: Dataset) -> str:
    """The view in a word: ViewPosition, else the view's code, else "view not stated"."""
    position = re.sub(r"[^A-Za-z0-9>/ -]", "", plain(source, "ViewPosition")).strip()[:12]
    if position:
        return position
    for child in items_of(source, "ViewCodeSequence"):
        view = _VIEWS.get(plain(child, "CodeValue"))
        if view:
            return view
    return "view not stated"


def taken_at(source: Dataset) -> tuple[str, str]:
    """Date and time at which the film was taken, as YYYY-MM-DD and HH:MM:SS; "" for what is not stated."""
    date = next((d for k in ("Acquisition", "Content", "Series", "Study") if (d := _date(source, f"{k}Date"))), "")
    time = next((t for k in ("Acquisition", "Content", "Series", "Study") if (t := _time(source, f"{k}Time"))), "")
    clock = ":".join(part for part in (time[:2], time[2:4], time[4:6]) if part)
    return (f"{date[:4]}-{date[4:6]}-{date[6:]}" if date else "", clock)


def study_moment(source: Dataset) -> datetime.datetime | None:
    """Date and time of the study, without zone; None where the date is not stated; noon where the time is not."""
    date, time = _date(source, "StudyDate"), _time(source, "StudyTime") or "12"
    if not date:
        return None
    hour, minute = int(time[:2]), int(time[2:4] or 0)
    return datetime.datetime(int(date[:4]), int(date[4:6]), int(date[6:]), hour, minute)


def _date(source: Dataset, keyword: str) -> str:
    return clean_date(plain(source, keyword))


def _time(source: Dataset, keyword: str) -> str:
    return clean_time(plain(source, keyword))


def _copied(source: Dataset, around: Dataset) -> Attributes:
    target = Attributes()
    for tag in source.keys():  # noqa: SIM118  iterating the data set itself would decode every element
        number = int(tag)
        keyword = keyword_for_tag(number)
        if not keyword:  # private or unknown: nobody downstream could read it
            continue
        vr = dictionary_VR(number)
        if vr == "SQ":
            target.put_items(keyword, copied_items(source, keyword, around))
        elif vr in _TEXT:
            target.put_raw(number, vr, _raw(source, number, vr, around) or b"")
    return target


def _raw(source: Dataset, tag: int, vr: str, around: Dataset | None = None) -> bytes | None:
    """The bytes of a text element: as read where it is still undecoded, else encoded back."""
    if Tag(tag) not in source:
        return None
    found = source.get_item(Tag(tag))
    value: object = found.value
    if value is None:
        return b""
    if isinstance(value, bytes):
        return value.rstrip(b"\0") if vr == "UI" else value.rstrip(b" \0")
    encodings = _encodings(source if around is None or "SpecificCharacterSet" in source else around)
    parts = value if isinstance(value, MultiValue) else [value]
    return b"\\".join(_encoded(part, encodings) for part in parts)


def _encoded(part: object, encodings: list[str]) -> bytes:
    if isinstance(part, PersonName):
        original = part.original_string
        return original.rstrip(b" \0") if isinstance(original, bytes) else part.encode(encodings)
    return encode_string(str(part), encodings)


def _encodings(source: Dataset) -> list[str]:
    declared = source.get("SpecificCharacterSet")
    try:
        return convert_encodings(declared) if declared else [default_encoding]
    # A term that does not exist, or with a NUL in it; pydicom decoded the values with the default as well.
    except (LookupError, ValueError):
        return [default_encoding]
