"""One number of associations for all listening processes; a process that is killed leaves no seat taken."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from cxrnode.dicom.seats import Seats
from cxrnode.errors import Transient

_OTHER = """
import sys
from pathlib import Path
from cxrnode.dicom.seats import Seats
seats = Seats(Path(sys.argv[1]), 3)
print([seats.take() for _ in range(int(sys.argv[2]))], flush=True)
sys.stdin.read()
"""


def test_seats_are_taken_and_given_back(tmp_path: Path) -> None:
    seats = Seats(tmp_path / "seats", 2)
    assert [seats.take(), seats.take(), seats.take()] == [0, 1, None]
    seats.give(0)
    assert [seats.take(), seats.take()] == [0, None]


def test_another_process_takes_from_the_same_and_gives_back_when_it_is_killed(tmp_path: Path) -> None:
    seats = Seats(tmp_path / "seats", 3)
    assert seats.take() == 0
    command = [sys.executable, "-c", _OTHER, str(tmp_path / "seats"), "3"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "[1, 2, None]\n"
        assert seats.take() is None
        other.kill()
        other.wait()
    assert [seats.take(), seats.take(), seats.take()] == [1, 2, None]


def test_a_folder_that_takes_no_file_is_said_with_what_to_do(tmp_path: Path) -> None:
    """As a data_dir that is mounted read-only: the role ends with a line of the log, not with a traceback."""
    (tmp_path / "seats").mkdir()
    with pytest.raises(Transient, match=r"cannot be written to \(Is a directory\); give it to the service's user"):
        Seats(tmp_path / "seats", 3)
