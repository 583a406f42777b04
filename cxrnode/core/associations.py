"""Why an association was refused, and what to write into the configuration so that it is not. Pure."""

from __future__ import annotations

import re
from collections.abc import Sequence
from enum import StrEnum


class Cause(StrEnum):
    """Why a peer was not let in."""

    CALLED_AET = "called_aet"
    UNKNOWN = "unknown"
    MAY_NOT_SEND = "may_not_send"
    ADDRESS = "address"
    LIMIT = "limit"
    BUSY = "busy"
    TLS = "tls"
    SPEAKS_TLS = "speaks_tls"
    CONNECTIONS = "connections"
    PDU = "pdu"
    SILENT = "silent"
    BROKEN = "broken"


def admitting(
    cause: str,
    *,
    calling_aet: str,
    called_aet: str = "",
    address: str = "",
    node: str = "",
    addresses: Sequence[str] = (),
    limit: int = 50,
    authority: str = "",
) -> str:
    """The lines of the configuration that would admit this peer, "" where none would. Fit to be copied as they are.

    `node` is the name of the configured node with its AE title, `addresses` are those it may come from, `authority` is
    the file of `listen.tls.ca`. The lines go to the end of the file, except where they name a table that stands there.
    """
    match cause:
        case Cause.UNKNOWN:
            lines = (
                f"[nodes.{_name(calling_aet)}]",
                f'aet = "{_quoted(calling_aet)}"',
                f'host = "{_quoted(address)}"',
                "port = 104",
                "can_send = true",
            )
            return "\n".join(lines)
        case Cause.MAY_NOT_SEND:
            return f"[nodes.{node or calling_aet}]\ncan_send = true"
        case Cause.ADDRESS:
            listed = ", ".join(f'"{_quoted(one)}"' for one in (*addresses, address))
            return f"[nodes.{node or calling_aet}]\naddresses = [{listed}]"
        case Cause.CALLED_AET:
            return f'[node]\nae_title = "{_quoted(called_aet)}"'
        case Cause.TLS if authority:
            return f'[listen.tls]\nca = "{_quoted(authority)}"'
        case Cause.SPEAKS_TLS:
            return '[listen.tls]\ncert = "node.pem"\nkey = "node-key.pem"\nca = "authority.pem"'
        case Cause.LIMIT | Cause.CONNECTIONS:
            return f"[listen]\nmax_associations = {2 * limit}"
        case _:
            return ""


def admitting_line(cause: str, *, calling_aet: str, address: str, node: str = "", addresses: Sequence[str] = ()) -> str:
    """What `admitting` says of a sender, for a log line: where to paste, and after a colon the one line to paste.

    Log lines are JSON: the strings are literal ones of TOML, whose quotes JSON leaves as they are.
    """
    match cause:
        case Cause.UNKNOWN:
            aet, host = _literal(calling_aet), _literal(address)
            line = f"nodes.{_name(calling_aet)} = {{ aet = {aet}, host = {host}, port = 104, can_send = true }}"
            # Further down the line would belong to the table that stands above it.
            return f"at the top of the configuration: {line}"
        case Cause.MAY_NOT_SEND:
            return f"in [nodes.{node}]: can_send = true"
        case Cause.ADDRESS:
            return f"in [nodes.{node}]: addresses = [{', '.join(map(_literal, (*addresses, address)))}]"
        case _:
            return ""


def _name(aet: str) -> str:
    """An AE title as the name of a table."""
    return re.sub(r"[^A-Za-z0-9_-]", "_", aet) or "NAME"


def _literal(text: str) -> str:
    """As a literal string of TOML, where it can be one."""
    return f"'{text}'" if text.isprintable() and "'" not in text else f'"{_quoted(text)}"'


def _quoted(text: str) -> str:
    """As a basic string of TOML has it."""
    return "".join(c if c.isprintable() and c not in '"\\' else f"\\u{ord(c):04X}" for c in text)
