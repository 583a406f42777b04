"""Found by the node's processes under torture alone: SQLite's clock, moved by as many seconds as a file says.

All times of the store come from the database's clock (store/clock.py), and SQLite's is the function julianday.
"""

from __future__ import annotations

import os
import sqlite3
import sqlite3.dbapi2
import time
from pathlib import Path
from typing import Any

_offset = Path(os.environ["TORTURE_CLOCK"])
_connect = sqlite3.dbapi2.connect


def _julianday(when: str) -> float:
    if when != "now":
        raise ValueError("the store asks for the time of now alone")
    return (time.time() + float(_offset.read_text())) / 86400.0 + 2440587.5


def _connected(*given: Any, **named: Any) -> sqlite3.Connection:
    connection: sqlite3.Connection = _connect(*given, **named)
    connection.create_function("julianday", 1, _julianday)
    return connection


setattr(sqlite3.dbapi2, "connect", _connected)  # noqa: B010 - typed as a function that nobody replaces
setattr(sqlite3, "connect", _connected)  # noqa: B010
