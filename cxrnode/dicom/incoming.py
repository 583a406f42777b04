"""An object on its way in: the temporary file it streams to, and the DIMSE provider that fills it.

File names are random, never made of anything the peer sent. Nothing here looks into a data set. A full disk does
not break the association: the rest of the object is read and dropped, and the fault stands in the file for the
C-STORE response to tell.
"""

from __future__ import annotations

import os
import queue
import secrets
import time
from collections.abc import Callable
from io import FileIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydicom.dataset import Dataset
from pydicom.uid import UID
from pynetdicom.dimse_messages import C_STORE_RQ
from pynetdicom.dimse_primitives import C_STORE, DimsePrimitiveType, DimseServiceType
from pynetdicom.dsutils import create_file_meta, encode_file_meta
from pynetdicom.pdu_primitives import P_DATA

from cxrnode.core.digests import Digest, Kind
from cxrnode.core.identity import IMPLEMENTATION_CLASS_UID
from cxrnode.dicom.hardening import MALFORMED
from cxrnode.dicom.outgoing import Outgoing, StoreResponse
from cxrnode.dicom.reactor import Value, WholeMessages
from cxrnode.files import BlockWriter

if TYPE_CHECKING:
    from pynetdicom.association import Association

IMPLEMENTATION_VERSION_NAME = "CXRNODE"
PREFIX = "incoming-"
SUFFIX = ".part"
#: Bytes of a message that is no C-STORE, and of any command set: these are held in memory.
MAX_MESSAGE = 1 << 20
#: A file that grows is changed at least so often, in seconds, though a slow peer takes long to fill a block of it: what
#: was not changed for a quarter of an hour is swept as nobody's.
_TOUCHED_EVERY = 60.0
#: Messages that may wait for their turn. We answer (1, 1) to asynchronous operations, so one is the rule.
MAX_WAITING = 4
#: Message control header: a fragment of the command, the last of its kind (PS3.8 annex E.2).
_COMMAND, _LAST = 0x01, 0x02


class IncomingFile:
    """A Part 10 file as it arrives. Shaped like the temporary file that pynetdicom would use.

    `fault` is empty while all bytes are on disk. `dataset_offset` is where the data set begins, `digest` that
    of the data set alone (without preamble and group 0002).
    """

    def __init__(self, folder: Path, limit: int, kind: Kind) -> None:
        self.path = folder / f"{PREFIX}{secrets.token_hex(12)}{SUFFIX}"
        self.name = str(self.path)
        self.fault = ""
        self.too_large = False
        self.size = 0
        self.dataset_offset = 0
        self._limit = limit
        self._digest = Digest(kind)
        self._touched = time.monotonic()
        self._raw: FileIO | None = None
        try:
            self._raw = FileIO(self.name, "xb")
            self._blocks = BlockWriter(self._raw.fileno)
        except OSError as error:
            self._fail(error.strerror or "cannot write")

    @property
    def file(self) -> IncomingFile:
        """pynetdicom flushes `.file`."""
        return self

    @property
    def digest(self) -> str:
        """The digest of the data set, once the file is closed."""
        return str(self._digest)

    def begin_dataset(self) -> None:
        """What comes from here on is data set."""
        self.dataset_offset = self.size
        if self._raw is not None:
            self._blocks.watch(self._digest.update)

    def write(self, *pieces: bytes | memoryview) -> int:
        """Append, or drop once there is a fault; return how many bytes were given. Never raises OSError."""
        given = sum(map(len, pieces))
        if self._raw is not None:
            self.size += given
            if self.size > self._limit:
                self.too_large = True
                self._fail(f"larger than {self._limit} bytes")
                return given
            try:
                self._blocks.write(pieces)
                if (now := time.monotonic()) - self._touched >= _TOUCHED_EVERY:
                    os.utime(self._raw.fileno())
                    self._touched = now
            except (OSError, ValueError) as error:
                self._failed(error)
        return given

    def refuse(self, why: str) -> None:
        """Keep nothing of it: the rest is read and dropped, so that its sender gets an answer."""
        self._fail(why)

    def flush(self) -> None:
        """pynetdicom asks for it with each fragment: what waits for more is written at the end."""

    def close(self) -> None:
        """Write what is left and close; the file stays."""
        if self._raw is not None:
            try:
                self._blocks.finish()
            except (OSError, ValueError) as error:
                self._failed(error)
            self._shut()

    def discard(self) -> None:
        """Close and remove, if it is still where it was made."""
        self._shut()
        self.path.unlink(missing_ok=True)

    def _shut(self) -> None:
        if self._raw is not None:
            self._raw.close()
            self._raw = None

    def _failed(self, error: OSError | ValueError) -> None:
        if isinstance(error, OSError):
            self._fail(error.strerror or "cannot write")
        else:  # the association ended while the disk stood still, and its file was closed
            self._fail("closed")

    def _fail(self, why: str) -> None:
        self.fault = why
        self.discard()


class IncomingMessages(WholeMessages):
    """The DIMSE provider of one accepted association: streams C-STORE data sets to files in `folder`."""

    def __init__(
        self, assoc: Association, folder: Path, limit: int, shortage: Callable[[], str], digests: Kind
    ) -> None:
        super().__init__(assoc)
        self._shortage = shortage
        self.files: dict[Path, IncomingFile] = {}
        self._folder = folder
        self._limit = limit
        self._digests = digests
        self._arriving: IncomingFile | None = None
        self._held = 0
        self._broken = False

    def receive_primitive(self, primitive: P_DATA) -> None:
        """Take a P-DATA indication, one value at a time; a malformed or excessive one aborts the association."""
        self.take([(context_id, memoryview(value)) for context_id, value in primitive.presentation_data_value_list])

    def take(self, values: list[Value]) -> None:
        """Take the values of some PDUs; as above. A data set's fragments go to its file from where they lie."""
        pieces: list[memoryview] = []
        for context_id, fragment in values:
            if self._broken:
                return
            try:
                control = fragment[0]
                if self._arriving is not None and not control & _COMMAND:
                    pieces.append(fragment[1:])
                    if not control & _LAST:
                        continue
                    fragment = fragment[:1]
                if pieces and self._arriving is not None:  # before anything that may be the end of its object
                    self._arriving.write(*pieces)
                    pieces = []
                one = P_DATA()
                one.presentation_data_value_list.append((context_id, bytes(fragment)))
                self._take(one, context_id, len(fragment))
            except MALFORMED:
                self._break_off()
        if pieces and self._arriving is not None:
            self._arriving.write(*pieces)

    def get_msg(self, block: bool = False) -> tuple[None, None] | tuple[int, DimseServiceType]:
        """Return the next message or (None, None); the association's loop waits here rather than polls."""
        if block:
            return super().get_msg(True)
        try:
            # Nothing but fragments may come while an object arrives, and what is complete wakes this at once.
            quiet = self._arriving is not None or getattr(self.dul.socket, "idle", False)
            return self.msg_queue.get(timeout=0.05 if quiet else 0.002)
        except queue.Empty:
            return None, None

    def send_msg(self, primitive: DimsePrimitiveType, context_id: int) -> None:
        """Send a message. The peer's silence counts from then on: what we took to answer is none of its doing."""
        if isinstance(primitive, C_STORE) and primitive.MessageIDBeingRespondedTo is not None:
            self._respond(primitive, context_id)
        else:
            super().send_msg(primitive, context_id)
        self.dul._idle_timer.restart()

    def _respond(self, response: C_STORE, context_id: int) -> None:
        answer = StoreResponse(
            context_id=context_id,
            message_id=response.MessageIDBeingRespondedTo or 0,
            sop_class_uid=str(response.AffectedSOPClassUID or ""),
            sop_instance_uid=str(response.AffectedSOPInstanceUID or ""),
            status=response.Status or 0,
            comment=response.ErrorComment or "",
        )
        try:
            with self.sending:
                self.dul.send_pdu(Outgoing(answer, self.maximum_pdu_size))
        except ValueError:  # a peer whose PDUs hold nothing can be told nothing
            self._break_off()

    def _take(self, one: P_DATA, context_id: int, size: int) -> None:
        if self._arriving is None:
            self._held += size
            if self._held > MAX_MESSAGE or self.msg_queue.qsize() > MAX_WAITING:
                self._break_off()
                return
        super().receive_primitive(one)
        message: Any = self.message
        if message is None:
            self._held = 0
            self._arriving = None
        elif self._arriving is None and isinstance(message, C_STORE_RQ):
            # The command is complete and a data set follows: pynetdicom writes it where these two point.
            self._arriving = self._new_file(message.command_set, context_id)
            setattr(message, "_data_set_file", self._arriving)  # noqa: B010 - typed as tempfile's own class
            message._data_set_path = self._arriving.path

    def _new_file(self, request: Dataset, context_id: int) -> IncomingFile:
        """Open the file of the next object and write what goes before its data set (PS3.10 section 7.1)."""
        meta = create_file_meta(
            sop_class_uid=request.AffectedSOPClassUID,
            sop_instance_uid=request.AffectedSOPInstanceUID,
            transfer_syntax=self.assoc._accepted_cx[context_id].transfer_syntax[0],
            implementation_uid=UID(IMPLEMENTATION_CLASS_UID),
            implementation_version=IMPLEMENTATION_VERSION_NAME,
        )
        file = IncomingFile(self._folder, self._limit, self._digests)
        if shortage := self._shortage():
            file.refuse(shortage)
        self.files[file.path] = file
        file.write(bytes(128) + b"DICM" + encode_file_meta(meta))
        file.begin_dataset()
        return file

    def _break_off(self) -> None:
        self._broken = True
        self.dul.event_queue.put("Evt19")  # PS3.8 table 9-10: an unexpected PDU, answered with A-ABORT

    def forget(self, path: Path) -> None:
        """The object at this path has been answered."""
        self.files.pop(path, None)

    def discard(self) -> None:
        """Remove whatever arrived and was not answered: the end of the association."""
        for file in list(self.files.values()):
            file.discard()
        self.files.clear()


def sweep(folder: Path, older_than: float) -> int:
    """Remove incoming files not written to for `older_than` seconds: those of a process that was killed.

    Returns how many. A file that vanishes meanwhile is none of our concern.
    """
    removed = 0
    before = time.time() - older_than
    for path in folder.glob(f"{PREFIX}*{SUFFIX}"):
        try:
            if path.stat().st_mtime < before:
                path.unlink()
                removed += 1
        except FileNotFoundError:
            continue
    return removed
