"""The duty that looks for rows which contradict the life of a job, and puts them right (`store.soundness`)."""

from __future__ import annotations

import structlog

from cxrnode.roles.context import Context, rouse
from cxrnode.store import soundness

log = structlog.get_logger()


class Upkeep:
    """A duty of `tend`. It walks through reported jobs a page at a time, and begins anew at the end."""

    def __init__(self) -> None:
        """Begin with the oldest job."""
        self._after = 0

    def __call__(self, context: Context) -> None:
        """Look once; each thing that is found is an event, and a line of the log counts them."""
        database = context.database
        page = soundness.reported_after(database, self._after)
        self._after = page[-1] if page else 0
        found = {
            "endless_leases": soundness.end_endless(database),
            "unclosed_jobs": soundness.close_unclosed(database, page),
            "reports_without_delivery": soundness.deliver_undelivered(database, page),
            "pointless_deliveries": soundness.cancel_pointless(database),
        }
        if any(found.values()):
            remedy = "nothing: it is put right; was the database mended by hand, or restored?"
            log.warning("healed", remedy=remedy, **{name: count for name, count in found.items() if count})
            rouse(context, "send")
