"""The console's knowledge as JSON, under /api/v1. `web.openapi` writes its document from these routes.

Lists are pages: `next` is the `before` of the following one, null at the end. A GET carries an ETag. Times are seconds
since 1970 in UTC. Identifiers stand in no URL and in no answer but that of `identity`, which asks for a reason.
"""

from __future__ import annotations

from collections.abc import Sequence

from starlette.responses import Response

from cxrnode.web import openapi
from cxrnode.web.api import films, jobs, node, quality
from cxrnode.web.api.answers import TEXT, answer
from cxrnode.web.asked import Asked
from cxrnode.web.console import Console
from cxrnode.web.view import View


def document(_console: Console, asked: Asked) -> Response:
    """The OpenAPI document of all this."""
    return answer(asked, openapi.document(VIEWS))


VIEWS: Sequence[View] = (
    *node.VIEWS,
    *jobs.VIEWS,
    *films.VIEWS,
    *quality.VIEWS,
    View(
        path="/api/v1/openapi.json",
        page=document,
        role=None,
        summary="This document",
        answer={"openapi": TEXT, "paths": {"type": "object"}},
    ),
)
