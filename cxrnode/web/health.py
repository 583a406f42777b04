"""/healthz: does the process answer. /readyz: can the node do its work. For load balancers and watchers: no login."""

from __future__ import annotations

import dataclasses

from starlette.responses import JSONResponse, Response

from cxrnode.errors import CxrnodeError
from cxrnode.store import upgrade
from cxrnode.web.asked import Asked
from cxrnode.web.console import Console
from cxrnode.web.gate import is_loopback
from cxrnode.web.view import View


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Ready:
    """One thing that the node needs, and what to do where it lacks."""

    name: str
    ok: bool
    detail: str


def readiness(console: Console) -> list[Ready]:
    """Look at what receiving and reading need: the database with its schema, the spool, room on its disk."""
    return [_database(console), *_spool(console)]


def _database(console: Console) -> Ready:
    try:
        upgrade.require(console.database)
    except CxrnodeError as error:
        return Ready(name="database", ok=False, detail=str(error))
    return Ready(name="database", ok=True, detail=f"schema {upgrade.HEAD}")


def _spool(console: Console) -> list[Ready]:
    try:
        free = console.spool.free()
    except CxrnodeError as error:
        return [Ready(name="spool", ok=False, detail=str(error))]
    writable = console.spool.answers()
    least = console.config.spool.min_free
    room = f"{free / 2**30:.1f} GiB free, {least / 2**30:.1f} GiB must be"
    return [
        Ready(name="spool", ok=writable, detail="can be written to" if writable else "cannot be written to"),
        Ready(
            name="disk", ok=free >= least, detail=room + ("" if free >= least else ": films are refused with 0xA700")
        ),
    ]


def healthz(_console: Console, _asked: Asked) -> Response:
    """The process answers."""
    return JSONResponse({"ok": True}, headers={"Cache-Control": "no-store"})


def readyz(console: Console, asked: Asked) -> Response:
    """200 while the node can do its work, else 503; what is wrong is said to this machine and to people logged in."""
    found = readiness(console)
    ok = all(one.ok for one in found)
    said: dict[str, object] = {"ok": ok}
    if asked.person is not None or is_loopback(asked.address):
        said["checks"] = [dataclasses.asdict(one) for one in found]
    return JSONResponse(said, 200 if ok else 503, headers={"Cache-Control": "no-store"})


VIEWS = (View(path="/healthz", page=healthz, role=None), View(path="/readyz", page=readyz, role=None))
