"""Tables of the network: our port, and everybody that we speak with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self
from urllib.parse import urlsplit

from pydantic import Discriminator, Field, Tag, model_validator

from cxrnode.quantities import Duration, Size
from cxrnode.sections.fields import AETitle, Host, NamedPath, Networks, OptionalWebUrl, Port, Section, TimeZone, WebUrl


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
    #: Listening processes; 0: one for every four processor cores, at least two where there are two cores. The limit
    #: above is for all together.
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
    url: WebUrl
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

    url: WebUrl
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

    url: WebUrl
    films_url: OptionalWebUrl = ""
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
