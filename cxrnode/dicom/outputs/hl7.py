"""The syntax of HL7 version 2.5.1: segments, escapes, data types, character sets. Knows nothing of what is told in it.

A message is put together as text and encoded once. Single-byte character sets of the film stay what they are; in the
others delimiters occur within letters, so that these become UTF-8.
"""

from __future__ import annotations

import warnings

from pydicom.charset import convert_encodings, decode_bytes, python_encoding
from pydicom.dataset import Dataset
from pydicom.valuerep import PN_DELIMS

from cxrnode.core.findings import Concept
from cxrnode.dicom.outputs.encoding import ascii_text
from cxrnode.dicom.outputs.source import plain, raw_value

VERSION = "2.5.1"
_ESCAPES = {"\\": "\\E\\", "|": "\\F\\", "^": "\\S\\", "&": "\\T\\", "~": "\\R\\"}
#: Defined terms of (0008,0005) without their prefix, and what HL7 table 0211 and Python call the same set.
_SETS = {
    "6": ("ASCII", "ascii"),
    "100": ("8859/1", "iso8859-1"),
    "101": ("8859/2", "iso8859-2"),
    "109": ("8859/3", "iso8859-3"),
    "110": ("8859/4", "iso8859-4"),
    "144": ("8859/5", "iso8859-5"),
    "127": ("8859/6", "iso8859-6"),
    "126": ("8859/7", "iso8859-7"),
    "138": ("8859/8", "iso8859-8"),
    "148": ("8859/9", "iso8859-9"),
    "203": ("8859/15", "iso8859-15"),
}
UTF8 = ("UNICODE UTF-8", "utf-8")


def escaped(text: str) -> str:
    """Text as a value: delimiters escaped (HL7 2.7), control characters as blanks."""
    clean = "".join(c if c.isprintable() else " " for c in text)
    return "".join(_ESCAPES.get(c, c) for c in clean).strip()


def components(*parts: str) -> str:
    """Parts, not escaped yet, as the components of a field; empty ones at the end are left out."""
    return "^".join(map(escaped, parts)).rstrip("^")


def coded(concept: Concept, *other: str) -> str:
    """A code as CE or CWE: identifier, text, system, and the alternates after these."""
    return components(concept.value, concept.meaning, concept.scheme, *other)


def segment(name: str, *fields: str, **numbered: str) -> str:
    """A segment from its first fields and from others by number, as `f18="..."`. Values are escaped already."""
    values = dict(enumerate(fields, start=1)) | {int(key[1:]): value for key, value in numbered.items()}
    placed = [values.get(number, "") for number in range(1, max(values, default=0) + 1)]
    return "|".join((name, *placed)).rstrip("|")


def character_set(source: Dataset) -> tuple[str, str]:
    """MSH-18 and Python's codec for a message about this film."""
    term = plain(source, "SpecificCharacterSet")
    if not term:
        return _SETS["6"]
    prefix, _, number = term.rpartition(" ")
    return _SETS.get(number, UTF8) if prefix in ("ISO_IR", "ISO 2022 IR") and "\\" not in term else UTF8


def message(segments: list[str], codec: str) -> bytes:
    """The segments as they go over the wire."""
    return ("\r".join(segments) + "\r").encode(codec)


def text_of(source: Dataset, keyword: str, around: Dataset | None = None) -> str:
    """The value of a text attribute as the film means it; only what is ASCII of one whose letters nobody can know."""
    raw = raw_value(source, keyword, around)
    if raw.isascii() and b"\x1b" not in raw:
        return raw.decode("ascii").strip()
    decoded = _decoded(raw, around or source)
    return (ascii_text(raw.decode("latin-1")).replace("?", " ") if decoded is None else decoded).strip()


def person(source: Dataset, keyword: str) -> str:
    """A person's name as XPN, one repetition for each way it is written (table 0465); "" where it cannot be read.

    DICOM has family, given, middle, prefix, suffix (PS3.5 6.2.1.2); HL7 has the suffix before the prefix.
    """
    raw = raw_value(source, keyword)
    whole = raw.decode("ascii") if raw.isascii() and b"\x1b" not in raw else _decoded(raw, source)
    if not whole or not whole.strip("^= "):
        return ""
    groups = whole.split("=")[:3]
    written = []
    for way, group in zip("AIP", groups, strict=False):
        if not group.strip("^ "):
            continue
        family, given, middle, prefix, suffix = [*group.split("^"), "", "", "", "", ""][:5]
        kind = ("", "L", way) if len(groups) > 1 else ("", "L")
        written.append(components(family, given, middle, suffix, prefix, *kind))
    return "~".join(written)


def _decoded(raw: bytes, source: Dataset) -> str | None:
    """Text in the film's declared character sets; None where it has none or the text is not in them."""
    declared = plain(source, "SpecificCharacterSet")
    terms = [term.strip() for term in declared.split("\\")]
    if terms in ([""], ["ISO_IR 6"], ["ISO 2022 IR 6"]) or not {*terms, ""} <= {*python_encoding}:  # mislabelled
        return None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            text = decode_bytes(raw, convert_encodings(terms), PN_DELIMS)
    except (LookupError, ValueError):
        return None
    return None if "\ufffd" in text or "\x1b" in text else text
