"""TLS for associations: contexts after the BCP 195 profiles (PS3.15 B.12 and B.13). It opens no socket.

TLS 1.2 is the least, 1.3 is preferred; forward secrecy and authenticated encryption only; both sides show a
certificate.
"""

from __future__ import annotations

import dataclasses
import ssl
from pathlib import Path

from cxrnode.errors import ConfigError

#: The TLS 1.2 suites of RFC 9325 section 4.2; those of TLS 1.3 are all good.
_CIPHERS = "ECDHE+AESGCM:ECDHE+CHACHA20:DHE+AESGCM:!aNULL:!PSK:!SHA1"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Tls:
    """The PEM files of one side: the authorities it trusts, its own certificate and key.

    `verify_host` is for the sender: the certificate must name the host that was configured.
    """

    ca: Path
    cert: Path
    key: Path
    verify_host: bool = True


def server_context(tls: Tls) -> ssl.SSLContext:
    """Return the context of the listener: a peer without a certificate of ours is refused. Raises ConfigError."""
    context = _loaded(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), tls)
    context.verify_mode = ssl.CERT_REQUIRED
    return context


def client_context(tls: Tls) -> ssl.SSLContext:
    """Return the context of the sender. Raises ConfigError."""
    context = _loaded(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT), tls)
    context.check_hostname = tls.verify_host
    return context


def web_context(*, ca: Path | None, cert: Path | None, key: Path | None) -> ssl.SSLContext:
    """Return the context for a server that needs no certificate of ours: of STOW-RS, or of HL7.

    The server's certificate must name its host and come from `ca`, else from an authority that this machine trusts;
    `cert` and `key` are ours, where the server asks for them. Raises ConfigError.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(_CIPHERS)
    try:
        if ca is None:
            context.load_default_certs()
        else:
            context.load_verify_locations(ca)
        if cert is not None:
            context.load_cert_chain(cert, key)
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(f"TLS files cannot be used (ca {ca}, cert {cert}, key {key}): {error}") from error
    return context


def _loaded(context: ssl.SSLContext, tls: Tls) -> ssl.SSLContext:
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(_CIPHERS)
    try:
        context.load_cert_chain(tls.cert, tls.key)
        context.load_verify_locations(tls.ca)
    except (OSError, ssl.SSLError) as error:
        files = f"ca {tls.ca}, cert {tls.cert}, key {tls.key}"
        raise ConfigError(f"TLS files cannot be used ({files}): {error}") from error
    return context
