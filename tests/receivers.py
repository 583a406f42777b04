"""Real receivers on loopback for what the node tells: syslog over UDP and TLS, mail, a webhook."""

from __future__ import annotations

import contextlib
import http.server
import json
import socket
import ssl
import threading
from collections.abc import Iterator
from email.message import EmailMessage
from email.parser import BytesParser
from email.policy import default
from pathlib import Path
from typing import Any

from aiosmtpd.controller import Controller

from tests.peers import unused_port


class Collected(list[Any]):
    """What a receiver got, and where it listens."""

    port = 0


@contextlib.contextmanager
def udp_syslog() -> Iterator[Collected]:
    """Datagrams, as bytes."""
    got = Collected()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as line:
        line.bind(("127.0.0.1", 0))
        line.settimeout(0.1)
        got.port = line.getsockname()[1]
        ending = threading.Event()

        def receive() -> None:
            while not ending.is_set():
                with contextlib.suppress(TimeoutError):
                    got.append(line.recv(65535))

        thread = threading.Thread(target=receive)
        thread.start()
        try:
            yield got
        finally:
            ending.set()
            thread.join()


@contextlib.contextmanager
def tls_syslog(cert: Path, key: Path, *, ca: Path | None = None) -> Iterator[Collected]:
    """Frames of RFC 5425, as bytes without their counts; with `ca` a client without a certificate is refused."""
    got = Collected()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, key)
    if ca is not None:
        context.load_verify_locations(ca)
        context.verify_mode = ssl.CERT_REQUIRED
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.1)
        got.port = server.getsockname()[1]
        ending = threading.Event()

        def receive() -> None:
            while not ending.is_set():
                with contextlib.suppress(TimeoutError, ssl.SSLError, ConnectionError):
                    plain, _ = server.accept()
                    plain.settimeout(5)
                    with context.wrap_socket(plain, server_side=True) as line, line.makefile("rb") as stream:
                        while count := _count(stream):
                            got.append(stream.read(count))
                        with contextlib.suppress(OSError):
                            line.unwrap()

        thread = threading.Thread(target=receive)
        thread.start()
        try:
            yield got
        finally:
            ending.set()
            thread.join()


def _count(stream: Any) -> int:
    digits = b""
    while (one := stream.read(1)) not in (b" ", b""):
        digits += one
    return int(digits) if digits else 0


@contextlib.contextmanager
def mail_server(**how: Any) -> Iterator[Collected]:
    """Mails, as EmailMessage."""
    got = Collected()

    class Keep:
        async def handle_DATA(self, _server: object, _session: object, envelope: Any) -> str:
            message = BytesParser(policy=default).parsebytes(envelope.content)
            assert isinstance(message, EmailMessage)
            message["X-Rcpt"] = ",".join(envelope.rcpt_tos)
            got.append(message)
            return "250 OK"

    got.port = unused_port()
    controller = Controller(Keep(), hostname="127.0.0.1", port=got.port, ready_timeout=60.0, **how)
    controller.start()
    try:
        yield got
    finally:
        controller.stop()


@contextlib.contextmanager
def webhook(status: int = 200) -> Iterator[Collected]:
    """(headers, JSON) of each POST."""
    got = Collected()

    class Hook(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            got.append((dict(self.headers), json.loads(body)))
            self.send_response(status)
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hook)
    got.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield got
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
