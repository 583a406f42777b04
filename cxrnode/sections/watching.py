"""Tables of what others are told: alerts, seals of the audit trail, and audit messages."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from cxrnode.quantities import Duration, Size
from cxrnode.sections.fields import Host, NamedPath, Port, Section, WebUrl, Words
from cxrnode.sections.peers import Auth, ClientTls


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

    url: WebUrl
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
