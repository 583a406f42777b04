"""Syslog: what RFC 5424, 5425 and 5426 say of the bytes, to real receivers."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from cxrnode import syslog
from cxrnode.errors import ConfigError, Transient
from cxrnode.syslog import Message, Server
from tests.integration.scripted import certificates
from tests.peers import unused_port, wait_until
from tests.receivers import tls_syslog, udp_syslog

TWO = [
    Message(at=1_800_000_000.25, severity=syslog.WARNING, kind="alert-disk", text="Ümlaut, and\nanother line"),
    Message(at=1_800_000_001.0, severity=syslog.NOTICE, kind="DICOM+RFC3881", text="x" * 40_000, facility=10),
]


def test_a_message_has_the_header_of_the_standard_and_utf_8() -> None:
    header, text = syslog.encode(TWO[0], host="a host\n").split(b"\xef\xbb\xbf")
    pattern = rb"<28>1 2027-01-15T08:00:00\.250Z ahost cxrnode \d+ alert-disk - "
    assert re.fullmatch(pattern, header)
    assert text.decode() == TWO[0].text
    assert b" - cxrnode " in syslog.encode(TWO[0], host="\n")


@pytest.mark.peers
def test_messages_arrive_over_udp_and_over_tls_with_octet_counting(tmp_path: Path) -> None:
    with udp_syslog() as got:
        syslog.send(Server(host="127.0.0.1", port=got.port), TWO)
        wait_until(lambda: len(got) == 2, seconds=30, what="two datagrams")
        assert [one.partition(b"\xef\xbb\xbf")[2].decode() for one in got] == [one.text for one in TWO]
    pem = certificates(tmp_path)
    with tls_syslog(pem["server"], pem["server_key"], ca=pem["ca"]) as got:
        server = Server(
            host="localhost", port=got.port, tls=True, ca=pem["ca"], cert=pem["client"], key=pem["client_key"]
        )
        syslog.send(server, TWO)
        wait_until(lambda: len(got) == 2, seconds=30, what="two frames")
        assert [one.partition(b"\xef\xbb\xbf")[2].decode() for one in got] == [one.text for one in TWO]
        with pytest.raises(Transient, match="took nothing"):  # our authority did not sign it
            syslog.send(Server(host="localhost", port=got.port, tls=True), TWO)


def test_a_server_that_is_not_there_and_files_that_are_not_are_told(tmp_path: Path) -> None:
    port = unused_port()
    with pytest.raises(Transient, match=f"127.0.0.1:{port} took nothing"):
        syslog.send(Server(host="127.0.0.1", port=port, tls=True), TWO)
    with pytest.raises(ConfigError, match="cannot be used"):
        syslog.send(Server(host="127.0.0.1", port=port, tls=True, ca=tmp_path / "none.pem"), TWO)
    syslog.send(Server(host="127.0.0.1", port=port, tls=True), [])
