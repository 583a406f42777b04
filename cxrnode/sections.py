"""The tables of the configuration file, one frozen class each, with every default. Values only: nothing is opened.

Durations are seconds and sizes are bytes once read; in the file both carry their unit.
"""

from __future__ import annotations

import ipaddress
import re
import zoneinfo
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self
from urllib.parse import urlsplit, urlunsplit

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    ValidationInfo,
    model_validator,
)

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


def _host(text: str) -> str:
    try:
        text.encode("idna")  # as the resolver does, and fails with no OSError
    except UnicodeError as error:
        raise ValueError(f"{text!r} is no host name: a part of it is empty or longer than 63 characters") from error
    return text


def _web_url(text: str) -> str:
    parts = urlsplit(text)
    _host(parts.hostname or "")
    _ = parts.port  # raises ValueError where it is none
    if parts.scheme not in ("http", "https") or not parts.hostname or not text.isascii() or not text.isprintable():
        raise ValueError(f"{without_secrets(text)!r} is no http:// or https:// url of a server")
    if parts.username or parts.password or parts.query or parts.fragment or " " in text:
        raise ValueError("the url holds more than host, port and path; a secret belongs into auth")
    return text.rstrip("/")


def _spool_url(text: str) -> str:
    if not text.startswith("s3://"):
        return text
    parts = urlsplit(text)
    if not re.fullmatch(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]", parts.netloc):
        raise ValueError("the url is written s3://BUCKET/PREFIX, and holds no secret: that comes by AWS_... variables")
    if parts.query or parts.fragment or not re.fullmatch(r"[\w./-]*", parts.path, re.ASCII) or ".." in parts.path:
        raise ValueError("the prefix of an s3:// url is made of letters, digits and . _ - /")
    return text.rstrip("/")


def _endpoint(text: str) -> str:
    return _web_url(text) if text else text


def without_secrets(url: str) -> str:
    """Return the URL with the password and all of the query left out: fit for a log line or a digest."""
    parts = urlsplit(url)
    netloc = re.sub(r"^([^@:]*):.*@", r"\1@", parts.netloc)
    return urlunsplit((parts.scheme, netloc, parts.path, "", ""))


def _plain_name(text: str) -> str:
    if any(mark in text for mark in "|^~\\&"):
        raise ValueError(f"{text!r} holds a delimiter of HL7")
    return text


def _listed(value: Any) -> Any:
    return (value,) if isinstance(value, str) else value


def _network(text: str) -> str:
    """An address or a network, in the form in which they are compared."""
    try:
        network = ipaddress.ip_network(text)
    except ValueError as error:
        raise ValueError(f"{text!r} is no address or network; write it like 192.0.2.17 or 192.0.2.0/24") from error
    return str(network.network_address) if network.num_addresses == 1 else str(network)


AETitle = Annotated[str, AfterValidator(_ae_title)]
Host = Annotated[str, Field(min_length=1, pattern=r"^\S+$"), AfterValidator(_host)]
Port = Annotated[int, Field(ge=1, le=65535)]
TimeZone = Annotated[str, AfterValidator(_timezone)]
NamedPath = Annotated[Path, AfterValidator(_resolved)]
#: A name in the first component of an HD of HL7; ASCII without delimiters, so that it needs no escape.
Hl7Name = Annotated[str, Field(max_length=20, pattern=r"^[ -~]*$"), AfterValidator(_plain_name)]
#: One string or a list of them.
Words = Annotated[tuple[str, ...], BeforeValidator(_listed)]
#: Networks of IPv4 and IPv6; a single address is one, too.
Networks = Annotated[tuple[Annotated[str, AfterValidator(_network)], ...], BeforeValidator(_listed)]
RoleName = Literal["receive", "infer", "send", "tend", "web", "worklist"]
OutputKind = Literal["sr", "heatmap", "text", "pdf", "key_object", "gsps", "hl7"]


class Section(BaseModel):
    """A table of the file: frozen, and without room for a key that it does not know."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=False, populate_by_name=True)


class Node(Section):
    """`[node]`: who we are on the network and where our data lie."""

    ae_title: AETitle = "CXRNODE"
    #: What this machine is called among those that share the work; "" for its host name.
    name: Annotated[str, Field(max_length=64, pattern=r"^[\w.-]*$")] = ""
    data_dir: NamedPath = Path("/var/lib/cxrnode")
    roles: tuple[RoleName, ...] = ("receive", "infer", "send", "tend", "web")
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
    #: Listening processes; 0: one for every four processor cores, at least one. The limit above is for all together.
    processes: Annotated[int, Field(ge=0, le=32)] = 0
    accept_unknown: bool = False
    #: Films that may wait to be read; while there are so many, C-STORE answers 0xA700.
    max_queue: Annotated[int, Field(ge=1)] = 10_000
    #: The largest data set that is received; the association that brings a larger one is aborted.
    max_instance: Size = 1024**3
    acse_timeout: Duration = 30.0
    dimse_timeout: Duration = 60.0
    network_timeout: Duration = 60.0
    #: With it the port speaks TLS alone, and a peer without a certificate of this authority is refused (PS3.15 B.12).
    tls: Tls | None = None


class RemoteNode(Section):
    """`[nodes.X]`: a DICOM node as DICOM people say it, (AET, host, port), and what it may and can do."""

    kind: Literal["dicom"] = "dicom"
    aet: AETitle
    host: Host
    port: Port
    can_send: bool = False
    #: It comes from these addresses and networks alone; empty: its AE title is believed, wherever it comes from.
    addresses: Networks = ()
    #: Understands IHE rejection notes; else a withdrawn result is also said in a capture and a report.
    iocm: bool = True
    #: It is asked to commit to what it was sent (PS3.4 annex J), and reports to us: until then nothing is delivered.
    commitment: bool = False
    #: Results wait until the film itself is there, which it is asked for by C-FIND.
    require_source: bool = False
    #: For the films that it sends without TimezoneOffsetFromUTC, instead of `node.timezone`.
    timezone: TimeZone | None = None
    tls: Tls | None = None


class ClientTls(Section):
    """`nodes.X.tls` of a server that is no DICOM node: the authority it is trusted by, else those of this machine.

    `cert` and `key` are ours, where the server asks for them.
    """

    ca: NamedPath | None = None
    cert: NamedPath | None = None
    key: NamedPath | None = None

    @model_validator(mode="after")
    def _in_pairs(self) -> Self:
        if (self.cert is None) != (self.key is None):
            raise ValueError("cert and key belong together; give both or neither")
        return self


class Auth(Section):
    """`nodes.X.auth`: where the secret of a web server stands, a password with `user`, else a bearer token."""

    user: Annotated[str, Field(pattern=r"^[^:\x00-\x1f]*$")] = ""
    file: NamedPath | None = None
    variable: str = ""

    @model_validator(mode="after")
    def _one_place(self) -> Self:
        if (self.file is None) == (not self.variable):
            raise ValueError("name one place of the secret, file or variable")
        return self


def _keep_secret(url: str, auth: Auth | None, tls: ClientTls | None) -> None:
    """Raise ValueError where a secret would be told to the network, or TLS is asked for without it."""
    parts = urlsplit(url)
    if auth and parts.scheme == "http" and parts.hostname not in ("localhost", "127.0.0.1", "::1"):
        raise ValueError("auth over http:// tells the secret to the network; give an https:// url")
    if tls and parts.scheme == "http":
        raise ValueError("tls is for https:// urls; change the url or remove tls")


class StowNode(Section):
    """`[nodes.X]` with `kind = "stow"`: a DICOMweb server that gets our results by STOW-RS. It never sends to us."""

    kind: Literal["stow"]
    url: Annotated[str, AfterValidator(_web_url)]
    auth: Auth | None = None
    tls: ClientTls | None = None
    iocm: bool = True
    #: Results wait until the film itself is there, which it is asked for by QIDO-RS.
    require_source: bool = False

    @model_validator(mode="after")
    def _keeps_its_secret(self) -> Self:
        _keep_secret(self.url, self.auth, self.tls)
        return self


class Hl7Node(Section):
    """`[nodes.X]` with `kind = "hl7"`: a receiver of HL7 version 2 messages over MLLP, for rules with that output."""

    kind: Literal["hl7"]
    host: Host
    port: Port
    tls: ClientTls | None = None


#: What `kind` in `[nodes.X]` may be; "dicom" where there is none.
NODE_KINDS: Mapping[str, type[Section]] = {"dicom": RemoteNode, "stow": StowNode, "hl7": Hl7Node}


def _kind(node: Any) -> str:
    kind = node.get("kind", "dicom") if isinstance(node, dict) else getattr(node, "kind", "dicom")
    return str(kind)


AnyNode = Annotated[
    Annotated[RemoteNode, Tag("dicom")] | Annotated[StowNode, Tag("stow")] | Annotated[Hl7Node, Tag("hl7")],
    Discriminator(
        _kind,
        custom_error_type="node_kind",
        custom_error_message='kind is "dicom", "stow" or "hl7"; without it a node is a DICOM node',
    ),
]


class Server(Section):
    """`models.X.server`: an inference server that speaks the Open Inference Protocol, version 2, over HTTP.

    Durations in seconds. `model` is the model's name there, that of the bundle where it is empty.
    """

    url: Annotated[str, AfterValidator(_web_url)]
    model: Annotated[str, Field(max_length=128, pattern=r"^[\w.-]*$")] = ""
    timeout: Duration = 20.0
    connect_timeout: Duration = 3.0
    auth: Auth | None = None
    tls: ClientTls | None = None

    @model_validator(mode="after")
    def _keeps_its_secret(self) -> Self:
        _keep_secret(self.url, self.auth, self.tls)
        return self


class Worklist(Section):
    """`[worklists.X]`: a server whose workitems say what is to be read (UPS-RS), for the role `worklist`. Seconds.

    `url` is that of its DICOMweb services, `films_url` of the WADO-RS that has the films, where that is another. Its
    films count as sent by the AE title `aet` in rules and in the audit. `match` maps DICOM keywords, dotted into
    sequences, to what a scheduled workitem must say to be ours. `subscribe`: hear what the server says by itself,
    such as that somebody wants a step cancelled.
    """

    url: Annotated[str, AfterValidator(_web_url)]
    films_url: Annotated[str, AfterValidator(lambda url: _web_url(url) if url else url)] = ""
    aet: AETitle
    match: Mapping[str, str] = Field(default_factory=dict)
    subscribe: bool = True
    poll_every: Duration = 30.0
    timeout: Duration = 20.0
    connect_timeout: Duration = 3.0
    auth: Auth | None = None
    tls: ClientTls | None = None

    @model_validator(mode="after")
    def _keeps_its_secret(self) -> Self:
        for url in (self.url, self.films_url or self.url):
            _keep_secret(url, self.auth, self.tls)
        return self


class Model(Section):
    """`[models.X]`: a bundle in use. A shadow one reads and is recorded, and never sends.

    `engine`: "local" for one of this machine, "kserve" for the one that `server` names.
    """

    bundle: Annotated[str, Field(min_length=1)]
    mode: Literal["active", "shadow"] = "active"
    engine: Literal["local", "kserve"] = "local"
    server: Server | None = None

    @model_validator(mode="after")
    def _has_its_server(self) -> Self:
        if (self.engine == "kserve") != (self.server is not None):
            raise ValueError('engine = "kserve" and server belong together; give both or neither')
        return self


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
    probe_every: Duration = 60.0
    #: How long a destination's report on storage commitment is waited for before it is asked again.
    commitment_wait: Duration = 3600.0
    #: How long results wait for their film, where a node has `require_source`.
    source_wait: Duration = 86400.0


class Corrections(Section):
    """`[corrections]`: what becomes of a result when its film is read again, or comes under another identity."""

    withdraw_superseded: bool = True
    on_identity_change: Literal["hold", "reissue"] = "hold"


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
    """`[sr]`: the document class, its title, and the coding scheme of the findings (SNOMED CT, or our own 99CXRNODE).

    Under the title "measurement-report" programs find the measurements; OHIF 3.13.2 opens the one under "ai-reading".
    """

    sop_class: Literal["comprehensive", "comprehensive3d"] = Field(default="comprehensive", alias="class")
    title: Literal["measurement-report", "ai-reading"] = "measurement-report"
    scheme: Literal["SCT", "99CXRNODE"] = "SCT"


class KeyObject(Section):
    """`[key_object]`: the findings, by their labels in the bundle, whose presence flags a film as urgent."""

    findings: Words = ()


class Hl7(Section):
    """`[hl7]`: how messages are addressed, MSH-4 to MSH-6; the sending application is node.ae_title."""

    sending_facility: Hl7Name = ""
    receiving_application: Hl7Name = ""
    receiving_facility: Hl7Name = ""


class Notices(Section):
    """`[notices]`: what is said of an accepted film that has no result, parked or later than `late_after`."""

    not_analysed: bool = True
    late_after: Duration = 1800.0


class Study(Section):
    """`[study]`: a page that puts the films of a study side by side, once none came for `quiet` seconds."""

    summary: bool = False
    quiet: Duration = 60.0


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
    """`[spool]`: empty for `node.data_dir`/spool, else a folder or `s3://BUCKET/PREFIX`.

    Below `min_free` bytes on the disk that receives C-STORE answers 0xA700. `endpoint` is the address of an object
    store that is not Amazon's, `ca` the authority (PEM) that it is trusted by beside those of this machine.
    """

    url: Annotated[str, AfterValidator(_spool_url)] = Field(default="", repr=False)
    endpoint: Annotated[str, AfterValidator(_endpoint)] = ""
    ca: NamedPath | None = None
    min_free: Size = 5 * 1024**3

    @property
    def is_bucket(self) -> bool:
        """Whether the bytes lie in an object store."""
        return self.url.startswith("s3://")


class Retention(Section):
    """`[retention]`: how long the spool keeps the bytes of an instance after its last event. Rows stay."""

    accepted: Duration = 30 * 86400.0
    ignored: Duration = 86400.0
    failed: Duration = 90 * 86400.0
    #: Whose films they were is forgotten then, for good; the audit trail stays.
    identity: Duration = 3650 * 86400.0


class Email(Section):
    """`alerts.email`: the mail server, who the mails come from and who gets them; `auth` where the server asks."""

    server: Host
    port: Port = 587
    #: "starttls" on 587, "tls" on 465; "none" tells the alerts, which name no patient, to the network.
    security: Literal["starttls", "tls", "none"] = "starttls"
    ca: NamedPath | None = None
    sender: Annotated[str, Field(pattern=r"^[^@\s]+@[^@\s]+$")]
    to: Annotated[Words, Field(min_length=1)]
    auth: Auth | None = None


class Webhook(Section):
    """`alerts.webhook`: a URL that alerts are posted to as JSON; `auth` as for a web server."""

    url: Annotated[str, AfterValidator(_web_url)]
    auth: Auth | None = None
    tls: ClientTls | None = None


class Syslog(Section):
    """A syslog server (RFC 5424): UDP, or TLS with `tls`, an empty table of which trusts this machine's authorities."""

    host: Host
    port: Port = 514
    tls: ClientTls | None = None


class Alerts(Section):
    """`[alerts]`: what is wrong, by thresholds, and who is told. Durations in seconds, `disk` in bytes.

    `failures`, `silence` and `drift` are off at 0. What holds for `hold` is raised, and has ended when it is gone for
    so long; what is raised within `group` is told together.
    """

    queue_age: Duration = 900.0
    failures: Annotated[int, Field(ge=0, le=1000)] = 5
    destination_down: Duration = 300.0
    disk: Size = 10 * 1024**3
    #: In usual intervals of the sender.
    silence: Annotated[float, Field(ge=0)] = 3.0
    #: PSI of a finding's scores, a week against the 90 days before.
    drift: Annotated[float, Field(ge=0)] = 0.25
    certificate: Duration = 30 * 86400.0
    hold: Duration = 60.0
    group: Duration = 30.0
    email: Email | None = None
    webhook: Webhook | None = None
    syslog: Syslog | None = None


class Audit(Section):
    """`[audit]`: where each day's seal of the audit trail goes besides the log.

    `seals` is a folder, better on another machine; `syslog` gets the digest.
    """

    seals: NamedPath | None = None
    syslog: Syslog | None = None


class Atna(Section):
    """`[atna]`: the audit record repository that gets the messages of PS3.15 A.5. They name patients: use TLS.

    `source` is the AuditSourceID, `node.ae_title` where it is empty.
    """

    server: Syslog | None = None
    source: str = ""


#: Addresses that are this machine's own, as people write them.
LOOPBACK = ("localhost", "127.0.0.1", "::1")


class WebTls(Section):
    """`web.tls`: the console's certificate, with its chain, and key (PEM)."""

    cert: NamedPath
    key: NamedPath


class Proxy(Section):
    """`web.proxy`: a reverse proxy that says who somebody is, in a header that is believed from `addresses` alone.

    Somebody without an account gets `default_role`, or is refused where there is none.
    """

    addresses: Annotated[Words, Field(min_length=1)]
    user_header: Annotated[str, Field(pattern=r"^[A-Za-z0-9-]+$")] = "X-Remote-User"
    default_role: Literal["", "viewer", "operator", "admin"] = ""


class Web(Section):
    """`[web]`: the console and its API. Beyond this machine only behind TLS, its own or that of a proxy.

    Seconds: `session` after which people log in anew, and `idle` without a request after which they do.
    """

    host: Host = "127.0.0.1"
    port: Port = 8042
    tls: WebTls | None = None
    proxy: Proxy | None = None
    #: Who may read /metrics beside this machine, by address.
    metrics_from: Words = ()
    session: Duration = 12 * 3600.0
    idle: Duration = 3600.0

    @model_validator(mode="after")
    def _is_safe(self) -> Self:
        if self.host not in LOOPBACK and self.tls is None and self.proxy is None:
            raise ValueError(
                f"host {self.host} would show patients' results to the network in the clear; "
                "give tls, or proxy, or keep 127.0.0.1"
            )
        return self


class Changes(Section):
    """`[changes]`: with `consent`, what people change while the node runs needs a second person; to stop never does."""

    consent: bool = False


class Log(Section):
    """`[log]`: lines on stderr, without patient identifiers at any level."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["json", "console"] = "json"
