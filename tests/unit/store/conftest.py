"""The store of the tests, on both databases."""

from tests.stores import clock, database

__all__ = ["clock", "database"]
