"""The web application: its routes, and the way of a request from the socket to a page and back.

A page is a function of the console and the request; what it may raise becomes an answer here and nowhere else. No
message of an exception that is not ours is ever shown.
"""

from __future__ import annotations

import contextlib
import dataclasses
import traceback
import urllib.parse
from collections.abc import AsyncIterator, Callable, Sequence

import anyio.to_thread
import structlog
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from cxrnode.errors import Rejected, Transient
from cxrnode.web import gate
from cxrnode.web.asked import Asked, TooLarge
from cxrnode.web.console import HERE, Console, Forbidden, NotFound
from cxrnode.web.view import View

log = structlog.get_logger()

#: Requests that are worked on at a time; each may hold a connection to the database.
_THREADS = 8


def _answer(console: Console, view: View) -> Callable[[Request], object]:
    async def endpoint(request: Request) -> Response:
        asked: Asked | None = None
        try:
            gate.require_host(console, request)
            asked = await gate.read(console, request)
            person = await run_in_threadpool(gate.identify, console, request, asked)
            asked = dataclasses.replace(asked, person=person)
            if view.role is not None and person is None:
                return _who_are_you(view, request)
            if view.role is not None:
                gate.require_own_form(console, request, asked)
            if view.role is not None and asked.who.role < view.role:
                raise Forbidden(f"this needs the role {view.role.word}; you are {asked.who.role.word}")
            return await run_in_threadpool(view.page, console, asked)
        except (NotFound, Forbidden, Rejected, Transient) as refusal:
            return await run_in_threadpool(_refuse, console, view, asked, refusal)
        except Exception as bug:  # noqa: BLE001 - a bug costs one answer, and is told with its place
            where = [f"{frame.filename}:{frame.lineno}" for frame in traceback.extract_tb(bug.__traceback__)]
            log.error("page_failed", route=view.path, error=type(bug).__name__, where=where)
            fault = Transient("a fault of the console itself; the log says where")
            return await run_in_threadpool(_refuse, console, view, asked, fault, status=500)

    return endpoint


def _who_are_you(view: View, request: Request) -> Response:
    if view.is_api:
        headers = {"WWW-Authenticate": 'Bearer realm="cxrnode"'}
        return JSONResponse({"error": "log in, or send a token as Authorization: Bearer"}, 401, headers)
    target = request.url.path if view.method == "GET" else "/"
    where = "/login?" + urllib.parse.urlencode({"next": target})
    if request.headers.get("hx-request"):
        return Response(status_code=204, headers={"HX-Redirect": where})
    return RedirectResponse(where, 303)


_STATUS = {TooLarge: 413, NotFound: 404, Forbidden: 403, Rejected: 409, Transient: 503}
_TITLES = {
    404: "Not here",
    403: "Not for you",
    409: "That cannot be done",
    413: "Too large",
    503: "Not now",
    500: "Bug",
}


def _refuse(console: Console, view: View, asked: Asked | None, why: Exception, *, status: int = 0) -> Response:
    status = status or next(code for kind, code in _STATUS.items() if isinstance(why, kind))
    said = str(why) or (type(why).__doc__ or "").strip()
    if view.is_api or asked is None or asked.person is None:
        return JSONResponse({"error": said}, status)
    if asked.by_htmx:
        return console.page("refusal.html", asked, status=status, said=said)
    return console.page("error.html", asked, status=status, title=_TITLES[status], said=said)


class _Headers:
    """Puts the security headers on every answer."""

    def __init__(self, app: ASGIApp, *, strict: bool) -> None:
        self._app = app
        self._headers = [(key.lower().encode(), value.encode()) for key, value in gate.SECURITY.items()]
        if strict:
            self._headers.append((b"strict-transport-security", b"max-age=31536000"))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], *self._headers]
            await send(message)

        await self._app(scope, receive, with_headers if scope["type"] == "http" else send)


class _Static(StaticFiles):
    """Our own files, whose names change with what they hold."""

    def file_response(self, *args: object, **kwargs: object) -> Response:
        response = super().file_response(*args, **kwargs)  # type: ignore[arg-type]
        response.headers["Cache-Control"] = "public, max-age=31536000, immutable"
        return response


def views() -> Sequence[View]:
    """Every route of the console and its API, but for the static files."""
    from cxrnode.web import api, health, metrics, pages

    return (*health.VIEWS, *metrics.VIEWS, *pages.VIEWS, *api.VIEWS)


def application(console: Console) -> Starlette:
    """The application that a server runs."""

    async def not_found(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        said = "there is nothing here" if error.status_code == 404 else error.detail
        return JSONResponse({"error": said}, error.status_code, error.headers)

    @contextlib.asynccontextmanager
    async def lifespan(_app: Starlette) -> AsyncIterator[None]:
        anyio.to_thread.current_default_thread_limiter().total_tokens = _THREADS
        yield

    routes: list[Route | Mount] = [Route(view.path, _answer(console, view), methods=[view.method]) for view in views()]
    routes.append(Mount("/static", _Static(directory=HERE / "static")))
    strict = console.config.web.tls is not None
    return Starlette(
        routes=routes,
        middleware=[Middleware(_Headers, strict=strict)],
        exception_handlers={HTTPException: not_found},
        lifespan=lifespan,
    )
