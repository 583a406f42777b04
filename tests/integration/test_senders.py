"""Who is let in: AE titles and addresses by the configuration, before DCMTK and down to the bytes of the rejection."""

from __future__ import annotations

import json
import socket
import tomllib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import structlog

from cxrnode.config import Config, load_config
from cxrnode.dicom.admission import Ended
from cxrnode.dicom.listener import Answer, Listener, Timeouts
from cxrnode.errors import ConfigError
from cxrnode.roles.senders import Senders, comes_from
from tests.integration.scripted import read_pdu, request_pdu, run

NODES = """
[nodes.CR_1]
aet = "XRAY1"
host = "192.0.2.17"
port = 104
can_send = true
addresses = {addresses}

[nodes.VIEWER]
aet = "VIEWER"
host = "192.0.2.18"
port = 104

[listen]
accept_unknown = {accept_unknown}
"""


@pytest.fixture
def configured(tmp_path: Path) -> Callable[..., Config]:
    def make(*addresses: str, accept_unknown: bool = False) -> Config:
        file = tmp_path / "cxrnode.toml"
        file.write_text(NODES.format(addresses=json.dumps(list(addresses)), accept_unknown=json.dumps(accept_unknown)))
        return load_config(file)

    return make


@contextmanager
def listening(config: Config, folder: Path, seen: list[Ended] | None = None) -> Iterator[int]:
    senders = Senders(config)
    with Listener(
        ae_title="CXRNODE",
        folder=folder,
        admit=lambda calling, called, address: senders.objection(calling, address),
        receive=lambda received: Answer(status=0),
        host="127.0.0.1",
        timeouts=Timeouts(acse=5.0, network=5.0, dimse=5.0),
        observe=seen.append if seen is not None else None,
    ) as listener:
        yield listener.address[1]


def rejection(port: int, *, calling: str, called: str = "CXRNODE") -> tuple[int, bytes]:
    """What the node answers to a request for an association: PDU type and body."""
    with socket.create_connection(("127.0.0.1", port), timeout=10) as conversation:
        conversation.sendall(request_pdu(calling=calling, called=called))
        return read_pdu(conversation)


ADMITTED = "nodes.STRANGER = { aet = 'STRANGER', host = '127.0.0.1', port = 104, can_send = true }"
#: PS3.8 9.3.4: rejected-permanent, by the service user; calling, called AE title not recognised.
CALLING = (3, bytes([0, 1, 1, 3]))
CALLED = (3, bytes([0, 1, 1, 7]))


@pytest.mark.parametrize(
    ("calling", "called", "addresses", "answer", "remedy"),
    [
        ("STRANGER", "CXRNODE", (), CALLING, f"at the top of the configuration: {ADMITTED}"),
        ("VIEWER", "CXRNODE", (), CALLING, "in [nodes.VIEWER]: can_send = true"),
        ("XRAY1", "OTHER", (), CALLED, 'the sender must call "CXRNODE", or set [node] ae_title = "OTHER"'),
        ("XRAY1", "CXRNODE", ("192.0.2.17",), CALLING, "in [nodes.CR_1]: addresses = ['192.0.2.17', '127.0.0.1']"),
        ("XRAY1", "CXRNODE", ("192.0.2.0/24",), CALLING, "in [nodes.CR_1]: addresses = ['192.0.2.0/24', '127.0.0.1']"),
    ],
)  # fmt: skip
def test_each_refusal_has_its_reason_and_the_log_says_what_to_add_once_a_minute(
    configured: Callable[..., Config],
    tmp_path: Path,
    calling: str,
    called: str,
    addresses: tuple[str, ...],
    answer: tuple[int, bytes],
    remedy: str,
) -> None:
    with structlog.testing.capture_logs() as lines, listening(configured(*addresses), tmp_path) as port:
        assert [rejection(port, calling=calling, called=called) for _ in range(5)] == [answer] * 5
    (line,) = [one for one in lines if one["event"] == "association_rejected"]
    assert (line["remedy"], line["calling_aet"], line["address"]) == (remedy, calling, "127.0.0.1")


def test_what_the_log_says_to_add_lets_the_sender_in(configured: Callable[..., Config], tmp_path: Path) -> None:
    with structlog.testing.capture_logs() as lines, listening(configured("192.0.2.17"), tmp_path) as port:
        assert rejection(port, calling="XRAY1") == CALLING
    [line] = [one for one in lines if one["event"] == "association_rejected"]
    added = tomllib.loads(line["remedy"].removeprefix("in [nodes.CR_1]: "))["addresses"]
    with listening(configured(*added), tmp_path) as port:
        assert rejection(port, calling="XRAY1")[0] == 2  # A-ASSOCIATE-AC


@pytest.mark.parametrize("calling", ["STRANGER", "ROOM 2", "O'HARA", 'A"B'])
def test_the_line_that_the_log_tells_of_a_stranger_is_pasted_as_it_is(
    configured: Callable[..., Config], tmp_path: Path, calling: str
) -> None:
    before = configured()
    with structlog.testing.capture_logs() as lines, listening(before, tmp_path) as port:
        assert rejection(port, calling=calling) == CALLING
    [line] = [one for one in lines if one["event"] == "association_rejected"]
    pasted = line["remedy"].removeprefix("at the top of the configuration: ")
    # A log line is JSON: what has no character that it escapes is copied from there.
    assert pasted in json.dumps(line["remedy"]) or calling in ("O'HARA", 'A"B')
    file = tmp_path / "cxrnode.toml"
    file.write_text(f"{pasted}\n{file.read_text()}")
    with listening(load_config(file), tmp_path) as port:
        assert rejection(port, calling=calling)[0] == 2  # A-ASSOCIATE-AC
        assert rejection(port, calling="VIEWER") == CALLING


@pytest.mark.peers
def test_echoscu_from_a_wrong_address_is_told_that_it_is_not_known(
    configured: Callable[..., Config], tmp_path: Path
) -> None:
    seen: list[Ended] = []
    with listening(configured("192.0.2.17"), tmp_path, seen) as port:
        done = run("echoscu", "-aet", "XRAY1", "-aec", "CXRNODE", "127.0.0.1", str(port))
    assert done.returncode != 0
    assert "Rejected Permanent" in done.stderr
    assert "Calling AE Title Not Recognized" in done.stderr
    assert [(one.calling_aet, one.cause) for one in seen] == [("XRAY1", "address")]
    with listening(configured("127.0.0.0/8"), tmp_path) as port:
        assert run("echoscu", "-aet", "XRAY1", "-aec", "CXRNODE", "127.0.0.1", str(port)).returncode == 0


def test_a_title_bound_to_addresses_is_nobody_elses_though_anybody_may_send(
    configured: Callable[..., Config],
) -> None:
    senders = Senders(configured("192.0.2.17", accept_unknown=True))
    assert senders.objection("STRANGER", "198.51.100.1") is None
    assert senders.objection("XRAY1", "192.0.2.17") is None
    objection = senders.objection("XRAY1", "198.51.100.1")
    assert objection is not None
    assert objection.reason == "this AE does not come from this address"


@pytest.mark.parametrize(
    ("addresses", "address", "may"),
    [
        ((), "198.51.100.1", True),
        (("192.0.2.17",), "192.0.2.17", True),
        (("192.0.2.17",), "::ffff:192.0.2.17", True),  # on a socket of both families
        (("192.0.2.17",), "192.0.2.170", False),
        (("192.0.2.0/24", "2001:db8::/32"), "2001:db8::1", True),
        (("192.0.2.0/24",), "", False),
    ],
)
def test_an_address_is_compared_as_a_number(
    configured: Callable[..., Config], addresses: tuple[str, ...], address: str, may: bool
) -> None:
    assert comes_from(configured(*addresses).peers["CR_1"], address) is may


@pytest.mark.parametrize("wrong", ["room-1.example.org", "192.0.2.17/24", "192.0.2"])
def test_what_is_no_address_is_refused_by_name(configured: Callable[..., Any], wrong: str) -> None:
    with pytest.raises(ConfigError, match=r"addresses.*is no address or network; write it like 192\.0\.2\.17"):
        configured(wrong)
