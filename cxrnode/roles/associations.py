"""What the listener tells of associations, on its way into the store: held for a second, written together, bounded.

A film never waits for it. Where the database is away, or a crowd asks at once, what does not fit is forgotten.
"""

from __future__ import annotations

import collections
import threading
from typing import Any

from cxrnode.core.associations import Cause
from cxrnode.dicom.admission import Ended, Refusal
from cxrnode.errors import Transient
from cxrnode.roles.context import Context, log
from cxrnode.store import associations
from cxrnode.store.associations import Asked

#: Associations held at most, and written in one transaction.
_MOST = 500

_CAUSES = {Refusal.CALLED_AET: Cause.CALLED_AET, Refusal.LIMIT: Cause.LIMIT, Refusal.CONGESTION: Cause.BUSY}


class AssociationLog:
    """Collects from many threads; one writes."""

    def __init__(self, context: Context) -> None:
        """Hold nothing yet."""
        self._database = context.database
        self._lock = threading.Lock()
        self._held: collections.deque[Asked] = collections.deque(maxlen=_MOST)

    def observe(self, ended: Ended) -> None:
        """Hold one; the oldest is forgotten where there are too many."""
        asked = self._asked(ended)
        with self._lock:
            self._held.append(asked)

    def write(self) -> None:
        """Write what is held."""
        with self._lock:
            some = list(self._held)
            self._held.clear()
        if not some:
            return
        try:
            associations.record(self._database, some)
        except Transient as fault:
            log.warning("associations_not_written", count=len(some), reason=str(fault))

    def _asked(self, ended: Ended) -> Asked:
        contexts: dict[str, Any] = {}
        if ended.refusal is not None:
            outcome = "rejected"
            contexts["proposed"] = [[sop, list(syntaxes)] for sop, syntaxes, _ in ended.refused]
        elif ended.cause is not None:
            outcome = "failed"
        else:
            outcome = "accepted"
            contexts["accepted"] = dict(ended.accepted)
            contexts["refused"] = [[sop, list(syntaxes), why] for sop, syntaxes, why in ended.refused]
        return Asked(
            calling_aet=ended.calling_aet,
            called_aet=ended.called_aet,
            address=ended.address,
            outcome=outcome,
            cause=self._cause(ended),
            reason=ended.reason,
            contexts=contexts,
            objects=ended.objects,
            refused=ended.faults,
            seconds=ended.seconds,
        )

    def _cause(self, ended: Ended) -> str:
        match ended.refusal:
            case None:
                return ended.cause or ""
            case Refusal.CALLING_AET:
                return ended.cause or Cause.UNKNOWN
            case other:
                return _CAUSES[other]
