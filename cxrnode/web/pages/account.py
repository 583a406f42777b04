"""Logging in and out. A refusal does not say whether the name or the password was wrong."""

from __future__ import annotations

import math

from starlette.responses import RedirectResponse, Response

from cxrnode.store import accounts, attempts
from cxrnode.web import passwords, throttle
from cxrnode.web.asked import Asked
from cxrnode.web.console import Console
from cxrnode.web.gate import COOKIE
from cxrnode.web.view import View

#: What people come for: it stands beside their name in the events of what they look at.
PURPOSES = ("running the service", "quality assurance", "clinical question", "support")


def login_page(console: Console, asked: Asked) -> Response:
    """The form; to somebody who is in already, the overview."""
    if asked.person is not None:
        return RedirectResponse("/", 303)
    return _form(console, asked, said="", status=200)


def _form(console: Console, asked: Asked, *, said: str, status: int) -> Response:
    nobody = not accounts.list_accounts(console.database)
    following = _own_path(asked.query.get("next") or asked.fields.get("next", ""))
    return console.page(
        "login.html",
        asked,
        status=status,
        said=said,
        nobody=nobody,
        following=following,
        purposes=PURPOSES,
        name=asked.fields.get("name", ""),
    )


def _own_path(text: str) -> str:
    """A path of this console to go on to, never an address of elsewhere."""
    own = text.startswith("/") and not text.startswith(("//", "/\\")) and text.isascii() and text.isprintable()
    return text if own else "/"


def login(console: Console, asked: Asked) -> Response:
    """Let somebody in, or not, and write it down."""
    name, password = asked.fields.get("name", "").strip(), asked.fields.get("password", "")
    cookie = throttle.cookie_of(name, console.key)
    device = asked.cookies.get(cookie, "")
    keys = throttle.keys_of(name, asked.address, device, console.key)
    pause = attempts.begin(console.database, keys)
    if pause > 0:
        said = f"Too many failures; wait {math.ceil(pause)} s."
        response = _form(console, asked, said=said, status=429)
        response.headers["Retry-After"] = str(math.ceil(pause))
        return response
    found = accounts.find(console.database, name) if len(name) <= 64 else None
    if not passwords.matches(found.password if found else "", password) or found is None:
        accounts.refused(
            console.database, found.name if found else "", address=asked.address, reason="name or password"
        )
        return _form(console, asked, said="This name and password do not belong together.", status=401)
    attempts.forget(console.database, keys)
    purpose = asked.fields.get("purpose", "")
    secret = passwords.new_secret()
    accounts.open_session(
        console.database,
        found.name,
        secret,
        kind=accounts.BROWSER,
        purpose=purpose if purpose in PURPOSES else PURPOSES[0],
        seconds=console.config.web.session,
        address=asked.address,
    )
    response = RedirectResponse(_own_path(asked.fields.get("next", "")), 303)
    secure = console.config.web.tls is not None or asked.headers.get("x-forwarded-proto") == "https"
    # Lax: a link in an alert's mail finds one logged in; forms carry a token of their own.
    response.set_cookie(
        COOKIE, secret, max_age=int(console.config.web.session), httponly=True, samesite="lax", secure=secure
    )
    if not throttle.is_known(device, name, console.key):
        device = throttle.device_for(name, console.key)
    response.set_cookie(
        cookie, device, max_age=throttle.KEPT, httponly=True, samesite="strict", secure=secure, path="/login"
    )
    return response


def logout(console: Console, asked: Asked) -> Response:
    """End the session."""
    if asked.secret:
        accounts.close_session(console.database, asked.secret)
    response = RedirectResponse("/login", 303)
    response.delete_cookie(COOKIE, httponly=True, samesite="lax")
    return response


VIEWS = (
    View(path="/login", page=login_page, role=None),
    View(path="/login", page=login, method="POST", role=None),
    View(path="/logout", page=logout, method="POST"),
)
