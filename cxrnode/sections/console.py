"""Tables of the console: where it stands, who may come, and what needs a second person."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from cxrnode.quantities import Duration
from cxrnode.sections.fields import Host, NamedPath, Port, Section, Words

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
