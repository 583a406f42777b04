"""How outputs are made: the few choices a site has, and what one output is. Values only."""

from __future__ import annotations

import dataclasses
import functools
import json
import zoneinfo

from cxrnode.core.findings import Concept
from cxrnode.dicom.outputs.encoding import Piece
from cxrnode.errors import ConfigError

#: Changes whenever the same report would give other bytes: it is part of every UID.
RENDERER = "4"
MANUFACTURER = "cxrnode"

SR_CLASSES = {
    "comprehensive": "1.2.840.10008.5.1.4.1.1.88.33",
    "comprehensive3d": "1.2.840.10008.5.1.4.1.1.88.34",
}
BASIC_TEXT_SR = "1.2.840.10008.5.1.4.1.1.88.11"
KEY_OBJECT_SELECTION = "1.2.840.10008.5.1.4.1.1.88.59"
GSPS = "1.2.840.10008.5.1.4.1.1.11.1"
ENCAPSULATED_PDF = "1.2.840.10008.5.1.4.1.1.104.1"
SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"
SR_SERIES_NUMBER = 9001
SC_SERIES_NUMBER = 9002
TEXT_SERIES_NUMBER = 9003
PDF_SERIES_NUMBER = 9004
KEY_OBJECT_SERIES_NUMBER = 9005
PRESENTATION_SERIES_NUMBER = 9006
WITHDRAWN_SC_SERIES_NUMBER = 9011
WITHDRAWN_SR_SERIES_NUMBER = 9012
REJECTION_SERIES_NUMBER = 9013
STUDY_SC_SERIES_NUMBER = 9021
STUDY_SR_SERIES_NUMBER = 9022


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class OutputSettings:
    """The choices behind an output; they are part of its UID.

    `sr_class` is a key of SR_CLASSES; `sr_title` is "measurement-report" (126000 DCM, which programs look for) or
    "ai-reading" (our own, which OHIF shows as text). Heatmaps are made of the findings present and then of the
    top-ranked up to `min_findings`, never more than `max_findings`. `max_px` bounds the long side of a picture,
    legend included, in pixels. `style` is "colour" (map and contour) or "contour" (for grey-scale destinations).
    `encoding` is "raw" (Explicit VR Little Endian) or "jpeg" (baseline, lossy). `timezone` is an IANA name for films
    that state no offset from UTC. `scheme` is "SCT" or "99CXRNODE": where the codes of findings come from; `concepts`
    replaces single ones, as pairs of label and concept. `urgent` are the labels that a key object flags. `hl7_names`
    are MSH-4 to MSH-6 of messages; of all choices these alone are no part of the UIDs of DICOM objects. Raises
    ConfigError for a value outside these.
    """

    sr_class: str = "comprehensive"
    sr_title: str = "measurement-report"
    min_findings: int = 0
    max_findings: int = 6
    max_px: int = 1200
    style: str = "colour"
    encoding: str = "raw"
    timezone: str | None = None
    device_name: str = "CXRNODE"
    scheme: str = "SCT"
    concepts: tuple[tuple[str, Concept], ...] = ()
    urgent: tuple[str, ...] = ()
    hl7_names: tuple[str, str, str] = ("", "", "")

    def __post_init__(self) -> None:
        choices = {
            "sr_class": tuple(SR_CLASSES),
            "sr_title": ("measurement-report", "ai-reading"),
            "style": ("colour", "contour"),
            "encoding": ("raw", "jpeg"),
            "scheme": ("SCT", "99CXRNODE"),
        }
        for name, allowed in choices.items():
            if getattr(self, name) not in allowed:
                raise ConfigError(f"outputs: {name} must be one of {', '.join(allowed)}, not {getattr(self, name)!r}")
        if not 0 <= self.min_findings <= self.max_findings <= 14:
            raise ConfigError("outputs: 0 <= min_findings <= max_findings <= 14 must hold")
        if not 1000 <= self.max_px <= 1600:  # the letters have one size: smaller pages have no room for them
            raise ConfigError(
                f"outputs: max_px must lie in 1000..1600, not {self.max_px}: the legend must stay legible"
            )
        if self.timezone is not None:
            try:
                zoneinfo.ZoneInfo(self.timezone)
            except (zoneinfo.ZoneInfoNotFoundError, ValueError) as error:
                raise ConfigError(f"outputs: {self.timezone!r} is not a time zone of the IANA database") from error

    @property
    def fingerprint(self) -> str:
        """All settings that objects are made after as canonical JSON, for the derivation of UIDs."""
        return _fingerprint(self)


@functools.lru_cache(maxsize=8)
def _fingerprint(settings: OutputSettings) -> str:
    chosen = dataclasses.asdict(settings)
    del chosen["hl7_names"]
    return json.dumps(chosen, sort_keys=True, separators=(",", ":"))


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Output:
    """One DICOM object made from a report, or of kind "hl7" a message, which has no DICOM class, series or syntax.

    `kind` is "sr", "text", "summary", "heatmap", "pdf", "key_object" or "gsps", or what another builder says; `label`
    is the finding of a heatmap, else ""; `pieces` one after the other are a whole Part 10 file, `data`: pictures are
    megabytes, which are joined for nobody but a test.
    """

    kind: str
    label: str
    sop_class_uid: str
    sop_instance_uid: str
    series_instance_uid: str
    transfer_syntax_uid: str
    instance_number: int
    pieces: tuple[Piece, ...]

    @property
    def data(self) -> bytes:
        """The whole file."""
        return b"".join(self.pieces)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class SentObject:
    """An object made before, as later ones refer to it: its kind and label as in `Output`, and its UIDs."""

    kind: str
    label: str
    sop_class_uid: str
    sop_instance_uid: str
    series_instance_uid: str
