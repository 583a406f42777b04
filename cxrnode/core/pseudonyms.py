"""Pseudonyms: names that stay the same for the same patient, and tell nobody without the key who it is. Pure.

Keyed with HMAC-SHA256 (RFC 2104), so that nobody can try all patient numbers without the key. What kind of name it is
goes into the key's message: a patient and an accession with the same text get different pseudonyms.
"""

from __future__ import annotations

import dataclasses
import hashlib
import hmac

#: Dates are moved by up to so many days, the same for all films of a patient.
_MOST_DAYS = 365
_DAY = 86400.0


@dataclasses.dataclass(frozen=True, slots=True)
class Pseudonyms:
    """The pseudonyms under one key of at least 16 bytes."""

    key: bytes

    def __post_init__(self) -> None:
        if len(self.key) < 16:
            raise ValueError("a key of pseudonyms has at least 16 bytes")

    def __repr__(self) -> str:
        """Nothing of the key."""
        return "Pseudonyms(...)"

    def _digest(self, kind: str, value: str) -> bytes:
        return hmac.new(self.key, f"{kind}\0{value}".encode(), hashlib.sha256).digest()

    def name(self, kind: str, value: str) -> str:
        """A pseudonym of 80 bits, as "patient-3f2a90c1d4e5b6a70912"; "" for nothing."""
        return f"{kind}-{self._digest(kind, value).hex()[:20]}" if value else ""

    def uid(self, kind: str, value: str) -> str:
        """A UID in place of a UID (PS3.5 B.2, 2.25 and a number of 127 bits); "" for nothing."""
        return f"2.25.{int.from_bytes(self._digest(kind, value)[:16]) >> 1}" if value else ""

    def shift(self, patient: str) -> float:
        """By how many seconds a patient's times are moved back: whole days, 1 to 365, so that intervals stay."""
        return _DAY * (1 + int.from_bytes(self._digest("dates", patient)[:8]) % _MOST_DAYS)
