"""A claimed film as `infer` sees it: its header and pixels, whether it is to be read, and what is said of it.

Nothing here runs a model; a film that was read before ends here as a duplicate.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import structlog
from pydicom.dataset import Dataset

from cxrnode.core.findings import Outcome, Report
from cxrnode.core.header import Header, Identity
from cxrnode.core.routing import IntendedUse, within_intended_use
from cxrnode.core.words import WordList
from cxrnode.dicom.decoder import Decoded, Decoder, DecoderDied
from cxrnode.dicom.header import identity_of, read_header, undecoded
from cxrnode.errors import Transient, UnreadableImage
from cxrnode.reading.bundle import Bundle
from cxrnode.reading.readings import Reading
from cxrnode.roles.context import Context
from cxrnode.roles.models import Loaded
from cxrnode.store import reports
from cxrnode.store.jobs import Claim, Limits

log = structlog.get_logger()


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """A claimed film as far as it was looked at: its header, and its pixels unless there is a reason why not.

    `revision` is the one that its outputs are to have.
    """

    claim: Claim
    source: Dataset
    identity: Identity
    film: Decoded | None
    reason: str
    revision: int


def look_at(
    context: Context, path: Path, claim: Claim, bundle: Bundle, decoder: Decoder, words: WordList, limits: Limits
) -> Seen | None:
    """Decode a film and say why it is not to be read, if so; None where it was read before, and its job has ended.

    Raises Transient, Rejected, LeaseLost, and DecoderDied but for the last attempt.
    """
    try:
        source = read_header(path)
    except OSError as error:
        raise Transient(f"the spool does not answer: {error.strerror}") from error
    identity = identity_of(undecoded(source))

    def unseen(reason: str) -> Seen:
        return Seen(claim=claim, source=source, identity=identity, film=None, reason=reason, revision=claim.revision)

    try:
        film = decoder.decode(path, dataset_digest=claim.dataset_digest)
    except UnreadableImage as fault:
        return unseen(str(fault))
    except DecoderDied as died:
        attempts = claim.attempts + 1
        if attempts < limits.attempts:
            raise
        # Silence must not read as negative: at the limit the film is said to be not analysed, and why.
        return unseen(f"{died} ({attempts} attempts)")
    digests = {"pixel_digest": film.pixel_digest, "identity_digest": identity.digest}
    twin, revision = reports.look_up(context.database, claim, **digests)
    if twin is not None:
        log.info("duplicate", job=claim.job_id, of=twin)
        return None
    outside = within_intended_use(Header.from_json(claim.header), _use(context, bundle), words)
    reason = f"outside the model's intended use: {outside}" if outside else ""
    return Seen(claim=claim, source=source, identity=identity, film=film, reason=reason, revision=revision)


def _use(context: Context, bundle: Bundle) -> IntendedUse:
    use = bundle.intended_use
    return IntendedUse(
        age_min=use.age_min,
        age_max=use.age_max,
        views=use.views,
        modalities=use.modalities,
        unknown_age=context.config.reading.unknown_age,
    )


def report_of(context: Context, one: Seen, reading: Reading | None, model: Loaded) -> Report:
    """What is said of a film, by its reading or by the reason why there is none."""
    base = Report(
        outcome=Outcome.NOT_ANALYSED,
        reason=one.reason,
        read_at=one.claim.claimed_at,
        revision=one.revision,
        reader=model.bundle.reader(model.engine),
        scale=model.bundle.scale,
        pixel_digest=one.film.pixel_digest if one.film else "",
        identity_digest=one.identity.digest,
        notes=(f"window: {one.film.window}", *one.film.notes) if one.film else (),
        timezone=context.config.timezone_of(one.claim.calling_aet),
    )
    if reading is None:
        return base
    plausibility = model.bundle.plausibility_of(reading)
    overridden = context.config.reading.implausible == "read"
    if not plausibility.plausible and not overridden:
        reason = "the film does not look like those the model was made for"
        return dataclasses.replace(base, reason=reason, plausibility=plausibility)
    notes = base.notes
    if not plausibility.plausible:
        notes = (*notes, "implausible for the model; read because this is a demonstration run")
    return dataclasses.replace(
        base,
        outcome=Outcome.ANALYSED,
        reason="",
        findings=model.bundle.findings(reading),
        plausibility=plausibility,
        notes=notes,
    )
