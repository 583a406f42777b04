"""A deed for all jobs that a search finds: first their number, which a person types again, then batch by batch."""

from __future__ import annotations

import zoneinfo

from starlette.responses import Response

from cxrnode.core.access import Role
from cxrnode.errors import Rejected
from cxrnode.web import acts, matching, wishes
from cxrnode.web.asked import Asked
from cxrnode.web.console import Console
from cxrnode.web.view import View


def page(console: Console, asked: Asked) -> Response:
    """Ask for the number of the jobs, or with it act on the next of them."""
    zone = zoneinfo.ZoneInfo(console.config.node.timezone)
    wanted = wishes.wanted(asked.fields, zone, console.now())
    deed = acts.Deed(
        act=asked.fields.get("act", ""),
        reason=asked.fields.get("reason", ""),
        by=asked.who.name,
        rejection=asked.fields.get("rejection", ""),
    )
    acts.require(deed)
    asked_for = {key: asked.fields[key] for key in wishes.KEYS if asked.fields.get(key)}
    if "count" not in asked.fields:
        found = matching.counted(console, wanted)
        return console.page(
            "confirm.html", asked, here="jobs", deed=deed, found=found, wishes=asked_for, most=matching.MOST
        )
    expected, before = (_number(asked, name) for name in ("expected", "before"))
    if _number(asked, "count") != expected:
        raise Rejected(f"{expected} jobs match; type that number to confirm")
    batch = matching.perform(console, deed, wanted, before=before)
    return console.page(
        "done.html",
        asked,
        here="jobs",
        done=batch.done,
        deed=deed,
        rest={**asked_for, "expected": expected, "count": expected, "before": batch.before} if batch.before else {},
    )


def _number(asked: Asked, name: str) -> int:
    text = asked.fields.get(name, "").strip()
    if not text.isascii() or not text.isdigit() or len(text) > 15:
        raise Rejected(f"{name} is a number")
    return int(text)


VIEWS = (View(path="/jobs/all", page=page, method="POST", role=Role.OPERATOR),)
