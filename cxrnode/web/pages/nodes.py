"""The machines that share the work, as their processes say it themselves: roles, version, device, last word."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from starlette.responses import Response

from cxrnode.store import fleet
from cxrnode.store.fleet import Member
from cxrnode.store.upgrade import HEAD
from cxrnode.web.asked import Asked
from cxrnode.web.console import Console
from cxrnode.web.view import View


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """One machine, and what to look at there, as sentences."""

    member: Member
    advice: Sequence[str]


def shown(member: Member, members: Sequence[Member]) -> Shown:
    """The machine with what is odd about it beside the others."""
    living = [one for one in members if one.alive]
    advice = []
    if not member.alive:
        advice.append("Silent: it was lost or cut off. Others do its work; start it again, or leave it out.")
    elif member.versions != _newest(living):
        advice.append("Not the newest version that runs here: is an upgrade under way?")
    if member.alive and any(revision > HEAD for revision in member.revisions):
        advice.append("It is newer than this console.")
    if member.alive and len({digest for one in living for digest in one.config_digests}) > 1:
        advice.append("The machines' configurations differ: nodes, models and rules must be the same everywhere.")
    return Shown(member=member, advice=advice)


def _newest(living: Sequence[Member]) -> tuple[str, ...]:
    """The versions of the machine with the newest schema and, of these, the newest of all by its numbers."""
    best = max(living, key=lambda one: (one.revisions, [_numbers(version) for version in one.versions]))
    return best.versions


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) if part.isdigit() else 0 for part in version.split("."))


def page(console: Console, asked: Asked) -> Response:
    """All machines in the order of their names."""
    members = fleet.members(console.database)
    return console.page("nodes.html", asked, here="nodes", rows=[shown(one, members) for one in members])


VIEWS = (View(path="/nodes", page=page),)
