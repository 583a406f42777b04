"""Alembic's entry: runs the migrations on the connection that `store.upgrade` hands over."""

from alembic import context

from cxrnode.store import guards
from cxrnode.store.schema import metadata

connection = context.config.attributes["connection"]
context.configure(
    connection=connection,
    target_metadata=metadata,
    render_as_batch=connection.dialect.name == "sqlite",  # SQLite cannot alter most things in place
    transaction_per_migration=False,
)
with context.begin_transaction():
    context.run_migrations()
    guards.install(connection)  # anew each time: what alters a table may lose its triggers
