"""Who may use the console: accounts and sessions. Passwords come hashed, and of a session's secret only its digest.

Each change of an account is an event; so is each login, and each refusal.
"""

from __future__ import annotations

import dataclasses
import hashlib
import secrets
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from cxrnode.core.access import ROLES
from cxrnode.errors import Rejected
from cxrnode.store.audit import note
from cxrnode.store.database import Database, Row, Transaction
from cxrnode.store.schema import account, session
from cxrnode.store.schema import secret as common

BROWSER, TOKEN = "browser", "token"
#: A session's last use is written down at most so often, in seconds: a page should not cost a commit.
_SEEN_SECONDS = 60.0


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """One person, or one program, that may use the console. `password` is an argon2 hash, "" for none."""

    name: str
    role: str
    password: str = dataclasses.field(repr=False)
    created_at: float
    seen_at: float | None
    disabled: bool


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """Who is logged in."""

    account: str
    role: str
    kind: str
    purpose: str
    created_at: float
    until: float


def shared_secret(database: Database, name: str) -> bytes:
    """32 bytes that everybody who works with this store has under this name; the first who asks makes them."""
    known = sa.select(common.c.value).where(common.c.name == name)
    with database.read() as transaction:
        found = transaction.scalar(known)
    if found is None:
        with database.write() as transaction:
            make = sqlite.insert if database.is_sqlite else postgresql.insert
            row = {"name": name, "value": secrets.token_hex(32), "made_at": transaction.now}
            transaction.connection.execute(make(common).values(row).on_conflict_do_nothing())
            found = transaction.scalar(known)
    return bytes.fromhex(str(found))


def digest_of(secret: str) -> str:
    """What the store keeps of a session's secret, which has 256 random bits: no slow hash is needed."""
    return hashlib.sha256(secret.encode()).hexdigest()


def add(database: Database, name: str, role: str, password: str, *, by: str) -> None:
    """Add an account. Raises Rejected where there is one, or for a name or role that cannot be."""
    _require(name, role)
    with database.write() as transaction:
        values = {"name": name, "role": role, "password": password, "created_at": transaction.now, "disabled": False}
        if transaction.insert_new(account, values, unique=("name",)) is None:
            raise Rejected(f"there is a user {name} already; `cxrnode users ls` shows all")
        note(transaction, "account_added", account=name, role=role, by=by)


def _require(name: str, role: str) -> None:
    if not name or len(name) > 64 or not name.isprintable() or name != name.strip():
        raise Rejected("a user's name has 1 to 64 printable characters")
    if role not in ROLES:
        raise Rejected(f"{role!r} is no role; there are {', '.join(ROLES)}")


def change(
    database: Database,
    name: str,
    *,
    by: str,
    role: str | None = None,
    password: str | None = None,
    disabled: bool | None = None,
) -> None:
    """Change an account; its sessions end. Raises Rejected where there is none."""
    _require(name, role if role is not None else ROLES[0])
    every: dict[str, Any] = {"role": role, "password": password, "disabled": disabled}
    values = {key: value for key, value in every.items() if value is not None}
    with database.write() as transaction:
        changed = transaction.count(sa.update(account).where(account.c.name == name).values(**values))
        if not changed:
            raise Rejected(f"there is no user {name}; `cxrnode users ls` shows those that are")
        transaction.connection.execute(sa.delete(session).where(session.c.account == name))
        said: dict[str, Any] = {key: ("changed" if key == "password" else value) for key, value in values.items()}
        note(transaction, "account_changed", account=name, by=by, **said)


def list_accounts(database: Database) -> list[Account]:
    """All accounts by name."""
    with database.read() as transaction:
        return [Account(**row._mapping) for row in transaction.rows(sa.select(account).order_by(account.c.name))]


def find(database: Database, name: str) -> Account | None:
    """The account of a name that may log in, or None."""
    with database.read() as transaction:
        row = transaction.row(sa.select(account).where(account.c.name == name, account.c.disabled.is_(False)))
    return None if row is None else Account(**row._mapping)


def open_session(
    database: Database, name: str, secret: str, *, kind: str, purpose: str, seconds: float, address: str = ""
) -> None:
    """Log an account in under a secret for `seconds`, with an event. What ran out is removed."""
    with database.write() as transaction:
        now = transaction.now
        transaction.connection.execute(sa.delete(session).where(session.c.until < now))
        transaction.connection.execute(
            sa.insert(session).values(
                digest=digest_of(secret),
                account=name,
                kind=kind,
                purpose=purpose,
                created_at=now,
                seen_at=now,
                until=now + seconds,
            )
        )
        transaction.connection.execute(sa.update(account).where(account.c.name == name).values(seen_at=now))
        note(transaction, "logged_in", account=name, kind=kind, purpose=purpose, address=address)


def refused(database: Database, name: str, *, address: str, reason: str) -> None:
    """Write down that somebody was not let in; `name` is that of an account, else "" (people type passwords there)."""
    with database.write() as transaction:
        note(transaction, "login_refused", account=name, address=address, reason=reason)


def session_of(database: Database, secret: str, *, idle: float) -> Session | None:
    """Who has this secret, unless the session ran out, was idle too long, or the account was disabled."""
    with database.read() as transaction:
        row = _session(transaction, secret)
        now = transaction.now
    if row is None or row.until < now or row.disabled or (row.kind == BROWSER and row.seen_at < now - idle):
        return None
    if row.seen_at < now - _SEEN_SECONDS:
        with database.write() as transaction:
            transaction.connection.execute(
                sa.update(session).where(session.c.digest == digest_of(secret)).values(seen_at=transaction.now)
            )
    return Session(
        account=row.account,
        role=row.role,
        kind=row.kind,
        purpose=row.purpose,
        created_at=row.created_at,
        until=row.until,
    )


def _session(transaction: Transaction, secret: str) -> Row | None:
    return transaction.row(
        sa.select(session, account.c.role, account.c.disabled)
        .join(account, account.c.name == session.c.account)
        .where(session.c.digest == digest_of(secret))
    )


def close_session(database: Database, secret: str) -> None:
    """Log out, with an event."""
    with database.write() as transaction:
        row = _session(transaction, secret)
        if row is not None:
            transaction.connection.execute(sa.delete(session).where(session.c.digest == digest_of(secret)))
            note(transaction, "logged_out", account=row.account)
