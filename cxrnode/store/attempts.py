"""Who tried to log in of late, and has to wait: counted in the store, so that all consoles of it count together.

A try is counted before the password is looked at and forgotten when that was right: two consoles, or two threads of
one, give a guesser no more tries than one does. What is counted stands as a keyed digest: people type passwords where
a name belongs, and an address is nobody else's business.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterable, Sequence
from enum import StrEnum

import sqlalchemy as sa

from cxrnode.store.database import Database, Transaction
from cxrnode.store.schema import attempt

#: Tries that cost nothing, and the first pause in seconds; each further failure doubles it.
FREE, FIRST = 5, 5.0


class Kind(StrEnum):
    """What tries are counted by."""

    ADDRESS = "address"
    NAME = "name"
    DEVICE = "device"


#: The longest pause, in seconds. That of a name is short, for strangers can fail under it: who does so from one address
#: waits longer for himself than for the person whose name it is, who gets a turn meanwhile.
LONGEST = {Kind.ADDRESS: 900.0, Kind.NAME: 60.0, Kind.DEVICE: 900.0}
#: After so many seconds without a failure nothing is known of it any more.
FORGOTTEN = 2 * max(LONGEST.values())


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Key:
    """One thing that tries are counted by, and its value; `secret` is what the consoles of the store share."""

    kind: Kind
    value: str = dataclasses.field(repr=False)
    secret: bytes = dataclasses.field(repr=False)

    @property
    def digest(self) -> str:
        """What stands in the store."""
        said = f"{self.kind}:{self.value}".encode()
        return hashlib.blake2b(said, key=self.secret, person=b"cxrnode attempt", digest_size=32).hexdigest()


def begin(database: Database, keys: Sequence[Key]) -> float:
    """Count a try by all its keys; return 0, or the seconds to wait, and then nothing was counted."""
    by_digest = {key.digest: key for key in keys}
    digests = sorted(by_digest)  # in one order, so that two consoles never wait for each other in a circle
    with database.write() as transaction:
        now = transaction.now
        for digest in digests:
            values = {"digest": digest, "failures": 0, "last_at": now, "paused_until": 0.0}
            transaction.insert_new(attempt, values, unique=("digest",))
        chosen = sa.select(attempt).where(attempt.c.digest.in_(digests)).order_by(attempt.c.digest).with_for_update()
        rows = transaction.rows(chosen)
        wait = max((row.paused_until - now for row in rows), default=0.0)
        if wait > 0:
            return float(wait)
        for row in rows:
            failures = 1 + (row.failures if now - row.last_at < FORGOTTEN else 0)
            pause = 0.0
            if failures >= FREE:
                doubled = FIRST * 2.0 ** min(failures - FREE, 30)
                pause = min(LONGEST[by_digest[row.digest].kind], doubled)
            changed = sa.update(attempt).where(attempt.c.digest == row.digest)
            values = {"failures": failures, "last_at": now, "paused_until": now + pause if pause else 0.0}
            transaction.connection.execute(changed.values(**values))
        _forget_old(transaction)
    return 0.0


def _forget_old(transaction: Transaction) -> None:
    """Somebody who makes up names leaves rows behind. What another console works on is left to it."""
    old = sa.select(attempt.c.digest).where(attempt.c.last_at < transaction.now - FORGOTTEN)
    old = old.limit(1000).with_for_update(skip_locked=True)
    transaction.connection.execute(sa.delete(attempt).where(attempt.c.digest.in_(old)))


def forget(database: Database, keys: Iterable[Key]) -> None:
    """Forget the failures under these keys: the password was right, or somebody was given another."""
    digests = sorted(key.digest for key in keys)
    with database.write() as transaction:
        for digest in digests:
            transaction.connection.execute(sa.delete(attempt).where(attempt.c.digest == digest))
