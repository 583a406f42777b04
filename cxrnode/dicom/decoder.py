"""The parent's side of decoding: a child process that turns a film's file into display values, with limits.

A film that crashes the codec, hangs it or eats its memory costs one child and one attempt, never the reader.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import json
import mmap
import os
import select
import subprocess
import sys
import termios
import time
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from cxrnode.errors import CxrnodeError, Rejected, Transient, UnreadableImage

#: What a child writes once everything is imported: one that dies before it is no film's fault. It names what they say
#: to each other: of an installation that was changed under a running node a child of the other version is not asked.
READY = b"ready 3\n"
#: How long a child may take to import what it needs.
_START_SECONDS = 60.0
#: What is read at a time until an answer's line ends, and the longest line that is believed.
_LINE_BYTES, _LONGEST_LINE = 1 << 12, 1 << 20
#: Pixels that the memory shared with the child has room for, and what of it is kept from film to film.
SHARED_PIXELS, _KEPT_PIXELS = 64_000_000, 16_000_000
#: The child cannot make that memory smaller: to look past its end would end us.
_SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL


class DecoderDied(CxrnodeError):
    """The decode child died on this film."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Decoded:
    """A decoded film. `display`: uint8 (H, W), 0 = black, row 0 = top, as the radiologist sees it."""

    display: npt.NDArray[np.uint8]
    pixel_digest: str
    window: str
    notes: tuple[str, ...]


class Decoder:
    """Decodes in a child process, started at once and again whenever it died."""

    def __init__(self, *, timeout: float, memory: int) -> None:
        """`timeout` in seconds a film, `memory` in bytes of address space. Raises Transient as `decode` does."""
        self._timeout = timeout
        self._limit = memory
        try:
            self._descriptor = os.memfd_create("cxrnode-film", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
            os.ftruncate(self._descriptor, SHARED_PIXELS)
            fcntl.fcntl(self._descriptor, fcntl.F_ADD_SEALS, _SEALS)
            self._shared = mmap.mmap(self._descriptor, SHARED_PIXELS)
        except OSError as error:
            raise Transient(f"the decoder has no memory: {error.strerror}") from None
        self._child = self._start()

    def _start(self) -> subprocess.Popen[bytes]:
        self._ready = False
        self._over = b""
        try:
            child = subprocess.Popen(
                [
                    sys.executable,
                    "-m",
                    "cxrnode.dicom.decode_child",
                    str(self._limit),
                    str(self._timeout),
                    str(self._descriptor),
                ],
                pass_fds=(self._descriptor,),
                bufsize=0,  # nothing is left to be written when the pipe is closed
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,  # codecs print parts of what they read
                env=_environment(),
            )
        except OSError as error:
            raise Transient(f"the decoder cannot be started: {error.strerror}") from None
        return child

    def decode(self, path: Path, *, dataset_digest: str) -> Decoded:
        """Decode one film, whose data set has this digest.

        Raises UnreadableImage for what it cannot be, Rejected for a file that was altered, DecoderDied when the child
        did not survive this film, Transient where no child can be had, the child ended before it knew of the film, or
        the file cannot be read at the moment.
        """
        self._get_ready()
        until = time.monotonic() + self._timeout
        try:
            answer = self._ask(path, dataset_digest, until)
            display = self._display(answer)
        except (OSError, EOFError, ValueError, LookupError, TypeError, MemoryError) as fault:
            # Whatever was left in the pipe goes with the child: no film ever gets another one's answer.
            unasked, said = self._unasked(fault), self._post_mortem(fault)
            if unasked:
                raise Transient(f"the decoder {said} before it was asked for the film") from None
            raise DecoderDied(f"the decoder {said} on this film") from None
        return Decoded(
            display=display,
            pixel_digest=str(answer["pixel_digest"]),
            window=str(answer["window"]),
            notes=tuple(str(n) for n in answer["notes"]),
        )

    def _get_ready(self) -> None:
        """Have a child that waits for a film. Raises Transient where it does not come up: no film has a part in it."""
        if self._child.poll() is not None:
            self._end()
            self._child = self._start()
        if self._ready:
            return
        with contextlib.suppress(OSError, EOFError):
            self._ready = self._line(time.monotonic() + _START_SECONDS) == READY
        if not self._ready:
            self._end()
            raise Transient("the decoder does not start; try `python -m cxrnode.dicom.decode_child 2000000000 20`")

    def _ask(self, path: Path, dataset_digest: str, until: float) -> dict[str, Any]:
        assert self._child.stdin is not None
        request = json.dumps({"path": str(path), "dataset_digest": dataset_digest})
        self._child.stdin.write(request.encode() + b"\n")
        answer: dict[str, Any] = json.loads(self._line(until))
        if answer["dataset_digest"] != dataset_digest:
            raise ValueError("the answer is about another film")
        if "unreadable" in answer:
            raise UnreadableImage(str(answer["unreadable"]))
        if "altered" in answer:
            raise Rejected("the film in the spool was altered: its digest is not the recorded one; send it again")
        if "waits" in answer:
            raise Transient(f"the spool does not answer: {answer['waits']}")
        return answer

    def _display(self, answer: dict[str, Any]) -> npt.NDArray[np.uint8]:
        """A copy of what the child wrote: the memory is its own to change, and the next film's."""
        rows, columns = int(answer["rows"]), int(answer["columns"])
        if not 0 < rows * columns <= SHARED_PIXELS or rows < 0:
            raise ValueError("no film has so many pixels")
        if not {"pixel_digest", "window", "notes"} <= answer.keys():
            raise ValueError("the answer is not whole")
        pixels = np.frombuffer(self._shared, np.uint8, rows * columns).reshape(rows, columns).copy()
        if pixels.size > _KEPT_PIXELS:
            with contextlib.suppress(OSError):
                self._shared.madvise(mmap.MADV_REMOVE)
        return pixels

    def _unasked(self, fault: Exception) -> bool:
        """Whether the child never took the request from its pipe: what became of it is no film's doing."""
        assert self._child.stdin is not None
        if isinstance(fault, BrokenPipeError):
            return True
        left = fcntl.ioctl(self._child.stdin.fileno(), termios.FIONREAD, bytes(4))
        return int.from_bytes(left, sys.byteorder) > 0

    def _post_mortem(self, fault: Exception) -> str:
        """End the child and say what became of it."""
        late, ended = isinstance(fault, TimeoutError), isinstance(fault, EOFError | BrokenPipeError)
        if ended:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._child.wait(1.0)  # what it ends with by itself is the truth; our kill would hide it
        self._end()
        if late:
            return f"took longer than {self._timeout:g} s"
        code = self._child.returncode
        if not ended:
            return "answered out of turn"
        return f"was ended by signal {-code}" if code < 0 else f"ended with status {code}"

    def _wait(self, until: float) -> int:
        """The descriptor of the child's pipe, once there is something to read."""
        assert self._child.stdout is not None
        descriptor = self._child.stdout.fileno()
        if not select.select([descriptor], [], [], max(0.0, until - time.monotonic()))[0]:
            raise TimeoutError
        return descriptor

    def _line(self, until: float) -> bytes:
        """The answer's line. What came along with it stands in `_over`, and spoils the next one."""
        while b"\n" not in self._over:
            piece = os.read(self._wait(until), _LINE_BYTES)
            if not piece:
                raise EOFError
            self._over += piece
            if len(self._over) > _LONGEST_LINE:
                raise ValueError("no answer is so long")
        line, _, self._over = self._over.partition(b"\n")
        return line + b"\n"

    def _end(self) -> None:
        self._child.kill()
        self._child.wait()
        for pipe in (self._child.stdin, self._child.stdout):
            if pipe is not None:
                pipe.close()

    def close(self) -> None:
        """End the child and give the memory back; nothing may be decoded after it."""
        self._end()
        if not self._shared.closed:
            self._shared.close()
            os.close(self._descriptor)


#: What Python, the loader and the codecs look at; OPENBLAS_CORETYPE is set where a processor needs it.
_INHERITED = frozenset({"HOME", "LANG", "OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE", "PATH", "TMPDIR", "TZ"})

#: A film's memory serves for the next one, up to 64 MiB: to have it from the kernel again costs a tenth of a film.
_MALLOC = {"MALLOC_MMAP_THRESHOLD_": str(32 << 20), "MALLOC_TRIM_THRESHOLD_": str(64 << 20)}


def _environment() -> dict[str, str]:
    """The variables of the child: none that holds a password, for a film that takes it over to read."""
    named = {
        name: value
        for name, value in os.environ.items()
        if name in _INHERITED or name.startswith(("LC_", "LD_", "PYTHON"))
    }
    return {**_MALLOC, **named, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
