"""What leaves the node for an object is what pynetdicom would write, PDU for PDU."""

from __future__ import annotations

import io

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pynetdicom.dimse_messages import C_STORE_RQ, C_STORE_RSP
from pynetdicom.dimse_primitives import C_STORE
from pynetdicom.pdu import P_DATA_TF

from cxrnode.dicom.outgoing import LARGEST_PDU, Outgoing, StoreRequest, StoreResponse

SOP_CLASS = "1.2.840.10008.5.1.4.1.1.7"


def request(dataset: bytes, sop_instance_uid: str = "2.25.1234567", message_id: int = 7) -> StoreRequest:
    return StoreRequest(
        context_id=5,
        message_id=message_id,
        sop_class_uid=SOP_CLASS,
        sop_instance_uid=sop_instance_uid,
        dataset=memoryview(dataset),
    )


def pynetdicoms(dataset: bytes, longest: int, sop_instance_uid: str, message_id: int) -> bytes:
    primitive = C_STORE()
    primitive.MessageID = message_id
    primitive.Priority = 0
    primitive.AffectedSOPClassUID = SOP_CLASS
    primitive.AffectedSOPInstanceUID = sop_instance_uid
    primitive.DataSet = io.BytesIO(dataset)
    message = C_STORE_RQ()
    message.primitive_to_message(primitive)
    return b"".join(P_DATA_TF(one).encode() for one in message.encode_msg(5, longest))


@given(
    st.binary(min_size=1, max_size=3000),
    st.integers(min_value=128, max_value=2000),
    st.sampled_from(["2.25.1", "2.25.12", "1.2.3.4.5.6.7.8.9.10.11"]),
    st.integers(min_value=1, max_value=0xFFFF),
)
@settings(deadline=None)
def test_the_bytes_are_those_that_pynetdicom_would_send(
    dataset: bytes, longest: int, sop_instance_uid: str, message_id: int
) -> None:
    ours = b"".join(request(dataset, sop_instance_uid, message_id).pieces(longest))
    assert ours == pynetdicoms(dataset, longest, sop_instance_uid, message_id)


@given(
    st.sampled_from([0x0000, 0xA700, 0xC000, 0xA900, 0x0124, 0xC211]),
    st.text(st.characters(min_codepoint=33, max_codepoint=126, exclude_characters="\\"), max_size=64),
    st.sampled_from(["2.25.1", "2.25.12", "1.2.3.4.5.6.7.8.9.10.11"]),
    st.integers(min_value=0, max_value=0xFFFF),
    st.integers(min_value=64, max_value=400),
)
@settings(deadline=None)
def test_an_answer_is_the_one_that_pynetdicom_would_give(
    status: int, comment: str, sop_instance_uid: str, message_id: int, longest: int
) -> None:
    primitive = C_STORE()
    primitive.MessageIDBeingRespondedTo = message_id
    primitive.AffectedSOPClassUID = SOP_CLASS
    primitive.AffectedSOPInstanceUID = sop_instance_uid
    primitive.Status = status
    if comment:
        primitive.ErrorComment = comment  # type: ignore[assignment]  # pynetdicom infers None
    message = C_STORE_RSP()
    message.primitive_to_message(primitive)
    theirs = b"".join(P_DATA_TF(one).encode() for one in message.encode_msg(5, longest))
    answer = StoreResponse(
        context_id=5,
        message_id=message_id,
        sop_class_uid=SOP_CLASS,
        sop_instance_uid=sop_instance_uid,
        status=status,
        comment=comment,
    )
    assert b"".join(answer.pieces(longest)) == theirs
    assert b"".join(Outgoing(answer, longest).pieces) == theirs


def test_no_pdu_is_longer_than_the_peer_takes() -> None:
    pieces = list(request(bytes(100_000)).pieces(16384))
    lengths = [int.from_bytes(bytes(header[2:6])) for header in pieces[::2]]
    assert max(lengths) == 16384
    assert all(length == len(payload) + 6 for length, payload in zip(lengths, pieces[1::2], strict=True))


@pytest.mark.parametrize("longest", [0, 1 << 30])
def test_without_a_limit_worth_the_name_ours_holds(longest: int) -> None:
    pieces = list(request(bytes(3 * LARGEST_PDU)).pieces(longest))
    assert max(len(payload) for payload in pieces[1::2]) == LARGEST_PDU - 6


def test_the_data_set_is_not_copied() -> None:
    dataset = bytearray(b"x" * 1000)
    pieces = list(request(bytes(1)).pieces(0))
    assert isinstance(pieces[-1], memoryview)
    outgoing = Outgoing(
        StoreRequest(
            context_id=1, message_id=1, sop_class_uid="1.2", sop_instance_uid="1.3", dataset=memoryview(dataset)
        ),
        0,
    )
    dataset[0] = ord("y")
    assert bytes(outgoing.pieces[-1][:2]) == b"yx"


def test_a_limit_that_holds_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="hold nothing"):
        list(request(b"x").pieces(6))
