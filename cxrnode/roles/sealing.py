"""A duty of `tend`: each day's seal over the chain of events, and its digest told where this node cannot change it."""

from __future__ import annotations

from pathlib import Path

import structlog

from cxrnode import syslog
from cxrnode.errors import CxrnodeError
from cxrnode.roles import channels
from cxrnode.roles.context import Context
from cxrnode.sections import Syslog
from cxrnode.store import seals, tallies

log = structlog.get_logger()


class DailySeal:
    """Seals the events so far, once a day, and tells the digest outside: in the log, and where `audit.seals` says.

    A file that could not be written, or whose writer was killed before, is written the next time.
    """

    def __init__(self) -> None:
        """Whether the newest seal has its file is not known yet."""
        self._file_missing = True

    def __call__(self, context: Context) -> None:
        """Seal if it is time to. Raises Transient where the database is away."""
        newest, folder = seals.latest(context.database), context.config.audit.seals
        with context.database.read() as transaction:
            today = int(transaction.now // tallies.DAY)
        if newest is None or int(newest.sealed_at // tallies.DAY) < today:
            taken = seals.take(context.database)
            if taken is None:
                return
            log.info("sealed", seal=taken.id, events=taken.events, last_event=taken.last_event, digest=taken.digest)
            if context.config.audit.syslog is not None:
                _tell_seal(context, context.config.audit.syslog, taken)
            newest, self._file_missing = taken, True
        if folder is not None and self._file_missing:
            self._file_missing = not _write_seal(context, folder, newest)


def _tell_seal(context: Context, server: Syslog, taken: seals.Seal) -> None:
    said = f"{context.config.node.ae_title} sealed {taken.events} events up to {taken.last_event}: {taken.digest}"
    message = syslog.Message(at=taken.sealed_at, severity=syslog.NOTICE, kind="audit-seal", text=said)
    try:
        syslog.send(channels.syslog_server(server), [message])
    except CxrnodeError as fault:
        log.error(
            "seal_not_told", seal=taken.id, reason=str(fault), remedy="check audit.syslog; the log has the digest"
        )


def _write_seal(context: Context, folder: Path, seal: seals.Seal) -> bool:
    """Write a seal's file unless it is there; whether it is there now."""
    name = f"{context.config.node.ae_title.replace('/', '_').replace(' ', '_')}-{seal.id:06}.seal.json"
    temporary = folder / f".{name}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not (folder / name).exists():
            temporary.write_text(seals.export(context.database, seal).to_json() + "\n", encoding="utf-8")
            temporary.rename(folder / name)
        return True
    except OSError as error:
        remedy = "check the folder of audit.seals; `cxrnode audit seal --out FILE` writes the seal, too"
        log.error("seal_not_written", seal=seal.id, reason=error.strerror, remedy=remedy)
        return False
