"""The cases, against a listener that runs as a process of its own and a decode child; and what must hold at the end."""

from __future__ import annotations

import concurrent.futures
import copy
import dataclasses
import io
import json
import os
import random
import re
import struct
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import pydicom
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.filebase import DicomBytesIO
from pydicom.uid import (
    UID,
    ExplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGLSLossless,
    RLELossless,
)

from cxrnode.bench.figures import cpu_seconds
from cxrnode.dicom.decoder import Decoder, DecoderDied
from cxrnode.dicom.part10 import dataset_digest
from cxrnode.errors import Rejected, Transient, UnreadableImage
from tests.fuzz import conversation
from tests.fuzz.conversation import RELEASE, Case, Ending
from tests.fuzz.datasets import SYNTAXES, damaged, mutate, put_together, taken_apart
from tests.integration.scripted import dataset_of, film
from tests.peers import unused_port, wait_until

_CONFIG = """\
[node]
ae_title = "CXRNODE"
data_dir = {data}
roles = ["receive"]
[listen]
host = "127.0.0.1"
port = {port}
processes = 1
network_timeout = "5s"
dimse_timeout = "5s"
acse_timeout = "5s"
[nodes.FUZZ]
aet = "FUZZ"
host = "127.0.0.1"
port = 104
can_send = true
[models.chest]
bundle = "demo"
[[rules]]
name = "films"
unsure = "read"
models = ["chest"]
[spool]
min_free = "50 MiB"
[log]
level = "info"
format = "json"
"""

#: How many cases at once.
THREADS = 4
#: Processor time of a conversation, in the mean.
MOST_CORE_MS = 40.0
#: Plain films before the memory is looked at for the first time: threads, contexts and codecs are there then.
WARM_UP = 150


@dataclasses.dataclass(slots=True, kw_only=True)
class Result:
    """What came of a run. `wrong` is what must not be.

    `rss`: the listener's resident MiB, first and last; `core_ms`: its processor time for a conversation.
    """

    cases: int
    seconds: float = 0.0
    rss: tuple[float, float] = (0.0, 0.0)
    core_ms: float = 0.0
    endings: Counter[str] = dataclasses.field(default_factory=Counter)
    wrong: list[str] = dataclasses.field(default_factory=list)
    deaths: list[str] = dataclasses.field(default_factory=list)


class Listening:
    """A node that only receives, as a process of its own."""

    def __init__(self, folder: Path) -> None:
        self.port = unused_port()
        self.log = folder / "cxrnode.log"
        self.data = folder / "data"
        config = folder / "cxrnode.toml"
        config.write_text(_CONFIG.format(data=json.dumps(str(self.data)), port=self.port))
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "cxrnode", "serve", "--config", str(config)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        ready = b'"event": "role_ready"'
        wait_until(lambda: ready in self.log.read_bytes(), seconds=120, what="the listener", process=self._process)
        started = [json.loads(line) for line in self.log.read_text().splitlines() if '"role_started"' in line]
        self.pid = int(started[-1]["pid"])

    @property
    def alive(self) -> bool:
        """Whether the very process that was started still serves."""
        return self._process.poll() is None and Path(f"/proc/{self.pid}/stat").exists()

    @property
    def resident(self) -> float:
        """MiB."""
        text = Path(f"/proc/{self.pid}/status").read_text()
        return int(re.findall(r"VmRSS:\s+(\d+) kB", text)[0]) / 1024

    @property
    def threads(self) -> int:
        """How many threads it has."""
        return len(os.listdir(f"/proc/{self.pid}/task"))

    def stop(self) -> None:
        """Drain it."""
        self._process.terminate()
        self._process.wait(60)


_PLAIN = pydicom.dcmread(io.BytesIO(film()))


def wire_case(seed: int, number: int) -> Case:
    """One case: the data set is changed, the conversation, or both."""
    chance = random.Random(f"{seed}/{number}")
    which = chance.random()
    context = chance.randrange(len(SYNTAXES))
    uid = f"2.25.{seed}00{number}"
    dataset = copy.deepcopy(_PLAIN)
    dataset.SOPInstanceUID = uid
    elements = taken_apart(dataset)
    if which < 0.6:
        mutate(elements, chance)
    whole = put_together(elements, SYNTAXES[context])
    if which < 0.6:
        whole = damaged(whole, chance)
    commands = chance if 0.5 < which < 0.75 else None
    pdus = [conversation.request(), *conversation.store(uid, whole, 2 * context + 1, chance=commands), RELEASE]
    if which > 0.7:
        conversation.mutate(pdus, chance)
    return Case(pdus=pdus, polite=chance.random() < 0.9, sound=commands is None and which <= 0.7)


def plain_case(number: int) -> Case:
    """A conversation in which nothing is wrong."""
    uid = f"2.25.4700{number}"
    return Case(pdus=[conversation.request(), *conversation.store(uid, dataset_of(film(uid=uid)), 1), RELEASE])


def judged(ending: Ending, case: Case) -> tuple[str, str]:
    """A name for the ending, and what is wrong with it: a status without a reason, a sound request without a status."""
    if ending.kind == "answered":
        name = f"status 0x{ending.status & 0xFFFF:04X}"
        silent = ending.status != 0x0000 and not ending.reason
        return name, f"{name} without a reason" if silent else ""
    wrong = f"a request in order ended {ending.kind}, {ending.reason}" if case.sound and case.polite else ""
    return ending.kind, wrong


def fuzz_listener(listening: Listening, cases: int, seed: int, result: Result) -> None:
    """Hold `cases` conversations with the listener."""
    for number in range(WARM_UP):
        ending = conversation.converse(listening.port, plain_case(number))
        if ending.status != 0:
            result.wrong.append(f"a plain film was answered {ending}")
    # As many at once, and as odd, as what follows: threads, tables and the heap's arenas are there then.
    _together(listening, WARM_UP, seed + 1000, Result(cases=WARM_UP))
    first, before = listening.resident, cpu_seconds(listening.pid)
    _together(listening, cases, seed, result)
    until = time.monotonic() + 30
    while listening.alive and listening.threads > 12 and time.monotonic() < until:
        time.sleep(0.2)
    if not listening.alive:
        result.wrong.append("the listener ended")
        return
    result.rss = (first, listening.resident)
    result.core_ms = 1000 * (cpu_seconds(listening.pid) - before) / cases
    if result.core_ms > MOST_CORE_MS:
        result.wrong.append(f"a conversation cost {result.core_ms:.0f} core-ms: some thread goes round and round")
    if result.rss[1] > 1.1 * first:
        result.wrong.append(f"resident memory grew from {first:.1f} to {result.rss[1]:.1f} MiB")
    if conversation.converse(listening.port, plain_case(WARM_UP)).status != 0:
        result.wrong.append("a plain film is no longer taken")
    result.wrong += said_wrong(listening)


def _together(listening: Listening, cases: int, seed: int, result: Result) -> None:
    """Hold the conversations of a seed, `THREADS` at a time."""
    numbers = iter(range(cases))
    lock = threading.Lock()

    def work() -> None:
        while True:
            with lock:
                number = next(numbers, None)
            if number is None:
                return
            case = wire_case(seed, number)
            try:
                ending = conversation.converse(listening.port, case)
                name, wrong = judged(ending, case)
            except (TimeoutError, OSError) as fault:
                name, wrong = "no end", f"{type(fault).__name__}: neither answered nor hung up on"
            with lock:
                result.endings[name] += 1
                if (number + 1) % max(1, cases // 10) == 0 and listening.alive:
                    print(f"{number + 1} conversations, {listening.resident:.1f} MiB", flush=True)
                if wrong:
                    result.wrong.append(f"case {seed}/{number}: {wrong}")

    with concurrent.futures.ThreadPoolExecutor(THREADS) as pool:
        for done in [pool.submit(work) for _ in range(THREADS)]:
            done.result()  # a fault of the fuzzer itself must not pass for a run of fewer cases


#: Lines of the log that no peer may cause.
_BUGS = frozenset({"receive_failed", "bug", "role_ended", "role_failed", "uncaught exception"})
#: What `connection_failed` says where an exception ended a connection's thread; else it tells what came of the peer.
_GIVEN_UP = "it was given up"


def said_wrong(listening: Listening) -> list[str]:
    """What the log tells that nobody had thought of."""
    found = []
    for line in listening.log.read_text(errors="replace").splitlines():
        if not line.startswith("{"):
            if "Traceback" in line or "Exception in thread" in line:
                found.append(f"the log: {line}")
            continue
        said = json.loads(line)
        given_up = said.get("event") == "connection_failed" and said.get("reason") == _GIVEN_UP
        if said.get("event") in _BUGS or given_up:
            ends = str(said.get("exception", "")).strip().splitlines()[-1:]
            found.append(f"the log: {said['event']} {said.get('error', '')} {said.get('where', ends or [''])[-1]}")
    left = list((listening.data / "spool" / "incoming").iterdir())
    return [*sorted(set(found)), *(f"left in incoming: {path.name}" for path in left)]


# ------------------------------------------------------------------------------------------- the decoder


def bases() -> list[Dataset]:
    """Films of 64 x 48 in the syntaxes that modalities use, compressed for real."""
    import numpy as np

    grey = (np.add.outer(np.arange(64) * 37, np.arange(48) * 11) % 4096).astype("<u2")
    made = []
    for syntax in (ExplicitVRLittleEndian, RLELossless, JPEG2000Lossless, JPEGLSLossless):
        one = copy.deepcopy(_PLAIN)
        one.Rows, one.Columns = grey.shape
        one.PixelData = grey.tobytes()
        if syntax != ExplicitVRLittleEndian:
            one.compress(syntax, generate_instance_uid=False)
        made.append(one)
    from PIL import Image

    jpeg = io.BytesIO()
    Image.fromarray((grey >> 4).astype("uint8")).save(jpeg, "JPEG")
    one = copy.deepcopy(_PLAIN)
    one.Rows, one.Columns = grey.shape
    one.BitsAllocated, one.BitsStored, one.HighBit = 8, 8, 7
    one.PixelData = encapsulate([jpeg.getvalue()])
    one["PixelData"].is_undefined_length = True
    one.file_meta.TransferSyntaxUID = JPEGBaseline8Bit
    return [*made, one]


def film_case(originals: list[Dataset], seed: int, number: int) -> bytes:
    """One film as a file: its header changed, its codestream damaged, or both."""
    chance = random.Random(f"{seed}/film/{number}")
    base = originals[number % len(originals)]
    syntax = str(base.file_meta.TransferSyntaxUID)
    elements = taken_apart(base)
    pixels = next(one for one in elements if (one.group, one.number) == (0x7FE0, 0x0010))
    if syntax != ExplicitVRLittleEndian:
        pixels.vr, pixels.value, pixels.length = b"OB", bytes(base.PixelData), 0xFFFFFFFF
        pixels.value += struct.pack("<HHI", 0xFFFE, 0xE0DD, 0)
    if chance.random() < 0.6:
        value = bytearray(pixels.value)
        for _ in range(chance.randint(1, 12)):
            value[chance.randrange(len(value))] = chance.choice((0, 0xFF, chance.randrange(256)))
        if chance.random() < 0.2:
            del value[chance.randrange(len(value)) :]
        pixels.value = bytes(value)
    else:
        described = [one for one in elements if one.group == 0x0028]
        for one in chance.sample(described, chance.randint(1, 3)):
            if one.vr == b"US":
                one.value = struct.pack("<H", chance.choice((0, 1, 7, 8, 12, 16, 17, 32, 64, 4096, 40000, 65535)))
        if chance.random() < 0.5:
            mutate(elements, chance)
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = base.SOPClassUID, UID("2.25.1")
    meta.TransferSyntaxUID, meta.ImplementationClassUID = UID(syntax), UID("2.25.99")
    head = DicomBytesIO()
    pydicom.filewriter.write_file_meta_info(head, meta)
    return bytes(128) + b"DICM" + head.getvalue() + put_together(elements, ExplicitVRLittleEndian)


def fuzz_decoder(folder: Path, cases: int, seed: int, result: Result, decoder: Decoder | None = None) -> None:
    """Give `cases` damaged films to a decode child: each ends as a picture or with a reason, within time and memory."""
    originals = bases()
    decoder = decoder or Decoder(timeout=10.0, memory=2 << 30)
    try:
        for number in range(cases):
            path = folder / "case.dcm"
            path.write_bytes(film_case(originals, seed, number))
            began = time.monotonic()
            name, reason = _decoded(decoder, path)
            result.endings[f"film {name}"] += 1
            if name == "died":
                result.deaths.append(f"film {seed}/{number}: {reason}")
            if not reason:
                result.wrong.append(f"film {seed}/{number}: {name} without a reason")
            if time.monotonic() - began > 20:
                result.wrong.append(f"film {seed}/{number}: {time.monotonic() - began:.0f} s")
    finally:
        decoder.close()


def _decoded(decoder: Decoder, path: Path) -> tuple[str, str]:
    try:
        decoded = decoder.decode(path, dataset_digest=dataset_digest(path))
        return "decoded", f"{decoded.display.shape}"
    except UnreadableImage as reason:
        return "unreadable", str(reason)
    except DecoderDied as reason:
        return "died", str(reason)
    except Rejected as reason:
        return "rejected", str(reason)
    except Transient as reason:
        return "waits", str(reason)


def run(cases: int, seed: int, folder: Path) -> Result:
    """Three quarters of the cases go to a listener, a quarter to a decode child."""
    result = Result(cases=cases)
    began = time.monotonic()
    sys.setrecursionlimit(10_000)  # ours, for sequences nested deeper than any node may take
    folder.mkdir(parents=True, exist_ok=True)
    listening = Listening(folder)
    try:
        fuzz_listener(listening, cases - cases // 4, seed, result)
    finally:
        listening.stop()
    fuzz_decoder(folder, cases // 4, seed, result)
    result.seconds = time.monotonic() - began
    return result
