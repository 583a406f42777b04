"""One request as a page sees it: who asks, from where, what they sent. Read whole before a page begins, and bounded."""

from __future__ import annotations

import dataclasses
import json
import urllib.parse
from collections.abc import Mapping
from typing import Any

from starlette.requests import Request

from cxrnode.core.access import Person
from cxrnode.errors import Rejected

#: The largest body that is read, in bytes.
MOST_BYTES = 1 << 20


class TooLarge(Rejected):
    """The request is larger than the console reads."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """A request. `fields` are those of a form or of a JSON object; `secret` is the session's, "" without one."""

    method: str
    path: str
    parameters: Mapping[str, str]
    query: Mapping[str, str]
    headers: Mapping[str, str]
    fields: Mapping[str, str]
    listed: Mapping[str, tuple[str, ...]]
    address: str
    person: Person | None
    secret: str
    kind: str
    cookies: Mapping[str, str]

    @property
    def who(self) -> Person:
        """Who asks, on pages that nobody sees without an account."""
        assert self.person is not None
        return self.person

    @property
    def by_htmx(self) -> bool:
        """Whether a part of a page is asked for."""
        return self.headers.get("hx-request") == "true"

    def number(self, name: str) -> int:
        """A number of the path. Raises Rejected for what is none: no database has ids that large."""
        text = self.parameters[name]
        if not text.isascii() or not text.isdigit() or len(text) > 15:
            raise Rejected(f"{text[:20]!r} is no number")
        return int(text)


async def body_of(request: Request) -> bytes:
    """The whole body. Raises TooLarge."""
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > MOST_BYTES:
            raise TooLarge()
    return bytes(body)


def fields_of(body: bytes, content_type: str) -> dict[str, tuple[str, ...]]:
    """The fields of a form (`application/x-www-form-urlencoded`) or of a JSON object, each with all its values.

    Raises Rejected for what is neither.
    """
    if not body:
        return {}
    kind = content_type.partition(";")[0].strip().lower()
    try:
        if kind == "application/json":
            said = json.loads(body)
            if not isinstance(said, dict):
                raise Rejected("the body is no JSON object")
            return {str(key): _texts(value) for key, value in said.items()}
        if kind == "application/x-www-form-urlencoded":
            found = urllib.parse.parse_qs(
                body.decode(), keep_blank_values=True, strict_parsing=False, max_num_fields=2000
            )
            return {key: tuple(values) for key, values in found.items()}
    except (ValueError, RecursionError):
        raise Rejected("the body cannot be read") from None
    raise Rejected("the body is neither a form nor JSON")


def _texts(value: Any) -> tuple[str, ...]:
    values = value if isinstance(value, list) else [value]
    return tuple("" if one is None else str(one).lower() if isinstance(one, bool) else str(one) for one in values)
