"""A structured report as a tree for people: the names of its concepts and their values, read from its bytes."""

from __future__ import annotations

import dataclasses
import io

import pydicom
from pydicom.dataset import Dataset

from cxrnode.errors import Rejected

#: Deeper or longer than this is none of our reports.
_DEEPEST, _MOST = 12, 5000


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """One content item (PS3.3 C.17.3): how it belongs to the one above, its name, its value, and those below."""

    relation: str
    kind: str
    name: str
    value: str
    code: str
    items: tuple[Item, ...]


def tree(data: bytes) -> Item:
    """The content of a report. Raises Rejected for what is none."""
    dataset = pydicom.dcmread(io.BytesIO(data), stop_before_pixels=True)
    if "ContentSequence" not in dataset:
        raise Rejected("this output is no structured report")
    left = [_MOST]
    return _item(dataset, 0, left)


def _item(item: Dataset, depth: int, left: list[int]) -> Item:
    left[0] -= 1
    if depth > _DEEPEST or left[0] < 0:
        raise Rejected("this report is deeper or longer than one of ours")
    kind = str(item.get("ValueType", ""))
    return Item(
        relation=str(item.get("RelationshipType", "")).lower(),
        kind=kind,
        name=_meaning(item, "ConceptNameCodeSequence"),
        value=_value(item, kind),
        code=_code(item, "ConceptNameCodeSequence"),
        items=tuple(_item(one, depth + 1, left) for one in item.get("ContentSequence", ())),
    )


def _meaning(item: Dataset, keyword: str) -> str:
    codes = item.get(keyword)
    return str(codes[0].get("CodeMeaning", "")) if codes else ""


def _code(item: Dataset, keyword: str) -> str:
    codes = item.get(keyword)
    if not codes:
        return ""
    return f"{codes[0].get('CodeValue', '')}, {codes[0].get('CodingSchemeDesignator', '')}"


def _value(item: Dataset, kind: str) -> str:
    match kind:
        case "CODE":
            return f"{_meaning(item, 'ConceptCodeSequence')} ({_code(item, 'ConceptCodeSequence')})"
        case "NUM":
            measured = item.get("MeasuredValueSequence")
            if not measured:
                return "no value"
            unit = _meaning(measured[0], "MeasurementUnitsCodeSequence")
            return f"{measured[0].get('NumericValue', '')} {'' if unit == 'no units' else unit}".strip()
        case "TEXT":
            return str(item.get("TextValue", ""))
        case "DATE" | "TIME" | "DATETIME":
            return str(item.get({"DATE": "Date", "TIME": "Time", "DATETIME": "DateTime"}[kind], ""))
        case "UIDREF":
            return str(item.get("UID", ""))
        case "PNAME":
            return str(item.get("PersonName", ""))
        case "IMAGE" | "COMPOSITE":
            refs = item.get("ReferencedSOPSequence")
            return pydicom.uid.UID(str(refs[0].get("ReferencedSOPClassUID", ""))).name if refs else ""
        case _:
            return ""
