"""The socket of an association, as other threads than its own use it."""

from __future__ import annotations

import socket

from cxrnode.dicom.hardening import BoundedSocket


def test_a_socket_that_its_own_thread_closes_meanwhile_is_hung_up_all_the_same() -> None:
    """Who ended an association from outside met an AttributeError: the sender's role ended, or a listener's drain."""
    ours, theirs = socket.socketpair()

    class Closing(BoundedSocket):
        def __init__(self) -> None:
            self.looks = 0

        @property
        def socket(self) -> socket.socket | None:  # type: ignore[override]
            self.looks += 1
            return ours if self.looks == 1 else None

    with ours, theirs:
        Closing().hang_up()
        assert theirs.recv(1) == b""
