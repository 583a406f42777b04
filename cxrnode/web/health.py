"""/healthz: does the process answer. /readyz: can the node do its work. For load balancers and watchers: no login."""

from __future__ import annotations

import dataclasses

from starlette.responses import JSONResponse, Response

import cxrnode.readiness
from cxrnode.readiness import Look
from cxrnode.web.asked import Asked
from cxrnode.web.console import Console
from cxrnode.web.gate import is_loopback
from cxrnode.web.view import View


def readiness(console: Console) -> tuple[Look, ...]:
    """Look at what receiving needs: the database with its schema, the spool, room on its disk and in the queue."""
    return cxrnode.readiness.readiness(console.config, console.database, console.spool)


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
