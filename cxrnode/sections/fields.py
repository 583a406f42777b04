"""Kinds of values in the configuration file, and the base of its tables."""

from __future__ import annotations

import ipaddress
import re
import zoneinfo
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit, urlunsplit

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationInfo


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


def _web_url_or_none(text: str) -> str:
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
#: The address of a web server: host, port and path, no secret; the second may be "".
WebUrl = Annotated[str, AfterValidator(_web_url)]
OptionalWebUrl = Annotated[str, AfterValidator(_web_url_or_none)]
SpoolUrl = Annotated[str, AfterValidator(_spool_url)]
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
