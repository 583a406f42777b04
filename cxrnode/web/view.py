"""A route of the console: where, how, for whom, and the function that answers."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from starlette.responses import Response

from cxrnode.core.access import Role
from cxrnode.web.asked import Asked
from cxrnode.web.console import Console

Page = Callable[[Console, Asked], Response]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """One route. `role` None: for anybody. The rest stands in the API's document: see `web.openapi`."""

    path: str
    page: Page
    method: str = "GET"
    role: Role | None = Role.VIEWER
    summary: str = ""
    query: Mapping[str, Mapping[str, Any]] = dataclasses.field(default_factory=dict)
    body: Mapping[str, Mapping[str, Any]] = dataclasses.field(default_factory=dict)
    answer: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def is_api(self) -> bool:
        """Whether programs ask, to whom everything is said in JSON."""
        return self.path.startswith("/api/")
