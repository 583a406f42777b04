"""Who may do what in the console: three roles, each with all that the ones before it may. Pure values."""

from __future__ import annotations

import dataclasses
from enum import IntEnum


class Role(IntEnum):
    """`viewer` sees and searches; `operator` retries, resends, withdraws and stops; `admin` changes the rest."""

    VIEWER = 1
    OPERATOR = 2
    ADMIN = 3

    @property
    def word(self) -> str:
        """As it stands in the store and on the command line."""
        return self.name.lower()

    @classmethod
    def of(cls, word: str) -> Role:
        """The role of a word. Raises KeyError for another."""
        return cls[word.upper()]


ROLES = tuple(role.word for role in Role)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Person:
    """Who asks, and what for: both stand in the events of what they look at and do."""

    name: str
    role: Role
    purpose: str = ""
