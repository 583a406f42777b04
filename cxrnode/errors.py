"""The errors of cxrnode. The axis that matters is said by class: may the same thing work later, or never?"""

from __future__ import annotations

from pathlib import Path


class CxrnodeError(Exception):
    """Something went wrong that cxrnode knows about."""

    def __init__(self, message: str | None = None) -> None:
        super().__init__(message or (type(self).__doc__ or "").strip())


class Transient(CxrnodeError):
    """It may work later: retry with back-off, park nothing."""


class Rejected(CxrnodeError):
    """It will never work as it is: park it with this reason."""


class ConfigError(Rejected):
    """The configuration is wrong; the message names the key and the remedy."""


class BundleError(Rejected):
    """A model bundle is incomplete, altered or inconsistent; the message names the file."""


class UnreadableImage(Rejected):
    """The pixels of this instance cannot be decoded or are not an image that can be read."""


class LeaseLost(CxrnodeError):
    """Another worker holds this job now; the result is dropped."""


class IllegalTransition(CxrnodeError):
    """The life of a job or delivery has no such step."""


class SchemaMismatch(Rejected):
    """The database schema is not the one this version works with."""


class DatabaseDamaged(Rejected):
    """An SQLite file is not whole; nothing is written to it any more."""

    def __init__(self, file: Path, found: str) -> None:
        super().__init__(
            f"the database {file} is damaged ({' '.join(found.split())}): move it and its -journal to a safe place, "
            "and bring the last backup back with `cxrnode db restore DIR`; docs/operations.md says more"
        )
