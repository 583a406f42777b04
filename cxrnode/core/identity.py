"""UIDs and digests: the same input gives the same object, on every machine, for ever. Pure."""

from __future__ import annotations

import hashlib
import json
import uuid

#: The project's UUID namespace (RFC 9562, 5.5). It never changes: every UID sent so far hangs on it.
NAMESPACE = uuid.UUID("3c1b6f0e-86a5-5d0b-9f7e-5f6c0e1d2a94")

#: Our Implementation Class UID and the start of its version name (PS3.7 Annex D.3.3.2).
IMPLEMENTATION_CLASS_UID = f"2.25.{uuid.uuid5(NAMESPACE, 'implementation').int}"


def derived_uid(kind: str, *parts: str | int) -> str:
    """Return `2.25.<uuid5>` (PS3.5 B.2) over the kind and its parts, each kept apart by JSON's quoting."""
    return f"2.25.{uuid.uuid5(NAMESPACE, _joined(kind, *parts)).int}"


def identity_digest(*, patient_id: str, issuer: str, accession: str, study_uid: str) -> str:
    """SHA-256 over patient, accession and study: whose film it is said to be."""
    parts = (patient_id.strip(), issuer.strip(), accession.strip(), study_uid.strip())
    return hashlib.sha256(_joined(*parts).encode()).hexdigest()


def _joined(*parts: str | int) -> str:
    return json.dumps([str(p) for p in parts], separators=(",", ":"))
