"""The process that may die: it decodes one film after another for a `Decoder` and holds nothing worth keeping.

One request is a line of JSON on standard input; an answer is a line of JSON on standard output, followed by the
display values as raw bytes. No pickle crosses the pipe: what a broken decoder writes is only ever read as values.
"""

from __future__ import annotations

import json
import os
import resource
import sys
from pathlib import Path

from cxrnode.dicom.header import dataset_sha256
from cxrnode.dicom.pixels import decode_film
from cxrnode.errors import Rejected


def main() -> None:
    """Serve requests until standard input ends. The first argument limits the address space, in bytes."""
    limit = int(sys.argv[1])
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    # Libraries print to standard output now and then: the protocol gets a descriptor of its own.
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    for line in sys.stdin.buffer:
        request = json.loads(line)
        path = Path(request["path"])
        pixels = b""
        try:
            if dataset_sha256(path) != request["dataset_sha256"]:
                raise Rejected("the film in the spool was altered: its SHA-256 is not the recorded one")
            film = decode_film(path)
            rows, columns = film.display.shape
            answer = {
                "rows": rows,
                "columns": columns,
                "pixel_digest": film.pixel_digest,
                "window": film.window,
                "notes": list(film.notes),
            }
            pixels = film.display.tobytes()
        except Rejected as fault:
            answer = {"rejected": str(fault)}
        except MemoryError:
            answer = {"rejected": f"decoding takes more than {limit >> 20} MiB of memory"}
        answers.write(json.dumps(answer).encode() + b"\n")
        answers.write(pixels)
        answers.flush()


if __name__ == "__main__":
    main()
