"""The store of the tests, on both databases."""

from tests.stores import clock, database, postgres_store, sqlite_template, store_url

__all__ = ["clock", "database", "postgres_store", "sqlite_template", "store_url"]
