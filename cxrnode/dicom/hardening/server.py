"""The server that accepts connections: what a peer does before its association costs nobody else anything."""

from __future__ import annotations

import errno
import socket
import ssl
import threading
import time
from typing import Any

from pynetdicom.transport import ThreadedAssociationServer

HANDSHAKE_S = 5.0
BACKLOG = 128


class BoundedServer(ThreadedAssociationServer):
    """Accepts connections on an adopted or its own socket, at most `seats` at a time, each in its own thread.

    The thread does the TLS handshake, waits for the first byte and then stays with the association to its end, so
    that nothing of it can be left behind.
    """

    daemon_threads = True
    request_queue_size = BACKLOG

    def __init__(self, *args: Any, adopted: socket.socket | None = None, seats: int = 100, **kwargs: Any) -> None:
        self._adopted = adopted
        self._seats = threading.BoundedSemaphore(seats)
        self._ended = False
        super().__init__(*args, **kwargs)

    def server_bind(self) -> None:
        """Bind, or take over the socket that the supervisor bound."""
        if self._adopted is None:
            super().server_bind()
        else:
            if self.socket is not None:
                self.socket.close()
            self.socket = self._adopted
            self.server_address = self._adopted.getsockname()
        if self.socket is not None:
            # Several processes may wait on one socket; the one that comes second must not block in accept().
            self.socket.setblocking(False)

    def server_activate(self) -> None:
        """Listen, unless the supervisor does."""
        if self._adopted is None:
            super().server_activate()

    def server_close(self) -> None:
        """Close this process's hold of the socket; shutdown() would end listening for those that share it."""
        if self._adopted is None:
            super().server_close()
        else:
            self._adopted.close()

    def get_request(self) -> tuple[socket.socket, tuple[str, int]]:
        """Accept; nothing else happens here, since all peers wait for it."""
        if self.socket is None:
            raise OSError(errno.ENOTCONN, "this server listens no more")
        try:
            return self.socket.accept()
        except OSError as error:
            if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM):
                time.sleep(0.1)  # the connection stays in the backlog: do not spin on it
            raise

    def process_request(self, request: Any, client_address: Any) -> None:
        """Give the connection a thread, or close it at once when there are too many."""
        if not self._seats.acquire(blocking=False):
            self.shutdown_request(request)
            self.overcrowded(client_address)
            return
        try:
            super().process_request(request, client_address)
        except RuntimeError:
            self._seats.release()
            raise

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Serve one connection to its end."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._seats.release()
            self._ended = True

    def service_actions(self) -> None:
        """Let pynetdicom collect its dead associations, every 60 turns of the loop, but not where none has ended.

        A full collection holds up all associations for as long as it takes: half a second where torch is loaded.
        """
        if self._ended:
            self._ended = False  # one that ends from here on has its own turn
            super().service_actions()
            if self._gc[0] != 0:
                self._ended = True

    def finish_request(self, request: Any, client_address: Any) -> None:
        """Shake hands, wait for the first byte, then run the association."""
        try:
            if self.ssl_context is not None:
                request.settimeout(HANDSHAKE_S)
                request = self.ssl_context.wrap_socket(request, server_side=True)
            elif not self._speaks(request):
                return
            elif self._shakes_hands(request):
                self.speaks_tls(client_address)
                return
        except OSError as error:
            self.handshake_failed(client_address, error)
            return
        else:
            self.RequestHandlerClass(request, client_address, self)  # type: ignore[arg-type]
        finally:
            self.shutdown_request(request)

    def _speaks(self, request: socket.socket) -> bool:
        request.settimeout(self.ae.acse_timeout)
        try:
            return bool(request.recv(1, socket.MSG_PEEK))
        except OSError:
            return False

    def _shakes_hands(self, request: socket.socket) -> bool:
        """Whether the first byte is that of a TLS handshake (RFC 8446 section 5.1); no PDU begins with it."""
        try:
            return request.recv(1, socket.MSG_PEEK) == b"\x16"
        except OSError:
            return False

    def overcrowded(self, client_address: Any) -> None:
        """Say that a connection was closed because there are too many; overridden by the listener."""

    def speaks_tls(self, client_address: Any) -> None:
        """Say that a peer began a TLS handshake on a port without TLS; overridden by the listener."""

    def handshake_failed(self, client_address: Any, error: OSError) -> None:
        """Say that a TLS handshake failed; overridden by the listener."""

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing on standard error; overridden by the listener."""


def tls_reason(error: OSError) -> str:
    """Why a TLS handshake failed, in a few words without file names."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"certificate not accepted: {error.verify_message}"
    if isinstance(error, ssl.SSLError):
        return (error.reason or "TLS error").replace("_", " ").lower()
    return "no TLS handshake in time" if isinstance(error, TimeoutError) else "connection closed in the handshake"
