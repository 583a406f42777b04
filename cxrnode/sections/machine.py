"""Tables of the machine: who the node is, and where it keeps what."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from cxrnode.quantities import Duration, Size
from cxrnode.sections.fields import AETitle, NamedPath, OptionalWebUrl, RoleName, Section, SpoolUrl, TimeZone


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


class Database(Section):
    """`[database]`: empty for SQLite in `node.data_dir`, else `postgresql+psycopg://...`."""

    url: str = Field(default="", repr=False)


class Spool(Section):
    """`[spool]`: empty for `node.data_dir`/spool, else a folder or `s3://BUCKET/PREFIX`.

    Below `min_free` bytes on the disk that receives C-STORE answers 0xA700. `endpoint` is the address of an object
    store that is not Amazon's, `ca` the authority (PEM) that it is trusted by beside those of this machine.
    """

    url: SpoolUrl = Field(default="", repr=False)
    endpoint: OptionalWebUrl = ""
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


class Log(Section):
    """`[log]`: lines on stderr, without patient identifiers at any level."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["json", "console"] = "json"
