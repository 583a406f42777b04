"""Publishing a report: its outputs, map and preview are built and spooled, then all of it stands in one transaction.

Nothing here decides what the model said; nothing is sent from here.
"""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import numpy.typing as npt
import structlog
from pydicom.dataset import Dataset

from cxrnode.config import Config
from cxrnode.core.findings import Report
from cxrnode.core.kept import Content, Kept
from cxrnode.dicom.decoder import Decoded
from cxrnode.dicom.outputs import Output, OutputSettings, SentObject, each_output
from cxrnode.dicom.outputs.common import Subject
from cxrnode.dicom.raster import Halves, fitted, jpeg, opencv
from cxrnode.roles.context import Context
from cxrnode.store import reports
from cxrnode.store.database import CommitUnknown
from cxrnode.store.jobs import Claim
from cxrnode.store.reports import SentOutput, Settled, StoredOutput
from cxrnode.store.together import Finished, settle_together

log = structlog.get_logger()

#: Said of a result that came after its film was said to have none.
REPLACES_NOTICE = 'this result takes the place of the notice "AI: not analysed"'
#: The longest side of a spooled preview, in pixels.
PREVIEW_PX = 1024


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Ready:
    """A reading whose files are durable, `kept`, and whose rows are to be written."""

    finished: Finished
    predecessors: Sequence[SentOutput]
    kept: Sequence[Kept]


class Publisher:
    """Builds, spools and records what a reading gives."""

    def __init__(self, context: Context) -> None:
        """Take the settings of outputs from the configuration."""
        self._context = context
        self._settings = output_settings(context.config)
        opencv()  # loaded before the first film waits for it

    def prepare(
        self,
        claim: Claim,
        report: Report,
        source: Dataset,
        film: Decoded | None,
        saliency: npt.NDArray[np.float16] | None,
        *,
        takes_a_place: bool = True,
    ) -> Ready:
        """Build what a report gives and make it durable in the spool. Raises Transient.

        `saliency`: float16 (C, h, w), one map for each channel of the model. `takes_a_place`: whether something may
        have been sent that this report takes the place of (`reports.taking_a_place`).
        """
        before = reports.predecessor_sent(self._context.database, claim.job_id) if takes_a_place else ()
        if before and claim.revision == 1:
            report = dataclasses.replace(report, notes=(REPLACES_NOTICE, *report.notes))
        outputs: list[Output] = []

        def contents() -> Iterator[Content]:
            """What is made, one after the other: each is written while the next is drawn."""
            if saliency is not None:
                yield _npy(saliency)
            shown = Halves(film.display) if film is not None else None
            if shown is not None:
                yield _preview(shown)
            if claim.mode != "active":
                return
            sent = tuple(SentObject(**dataclasses.asdict(one)) for one in before)
            subject = Subject(source, report, self._settings, predecessors=sent)
            for one in each_output(subject, shown, saliency, frozenset(claim.outputs)):
                outputs.append(one)
                yield one.pieces

        kept = self._context.spool.put_each(contents())
        files = iter(kept)  # in the order of `contents`
        map_file = next(files) if saliency is not None else None
        preview = next(files) if film is not None else None
        finished = Finished(
            held=claim,
            report=report,
            outputs=[stored(one, file) for one, file in zip(outputs, files, strict=True)],
            saliency=map_file,
            preview=preview,
        )
        return Ready(finished=finished, predecessors=before, kept=kept)

    def settle(self, ready: Ready) -> Settled:
        """Make the job `reported`, unless it turns out a duplicate. Raises LeaseLost, Transient.

        What was spooled for a settle that did not stand is removed again.
        """
        corrections, one = self._context.config.corrections, ready.finished
        try:
            settled = reports.settle_report(
                self._context.database,
                one.held,
                one.report,
                one.outputs,
                saliency=one.saliency,
                preview=one.preview,
                predecessors=ready.predecessors,
                on_identity_change=corrections.on_identity_change,
                withdraw_superseded=corrections.withdraw_superseded,
            )
        except CommitUnknown:
            raise  # the rows may stand: the files stay too, and `tend` takes them if no row has them
        except Exception:  # whatever it was, no row stands that has these files; it goes on to who can name it
            self._remove(ready.kept)
            raise
        if not settled.stands:
            self._remove(ready.kept)
        return settled

    def settle_together(self, ready: Sequence[Ready]) -> Mapping[int, Settled]:
        """Settle the plain ones of these in one transaction; what is not in the answer is for `settle`, one by one.

        Raises CommitUnknown: whether any of them stands is not known.
        """
        try:
            plain = [one.finished for one in ready if not one.predecessors]
            return settle_together(self._context.database, plain)
        except CommitUnknown:
            raise
        except Exception as fault:  # noqa: BLE001 - one film's fault is its own: alone each is settled, or is told apart
            log.warning("settled_apart", films=len(ready), error=type(fault).__name__)
            return {}

    def _remove(self, kept: Sequence[Kept]) -> None:
        for file in kept:
            self._context.spool.remove(file.key)


def output_settings(config: Config) -> OutputSettings:
    """How this site wants its outputs made. Raises ConfigError for a value outside what outputs can do."""
    return OutputSettings(
        sr_class=config.sr.sop_class,
        sr_title=config.sr.title,
        scheme=config.sr.scheme,
        min_findings=config.heatmap.min_findings,
        max_findings=config.heatmap.max_findings,
        max_px=config.heatmap.max_px,
        style=config.heatmap.style,
        encoding=config.heatmap.encoding,
        timezone=config.timezone or None,
        device_name=config.node.ae_title,
        urgent=tuple(sorted(config.key_object.findings)),
        hl7_names=(config.hl7.sending_facility, config.hl7.receiving_application, config.hl7.receiving_facility),
    )


def stored(one: Output, file: Kept) -> StoredOutput:
    """An output with the file that holds it."""
    return StoredOutput(
        kind=one.kind,
        label=one.label,
        sop_class_uid=one.sop_class_uid,
        sop_instance_uid=one.sop_instance_uid,
        series_instance_uid=one.series_instance_uid,
        transfer_syntax_uid=one.transfer_syntax_uid,
        instance_number=one.instance_number,
        file=file,
    )


def _npy(array: npt.NDArray[np.float16]) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    return buffer.getvalue()


def _preview(film: Halves) -> bytes:
    """The film as a grey JPEG of at most `PREVIEW_PX`: what the console shows, without ever decoding a film."""
    small = max(film.shape) <= PREVIEW_PX
    return jpeg(film.film if small else film.scaled(fitted(film.shape, PREVIEW_PX, PREVIEW_PX)), 85)
