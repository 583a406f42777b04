"""The tables of the configuration file, one frozen class each, with every default. Values only: nothing is opened.

Durations are seconds and sizes are bytes once read; in the file both carry their unit.
"""

from __future__ import annotations

import zoneinfo
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationInfo

from cxrnode.quantities import Duration, Size


def _ae_title(text: str) -> str:
    """PS3.5 6.2, VR AE: 1 to 16 characters of the default repertoire, no backslash, no control, not all spaces."""
    title = text.strip(" ")
    if not 1 <= len(title) <= 16 or "\\" in title or not title.isascii() or not title.isprintable():
        raise ValueError(f"{text!r} is no AE title: 1 to 16 ASCII characters without backslash")
    return title


def _timezone(name: str) -> str:
    try:
        zoneinfo.ZoneInfo(name)
    except (zoneinfo.ZoneInfoNotFoundError, ValueError) as error:
        raise ValueError(f"{name!r} is no time zone; write it like Europe/Berlin or UTC") from error
    return name


def _resolved(path: Path, info: ValidationInfo) -> Path:
    """Return the path, a relative one as seen from the file that names it."""
    return (info.context["folder"] if info.context else Path.cwd()) / path.expanduser()


def _listed(value: Any) -> Any:
    return (value,) if isinstance(value, str) else value


AETitle = Annotated[str, AfterValidator(_ae_title)]
Host = Annotated[str, Field(min_length=1, pattern=r"^\S+$")]
Port = Annotated[int, Field(ge=1, le=65535)]
TimeZone = Annotated[str, AfterValidator(_timezone)]
NamedPath = Annotated[Path, AfterValidator(_resolved)]
#: One string or a list of them.
Words = Annotated[tuple[str, ...], BeforeValidator(_listed)]
RoleName = Literal["receive", "infer", "send", "tend"]
OutputKind = Literal["sr", "heatmap", "text", "pdf", "key_object"]


class Section(BaseModel):
    """A table of the file: frozen, and without room for a key that it does not know."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=False, populate_by_name=True)


class Node(Section):
    """`[node]`: who we are on the network and where our data lie."""

    ae_title: AETitle = "CXRNODE"
    data_dir: NamedPath = Path("/var/lib/cxrnode")
    roles: tuple[RoleName, ...] = ("receive", "infer", "send", "tend")
    #: For films without TimezoneOffsetFromUTC, and for the dates in our outputs.
    timezone: TimeZone = "UTC"
    purpose: Literal["service", "demo", "bench"] = "service"


class Tls(Section):
    """`listen.tls`, `nodes.X.tls`: the authority that signs the peers' certificates; our certificate and key (PEM)."""

    ca: NamedPath
    cert: NamedPath
    key: NamedPath


class Listen(Section):
    """`[listen]`: the DICOM port. Durations in seconds, sizes in bytes."""

    host: Host = "0.0.0.0"
    port: Port = 11112
    max_associations: Annotated[int, Field(ge=1, le=1000)] = 50
    accept_unknown: bool = False
    #: The largest data set that is received; the association that brings a larger one is aborted.
    max_instance: Size = 1024**3
    acse_timeout: Duration = 30.0
    dimse_timeout: Duration = 60.0
    network_timeout: Duration = 60.0
    #: With it the port speaks TLS alone, and a peer without a certificate of this authority is refused (PS3.15 B.12).
    tls: Tls | None = None


class RemoteNode(Section):
    """`[nodes.X]`: a DICOM node as DICOM people say it, (AET, host, port), and what it may and can do."""

    aet: AETitle
    host: Host
    port: Port
    can_send: bool = False
    tls: Tls | None = None


class Model(Section):
    """`[models.X]`: a bundle in use. A shadow one reads and is recorded, and never sends."""

    bundle: Annotated[str, Field(min_length=1)]
    mode: Literal["active", "shadow"] = "active"


class Rule(Section):
    """`[[rules]]`: what the site wants read. The first rule that matches decides.

    `when` maps a DICOM keyword, `calling_aet`, `called_aet`, `host`, `study_age` or `patient_age` to its allowed
    values, one or several; `core.routing` knows which keys there are and refuses others.
    """

    name: Annotated[str, Field(min_length=1, max_length=64)]
    when: Mapping[str, Words] = Field(default_factory=dict)
    unsure: Literal["ignore", "read"] = "ignore"
    models: Annotated[tuple[str, ...], Field(min_length=1)]
    outputs: tuple[OutputKind, ...] = ("sr", "heatmap")
    send_to: tuple[str, ...] = ()
    priority: Annotated[int, Field(ge=-100, le=100)] = 0


class Reading(Section):
    """`[reading]`: how films are claimed, decoded and read. `decode_memory` in bytes, durations in seconds."""

    batch: Annotated[int, Field(ge=1, le=256)] = 8
    lease: Duration = 120.0
    max_attempts: Annotated[int, Field(ge=1, le=100)] = 3
    decode_timeout: Duration = 20.0
    decode_memory: Size = 2 * 1024**3
    implausible: Literal["refuse", "read"] = "refuse"
    unknown_age: Literal["read", "ignore"] = "read"


class Send(Section):
    """`[send]`: how deliveries are tried, and tried again. Durations in seconds."""

    batch: Annotated[int, Field(ge=1, le=256)] = 8
    lease: Duration = 120.0
    connect_timeout: Duration = 5.0
    acse_timeout: Duration = 15.0
    dimse_timeout: Duration = 60.0
    max_attempts: Annotated[int, Field(ge=1)] = 10
    max_age: Duration = 7 * 86400.0
    backoff_base: Duration = 5.0
    backoff_cap: Duration = 900.0
    #: How often a destination whose circuit is open is tried with one delivery.
    probe_every: Duration = 30.0


class Heatmap(Section):
    """`[heatmap]`: which findings get a picture, and how it looks. `max_px` bounds the longer edge, legend included.

    `contour` is for destinations that show grey only; `jpeg` is baseline and lossy, `raw` is not compressed.
    """

    max_findings: Annotated[int, Field(ge=0, le=14)] = 6
    min_findings: Annotated[int, Field(ge=0, le=14)] = 0
    style: Literal["colour", "contour"] = "colour"
    encoding: Literal["raw", "jpeg"] = "raw"
    max_px: Annotated[int, Field(ge=1000, le=1600)] = 1200


class Sr(Section):
    """`[sr]`: the document class and the coding scheme of the findings (SNOMED CT, or our own 99CXRNODE)."""

    sop_class: Literal["comprehensive", "comprehensive3d"] = Field(default="comprehensive", alias="class")
    scheme: Literal["SCT", "99CXRNODE"] = "SCT"


class KeyObject(Section):
    """`[key_object]`: the findings, by their labels in the bundle, whose presence flags a film as urgent."""

    findings: Words = ()


class WordLists(Section):
    """`[words]`: what this site's free text says of region and view, beside the words that are built in."""

    chest: Words = ()
    not_chest: Words = ()
    frontal: Words = ()
    lateral: Words = ()


class Database(Section):
    """`[database]`: empty for SQLite in `node.data_dir`, else `postgresql+psycopg://...`."""

    url: str = Field(default="", repr=False)


class Spool(Section):
    """`[spool]`: empty for `node.data_dir`/spool, else a folder. Below `min_free` bytes C-STORE answers 0xA700."""

    url: str = Field(default="", repr=False)
    min_free: Size = 5 * 1024**3


class Retention(Section):
    """`[retention]`: how long the spool keeps the bytes of an instance after its last event. Rows stay."""

    accepted: Duration = 30 * 86400.0
    ignored: Duration = 86400.0
    failed: Duration = 90 * 86400.0


class Log(Section):
    """`[log]`: lines on stderr, without patient identifiers at any level."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["json", "console"] = "json"
