"""The parent's side of decoding: a child process that turns a film's file into display values, with limits.

A film that crashes the codec, hangs it or eats its memory costs one child and one attempt, never the reader.
"""

from __future__ import annotations

import dataclasses
import json
import os
import select
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import numpy.typing as npt

from cxrnode.errors import CxrnodeError, UnreadableImage


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
        """`timeout` in seconds a film, `memory` in bytes of address space."""
        self._timeout = timeout
        self._memory = memory
        self._child = self._start()

    def _start(self) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [sys.executable, "-m", "cxrnode.dicom.decode_child", str(self._memory)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,  # codecs print parts of what they read
            env={**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
        )

    def decode(self, path: Path, *, dataset_sha256: str) -> Decoded:
        """Decode one film. Raises UnreadableImage for what it cannot be, DecoderDied when the child did not survive."""
        if self._child.poll() is not None:
            self._child = self._start()
        until = time.monotonic() + self._timeout
        try:
            assert self._child.stdin is not None
            request = json.dumps({"path": str(path), "dataset_sha256": dataset_sha256})
            self._child.stdin.write(request.encode() + b"\n")
            self._child.stdin.flush()
            answer = json.loads(self._line(until))
            if "rejected" in answer:
                raise UnreadableImage(answer["rejected"])
            rows, columns = int(answer["rows"]), int(answer["columns"])
            display = np.frombuffer(self._read(rows * columns, until), dtype=np.uint8).reshape(rows, columns)
        except (BrokenPipeError, EOFError, TimeoutError, ValueError) as fault:
            raise DecoderDied(f"the decoder {self._post_mortem(fault)} on this film") from None
        return Decoded(
            display=display,
            pixel_digest=str(answer["pixel_digest"]),
            window=str(answer["window"]),
            notes=tuple(str(n) for n in answer["notes"]),
        )

    def _post_mortem(self, fault: Exception) -> str:
        if isinstance(fault, TimeoutError):
            self.close()
            return f"took longer than {self._timeout:g} s"
        self._child.kill()
        code = self._child.wait()
        return f"was ended by signal {-code}" if code < 0 else f"ended with status {code}"

    def _piece(self, most: int, until: float) -> bytes:
        assert self._child.stdout is not None
        descriptor = self._child.stdout.fileno()
        if not select.select([descriptor], [], [], max(0.0, until - time.monotonic()))[0]:
            raise TimeoutError
        piece = os.read(descriptor, most)
        if not piece:
            raise EOFError
        return piece

    def _line(self, until: float) -> bytes:
        """The answer's line, read byte by byte at its end so that no pixel is swallowed."""
        line = bytearray()
        while not line.endswith(b"\n"):
            line += self._piece(1, until)
        return bytes(line)

    def _read(self, size: int, until: float) -> bytes:
        whole = bytearray()
        while len(whole) < size:
            whole += self._piece(min(size - len(whole), 1 << 20), until)
        return bytes(whole)

    def close(self) -> None:
        """End the child."""
        self._child.kill()
        self._child.wait()
        for pipe in (self._child.stdin, self._child.stdout):
            if pipe is not None:
                pipe.close()
