"""Conversations that are nearly right: the PDUs of an association that stores one object, changed where it hurts."""

from __future__ import annotations

import dataclasses
import random
import select
import socket
import struct
from collections.abc import Sequence

from pydicom.uid import ComputedRadiographyImageStorage
from pynetdicom.pdu import A_ASSOCIATE_RQ
from pynetdicom.pdu_primitives import A_ASSOCIATE, MaximumLengthNotification
from pynetdicom.pdu_primitives import ImplementationClassUIDNotification as ImplementationUID
from pynetdicom.presentation import build_context

from cxrnode.dicom import hardening
from tests.fuzz.datasets import SYNTAXES
from tests.integration.scripted import answered_status, command, data_pdu, read_pdu

RELEASE = struct.pack(">BBI", 5, 0, 4) + bytes(4)
ABORT = struct.pack(">BBI", 7, 0, 4) + bytes(4)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Ending:
    """How a case ended: the status of the last answer, its kind, and the reason that came with it."""

    kind: str
    status: int = -1
    reason: str = ""


def request(calling: str = "FUZZ", called: str = "CXRNODE") -> bytes:
    """An A-ASSOCIATE-RQ that offers CR storage in each of `SYNTAXES`, contexts 1, 3, 5 and 7."""
    primitive = A_ASSOCIATE()
    primitive.application_context_name = "1.2.840.10008.3.1.1.1"
    primitive.calling_ae_title, primitive.called_ae_title = calling, called
    contexts = []
    for number, syntax in enumerate(SYNTAXES):
        context = build_context(ComputedRadiographyImageStorage, syntax)
        context.context_id = 2 * number + 1
        contexts.append(context)
    primitive.presentation_context_definition_list = contexts
    length, implementation = MaximumLengthNotification(), ImplementationUID()
    length.maximum_length_received = 16384
    implementation.implementation_class_uid = "2.25.99"
    primitive.user_information = [length, implementation]
    return A_ASSOCIATE_RQ(primitive).encode()


def store(uid: str, dataset: bytes, context_id: int, *, chance: random.Random | None = None) -> list[bytes]:
    """The PDUs of one C-STORE-RQ; with `chance` its command set is changed."""
    elements = {
        0x0002: _even(ComputedRadiographyImageStorage.encode()),
        0x0100: struct.pack("<H", 1),
        0x0110: struct.pack("<H", 7),
        0x0700: struct.pack("<H", 0),
        0x0800: struct.pack("<H", 1),
        0x1000: _even(uid.encode()),
    }
    if chance is not None:
        _change_command(elements, chance)
    piece = chance.choice((1, 100, 4000, 16000, 60000)) if chance is not None and len(dataset) < 20000 else 16000
    # Few pieces, but none longer than the node says that it takes: that would be no request in order.
    piece = min(max(piece, len(dataset) // 200 + 1), hardening.MAX_PDU - 12)
    pieces = [dataset[at : at + piece] for at in range(0, len(dataset), piece)] or [b""]
    return [
        data_pdu(command(*sorted(elements.items())), is_command=True, last=True, context_id=context_id),
        *(
            data_pdu(one, is_command=False, last=number == len(pieces) - 1, context_id=context_id)
            for number, one in enumerate(pieces)
        ),
    ]


def _even(value: bytes) -> bytes:
    return value + b"\0" * (len(value) % 2)


#: C-FIND, C-GET, C-MOVE, C-ECHO, N-*, responses, C-CANCEL, nonsense (PS3.7 annex E).
_COMMANDS = (0x10, 0x20, 0x21, 0x30, 0x100, 0x110, 0x120, 0x130, 0x140, 0x150, 0x8001, 0x0FFF, 0xABCD)
#: Lengths of PDUs that are not true, beside those near the true one.
_LENGTHS = (0, 1, 3, 1 << 20, (1 << 20) + 1, 1 << 31, 0xFFFFFFFF)
#: What has no place there.
_STRAY = (ABORT, RELEASE, struct.pack(">BBI", 4, 0, 0), b"GET / HTTP/1.1\r\n\r\n")


def _change_command(elements: dict[int, bytes], chance: random.Random) -> None:
    match chance.randrange(7):
        case 0:
            del elements[chance.choice(list(elements))]
        case 1:
            elements[0x0100] = struct.pack(
                "<H",
                chance.choice(
                    (0x10, 0x20, 0x21, 0x30, 0x100, 0x110, 0x120, 0x130, 0x140, 0x150, 0x8001, 0x0FFF, 0xABCD)
                ),
            )
        case 2:
            elements[0x0800] = struct.pack("<H", chance.choice((0x0101, 0, 0xFFFF)))
        case 3:
            elements[0x1000] = _even(chance.choice((b"", b"\0", b"1.2." + b"9" * 200, b"../../x", b"2.25.\xff", b" ")))
        case 4:
            elements[0x0002] = _even(chance.choice((b"", b"1.2.3", b"1.2.840.10008.1.1", b"\xff" * 70)))
        case 5:
            elements[chance.choice(list(elements))] = chance.randbytes(chance.choice((0, 1, 2, 3, 9, 300)))
        case _:
            elements[chance.choice((0x0120, 0x0200, 0x0600, 0x0901, 0x1030, 0x1031, 0xFFFF))] = chance.randbytes(
                chance.choice((0, 2, 16, 70))
            )


def mutate(pdus: list[bytes], chance: random.Random) -> None:
    """Change one to three of the PDUs, or their order, in place."""
    for _ in range(chance.choice((1, 1, 2, 3))):
        where = chance.randrange(len(pdus))
        one = bytearray(pdus[where])
        if len(one) < 6:  # cut off by the change before: it has no head that could be changed
            continue
        match chance.randrange(11):
            case 0:  # another type
                one[0] = chance.choice((0, 1, 2, 3, 4, 5, 6, 7, 8, 0x50, 0xFF))
            case 1:  # another length
                true = len(one) - 6
                struct.pack_into(">I", one, 2, chance.choice((*_LENGTHS, max(0, true - 1), true + 1, true * 2)))
            case 2:
                for _ in range(chance.randint(1, 6)):
                    one[chance.randrange(len(one))] = chance.randrange(256)
            case 3:
                one = one[: chance.randrange(len(one) + 1)]
            case 4:
                one += chance.randbytes(chance.choice((1, 6, 100, 5000)))
            case 5:  # a length within: of an item, of a value
                if len(one) > 14:
                    at = chance.randrange(6, len(one) - 3)
                    one[at : at + 2] = chance.choice((b"\0\0", b"\xff\xff", b"\x7f\xff"))
            case 6:
                del pdus[where]
                if not pdus:
                    pdus.append(ABORT)
                continue
            case 7:
                pdus.insert(where, bytes(one))
                continue
            case 8:
                other = chance.randrange(len(pdus))
                pdus[where], pdus[other] = pdus[other], pdus[where]
                continue
            case 9:
                pdus.insert(
                    where, chance.choice((ABORT, RELEASE, struct.pack(">BBI", 4, 0, 0), b"GET / HTTP/1.1\r\n\r\n"))
                )
                continue
            case _:  # the control header or the context of a value
                if len(one) > 12 and one[0] == 4:
                    one[chance.choice((10, 11))] = chance.randrange(256)
        pdus[where] = bytes(one)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """What one peer says. `polite`: it waits for each answer; `sound`: there will be one."""

    pdus: Sequence[bytes]
    polite: bool = True
    sound: bool = True


def converse(port: int, case: Case, *, patience: float = 60.0) -> Ending:
    """Say all of it, then listen to the end.

    Raises TimeoutError where the node neither answers nor hangs up.
    """
    ending = Ending(kind="closed")
    said = list(case.pdus)
    farewell = said.pop() if said[-1] == RELEASE else b""
    with socket.create_connection(("127.0.0.1", port), timeout=patience) as wire:
        try:
            if case.polite:
                wire.sendall(said[0])
                select.select([wire], [], [], patience if said[0] == request() else 0.2)
                del said[0]
            wire.sendall(b"".join(said))
            if case.polite and case.sound:
                ending = _heard(read_pdu(wire), ending)
            if case.polite and ending.kind in ("associated", "closed"):
                select.select([wire], [], [], patience if case.sound else 0.3)
            wire.sendall(farewell)
            wire.shutdown(socket.SHUT_WR)
        except OSError:
            pass  # it hung up on us: what it said before stands
        while True:
            try:
                pdu = read_pdu(wire)
            except TimeoutError:
                raise
            except OSError:
                return ending
            ending = _heard(pdu, ending)
            if pdu[0] in (0, 3):
                return ending


def _heard(pdu: tuple[int, bytes], before: Ending) -> Ending:
    """What is known of the ending after one more PDU of the node's."""
    kind, body = pdu
    match kind:
        case 3:
            return Ending(kind="rejected", reason=f"result {body[1]}, source {body[2]}, reason {body[3]}")
        case 4:
            status, comment = answered_status(body)
            return Ending(kind="answered", status=status, reason=comment)
        case 7 if before.kind != "answered":
            return Ending(kind="aborted", reason=f"source {body[2]}, reason {body[3]}")
        case 6 if before.kind != "answered":
            return Ending(kind="released", reason="the peer asked for it")
        case 2 if before.kind == "closed":
            return Ending(kind="associated")
        case _:
            return before
