"""Receiving a film and sending its outputs, each alone: what they cost the processor in this process.

The other end is DCMTK's, in a process of its own, which is not counted. Nothing is kept and no row is written.
"""

from __future__ import annotations

import socket
import statistics
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from cxrnode.bench.archive import tool
from cxrnode.bench.figures import Figure
from cxrnode.dicom.listener import Answer, Listener
from cxrnode.dicom.sender import Destination, Part10, open_association
from cxrnode.dicom.statuses import SUCCESS

_AET = "BENCH"


def exchanges(film: Path, outputs: Sequence[bytes], folder: Path, *, size: str, rounds: int) -> list[Figure]:
    """Measure both; () where DCMTK is missing. Raises CxrnodeError where an object is not taken."""
    return [*_receive(film, folder, size, rounds), *_send(outputs, size, rounds)]


def _receive(film: Path, folder: Path, size: str, rounds: int) -> list[Figure]:
    sender = tool("dcmsend")
    if sender is None:
        return []
    incoming = folder / "received"
    incoming.mkdir(exist_ok=True)
    with Listener(
        ae_title=_AET,
        folder=incoming,
        admit=lambda *_: None,
        receive=lambda _: Answer(status=SUCCESS),
        host="127.0.0.1",
    ) as listener:
        port = str(listener.address[1])
        command = [sender, "-nuc", "-aec", _AET, "127.0.0.1", port, *[str(film)] * 4]
        cost = _median(lambda: subprocess.run(command, check=True, capture_output=True, timeout=300), rounds) / 4
    return [_figure(size, "receive: PDUs into a file, digest", cost, film.stat().st_size)]


def _send(outputs: Sequence[bytes], size: str, rounds: int) -> list[Figure]:
    receiver = tool("storescp")
    if receiver is None:
        return []
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    process = subprocess.Popen([receiver, "--ignore", str(port)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    destination = Destination(name="bench", aet=_AET, host="127.0.0.1", port=port)
    pairs = sorted({Part10.of(one).pair for one in outputs})

    def send() -> None:
        with open_association(destination, calling_aet=_AET, pairs=pairs) as outbound:
            for one in outputs:
                outbound.store(one)

    try:
        time.sleep(0.5)
        cost = _median(send, rounds)
    finally:
        process.terminate()
        process.wait()
    return [_figure(size, "send: an association, the outputs as PDUs", cost, sum(map(len, outputs)))]


def _median(step: Callable[[], object], rounds: int) -> float:
    """Core-milliseconds of this process, after one round to warm up."""
    step()
    taken = []
    for _ in range(rounds):
        before = time.process_time()
        step()
        taken.append(1000 * (time.process_time() - before))
    return statistics.median(taken)


def _figure(size: str, name: str, cost: float, octets: int) -> Figure:
    return Figure(
        group=f"stages, {size}",
        name=name,
        value=cost,
        unit="core-ms a film",
        better="less",
        note=f"{octets / 1e6:.1f} MB",
    )
