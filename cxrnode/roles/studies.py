"""Summaries of studies: a page that puts the films of one study side by side, once the study is at rest.

A duty of `tend`. It opens no film: the header that receipt kept, the stored reports and the previews are enough.
"""

from __future__ import annotations

import dataclasses
import io
import json

import numpy as np
import numpy.typing as npt
import structlog
from PIL import Image, UnidentifiedImageError

from cxrnode.core.findings import Outcome, Reader, Report
from cxrnode.dicom.header import PARSE_FAULTS
from cxrnode.dicom.kept_header import read_kept_header
from cxrnode.dicom.outputs import SentObject
from cxrnode.dicom.outputs.study import FilmRead, build_study_summary
from cxrnode.errors import Rejected
from cxrnode.roles.context import Context, rouse
from cxrnode.roles.notices import spooled
from cxrnode.roles.publish import output_settings
from cxrnode.store import studies
from cxrnode.store.studies import Due, Key, Read

log = structlog.get_logger()

#: How far back the first look of a process goes, in seconds: what settled while no process looked.
FIRST_LOOK = 86400.0


class StudySummaries:
    """The duty, with what it remembers between its turns: since when to look, and which studies are not quiet yet."""

    def __init__(self) -> None:
        """Remember nothing yet."""
        self._since: float | None = None
        self._waiting: set[Key] = set()

    def __call__(self, context: Context) -> None:
        """Make the summaries that are due. Raises Transient where spool or database are away."""
        if not context.config.study.summary:
            return
        touched, now = studies.touched(context.database, since=self._since, back=FIRST_LOOK)
        made = 0
        for key in dict.fromkeys((*self._waiting, *touched)):
            context.beat()
            self._waiting.add(key)  # until it was looked at: a fault now is no reason to forget it
            made += self._look(context, key)
        self._since = now
        if made:
            rouse(context, "send")

    def _look(self, context: Context, key: Key) -> bool:
        seen = studies.look(context.database, key, quiet=context.config.study.quiet)
        made, wait = False, seen.wait
        if seen.due is not None:
            try:
                made = _summarise(context, seen.due)
                wait = not made  # something moved on meanwhile: it is looked at again
            except (Rejected, *PARSE_FAULTS) as fault:  # one study must not cost the others their pages
                log.error("study_failed", job=seen.due.job_id, error=type(fault).__name__)
        if not wait:
            self._waiting.discard(key)
        return made


def _summarise(context: Context, one: Due) -> bool:
    settings = output_settings(context.config)
    films = [_film(context, film, at=one.at) for film in one.films]
    predecessors = tuple(SentObject(**dataclasses.asdict(sent)) for sent in one.predecessors)
    outputs = build_study_summary(films, settings, at=one.at, predecessors=predecessors)
    with spooled(context, outputs) as files:
        files.wanted = studies.record(
            context.database, one, files.stored, retract=context.config.corrections.withdraw_superseded
        )
    if files.wanted:
        log.info("study_summarised", job=one.job_id, revision=one.revision, films=len(one.films))
    return files.wanted


def _film(context: Context, film: Read, *, at: float) -> FilmRead:
    report = film.report or Report(
        outcome=Outcome.NOT_ANALYSED,
        reason=film.reason,
        read_at=at,
        revision=1,
        reader=_reader(film),
    )
    return FilmRead(
        source=read_kept_header(film.header, transfer_syntax_uid=film.transfer_syntax_uid),
        report=report,
        preview=_preview(context, film),
    )


def _reader(film: Read) -> Reader:
    if film.reader:
        return Reader(**json.loads(film.reader))
    return Reader(
        name="no model",
        version="",
        bundle_digest=film.bundle_digest,
        weights_digest="",
        calibration="",
        demonstration=False,
        engine="",
    )


def _preview(context: Context, film: Read) -> npt.NDArray[np.uint8] | None:
    """The film made small, uint8 (H, W), or None where the spool has no good picture of it."""
    if film.preview_key is None:
        return None
    try:
        content = context.spool.read(film.preview_key, digest=film.preview_digest)
        with Image.open(io.BytesIO(content)) as picture:
            return np.asarray(picture.convert("L"), dtype=np.uint8)
    except (Rejected, UnidentifiedImageError):
        return None
