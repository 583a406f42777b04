"""Content items of a structured report as a tree of values, and their bytes (PS3.3 C.17.3). Knows no template."""

from __future__ import annotations

import dataclasses
import functools
from enum import StrEnum
from typing import TypeAlias

from cxrnode.core.findings import Concept
from cxrnode.dicom.outputs.encoding import Attributes


class Relation(StrEnum):
    """How an item relates to the one it stands in (PS3.3 table C.17.3-8)."""

    CONTAINS = "CONTAINS"
    CONTEXT = "HAS OBS CONTEXT"
    ACQUISITION = "HAS ACQ CONTEXT"
    MODIFIER = "HAS CONCEPT MOD"
    INFERRED = "INFERRED FROM"


@dataclasses.dataclass(frozen=True, slots=True)
class Number:
    """A measured value as the decimal string that is sent, with its unit."""

    text: str
    unit: Concept


@dataclasses.dataclass(frozen=True, slots=True)
class Image:
    """A reference to an image instance."""

    sop_class_uid: str
    sop_instance_uid: str


@dataclasses.dataclass(frozen=True, slots=True)
class Composite:
    """A reference to an instance that is no image: a report, a document, a presentation state."""

    sop_class_uid: str
    sop_instance_uid: str


@dataclasses.dataclass(frozen=True, slots=True)
class Uid:
    """A UID as the value of an item."""

    text: str


@dataclasses.dataclass(frozen=True, slots=True)
class Container:
    """The value of an item that only holds others; `template` is a number of PS3.16's DCMR."""

    template: str = ""
    separate: bool = False


#: A concept of the film itself, copied in its own bytes and character set.
@dataclasses.dataclass(frozen=True, slots=True)
class CopiedConcept:
    """A code taken over from the film, already encoded."""

    encoded: bytes


ItemValue: TypeAlias = str | Concept | CopiedConcept | Number | Image | Composite | Uid | Container


@dataclasses.dataclass(frozen=True, slots=True)
class Item:
    """One content item: its relation to its parent, its concept name, its value, and the items in it."""

    relation: Relation
    name: Concept | None
    value: ItemValue
    items: tuple[Item, ...] = ()


@functools.lru_cache(maxsize=1024)  # a report repeats its few dozen concepts
def encoded_concept(concept: Concept) -> bytes:
    """A coded concept as the content of a sequence item (PS3.3 section 8.8)."""
    return (
        Attributes()
        .put("CodeValue", concept.value)
        .put("CodingSchemeDesignator", concept.scheme)
        .put("CodeMeaning", concept.meaning)
        .encode()
    )


def put_content(item: Item, target: Attributes, *, root: bool = False) -> Attributes:
    """Put an item and all items in it into the attributes; the root of a document has no relation."""
    if not root:
        target.put("RelationshipType", item.relation)
    if item.name is not None:
        target.put_items("ConceptNameCodeSequence", [encoded_concept(item.name)])
    _put_value(item.value, target)
    if item.items:
        target.put_items("ContentSequence", [_encoded(child) for child in item.items])
    return target


def _encoded(item: Item) -> bytes:
    return put_content(item, Attributes()).encode() if item.items else _leaf(item)


@functools.lru_cache(maxsize=2048)  # four of five say the same of every film: by which model, in which unit
def _leaf(item: Item) -> bytes:
    return put_content(item, Attributes()).encode()


def _put_value(value: ItemValue, target: Attributes) -> None:
    match value:
        case str():
            target.put("ValueType", "TEXT").put("TextValue", value)
        case Concept():
            target.put("ValueType", "CODE").put_items("ConceptCodeSequence", [encoded_concept(value)])
        case CopiedConcept():
            target.put("ValueType", "CODE").put_items("ConceptCodeSequence", [value.encoded])
        case Uid():
            target.put("ValueType", "UIDREF").put("UID", value.text)
        case Number():
            measured = Attributes().put("NumericValue", value.text)
            measured.put_items("MeasurementUnitsCodeSequence", [encoded_concept(value.unit)])
            target.put("ValueType", "NUM").put_items("MeasuredValueSequence", [measured])
        case Image():
            target.put("ValueType", "IMAGE").put_items("ReferencedSOPSequence", [reference(value)])
        case Composite():
            target.put("ValueType", "COMPOSITE").put_items("ReferencedSOPSequence", [reference(value)])
        case Container():
            target.put("ValueType", "CONTAINER")
            target.put("ContinuityOfContent", "SEPARATE" if value.separate else "CONTINUOUS")
            if value.template:
                template = Attributes().put("MappingResource", "DCMR").put("TemplateIdentifier", value.template)
                target.put_items("ContentTemplateSequence", [template])


def reference(to: Image | Composite) -> Attributes:
    """The class and instance of an object (PS3.3 table 10-11)."""
    return (
        Attributes().put("ReferencedSOPClassUID", to.sop_class_uid).put("ReferencedSOPInstanceUID", to.sop_instance_uid)
    )
