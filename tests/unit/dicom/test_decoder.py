"""The decode child: what it says, how it dies, and that no film ever gets another one's pixels."""

from __future__ import annotations

import fcntl
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from cxrnode.dicom.decoder import READY, Decoder, DecoderDied
from cxrnode.dicom.part10 import dataset_digest
from cxrnode.dicom.pixels import decode_film
from cxrnode.errors import Rejected, Transient, UnreadableImage
from cxrnode.phantom.dicom import write_phantoms

MEMORY = 2 << 30


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return list(write_phantoms(tmp_path_factory.mktemp("films")))[:2]


@pytest.fixture
def decoder() -> Iterator[Decoder]:
    made = Decoder(timeout=30.0, memory=MEMORY)
    yield made
    made.close()


def stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, body: str) -> None:
    """Put a script in the place of the decode child."""
    script = tmp_path / "child.sh"
    script.write_text(f"#!/bin/sh\n{body}\n")
    script.chmod(0o755)
    monkeypatch.setattr("cxrnode.dicom.decoder.sys.executable", str(script))


def test_a_film_is_decoded_and_the_next_one_by_the_same_child(decoder: Decoder, films: list[Path]) -> None:
    first, second = (decoder.decode(film, dataset_digest=dataset_digest(film)) for film in films)
    assert first.display.dtype == np.uint8
    assert first.pixel_digest != second.pixel_digest
    for path, film in zip(films, (first, second), strict=True):  # each has its own, whatever came after it
        assert np.array_equal(film.display, decode_film(path).display)


def test_the_memory_of_a_large_film_is_given_back_and_the_next_film_is_whole(
    decoder: Decoder, films: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cxrnode.dicom.decoder._KEPT_PIXELS", 1000)
    for path in (*films, *films):
        film = decoder.decode(path, dataset_digest=dataset_digest(path))
        assert np.array_equal(film.display, decode_film(path).display)
        assert os.fstat(decoder._descriptor).st_blocks == 0


def test_a_child_that_was_taken_over_cannot_make_the_shared_memory_smaller(decoder: Decoder) -> None:
    with pytest.raises(PermissionError):
        os.ftruncate(decoder._descriptor, 0)
    with pytest.raises(PermissionError):
        fcntl.fcntl(decoder._descriptor, fcntl.F_ADD_SEALS, 0)


def test_a_film_altered_in_the_spool_is_refused_rather_than_called_unreadable(
    decoder: Decoder, films: list[Path]
) -> None:
    # Unreadable films are reported in the name of their patient; an altered header may name another.
    with pytest.raises(Rejected, match="altered") as told:
        decoder.decode(films[0], dataset_digest="0" * 64)
    assert not isinstance(told.value, UnreadableImage)


@pytest.mark.parametrize("altered", [False, True])
def test_of_a_film_that_is_too_large_to_be_read_it_is_known_whether_it_was_altered(
    decoder: Decoder, films: list[Path], tmp_path: Path, altered: bool
) -> None:
    path = tmp_path / "large"
    path.write_bytes(films[0].read_bytes())
    os.truncate(path, (512 << 20) + 1)
    with pytest.raises(Rejected, match="altered" if altered else "larger than 512 MiB") as told:
        decoder.decode(path, dataset_digest="0" * 64 if altered else dataset_digest(path))
    assert isinstance(told.value, UnreadableImage) is not altered


def test_a_file_that_cannot_be_read_at_the_moment_is_a_passing_fault(decoder: Decoder, tmp_path: Path) -> None:
    with pytest.raises(Transient, match="does not answer"):
        decoder.decode(tmp_path / "gone", dataset_digest="0" * 64)


def test_what_is_no_film_is_unreadable(decoder: Decoder, tmp_path: Path) -> None:
    path = tmp_path / "text"
    path.write_bytes(bytes(128) + b"DICM" + b"nothing")
    with pytest.raises(UnreadableImage):
        decoder.decode(path, dataset_digest=dataset_digest(path))


def test_a_child_that_was_killed_between_films_costs_no_film_anything(decoder: Decoder, films: list[Path]) -> None:
    decoder.decode(films[0], dataset_digest=dataset_digest(films[0]))
    os.kill(decoder._child.pid, signal.SIGKILL)
    decoder._child.wait()
    assert decoder.decode(films[1], dataset_digest=dataset_digest(films[1])).display.size


@pytest.mark.parametrize("when", ["before it is asked", "before it reads"])
def test_a_child_that_is_killed_as_a_film_comes_costs_it_nothing(
    decoder: Decoder, films: list[Path], monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    """The kernel ends it for memory while it waits; the film that came next lost an attempt, and was read alone."""
    decoder.decode(films[0], dataset_digest=dataset_digest(films[0]))
    child, ready, wait = decoder._child, decoder._get_ready, decoder._wait

    def get_ready() -> None:
        ready()
        os.kill(child.pid, signal.SIGKILL if when == "before it is asked" else signal.SIGSTOP)
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WSTOPPED | os.WNOWAIT)

    def killed(until: float) -> int:
        os.kill(child.pid, signal.SIGKILL)
        return wait(until)

    with monkeypatch.context() as changed:
        changed.setattr(decoder, "_get_ready", get_ready)
        changed.setattr(decoder, "_wait", killed)
        with pytest.raises(Transient, match="signal 9 before it was asked"):
            decoder.decode(films[1], dataset_digest=dataset_digest(films[1]))
    assert decoder.decode(films[1], dataset_digest=dataset_digest(films[1])).display.size


def test_a_service_manager_that_stops_all_processes_costs_no_film_its_child(
    decoder: Decoder, films: list[Path]
) -> None:
    decoder.decode(films[0], dataset_digest=dataset_digest(films[0]))
    os.kill(decoder._child.pid, signal.SIGTERM)
    time.sleep(0.2)
    assert decoder._child.poll() is None


def test_a_decoder_that_cannot_start_is_a_passing_fault_and_no_films(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, films: list[Path]
) -> None:
    stand_in(tmp_path, monkeypatch, "exit 3")
    decoder = Decoder(timeout=30.0, memory=MEMORY)
    for _ in range(2):
        with pytest.raises(Transient, match="does not start"):
            decoder.decode(films[0], dataset_digest="0" * 64)
    decoder.close()


def test_a_machine_without_room_for_a_process_is_a_passing_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cxrnode.dicom.decoder.sys.executable", "/nonexistent/python")
    with pytest.raises(Transient, match="cannot be started"):
        Decoder(timeout=30.0, memory=MEMORY)


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("read line; kill -SEGV $$", "signal 11"),
        ("read line; exit 4", "status 4"),
        ("read line; exec sleep 60", "longer than 1 s"),
        ("read line; echo '[]'; exec sleep 60", "out of turn"),
        ("read line; exec tr '\\000' x </dev/zero", "out of turn"),  # a line without an end
        (
            """read line; echo '{"dataset_digest": "another film", "rows": 1, "columns": 1}'; exec sleep 60""",
            "out of turn",
        ),
        ("""read line; echo '{"dataset_digest": "sha", "rows": -1, "columns": -1}'; exec sleep 60""", "out of turn"),
        (
            """read line; echo '{"dataset_digest": "sha", "rows": 99999, "columns": 99999}'; exec sleep 60""",
            "out of turn",
        ),
    ],
)
def test_a_child_that_fails_a_film_is_replaced_and_the_reason_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, films: list[Path], body: str, said: str
) -> None:
    with monkeypatch.context() as changed:
        stand_in(tmp_path, changed, f"echo {READY.decode().strip()}; {body}")
        decoder = Decoder(timeout=1.0 if "longer" in said else 30.0, memory=MEMORY)
        with pytest.raises(DecoderDied, match=said):
            decoder.decode(films[0], dataset_digest="sha")
    decoder._timeout = 30.0
    assert decoder.decode(films[0], dataset_digest=dataset_digest(films[0])).display.size
    decoder.close()


def test_a_child_of_another_version_is_not_asked_and_costs_no_film_anything(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, films: list[Path]
) -> None:
    """An installation may be changed under a node that runs: its next child speaks another way."""
    with monkeypatch.context() as changed:
        stand_in(tmp_path, changed, "echo ready; read line; exit 1")
        decoder = Decoder(timeout=30.0, memory=MEMORY)
        with pytest.raises(Transient, match="the decoder does not start"):
            decoder.decode(films[0], dataset_digest=dataset_digest(films[0]))
    assert decoder.decode(films[0], dataset_digest=dataset_digest(films[0])).display.size
    decoder.close()


def test_the_child_s_environment_holds_no_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXRNODE__DATABASE__URL", "postgresql+psycopg://cxrnode:secret@db/cxrnode")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    made = Decoder(timeout=30.0, memory=MEMORY)
    try:
        environment = b""
        deadline = time.monotonic() + 30
        while not environment and time.monotonic() < deadline:  # for a moment after exec(2) it is empty
            environment = Path(f"/proc/{made._child.pid}/environ").read_bytes()
    finally:
        made.close()
    assert b"secret" not in environment
    assert b"PATH=" in environment
