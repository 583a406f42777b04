"""The sender: objects go to a DICOM node as the very bytes they are, over one association.

It decides nothing about retries: an association that fails is an AssociationFault, an object's answer is a Sent
with the class of its status.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator
from pathlib import Path

from pydicom.filebase import DicomBytesIO
from pydicom.filereader import dcmread
from pydicom.filewriter import write_dataset
from pydicom.uid import ImplicitVRLittleEndian
from pynetdicom.dimse_primitives import C_ECHO
from pynetdicom.presentation import build_context
from pynetdicom.sop_class import Verification  # type: ignore[attr-defined]

from cxrnode.dicom import contexts, statuses
from cxrnode.dicom.association import Exchange, associate
from cxrnode.dicom.destination import (
    AssociationFault,
    DeadlineReached,
    Destination,
    FaultKind,
    Place,
    Sent,
    Stage,
    Timeouts,
    parse_destination,
)
from cxrnode.dicom.part10 import Part10
from cxrnode.dicom.query import has_object, query_context
from cxrnode.dicom.statuses import StatusClass
from cxrnode.errors import Rejected

__all__ = [
    "AssociationFault",
    "DeadlineReached",
    "Destination",
    "FaultKind",
    "Outbound",
    "Part10",
    "Sent",
    "Stage",
    "Timeouts",
    "echo",
    "open_association",
    "parse_destination",
    "send_files",
]


class Outbound(Exchange):
    """One established association on which objects are stored."""

    def store(self, data: bytes) -> Sent:
        """Send one Part 10 file and return the peer's answer.

        The data set goes byte for byte, unless it is in Explicit VR Little Endian and the peer takes Implicit only.
        A class or syntax the peer did not accept is answered here, with 0x0122. Raises AssociationFault if the
        association breaks, DeadlineReached at the deadline, Rejected if `data` is no Part 10 file.
        """
        part10 = Part10.of(data)
        self.require_time()
        context = self.accepted.get(part10.pair)
        converted = False
        if context is not None:
            dataset = memoryview(data)[part10.offset :]
        elif contexts.convertible(part10.transfer_syntax_uid):
            context = self.accepted.get((part10.sop_class_uid, ImplicitVRLittleEndian))
            converted = context is not None
            dataset = memoryview(_implicit(data) if converted else b"")
        if context is None:
            return Sent(
                status=statuses.SOP_CLASS_NOT_SUPPORTED,
                kind=StatusClass.PERMANENT,
                comment="no presentation context was accepted for this class and syntax",
            )
        response = self.put(context, part10.sop_class_uid, part10.sop_instance_uid, dataset)
        return Sent(
            status=response.Status or 0,
            kind=statuses.classify(response.Status or 0).kind,
            comment=str(response.ErrorComment or "")[:64],
            converted=converted,
        )

    def has(self, place: Place) -> bool:
        """Whether the peer has an object; the association must have been opened to `ask`. Raises AssociationFault."""
        return has_object(self, place)


def open_association(
    destination: Destination,
    *,
    calling_aet: str,
    pairs: Iterable[tuple[str, str]],
    timeouts: Timeouts | None = None,
    deadline: float | None = None,
    to_ask: bool = False,
) -> Outbound:
    """Associate for storing objects of these (SOP class, transfer syntax) pairs, and `to_ask` what the peer has.

    `deadline` is on the monotonic clock: no object is begun after it and none waited for. Raises AssociationFault,
    and ValueError for more pairs than fit into one association (`contexts.MAX_CONTEXTS`).
    """
    proposed = contexts.proposed(pairs, room=contexts.MAX_CONTEXTS - 1 if to_ask else contexts.MAX_CONTEXTS)
    wire = associate(
        destination, calling_aet, [*proposed, query_context()] if to_ask else proposed, timeouts or Timeouts()
    )
    return Outbound(wire, destination, deadline)


def echo(destination: Destination, *, calling_aet: str, timeouts: Timeouts | None = None) -> None:
    """Verify that the destination answers C-ECHO. Raises AssociationFault."""
    context = build_context(Verification, ImplicitVRLittleEndian)
    with Exchange(associate(destination, calling_aet, [context], timeouts or Timeouts()), destination) as exchange:
        accepted = exchange.context_for(Verification)
        if accepted is None:
            raise AssociationFault(FaultKind.NO_CONTEXT, Stage.NEGOTIATE, destination)
        request = C_ECHO()
        request.AffectedSOPClassUID = Verification
        status = exchange.request(accepted, request, "C-ECHO")[0].Status
    if status != statuses.SUCCESS:
        raise AssociationFault(FaultKind.REFUSED, Stage.TRANSFER, destination, f"C-ECHO status {status:04X}")


def send_files(
    paths: Iterable[Path],
    destination: Destination,
    *,
    calling_aet: str,
    timeouts: Timeouts | None = None,
) -> Iterator[tuple[Path, Sent | Rejected]]:
    """Send files in order, each in its own transfer syntax; yield each with its answer, or why it cannot be sent.

    As many associations as the presentation contexts need, one after the other. Raises AssociationFault, and
    OSError for a file that cannot be read.
    """
    batch: list[Path] = []
    pairs: dict[tuple[str, str], None] = {}
    for path in paths:
        try:
            pair = Part10.of(path.read_bytes()).pair
        except Rejected as error:
            yield path, error
            continue
        if len(pairs) >= contexts.MAX_CONTEXTS // 2 and pair not in pairs:
            yield from _send_batch(batch, tuple(pairs), destination, calling_aet, timeouts)
            batch, pairs = [], {}
        batch.append(path)
        pairs[pair] = None
    if batch:
        yield from _send_batch(batch, tuple(pairs), destination, calling_aet, timeouts)


def _send_batch(
    paths: list[Path],
    pairs: tuple[tuple[str, str], ...],
    destination: Destination,
    calling_aet: str,
    timeouts: Timeouts | None,
) -> Iterator[tuple[Path, Sent | Rejected]]:
    with open_association(destination, calling_aet=calling_aet, pairs=pairs, timeouts=timeouts) as outbound:
        for path in paths:
            yield path, outbound.store(path.read_bytes())


def _implicit(data: bytes) -> bytes:
    """Return the data set of a Part 10 file in Explicit VR Little Endian, re-encoded as Implicit VR Little Endian."""
    file = DicomBytesIO()
    file.is_little_endian = True
    file.is_implicit_VR = True
    write_dataset(file, dcmread(io.BytesIO(data)))
    return file.getvalue()
