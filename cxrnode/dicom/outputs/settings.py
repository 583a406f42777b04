"""How outputs are made: the few choices a site has, and what one output is. Values only."""

from __future__ import annotations

import dataclasses
import json
import zoneinfo

from cxrnode.core.findings import Concept
from cxrnode.errors import ConfigError

#: Changes whenever the same report would give other bytes: it is part of every UID.
RENDERER = "1"
MANUFACTURER = "cxrnode"

SR_CLASSES = {
    "comprehensive": "1.2.840.10008.5.1.4.1.1.88.33",
    "comprehensive3d": "1.2.840.10008.5.1.4.1.1.88.34",
}
BASIC_TEXT_SR = "1.2.840.10008.5.1.4.1.1.88.11"
KEY_OBJECT_SELECTION = "1.2.840.10008.5.1.4.1.1.88.59"
ENCAPSULATED_PDF = "1.2.840.10008.5.1.4.1.1.104.1"
SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"
SR_SERIES_NUMBER = 9001
SC_SERIES_NUMBER = 9002
TEXT_SERIES_NUMBER = 9003
PDF_SERIES_NUMBER = 9004
KEY_OBJECT_SERIES_NUMBER = 9005


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class OutputSettings:
    """The choices behind an output; all of them are part of its UID.

    `sr_class` is a key of SR_CLASSES. Heatmaps are made of the findings present and then of the top-ranked up to
    `min_findings`, never more than `max_findings`. `max_px` bounds the long side of a picture, legend included, in
    pixels. `style` is "colour" (map and contour) or "contour" (for grey-scale destinations). `encoding` is "raw"
    (Explicit VR Little Endian) or "jpeg" (baseline, lossy). `timezone` is an IANA name for films that state no
    offset from UTC. `scheme` is "SCT" or "99CXRNODE": where the codes of findings come from; `concepts` replaces
    single ones, as pairs of label and concept. `urgent` are the labels that a key
    object flags. Raises ConfigError for a value outside these.
    """

    sr_class: str = "comprehensive"
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

    def __post_init__(self) -> None:
        choices = {
            "sr_class": tuple(SR_CLASSES),
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
        """All settings as canonical JSON, for the derivation of UIDs."""
        return json.dumps(dataclasses.asdict(self), sort_keys=True, separators=(",", ":"))


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Output:
    """One DICOM object made from a report.

    `kind` is "sr", "text", "summary", "heatmap", "pdf" or "key_object"; `label` the finding of a heatmap, else "";
    `data` a whole Part 10 file.
    """

    kind: str
    label: str
    sop_class_uid: str
    sop_instance_uid: str
    transfer_syntax_uid: str
    instance_number: int
    data: bytes
