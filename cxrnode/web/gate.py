"""Who comes in: sessions, tokens, and a reverse proxy's word; where from; and whether a form is one of ours."""

from __future__ import annotations

import hmac
import ipaddress
import urllib.parse
from collections.abc import Mapping

from starlette.requests import Request

from cxrnode.core.access import Person, Role
from cxrnode.sections import LOOPBACK
from cxrnode.store import accounts
from cxrnode.web.asked import Asked, body_of, fields_of
from cxrnode.web.console import Console, Forbidden

COOKIE = "cxrnode_session"
_SAFE = frozenset({"GET", "HEAD", "OPTIONS"})

#: On every answer. No inline script or style, no frame, nothing from elsewhere, nothing kept by others.
SECURITY = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
        "manifest-src 'self'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
}


def is_loopback(address: str) -> bool:
    """Whether this is the machine itself."""
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        return address in LOOPBACK


async def read(console: Console, request: Request) -> Asked:
    """The request, with nobody's name on it yet. Raises Rejected where it cannot be read."""
    every = fields_of(await body_of(request), request.headers.get("content-type", ""))
    headers: Mapping[str, str] = request.headers
    return Asked(
        method=request.method,
        path=request.url.path,
        parameters={key: str(value) for key, value in request.path_params.items()},
        query=dict(request.query_params),
        headers=headers,
        fields={key: values[-1] if values else "" for key, values in every.items()},
        listed=every,
        address=_address(console, request),
        person=None,
        secret=_secret(request),
        cookies=request.cookies,
        kind=accounts.TOKEN if "authorization" in headers else accounts.BROWSER,
    )


def _proxied(console: Console, request: Request) -> bool:
    proxy = console.config.web.proxy
    return proxy is not None and request.client is not None and request.client.host in proxy.addresses


def _address(console: Console, request: Request) -> str:
    """Where it comes from: through a trusted proxy, the address that this saw."""
    forwarded = request.headers.get("x-forwarded-for", "")
    if forwarded and _proxied(console, request):
        return forwarded.rpartition(",")[2].strip()[:64]
    return request.client.host if request.client is not None else ""


def _secret(request: Request) -> str:
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    if scheme:
        return token.strip() if scheme.lower() == "bearer" else ""
    return request.cookies.get(COOKIE, "")


def require_host(console: Console, request: Request) -> None:
    """Refuse a name that is not this machine's while only this machine is served: a page that rebinds its name to us.

    Raises Forbidden.
    """
    web = console.config.web
    if web.host not in LOOPBACK or web.proxy is not None:
        return
    host = urllib.parse.urlsplit(f"//{request.headers.get('host', '')}").hostname or ""
    if host not in (*LOOPBACK, web.host):
        raise Forbidden("this console is reached as 127.0.0.1 or localhost")


def identify(console: Console, request: Request, asked: Asked) -> Person | None:
    """Who asks, or None."""
    web = console.config.web
    if web.proxy is not None and _proxied(console, request):
        name = request.headers.get(web.proxy.user_header, "").strip()
        if name:
            found = accounts.find(console.database, name)
            known = found or next((one for one in accounts.list_accounts(console.database) if one.name == name), None)
            role = found.role if found else ("" if known else web.proxy.default_role)  # a disabled account has no role
            return Person(name=name[:64], role=Role.of(role), purpose="proxy") if role else None
    if not asked.secret:
        return None
    session = accounts.session_of(console.database, asked.secret, idle=web.idle)
    if session is None:
        return None
    return Person(name=session.account, role=Role.of(session.role), purpose=session.purpose)


def require_own_form(console: Console, request: Request, asked: Asked) -> None:
    """Refuse what another site's page makes a browser send. Raises Forbidden.

    A token is sent by programs alone, never by a browser on its own.
    """
    if asked.method in _SAFE:
        return
    site = request.headers.get("sec-fetch-site", "")
    origin = request.headers.get("origin", "")
    own = urllib.parse.urlsplit(origin).netloc == request.headers.get("host", "")
    if site in ("cross-site", "same-site") or (origin and not own and origin != "null" and not site):
        raise Forbidden("this form is not one of the console's")
    if asked.person is None or asked.kind == accounts.TOKEN:
        return
    brought = asked.headers.get("x-csrf-token") or asked.fields.get("csrf", "")
    if not hmac.compare_digest(brought.encode(), console.csrf(asked).encode()):
        raise Forbidden("the form is out of date; load the page again")
