"""The list of jobs: search, and what can be done to many at once."""

from __future__ import annotations

import zoneinfo

from starlette.responses import Response

from cxrnode.core.access import Role
from cxrnode.core.findings import NIH14
from cxrnode.errors import Rejected
from cxrnode.store import labels as names
from cxrnode.store.details import reveal
from cxrnode.store.search import Page, search, search_whose
from cxrnode.web import acts, wishes
from cxrnode.web.asked import Asked
from cxrnode.web.console import Console
from cxrnode.web.view import View

_PAGE = 50


def labels(console: Console) -> list[str]:
    """The findings that can be searched for: those of the newest reports, else those of ChestX-ray14."""
    return names.newest(console.database) or list(NIH14)


def _shown(
    console: Console,
    asked: Asked,
    page: Page,
    *,
    said: str = "",
    status: int = 200,
    whose: bool = False,
    done: list[acts.Done] | None = None,
) -> Response:
    fields = {**asked.query, **asked.fields}
    if fields.get("finding"):  # the form offers names as reports spell them
        fields["finding"] = names.spelled(console.database, fields["finding"])
    seen = {}
    if whose and page.rows:
        seen = reveal(
            console.database, [row.instance_id for row in page.rows], by=asked.who.name, why=asked.who.purpose
        )
    return console.page(
        "jobs.html",
        asked,
        status=status,
        here="jobs",
        page=page,
        fields=fields,
        states=wishes.STATES,
        outcomes=wishes.OUTCOMES,
        decisions=wishes.DECISIONS,
        labels=labels(console),
        models=list(console.config.models),
        rejections=acts.REJECTIONS,
        link=wishes.link,
        said=said,
        seen=seen,
        by_identity=whose,
        asks=[key for key in wishes.KEYS if fields.get(key)],
        done=done or [],
    )


def page(console: Console, asked: Asked) -> Response:
    """The newest jobs that are like this."""
    zone = zoneinfo.ZoneInfo(console.config.node.timezone)
    try:
        wanted = wishes.wanted(asked.query, zone, console.now())
        before = int(asked.query["before"]) if asked.query.get("before", "").isdigit() else None
        found = search(console.database, wanted, before=before, limit=_PAGE)
    except Rejected as refusal:
        return _shown(console, asked, Page(rows=(), before=None, scores={}), said=str(refusal), status=400)
    return _shown(console, asked, found)


def by_identity(console: Console, asked: Asked) -> Response:
    """The jobs of a patient or an accession number: by a form, so that neither stands in an address or a log."""
    zone = zoneinfo.ZoneInfo(console.config.node.timezone)
    whose = wishes.whose(asked.fields)
    if not whose:
        return page(console, asked)
    try:
        wanted = wishes.wanted(asked.fields, zone, console.now())
    except Rejected as refusal:
        return _shown(console, asked, Page(rows=(), before=None, scores={}), said=str(refusal), status=400)
    found = search_whose(console.database, whose, wanted, by=asked.who.name, why=asked.who.purpose)
    return _shown(console, asked, found, whose=True)


def act(console: Console, asked: Asked) -> Response:
    """Retry, resend or withdraw the chosen jobs, and show what became of each."""
    ids = [int(one) for one in asked.listed.get("job", ()) if one.isdigit() and len(one) < 16]
    deed = acts.Deed(
        act=asked.fields.get("act", ""),
        reason=asked.fields.get("reason", ""),
        by=asked.who.name,
        rejection=asked.fields.get("rejection", ""),
    )
    done = acts.perform(console, deed, ids)
    return console.page("done.html", asked, here="jobs", done=done, deed=deed, rest={})


VIEWS = (
    View(path="/jobs", page=page),
    View(path="/jobs", page=by_identity, method="POST"),
    View(path="/jobs/act", page=act, method="POST", role=Role.OPERATOR),
)
