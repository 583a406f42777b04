"""An object on its way out: C-STORE-RQ and data set as P-DATA-TF PDUs, straight from the bytes that are kept; and the
answer to one that came.

pynetdicom copies a data set four times and makes a dozen objects a fragment. Here its bytes go from where they lie to
the socket; only headers of twelve bytes are made. Nothing here reads a socket, and nothing looks into a data set.
"""

from __future__ import annotations

import dataclasses
import struct
from collections.abc import Iterable, Iterator

from pynetdicom.pdu_primitives import P_DATA

#: Bytes of a PDU where the peer sets no limit, or one that is larger.
LARGEST_PDU = 256 * 1024
#: Of each PDU these are not payload: item length, context, message control header (PS3.8 9.3.5.1, annex E.2).
_ITEM = 6
_C_STORE_RQ, _C_STORE_RSP = 0x0001, 0x8001
_MEDIUM = 0x0000
#: Any value but 0x0101 says that a data set follows (PS3.7 E.1); this is what pynetdicom and DCMTK write.
_FOLLOWS, _NONE_FOLLOWS = 0x0001, 0x0101
#: Message control headers (PS3.8 annex E.2).
_COMMAND, _LAST = 0x01, 0x02

Piece = bytes | memoryview


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class StoreRequest:
    """One C-STORE request: its presentation context and message ID, what it is about, and its data set's bytes."""

    context_id: int
    message_id: int
    sop_class_uid: str
    sop_instance_uid: str
    dataset: memoryview

    def command(self) -> bytes:
        """The command set in Implicit VR Little Endian (PS3.7 6.3.1, 9.3.1.1)."""
        return _command(
            (
                (0x0002, _uid(self.sop_class_uid)),
                (0x0100, struct.pack("<H", _C_STORE_RQ)),
                (0x0110, struct.pack("<H", self.message_id)),
                (0x0700, struct.pack("<H", _MEDIUM)),
                (0x0800, struct.pack("<H", _FOLLOWS)),
                (0x1000, _uid(self.sop_instance_uid)),
            )
        )

    def pieces(self, longest: int) -> Iterator[Piece]:
        """The bytes of all PDUs, in order, as headers and payloads by turns.

        `longest` is the peer's maximum length (PS3.8 D.1), 0 for none. Raises ValueError where it leaves no payload.
        """
        room = _room(longest)
        yield from _fragments(self.context_id, memoryview(self.command()), _COMMAND, room)
        yield from _fragments(self.context_id, self.dataset, 0, room)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class StoreResponse:
    """The answer to one C-STORE request: pynetdicom's own way to its bytes costs as much as the film's row."""

    context_id: int
    message_id: int
    sop_class_uid: str
    sop_instance_uid: str
    status: int
    comment: str = ""

    def command(self) -> bytes:
        """The command set in Implicit VR Little Endian (PS3.7 6.3.1, 9.3.1.2)."""
        comment = self.comment.encode("ascii", "replace")
        return _command(
            (
                (0x0002, _uid(self.sop_class_uid)),
                (0x0100, struct.pack("<H", _C_STORE_RSP)),
                (0x0120, struct.pack("<H", self.message_id)),
                (0x0800, struct.pack("<H", _NONE_FOLLOWS)),
                (0x0900, struct.pack("<H", self.status)),
                *(((0x0902, comment + b" " * (len(comment) % 2)),) if comment else ()),
                (0x1000, _uid(self.sop_instance_uid)),
            )
        )

    def pieces(self, longest: int) -> Iterator[Piece]:
        """As those of a request."""
        yield from _fragments(self.context_id, memoryview(self.command()), _COMMAND, _room(longest))


class Outgoing(P_DATA):
    """A whole message as one P-DATA request of the state machine: sent in one turn, as its queue of them would be."""

    def __init__(self, message: StoreRequest | StoreResponse, longest: int) -> None:
        """`longest` is the peer's maximum length. Raises ValueError where it leaves no payload."""
        super().__init__()
        self.pieces = list(message.pieces(longest))


def _command(elements: Iterable[tuple[int, bytes]]) -> bytes:
    encoded = b"".join(_element(number, value) for number, value in elements)
    return _element(0x0000, struct.pack("<I", len(encoded))) + encoded


def _room(longest: int) -> int:
    """Bytes of payload in a PDU of at most `longest` bytes, 0 for no limit. Raises ValueError where there are none."""
    longest = min(longest or LARGEST_PDU, LARGEST_PDU)
    if longest <= _ITEM:
        raise ValueError(f"PDUs of {longest} bytes hold nothing")
    return longest - _ITEM


def _fragments(context_id: int, content: memoryview, control: int, room: int) -> Iterator[Piece]:
    size = len(content)
    for start in range(0, size, room):
        payload = content[start : start + room]
        last = _LAST if start + room >= size else 0
        count = len(payload)
        # PDU type, reserved, PDU length; item length, context, message control header (PS3.8 9.3.5)
        yield struct.pack(">BBIIBB", 0x04, 0, count + _ITEM, count + 2, context_id, control | last)
        yield payload


def _element(number: int, value: bytes) -> bytes:
    return struct.pack("<HHI", 0x0000, number, len(value)) + value


def _uid(uid: str) -> bytes:
    encoded = uid.encode("latin-1", "replace")  # a peer hears what it said
    return encoded + b"\0" * (len(encoded) % 2)
