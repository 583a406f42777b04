"""Peers that the tests play themselves: small DICOM objects, a scripted archive, raw PDUs, DCMTK's programs."""

from __future__ import annotations

import io
import socket
import ssl
import struct
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import (
    UID,
    ComputedRadiographyImageStorage,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    SecondaryCaptureImageStorage,
)
from pynetdicom import AE, evt
from pynetdicom.events import Event
from pynetdicom.pdu import A_ASSOCIATE_RQ, P_DATA_TF
from pynetdicom.pdu_primitives import A_ASSOCIATE, P_DATA, MaximumLengthNotification
from pynetdicom.pdu_primitives import ImplementationClassUIDNotification as ImplementationUID
from pynetdicom.presentation import build_context

from tests.peers import require_tool

PATIENT = "VERYSECRET^NAME"


def run(program: str, *args: str | Path, timeout: float = 30.0) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [require_tool(program), *map(str, args)], capture_output=True, text=True, timeout=timeout, check=False
    )


def film(
    *,
    uid: str = "2.25.1",
    sop_class: str = ComputedRadiographyImageStorage,
    syntax: str = ExplicitVRLittleEndian,
    side: int = 64,
) -> bytes:
    """A Part 10 file of one small image, with a private element and a sequence."""
    ds = Dataset()
    ds.SpecificCharacterSet = "ISO_IR 100"
    ds.SOPClassUID, ds.SOPInstanceUID = sop_class, uid
    ds.PatientName, ds.PatientID = PATIENT, "SECRET-ID"
    ds.StudyInstanceUID, ds.SeriesInstanceUID = "2.25.2", "2.25.3"
    ds.Modality = "CR"
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = "51185008", "SCT", "Chest"
    ds.AnatomicRegionSequence = [item]
    ds.private_block(0x0099, "99CXRNODE TEST", create=True).add_new(1, "LO", "kept")
    ds.Rows = ds.Columns = side
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, 12, 11, 0
    ds.PixelData = (bytes(range(16)) * (side * side // 8 + 1))[: side * side * 2]
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = UID(syntax)
    out = io.BytesIO()
    ds.save_as(out, enforce_file_format=True)
    return out.getvalue()


def dataset_of(part10: bytes) -> bytes:
    """The data set alone: what follows group 0002, whose length stands at byte 140 (PS3.10 section 7.1)."""
    return part10[144 + struct.unpack("<I", part10[140:144])[0] :]


def await_that(condition: Callable[[], bool], seconds: float = 10.0) -> bool:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if condition():
            return True
        time.sleep(0.02)
    return condition()


def settled_threads(seconds: float = 10.0) -> int:
    """How many threads run once their number has not changed for half a second."""
    until, count, since = time.monotonic() + seconds, threading.active_count(), time.monotonic()
    while time.monotonic() < until and time.monotonic() - since < 0.5:
        time.sleep(0.05)
        if threading.active_count() != count:
            count, since = threading.active_count(), time.monotonic()
    return count


@contextmanager
def archive(
    answer: Callable[[Event], int | Dataset] = lambda event: 0x0000,
    *,
    aet: str = "ARCHIVE",
    require_called: bool = False,
    require_calling: tuple[str, ...] = (),
    syntaxes: tuple[str, ...] = (ExplicitVRLittleEndian, ImplicitVRLittleEndian),
    classes: tuple[str, ...] = (ComputedRadiographyImageStorage, SecondaryCaptureImageStorage),
    tls: ssl.SSLContext | None = None,
) -> Iterator[tuple[int, list[bytes]]]:
    """A storage SCP that answers as told; yields its port and the data sets it got, as bytes."""
    got: list[bytes] = []

    def store(event: Event) -> int | Dataset:
        got.append(event.encoded_dataset(include_meta=False))
        return answer(event)

    entity = AE(ae_title=aet)
    entity.require_called_aet = require_called
    entity.require_calling_aet = list(require_calling)
    for sop_class in classes:
        entity.add_supported_context(sop_class, list(syntaxes))
    entity.add_supported_context("1.2.840.10008.1.1")
    server = entity.start_server(
        ("127.0.0.1", 0), block=False, evt_handlers=[(evt.EVT_C_STORE, store)], ssl_context=tls
    )
    assert server is not None
    try:
        yield server.server_address[1], got
    finally:
        await_that(lambda: not entity.active_associations, 1.0)
        entity.shutdown()


@contextmanager
def tcp_peer(behave: Callable[[socket.socket], None]) -> Iterator[int]:
    """A peer of bare TCP with a small window: each connection is given to `behave`."""
    listening = socket.socket()
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 16)
    listening.bind(("127.0.0.1", 0))
    listening.listen()
    conversations: list[socket.socket] = []

    def accept() -> None:
        while True:
            try:
                conversation, _ = listening.accept()
            except OSError:
                return
            conversations.append(conversation)
            threading.Thread(target=behave, args=(conversation,), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    try:
        yield listening.getsockname()[1]
    finally:
        listening.shutdown(socket.SHUT_RDWR)
        listening.close()
        for conversation in conversations:
            conversation.close()


def request_pdu(called: str = "CXRNODE", calling: str = "SCRIPT") -> bytes:
    """An A-ASSOCIATE-RQ for CR Image Storage in Implicit VR Little Endian, context 1."""
    primitive = A_ASSOCIATE()
    primitive.application_context_name = "1.2.840.10008.3.1.1.1"
    primitive.calling_ae_title, primitive.called_ae_title = calling, called
    context = build_context(ComputedRadiographyImageStorage, ImplicitVRLittleEndian)
    context.context_id = 1
    primitive.presentation_context_definition_list = [context]
    length, implementation = MaximumLengthNotification(), ImplementationUID()
    length.maximum_length_received = 16384
    implementation.implementation_class_uid = "2.25.99"
    primitive.user_information = [length, implementation]
    return A_ASSOCIATE_RQ(primitive).encode()


def command(*elements: tuple[int, bytes]) -> bytes:
    """A command set: (element of group 0000, value), Implicit VR Little Endian, with its group length."""
    body = b"".join(struct.pack("<HHI", 0, e, len(v)) + v for e, v in elements)
    return struct.pack("<HHII", 0, 0, 4, len(body)) + body


def store_command(uid: bytes = b"2.25.1") -> bytes:
    sop_class = ComputedRadiographyImageStorage.encode()
    return command(
        (0x0002, sop_class + b"\0" * (len(sop_class) % 2)),
        (0x0100, struct.pack("<H", 1)),
        (0x0110, struct.pack("<H", 7)),
        (0x0700, struct.pack("<H", 0)),
        (0x0800, struct.pack("<H", 1)),
        (0x1000, uid + b"\0" * (len(uid) % 2)),
    )


def data_pdu(fragment: bytes, *, is_command: bool, last: bool, context_id: int = 1) -> bytes:
    """A P-DATA-TF PDU of one value (PS3.8 section 9.3.5, annex E.2)."""
    primitive = P_DATA()
    control = bytes([is_command | last << 1])
    primitive.presentation_data_value_list.append((context_id, control + fragment))
    return P_DATA_TF(primitive).encode()


def read_pdu(conversation: socket.socket) -> tuple[int, bytes]:
    """Read one PDU: its type and what follows the length. Type 0 where the peer closed."""
    head = _exactly(conversation, 6)
    if len(head) < 6:
        return 0, b""
    return head[0], _exactly(conversation, struct.unpack(">I", head[2:])[0])


def _exactly(conversation: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        try:
            piece = conversation.recv(count - len(data))
        except ConnectionResetError:
            break
        if not piece:
            break
        data += piece
    return data


def answered_status(pdu: bytes) -> tuple[int, str]:
    """Status and Error Comment of a C-STORE response in a P-DATA-TF body."""
    body, status, comment = pdu[6:], -1, ""
    while body:
        _, element, length = struct.unpack("<HHI", body[:8])
        value, body = body[8 : 8 + length], body[8 + length :]
        if element == 0x0900:
            status = struct.unpack("<H", value)[0]
        elif element == 0x0902:
            comment = value.decode("ascii").strip()
    return status, comment


def certificates(folder: Path) -> dict[str, Path]:
    """An authority, and certificates for localhost of a `server` and a `client`, made by openssl."""

    def openssl(*args: str | Path) -> None:
        subprocess.run([require_tool("openssl"), *map(str, args)], check=True, capture_output=True, timeout=30)

    ca, ca_key = folder / "ca.pem", folder / "ca.key"
    ec = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
    openssl("req", "-x509", *ec, "-keyout", ca_key, "-out", ca, "-days", "2", "-subj", "/CN=Test CA")
    files = {"ca": ca}
    for name in ("server", "client"):
        key, request, cert = (folder / f"{name}.{end}" for end in ("key", "csr", "pem"))
        extension = folder / f"{name}.ext"
        extension.write_text("subjectAltName=DNS:localhost,IP:127.0.0.1\n")
        openssl("req", "-new", *ec, "-keyout", key, "-out", request, "-subj", f"/CN={name}")
        openssl("x509", "-req", "-in", request, "-CA", ca, "-CAkey", ca_key, "-CAcreateserial", "-out", cert,
                "-days", "2", "-extfile", extension)  # fmt: skip
        files[name], files[f"{name}_key"] = cert, key
    return files
