"""Who does a periodic duty: a lease by name, so that of many nodes one does it."""

from __future__ import annotations

import sqlalchemy as sa

from cxrnode.store.database import Database
from cxrnode.store.schema import duty


def take(database: Database, name: str, *, owner: str, seconds: float) -> bool:
    """Take a duty for `seconds`; False while another owner has it. The same owner may take it again at once."""
    with database.write() as transaction:
        # One that ends later than it can have been taken for is from before the clock went back.
        over = (duty.c.until <= transaction.now) | (duty.c.until > transaction.now + 2 * seconds)
        values = {"name": name, "owner": owner, "until": transaction.now + seconds}
        if transaction.insert_new(duty, values, unique=("name",)) is not None:
            return True
        taken = transaction.count(
            sa.update(duty)
            .where(duty.c.name == name, over | (duty.c.owner == owner))
            .values(owner=owner, until=transaction.now + seconds)
        )
        return bool(taken)
