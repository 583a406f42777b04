"""Notices: what is said of an accepted film that has no result, so that its silence is not read as negative.

A duty of `tend`, since the worker that should have read the film may be what is broken. It never opens a film: the
header that receipt kept is enough.
"""

from __future__ import annotations

import contextlib
import dataclasses
import re
from collections.abc import Iterator, Sequence

import structlog

from cxrnode.core.findings import Outcome, Reader, Report
from cxrnode.dicom.header import PARSE_FAULTS, identity_of
from cxrnode.dicom.kept_header import read_kept_header
from cxrnode.dicom.outputs import Output
from cxrnode.dicom.outputs.notice import build_notice
from cxrnode.roles.context import Context, rouse
from cxrnode.roles.publish import output_settings, stored
from cxrnode.store import notices
from cxrnode.store.database import CommitUnknown
from cxrnode.store.notices import Cause, Due
from cxrnode.store.reports import StoredOutput

log = structlog.get_logger()

#: Notices made in one go, at most; what is left over comes in the next.
_BATCH = 50
#: Keys of the spool in a job's reason: for administrators, and noise to those who read the notice.
_KEYS = re.compile(r" [0-9a-f]{32}\b")


def say_not_analysed(context: Context) -> None:
    """Make the notices that are due. Raises Transient where spool or database are away."""
    settings = context.config.notices
    if not settings.not_analysed:
        return
    told = after = 0
    failed = True
    while failed:  # films whose headers surprise us must not silence those behind them
        failed = False
        for one in notices.due(context.database, late_after=settings.late_after, limit=_BATCH, after=after):
            context.beat()
            after = one.job_id
            try:
                told += _say(context, one)
            except PARSE_FAULTS as fault:
                failed = True
                log.error("notice_failed", job=one.job_id, error=type(fault).__name__)
    if told:
        rouse(context, "send")


def _say(context: Context, one: Due) -> bool:
    late_after = context.config.notices.late_after
    report = _report(one, late_after, context.config.timezone_of(one.calling_aet))
    source = read_kept_header(one.header, transfer_syntax_uid=one.transfer_syntax_uid)
    outputs = build_notice(source, report, output_settings(context.config), frozenset(one.outputs))
    with spooled(context, outputs) as files:
        files.wanted = notices.record(context.database, one, report, files.stored, late_after=late_after)
    if files.wanted:
        log.warning("not_analysed_said", job=one.job_id, cause=str(one.cause), reason=report.reason)
    return files.wanted


@dataclasses.dataclass(slots=True)
class Files:
    """Outputs that are durable in the spool; they go again unless they are `wanted`."""

    stored: Sequence[StoredOutput]
    wanted: bool = False


@contextlib.contextmanager
def spooled(context: Context, outputs: Sequence[Output]) -> Iterator[Files]:
    """Keep outputs for as long as it takes to record them. Raises Transient where the spool is away."""
    kept = context.spool.put(*(one.pieces for one in outputs)) if outputs else ()
    files = Files([stored(one, file) for one, file in zip(outputs, kept, strict=True)])
    try:
        yield files
    except CommitUnknown:
        files.wanted = True  # the rows may stand: the files stay too, and `sweep` takes them if no row has them
        raise
    finally:
        if not files.wanted:
            for file in kept:
                context.spool.remove(file.key)


def _report(one: Due, late_after: float, zone: str) -> Report:
    """What is said; its time is when the notice came to be due, so that a second try gives the same bytes."""
    time = f"{late_after / 60:g} minutes" if late_after >= 120 else f"{late_after:g} seconds"
    late = f"no result within {time} of the film's receipt"
    # Read anew: what is decoded once does not go out as the bytes it came in.
    identity = identity_of(read_kept_header(one.header, transfer_syntax_uid=one.transfer_syntax_uid))
    return Report(
        outcome=Outcome.NOT_ANALYSED,
        reason=late if one.cause is Cause.LATE else _KEYS.sub("", one.reason),
        read_at=one.at,
        revision=1,
        reader=one.reader or _unknown(one),
        identity_digest=identity.digest,
        timezone=zone,
    )


def _unknown(one: Due) -> Reader:
    """Of a model that was never loaded only the name is known."""
    return Reader(
        name=one.model,
        version="",
        bundle_digest=one.bundle_digest,
        weights_digest="",
        calibration="",
        demonstration=False,
        engine="",
    )
