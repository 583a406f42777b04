"""The process that may die: it decodes one film after another for a `Decoder` and holds nothing worth keeping.

One request is a line of JSON on standard input; an answer is a line of JSON on standard output, followed by the
display values as raw bytes. No pickle crosses the pipe: what a broken decoder writes is only ever read as values.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import sys
from pathlib import Path

from cxrnode.core.digests import kind_of
from cxrnode.dicom.decoder import READY
from cxrnode.dicom.header import dataset_digest
from cxrnode.dicom.pixels import decode_film
from cxrnode.errors import Rejected

#: Beyond the parent's own patience, in seconds: then the parent is gone, and nobody else ends a codec that hangs.
_GRACE = 5.0


def main() -> None:
    """Serve requests until standard input ends. Arguments: the limit of the address space, in bytes; seconds a film."""
    limit, patience = int(sys.argv[1]), float(sys.argv[2])
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
        pixels = memoryview(b"")
        try:
            answer, pixels = _decoded(Path(request["path"]), request["dataset_digest"])
        except Rejected as fault:
            answer = {"unreadable": str(fault)}
        except MemoryError:
            answer = {"unreadable": f"decoding takes more than {limit >> 20} MiB of memory"}
        except OSError as fault:
            answer = {"waits": fault.strerror or type(fault).__name__}
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        answer["dataset_digest"] = request["dataset_digest"]
        answers.write(json.dumps(answer).encode() + b"\n")
        answers.write(pixels)
        answers.flush()


def _decoded(path: Path, expected: str) -> tuple[dict[str, object], memoryview]:
    """The answer for one film, and its display values. Raises Rejected for what is no readable film, and OSError."""
    kind = kind_of(expected)
    if dataset_digest(path, kind) != expected:
        # Not even its header may be believed: nothing is said in the name of this patient.
        return {"altered": True}, memoryview(b"")
    film = decode_film(path, digests=kind)  # of the same kind: its pixels may have come before
    rows, columns = film.display.shape
    answer: dict[str, object] = {
        "rows": rows,
        "columns": columns,
        "pixel_digest": film.pixel_digest,
        "window": film.window,
        "notes": list(film.notes),
    }
    return answer, film.display.data.cast("B")


if __name__ == "__main__":
    main()
