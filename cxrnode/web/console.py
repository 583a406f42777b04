"""What all pages share: the wired parts of the console, and how a page is written."""

from __future__ import annotations

import dataclasses
import datetime
import hashlib
import threading
import time
import zoneinfo
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar, cast

import jinja2
from markupsafe import Markup
from starlette.responses import Response

from cxrnode import __version__
from cxrnode.config import Config
from cxrnode.core.access import Role
from cxrnode.spool import Spool
from cxrnode.store import search
from cxrnode.store.changes import InForce, in_force
from cxrnode.store.database import Database
from cxrnode.web import charts, words
from cxrnode.web.asked import Asked

T = TypeVar("T")

HERE = Path(__file__).parent
#: What is kept of figures that many pages ask for, at most.
_MOST_KEPT = 64
#: A result that a session looks at again within so many seconds is no new look.
_SAME_LOOK = 600.0


class NotFound(Exception):
    """There is nothing under this name."""


class Forbidden(Exception):
    """Somebody may not do this."""


@dataclasses.dataclass(slots=True, kw_only=True)
class Console:
    """The parts that pages work with. One for the process; its methods may be called from many threads."""

    config: Config
    database: Database
    spool: Spool
    key: bytes
    started: float = dataclasses.field(default_factory=time.time)
    environment: jinja2.Environment = dataclasses.field(init=False)
    digests: Mapping[str, str] = dataclasses.field(init=False)
    #: What a page keeps from one request to the next, by its name.
    kept: dict[str, object] = dataclasses.field(default_factory=dict)
    _looks: dict[tuple[str, str, int], float] = dataclasses.field(default_factory=dict)
    _figures: dict[str, tuple[float, object]] = dataclasses.field(default_factory=dict)
    _lock: threading.Lock = dataclasses.field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        zone = zoneinfo.ZoneInfo(self.config.node.timezone)
        self.digests = {
            file.name: hashlib.sha256(file.read_bytes()).hexdigest()[:12] for file in (HERE / "static").iterdir()
        }
        self.environment = jinja2.Environment(
            loader=jinja2.FileSystemLoader(HERE / "templates"),
            autoescape=True,
            undefined=jinja2.StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        self.environment.filters |= {
            "moment": lambda at: words.moment(at, zone),
            "clock": lambda at: words.clock(at, zone),
            "day": lambda at: words.day(at, zone),
            "span": words.span,
            "count": words.count,
            "score": words.score,
            "title": words.title,
            "tone": words.tone,
            "size": words.size,
            "uid": words.uid_name,
        }
        self.environment.globals |= {
            "charts": charts,
            "icon": charts.icon,
            "static": self.static,
            "version": __version__,
            "node": self.config.node,
            "listen": self.config.listen,
            "Role": Role,
            "zone": self.config.node.timezone,
        }

    def static(self, name: str) -> str:
        """The path of a file of ours, which changes with what it holds: browsers may keep it for ever."""
        return f"/static/{name}?{self.digests[name]}"

    @property
    def destinations(self) -> tuple[str, ...]:
        """The nodes that any rule sends to."""
        return tuple(dict.fromkeys(name for rule in self.config.rules for name in rule.send_to))

    def now(self) -> float:
        """The database's time."""
        with self.database.read() as transaction:
            return transaction.now

    def lately(self, name: str, seconds: float, make: Callable[[], T]) -> T:
        """What `make` said of `name` within so many seconds, or says now: figures of thousands of rows.

        Two who ask at once may both make it. Never for what somebody may see and another may not.
        """
        found = self._figures.get(name)
        if found is not None and time.monotonic() - found[0] < seconds:
            return cast(T, found[1])
        made = make()
        with self._lock:
            if len(self._figures) >= _MOST_KEPT:
                del self._figures[min(self._figures, key=lambda one: self._figures[one][0])]
            self._figures[name] = (time.monotonic(), made)
        return made

    def in_force(self) -> InForce:
        """What people changed while the node runs."""
        return in_force(self.database)

    def csrf(self, asked: Asked) -> str:
        """What a form of this session must bring back: another site's page cannot know it."""
        who = asked.secret or (asked.person.name if asked.person else "")
        return hashlib.blake2b(who.encode(), key=self.key, digest_size=20).hexdigest()

    def looked(self, asked: Asked, job_id: int, instance_id: int, *, how: str) -> None:
        """Write down that somebody sees a patient's result, once for each session, job and ten minutes."""
        key = (asked.secret or asked.who.name, how, job_id)
        now = time.monotonic()
        with self._lock:
            if now - self._looks.get(key, float("-inf")) < _SAME_LOOK:
                return
            if len(self._looks) > 5000:
                self._looks = {one: at for one, at in self._looks.items() if now - at < _SAME_LOOK}
            self._looks[key] = now
        search.view(self.database, job_id, instance_id, by=asked.who.name, why=asked.who.purpose, how=how)

    def render(self, template: str, asked: Asked, **values: Any) -> Markup:
        """The text of a page."""
        person = asked.person
        return Markup(
            self.environment.get_template(template).render(
                asked=asked,
                person=person,
                may=lambda role: person is not None and person.role >= Role.of(role),
                csrf=self.csrf(asked),
                now=time.time(),
                today=datetime.datetime.now(datetime.UTC),
                **values,
            )
        )

    def page(self, template: str, asked: Asked, *, status: int = 200, **values: Any) -> Response:
        """A page, which no cache may keep."""
        text = self.render(template, asked, **values)
        return Response(text, status, {"Cache-Control": "no-store"}, "text/html; charset=utf-8")
