"""What every output of one report shares: its UIDs, its clock, its equipment, and the words for what was found.

The only clock is the report's: nothing here asks what time it is, so that the same report gives the same bytes.
"""

from __future__ import annotations

import dataclasses
import datetime
import re
import zoneinfo

from pydicom.dataset import Dataset

from cxrnode.core.findings import Finding, Report, Scale
from cxrnode.core.identity import derived_uid
from cxrnode.dicom.outputs.encoding import EXPLICIT_LITTLE, Attributes, ascii_text, part10
from cxrnode.dicom.outputs.settings import GSPS, MANUFACTURER, RENDERER, Output, OutputSettings, SentObject
from cxrnode.dicom.outputs.source import copy_identity, plain, study_moment, taken_at, view_of

NOT_FOR_DIAGNOSIS = "Research use - not for diagnosis"
NOTHING_FOUND = "No finding at or above threshold; this does not exclude disease."
DEMONSTRATION = "DEMONSTRATION MODEL"
DISCLAIMER = (
    "Research use - not for diagnosis. Made automatically by software and reviewed by nobody. "
    "It does not replace reading the film."
)

_OFFSET = re.compile(r"([+-])(\d{2})(\d{2})", re.ASCII)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Moment:
    """The time of reading in the zone of the study: DA and TM values, the offset ("" where unknown: UTC), in words."""

    date: str
    time: str
    offset: str
    spoken: str


@dataclasses.dataclass(frozen=True, slots=True)
class Subject:
    """One report on one film under one set of settings: what all outputs are made from."""

    source: Dataset
    report: Report
    settings: OutputSettings
    #: When the object is made, in seconds since 1970, where that is not when the film was read.
    at: float | None = None
    #: What else changes the bytes, beside the report: part of every UID.
    act: tuple[str, ...] = ()
    #: The documents that those made now take the place of.
    predecessors: tuple[SentObject, ...] = ()
    #: What an object that is not of one film alone names in its SeriesDescription instead of view and time.
    scope: str = ""

    def uid(self, kind: str, *parts: str) -> str:
        """A UID over everything that changes the bytes of an output.

        The outcome is part of it: a film said to be "not analysed" may be analysed later in the same revision.
        """
        report = self.report
        return derived_uid(
            kind,
            plain(self.source, "SOPInstanceUID"),
            report.pixel_digest,
            report.identity_digest,
            report.reader.bundle_digest,
            report.revision,
            report.outcome,
            RENDERER,
            self.settings.fingerprint,
            *((report.timezone,) if report.timezone else ()),
            *self.act,
            *parts,
        )

    @property
    def moment(self) -> Moment:
        """When the film was read or, with `at`, the object made, in the zone of the study.

        One offset holds for all times of an object (PS3.3 C.12.1.1.8).

        The zone is the film's TimezoneOffsetFromUTC, else the offset that the zone of its sender, or of this node, had
        on the study's date, else UTC. In the last case no offset is written: it would move the copied study time.
        """
        made = self.report.read_at if self.at is None else self.at
        zone, offset = _zone(self.source, made, self.report.timezone or self.settings.timezone)
        at = datetime.datetime.fromtimestamp(made, zone)
        spoken = f"{at:%Y-%m-%d %H:%M:%S} {f'{offset[:3]}:{offset[3:]}' if offset else 'UTC'}"
        return Moment(date=f"{at:%Y%m%d}", time=f"{at:%H%M%S.%f}", offset=offset, spoken=spoken)

    @property
    def model(self) -> str:
        """Name and version of the model, and whether it is one for demonstration."""
        reader = self.report.reader
        suffix = f" ({DEMONSTRATION})" if reader.demonstration else ""
        return ascii_text(f"{reader.name} {reader.version}{suffix}")

    @property
    def bundle(self) -> str:
        """The bundle by the start of its digest."""
        return f"bundle {self.report.reader.bundle_digest.removeprefix('sha256:')[:12]}"

    @property
    def film(self) -> str:
        """Which film this is, in words without a patient: view, time taken, numbers of series and image."""
        date, time = taken_at(self.source)
        taken = f"taken {' '.join(filter(None, (date, time)))}" if date or time else "time not stated"
        numbers = [
            f"{word} {number}"
            for word, keyword in (("series", "SeriesNumber"), ("image", "InstanceNumber"))
            if (number := plain(self.source, keyword))
        ]
        return ", ".join((view_of(self.source), taken, *numbers))

    def description(self, what: str) -> str:
        """A SeriesDescription (LO, 64 characters) that names view and time, so that two films never mix."""
        _, time = taken_at(self.source)
        film = self.scope or " ".join(filter(None, (view_of(self.source), time)))
        suffixes = ["not for diagnosis"]
        if self.report.reader.demonstration:
            suffixes = [f"{DEMONSTRATION}, not for diagnosis", DEMONSTRATION]
        texts = [f"AI {what} {film} ({suffix})" for suffix in suffixes]
        return next((text for text in texts if len(text) <= 64), texts[-1][:64])


def _zone(source: Dataset, read_at: float, name: str | None) -> tuple[datetime.tzinfo, str]:
    stated = _OFFSET.fullmatch(plain(source, "TimezoneOffsetFromUTC"))
    if stated and int(stated[2]) <= 14 and int(stated[3]) < 60:
        minutes = int(stated[2]) * 60 + int(stated[3])
        delta = datetime.timedelta(minutes=-minutes if stated[1] == "-" else minutes)
        # PS3.3 C.12.1.1.8 knows no "-0000"
        return datetime.timezone(delta), "+0000" if minutes == 0 else stated[0]
    if name is None:
        return datetime.UTC, ""
    zone = zoneinfo.ZoneInfo(name)
    studied = study_moment(source)
    at = studied.replace(tzinfo=zone) if studied else datetime.datetime.fromtimestamp(read_at, zone)
    minutes = round((at.utcoffset() or datetime.timedelta()).total_seconds() / 60)
    sign = "-" if minutes < 0 else "+"
    offset = f"{sign}{abs(minutes) // 60:02d}{abs(minutes) % 60:02d}"
    return datetime.timezone(datetime.timedelta(minutes=minutes)), offset


def put_common(subject: Subject, target: Attributes, *, sop_class_uid: str, sop_instance_uid: str) -> Moment:
    """Put what every output carries: patient and study of the film, times, equipment (PS3.3 C.7.5.2, C.12.1)."""
    moment = subject.moment
    reader = subject.report.reader
    copy_identity(subject.source, target)
    target.put("SOPClassUID", sop_class_uid).put("SOPInstanceUID", sop_instance_uid)
    # A presentation state has no content date (PS3.3 A.33.1).
    for kind in ("InstanceCreation", "Series") if sop_class_uid == GSPS else ("InstanceCreation", "Series", "Content"):
        target.put(f"{kind}Date", moment.date).put(f"{kind}Time", moment.time)
    if moment.offset:
        target.put("TimezoneOffsetFromUTC", moment.offset)
    target.put("InstanceCreatorUID", device_uid(subject.settings))
    target.put("Manufacturer", MANUFACTURER).put("ManufacturerModelName", reader.name)
    target.put("DeviceSerialNumber", serial_number(subject)).put("StationName", subject.settings.device_name)
    target.put("SoftwareVersions", f"{reader.name[:40]} {reader.version}", f"{MANUFACTURER} renderer {RENDERER}")
    return moment


def finished(
    target: Attributes,
    *,
    kind: str,
    sop_class_uid: str,
    sop_instance_uid: str,
    series_instance_uid: str,
    label: str = "",
    number: int = 1,
    transfer_syntax_uid: str = EXPLICIT_LITTLE,
) -> Output:
    """The attributes, with their place in a series put in, as an output."""
    target.put("SeriesInstanceUID", series_instance_uid).put("InstanceNumber", number)
    pieces = part10(
        target,
        sop_class_uid=sop_class_uid,
        sop_instance_uid=sop_instance_uid,
        transfer_syntax_uid=transfer_syntax_uid,
    )
    return Output(
        kind=kind,
        label=label,
        sop_class_uid=sop_class_uid,
        sop_instance_uid=sop_instance_uid,
        series_instance_uid=series_instance_uid,
        transfer_syntax_uid=transfer_syntax_uid,
        instance_number=number,
        pieces=pieces,
    )


def device_uid(settings: OutputSettings) -> str:
    """The UID of this node as an observer: the same wherever it has the same name."""
    return derived_uid("device", settings.device_name)


def serial_number(subject: Subject) -> str:
    """The start of the bundle's digest: what tells two builds of one model apart."""
    return subject.report.reader.bundle_digest.removeprefix("sha256:")[:16] or "none"


def figures(finding: Finding, scale: Scale) -> tuple[str, str, str]:
    """Score, rule-out and rule-in as text, with just as many digits as it takes not to contradict the decision.

    A score of 0.4996 under a threshold of 0.5 reads "0.4996", never "0.500". Probabilities are in percent, without
    the sign. The thresholds are "" where there are none.
    """
    factor, fewest = (100.0, 1) if scale is Scale.PROBABILITY else (1.0, 3)
    limits = finding.thresholds
    if limits is None:
        return f"{finding.score * factor:.{fewest}f}", "", ""
    values = (finding.score * factor, limits.rule_out * factor, limits.rule_in * factor)
    texts = tuple(f"{v:.{fewest}f}" for v in values)
    for digits in range(fewest, 13):
        texts = tuple(f"{v:.{digits}f}" for v in values)
        shown = tuple(float(t) for t in texts)
        if all((shown[0] < shown[n]) == (values[0] < values[n]) for n in (1, 2)):
            break
    return texts[0], texts[1], texts[2]


def quantity(finding: Finding, scale: Scale) -> str:
    """The score or probability in words: "score 0.912" or "probability 91.2 %"."""
    value = figures(finding, scale)[0]
    return f"probability {value} %" if scale is Scale.PROBABILITY else f"score {value}"


def limits_in_words(finding: Finding, scale: Scale) -> str:
    """Between which thresholds the finding stands."""
    _, low, high = figures(finding, scale)
    if not high:
        return "no threshold: not assessed"
    unit = " %" if scale is Scale.PROBABILITY else ""
    if low == high:
        return f"present at or above {high}{unit}, absent below"
    return f"present at or above {high}{unit}, absent below {low}{unit}"
