"""Asking a destination whether it has an object: C-FIND at the IMAGE level (PS3.4 annex C), Study Root.

It asks for one object by its three UIDs and learns nothing else.
"""

from __future__ import annotations

import io

from pydicom.dataset import Dataset
from pydicom.uid import UID, ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom.dimse_primitives import C_FIND
from pynetdicom.dsutils import encode
from pynetdicom.presentation import PresentationContext, build_context

from cxrnode.dicom.association import Exchange
from cxrnode.dicom.destination import AssociationFault, FaultKind, Place, Stage

#: Study Root Query/Retrieve Information Model - FIND.
STUDY_ROOT = "1.2.840.10008.5.1.4.1.2.2.1"
_SYNTAXES: list[str | UID] = [ExplicitVRLittleEndian, ImplicitVRLittleEndian]
_PENDING = (0xFF00, 0xFF01)
#: Out of resources (PS3.4 C.4.1.1.4): it may answer later.
_BUSY = range(0xA700, 0xA800)


def query_context() -> PresentationContext:
    """What is proposed beside the objects' own contexts where there is something to ask."""
    return build_context(STUDY_ROOT, _SYNTAXES)


def has_object(exchange: Exchange, place: Place) -> bool:
    """Whether the peer says that it has the object. Raises AssociationFault where it does not answer the question."""
    context = exchange.context_for(STUDY_ROOT)
    if context is None:
        raise AssociationFault(FaultKind.NO_QUERY, Stage.NEGOTIATE, exchange.destination)
    syntax = context.transfer_syntax[0]
    wanted = Dataset()
    wanted.QueryRetrieveLevel = "IMAGE"
    wanted.StudyInstanceUID = place.study_instance_uid
    wanted.SeriesInstanceUID = place.series_instance_uid
    wanted.SOPInstanceUID = place.sop_instance_uid
    request = C_FIND()
    request.AffectedSOPClassUID = STUDY_ROOT
    request.Priority = 0  # medium
    request.Identifier = io.BytesIO(encode(wanted, syntax.is_implicit_VR, syntax.is_little_endian) or b"")
    responses = exchange.request(context, request, "C-FIND", many=True)
    status = responses[-1].Status or 0
    if status != 0:
        kind = FaultKind.BUSY if status in _BUSY else FaultKind.NO_QUERY
        raise AssociationFault(kind, Stage.NEGOTIATE, exchange.destination, f"C-FIND status 0x{status:04X}")
    return any(one.Status in _PENDING for one in responses)
