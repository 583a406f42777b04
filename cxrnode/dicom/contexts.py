"""Presentation contexts: what the listener accepts and what the sender proposes (PS3.8 section 7.1.1.13).

It decides by SOP class and transfer syntax alone and never looks into an object.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from pydicom.uid import (
    HTJ2K,
    JPEG2000,
    UID,
    ComputedRadiographyImageStorage,
    DeflatedExplicitVRLittleEndian,
    DigitalXRayImageStorageForPresentation,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    HTJ2KLossless,
    HTJ2KLosslessRPCL,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
    RLELossless,
)
from pynetdicom import ALL_TRANSFER_SYNTAXES, AllStoragePresentationContexts
from pynetdicom.presentation import PresentationContext, build_context
from pynetdicom.sop_class import Verification  # type: ignore[attr-defined]

#: What this node decodes, the syntaxes it would rather have first: of those offered, the first here is taken.
DECODABLE: tuple[UID, ...] = (
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    ExplicitVRBigEndian,
    DeflatedExplicitVRLittleEndian,
    JPEGLosslessSV1,
    JPEGLossless,
    JPEGLSLossless,
    JPEG2000Lossless,
    HTJ2KLosslessRPCL,
    HTJ2KLossless,
    RLELossless,
    JPEGLSNearLossless,
    JPEG2000,
    HTJ2K,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
)

#: Classes whose pixels are read: for these, a syntax nobody here can decode is refused at negotiation, so that the
#: sender can still choose another. All other classes are ignored with a reason, and may come in any syntax.
READ: frozenset[UID] = frozenset({ComputedRadiographyImageStorage, DigitalXRayImageStorageForPresentation})

#: A-ASSOCIATE numbers contexts with the odd integers of a byte (PS3.8 section 9.3.2.2).
MAX_CONTEXTS = 128


class SharedContexts(list[PresentationContext]):
    """The accepted contexts, one list for all associations.

    pynetdicom copies its list in depth for each connection, which took longer than the negotiation itself;
    negotiation only reads it.
    """

    def __deepcopy__(self, memo: dict[int, Any]) -> SharedContexts:
        return self


def accepted(extra: Iterable[PresentationContext] = ()) -> SharedContexts:
    """Return what the listener accepts: Verification, every storage class pynetdicom knows, and `extra`."""
    undecodable = [uid for uid in map(UID, ALL_TRANSFER_SYNTAXES) if uid not in DECODABLE]
    contexts = SharedContexts([build_context(Verification, list(DECODABLE[:2]))])
    for context in AllStoragePresentationContexts:
        sop_class = UID(str(context.abstract_syntax))
        syntaxes: list[str | UID] = [*DECODABLE] if sop_class in READ else [*DECODABLE, *undecodable]
        contexts.append(build_context(sop_class, syntaxes))
    contexts.extend(extra)
    return contexts


def proposed(pairs: Iterable[tuple[str, str]], *, room: int = MAX_CONTEXTS) -> list[PresentationContext]:
    """Return the contexts to propose for (SOP class, transfer syntax) pairs.

    One context a pair, so that the peer cannot choose another syntax than the object's own where it takes that
    one; and for objects in Explicit VR Little Endian one with Implicit VR Little Endian, the default every peer
    must take (PS3.5 section 10.1). Raises ValueError for more contexts than there is `room` for.
    """
    wanted: dict[tuple[str, str], None] = {}
    for sop_class, syntax in pairs:
        wanted[sop_class, syntax] = None
        if convertible(syntax):
            wanted[sop_class, ImplicitVRLittleEndian] = None
    if len(wanted) > room:
        raise ValueError(f"{len(wanted)} presentation contexts do not fit into one association of {room}")
    return [build_context(sop_class, syntax) for sop_class, syntax in wanted]


def convertible(syntax: str) -> bool:
    """Whether the sender may re-encode this syntax as Implicit VR Little Endian when the peer takes nothing else."""
    return syntax == ExplicitVRLittleEndian
