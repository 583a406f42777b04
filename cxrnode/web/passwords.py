"""Passwords as argon2id hashes (RFC 9106), and the secrets of sessions. Nothing here keeps a password."""

from __future__ import annotations

import functools
import secrets

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

from cxrnode.errors import Rejected

#: The shortest password; NIST SP 800-63B asks for 8, and for no rules of composition.
SHORTEST = 10
_LONGEST = 256

#: RFC 9106, second recommended option: 64 MiB, three passes; one lane, since a node has few cores.
_HASHER = PasswordHasher(time_cost=3, memory_cost=65536, parallelism=1)


def hashed(password: str) -> str:
    """The hash to keep. Raises Rejected for a password that is too short or too long."""
    if not SHORTEST <= len(password) <= _LONGEST:
        raise Rejected(f"a password has {SHORTEST} to {_LONGEST} characters")
    return _HASHER.hash(password)


def matches(kept: str, password: str) -> bool:
    """Whether this is the password. Without a kept hash it takes as long, and is none."""
    try:
        return _HASHER.verify(kept or _nobodys(), password[:_LONGEST]) and bool(kept)
    except (VerificationError, InvalidHashError):
        return False


@functools.cache
def _nobodys() -> str:
    return _HASHER.hash(secrets.token_urlsafe())


def new_secret() -> str:
    """A session's secret: 256 random bits."""
    return secrets.token_urlsafe(32)
