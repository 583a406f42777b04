"""The process that may die: it decodes one film after another for a `Decoder` and holds nothing worth keeping.

One request is a line of JSON on standard input; an answer is a line of JSON on standard output, once the display values
lie in the memory that both share. No pickle crosses the pipe: what a broken decoder writes is only ever read as values.
"""

from __future__ import annotations

import json
import mmap
import os
import resource
import signal
import sys
from pathlib import Path

import numpy as np
import numpy.typing as npt

from cxrnode.core.digests import kind_of, matches
from cxrnode.dicom.decoder import READY, SHARED_PIXELS
from cxrnode.dicom.part10 import dataset_digest, dataset_of
from cxrnode.dicom.pixels import Limits, decode, require_size
from cxrnode.dicom.raster import opencv
from cxrnode.errors import Rejected, UnreadableImage
from cxrnode.files import Memory

#: Beyond the parent's own patience, in seconds: then the parent is gone, and nobody else ends a codec that hangs.
_GRACE = 5.0
_LIMITS = Limits(pixels=SHARED_PIXELS)


def main() -> None:
    """Serve requests until standard input ends.

    Arguments: the limit of the address space, in bytes; seconds a film; the descriptor of the memory for pixels,
    without which nobody sees them: a person who tries whether it starts.
    """
    limit, patience = int(sys.argv[1]), float(sys.argv[2])
    shared = np.frombuffer(mmap.mmap(int(sys.argv[3]) if len(sys.argv) > 3 else -1, SHARED_PIXELS), np.uint8)
    memory = Memory()
    opencv()
    # A service manager tells every process to stop; the film under way is the parent's to finish or to give back.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    # Libraries print to standard output now and then: the protocol gets a descriptor of its own.
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    answers.write(READY)
    answers.flush()
    for line in sys.stdin.buffer:
        request = json.loads(line)
        # Its default action ends the process, whatever code it is in.
        signal.setitimer(signal.ITIMER_REAL, patience + _GRACE)
        try:
            answer = _decoded(Path(request["path"]), request["dataset_digest"], memory, shared)
        except Rejected as fault:
            answer = {"unreadable": str(fault)}
        except MemoryError:
            answer = {"unreadable": f"decoding takes more than {limit >> 20} MiB of memory"}
        except OSError as fault:
            answer = {"waits": fault.strerror or type(fault).__name__}
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        answer["dataset_digest"] = request["dataset_digest"]
        answers.write(json.dumps(answer).encode() + b"\n")
        answers.flush()


def _decoded(path: Path, expected: str, memory: Memory, shared: npt.NDArray[np.uint8]) -> dict[str, object]:
    """The answer for one film, whose display values are in `shared` then.

    Raises Rejected for what is no readable film, OSError, MemoryError.
    """
    # Of a film that was altered not even the header may be believed: nothing is said in the name of this patient.
    try:
        require_size(path, _LIMITS)
        content = memory.read(path)
    except (UnreadableImage, MemoryError):
        if dataset_digest(path, kind_of(expected)) != expected:
            return {"altered": True}
        raise
    if not matches(dataset_of(content), expected):
        return {"altered": True}
    # Digests of the same kind: its pixels may have come before.
    film = decode(content, _LIMITS, digests=kind_of(expected), into=shared)
    rows, columns = film.display.shape
    if film.display.ctypes.data != shared.ctypes.data:
        shared[: film.display.size] = film.display.ravel()
    return {
        "rows": rows,
        "columns": columns,
        "pixel_digest": film.pixel_digest,
        "window": film.window,
        "notes": list(film.notes),
    }


if __name__ == "__main__":
    main()
