"""Whether an SQLite file is whole, asked before anything is written to it. PostgreSQL looks after its own pages.

SQLite's quick_check reads every page, table by table, in a process of its own: a large file on a slow disk takes
minutes, and what it reads cannot be interrupted from within. After `seconds` the process is ended; what it had said
by then counts, and the tables that it had not reached are named.
"""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
import time
from pathlib import Path

from cxrnode.errors import DatabaseDamaged

#: How long a start may look, in seconds: a gigabyte or so where the file is in memory, a tenth of it from a slow disk.
START_SECONDS = 10.0

#: What the child does: the tables by name, the smaller ones first, since what is at work now lies in them.
_LOOK = """
import json, sqlite3, sys
try:
    database = sqlite3.connect(sys.argv[1], timeout=30)
    tables = [row[0] for row in database.execute("SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY name")]
    first = ["standing", "delivery", "delivery_output", "output", "identity", "instance", "job", "event"]
    tables.sort(key=lambda name: first.index(name) if name in first else -1)
    print(json.dumps(tables), flush=True)
    for table in tables:
        quoted = table.replace("'", "''")
        found = [row[0] for row in database.execute(f"PRAGMA quick_check('{quoted}')")]
        print(json.dumps([table, [] if found == ["ok"] else found[:5]]), flush=True)
except sqlite3.DatabaseError as error:
    print(json.dumps(["the file", [str(error)]]), flush=True)
"""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Looked:
    """What was looked at in how many seconds; `left` are the tables that the time did not suffice for."""

    tables: int
    left: tuple[str, ...]
    seconds: float


def require_whole(file: Path, *, seconds: float | None = START_SECONDS) -> Looked:
    """Look at an SQLite file for at most `seconds`, None: however long it takes.

    Raises DatabaseDamaged, with what to do.
    """
    began = time.monotonic()
    try:
        done = subprocess.run(
            [sys.executable, "-I", "-S", "-c", _LOOK, str(file)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=seconds,
            check=False,
        )
        said, ended = done.stdout, done.returncode == 0
    except subprocess.TimeoutExpired as late:
        said, ended = late.stdout or b"", True
    lines = [json.loads(line) for line in said.split(b"\n")[:-1]]
    asked: list[str] = lines.pop(0) if lines and all(isinstance(one, str) for one in lines[0]) else []
    for table, faults in lines:
        if faults:
            raise DatabaseDamaged(file, f"{table}: {faults[0]}")
    if not ended:  # SQLite itself fell over it
        raise DatabaseDamaged(file, "SQLite's own check of it died")
    seen = {table for table, _ in lines}
    left = tuple(table for table in asked if table not in seen)
    return Looked(tables=len(seen), left=left, seconds=time.monotonic() - began)
