"""Fetching one instance over the web: WADO-RS (PS3.18 10.4), as the Part 10 file that the server has, in pieces."""

from __future__ import annotations

import re
from collections.abc import Callable
from urllib.parse import quote

from cxrnode.dicom.destination import Place
from cxrnode.errors import Rejected, Transient
from cxrnode.https import HttpClient

#: The lines before the instance in the answer, at most, in bytes.
_MOST_HEAD = 16 * 1024
#: The slowest that a server may give an instance, in bytes a second, past its time-out.
_SLOWEST = 16 * 1024
_BOUNDARY = re.compile(r'boundary="?([^";,\s]+)"?', re.IGNORECASE)


def fetch(server: HttpClient, place: Place, write: Callable[[bytes], object], *, largest: int) -> None:
    """Give the file of an instance to `write`, in pieces.

    Raises Rejected where the server does not have it, gives several, or gives something else: it would be the same next
    time; Transient where the server is away, or the answer broke off. What was written then is no file.
    """
    study, series, instance = (
        quote(uid, safe="") for uid in (place.study_instance_uid, place.series_instance_uid, place.sop_instance_uid)
    )
    part = FirstPart(write)
    answer = server.ask(
        "GET",
        f"/studies/{study}/series/{series}/instances/{instance}",
        headers={"Accept": 'multipart/related; type="application/dicom"; transfer-syntax=*'},
        largest=largest,
        slowest=_SLOWEST,
        take=part.take,
    )
    if not answer.whole:
        raise Rejected(f"the film is larger than the {largest} bytes that are taken (listen.max_instance)")
    if answer.status in (404, 406, 410):
        raise Rejected(f"the server at {server.where} does not have the film (HTTP {answer.status})")
    if answer.status != 200:
        raise Transient(f"the server at {server.where} does not give the film now (HTTP {answer.status})")
    found = _BOUNDARY.search(answer.headers.get("Content-Type", ""))
    part.end(found.group(1).encode() if found else b"")


class FirstPart:
    """Takes a body of multipart/related (RFC 2387) as it comes and passes on what its one part holds."""

    def __init__(self, write: Callable[[bytes], object]) -> None:
        """`write` is called with pieces of the part, in order."""
        self._write = write
        self._delimiter = b""
        #: What was not passed on: the head at first, then as much as could be the delimiter's beginning.
        self._held = bytearray()
        self._over = False

    def take(self, piece: bytes) -> None:
        """Take the next piece of the body. Raises Rejected for what is no such body."""
        if self._over:
            # Only what tells the last delimiter from another one still counts.
            self._held += piece[: max(0, len(self._delimiter) + 2 - len(self._held))]
            return
        self._held += piece
        if not self._delimiter and not self._begin():
            return
        at = self._held.find(self._delimiter)
        if at >= 0:
            self._over = True
            self._pass_on(at)
        else:
            self._pass_on(len(self._held) - len(self._delimiter))

    def _begin(self) -> bool:
        """Take the first delimiter and the part's head, once both are there."""
        start = self._held.find(b"--")
        line = self._held.find(b"\r\n", start)
        end = self._held.find(b"\r\n\r\n", max(line, 0))
        if start < 0 or line < 0 or end < 0:
            if len(self._held) > _MOST_HEAD:
                raise Rejected("the server's answer is no multipart/related body with a DICOM file in it")
            return False
        self._delimiter = b"\r\n" + bytes(self._held[start:line]).rstrip()
        del self._held[: end + 4]
        return True

    def _pass_on(self, count: int) -> None:
        if count > 0:
            self._write(bytes(self._held[:count]))
            del self._held[:count]

    def end(self, boundary: bytes) -> None:
        """The body is over.

        Raises Rejected where it is none of `boundary`, or of several parts, Transient where it broke off.
        """
        if self._delimiter != b"\r\n--" + boundary:
            raise Rejected("the server's answer is not of the form that it says")
        if not self._over:
            raise Transient("the server's answer broke off")
        if not bytes(self._held[len(self._delimiter) :]).startswith(b"--"):
            raise Rejected("the server gave several instances where one was asked for")
