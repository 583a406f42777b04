"""How the API answers: a value as JSON with an ETag, a list as pages; and the parts that its schemas share."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from typing import Any

from starlette.responses import Response

from cxrnode.errors import Rejected
from cxrnode.web.asked import Asked

#: Entries of a page, at most.
MOST = 200

TEXT: Mapping[str, Any] = {"type": "string"}
LIST: Mapping[str, Any] = {"type": "array", "items": {"type": "object"}}
NEXT: Mapping[str, Any] = {"type": ["integer", "null"]}
REASON: Mapping[str, Mapping[str, Any]] = {"reason": {"type": "string", "minLength": 1}}
PAGED: Mapping[str, Mapping[str, Any]] = {
    "before": {"type": "integer"},
    "limit": {"type": "integer", "minimum": 1, "maximum": MOST, "default": 50},
}


def answer(asked: Asked, value: Any, status: int = 200) -> Response:
    """The value as JSON; 304 where the asker has it already."""
    body = json.dumps(value, default=plain, separators=(",", ":"), allow_nan=False).encode()
    headers = {"Cache-Control": "private, no-cache"}
    if asked.method == "GET":
        tag = f'"{hashlib.sha256(body).hexdigest()[:32]}"'
        headers["ETag"] = tag
        had = [one.strip().removeprefix("W/") for one in asked.headers.get("if-none-match", "").split(",")]
        if tag in had or "*" in had:
            return Response(status_code=304, headers=headers)
    return Response(body, status, headers, "application/json")


def plain(value: Any) -> Any:
    """A value of the store as JSON can say it, one level deep."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(type(value).__name__)


def page_of(asked: Asked) -> tuple[int | None, int]:
    """The id below which the page begins, and its length. Raises Rejected."""
    before, limit = asked.query.get("before", ""), asked.query.get("limit", "50")
    if (before and not (before.isdigit() and len(before) < 16)) or not (limit.isdigit() and 1 <= int(limit) <= MOST):
        raise Rejected(f"before is an id, and limit from 1 to {MOST}")
    return (int(before) if before else None), int(limit)
