"""What others' tools say of an object of ours: dciodvfy (dicom3tools) and DCMTK; nothing that a film brings along."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Collection, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pydicom
from PIL import Image
from pydicom.datadict import keyword_for_tag

from cxrnode.dicom.outputs import Output
from cxrnode.dicom.outputs.source import COPIED_TEXT
from tests.peers import require_tool

#: What dciodvfy of 2022 says of sound objects: it does not know private coding schemes.
_HARMLESS = re.compile(r"Unrecognized defined term <99\w+> for value 1 of attribute <Coding Scheme Designator>")
#: What each kind of object is read with; of a picture it depends on its transfer syntax.
DOCUMENTS = ("sr", "text", "key_object", "rejection", "withdrawn_sr", "study_sr")


def complaints(path: Path) -> list[str]:
    """The errors and warnings of dciodvfy about a file."""
    _, lines = _run("dciodvfy", path)
    return [line for line in lines if line.startswith(("Error", "Warning")) and not _HARMLESS.search(line)]


def what(complaint: str) -> str:
    """A complaint without the module and the file it was found in."""
    return re.sub(r" Module=<\w+>| - in module <\w+>", "", complaint)


def told(tool: str, *arguments: str | Path) -> tuple[int, list[str]]:
    """The exit status of a DCMTK tool, and its errors."""
    status, lines = _run(tool, *arguments)
    return status, [line for line in lines if line.startswith(("E:", "F:"))]


def written(outputs: Sequence[Output], folder: Path) -> list[Path]:
    """The outputs as files named after kind and number."""
    paths = []
    for output in outputs:
        path = folder / f"{output.kind}-{output.instance_number}.dcm"
        path.write_bytes(output.data)
        paths.append(path)
    return paths


def unread(path: Path) -> list[str]:
    """What DCMTK finds wrong with one of our files as `written` names it: each kind is read by its own tool."""
    scratch = path.with_suffix(".out")
    kind = path.stem.rpartition("-")[0]
    if kind in DOCUMENTS:
        # It takes Korean, which HTML cannot name, for no character set unless it converts; Japanese it cannot convert.
        charset = str(pydicom.dcmread(path, specific_tags=["SpecificCharacterSet"]).get("SpecificCharacterSet"))
        how = ("+U8",) if "ISO 2022 IR 149" in charset else ()
        found = [told("dsrdump", path), told("dsr2html", *how, path, scratch)]
    elif kind == "pdf":
        found = [told("dcm2pdf", path, scratch)]
    elif kind == "gsps":
        found = [_checked_state(path)]
    else:  # dcmj2pnm is dcm2pnm with the JPEG codecs
        found = [told("dcmj2pnm", path, scratch)]
    scratch.unlink(missing_ok=True)
    return [f"{kind}: {status} {lines}" for status, lines in found if (status, lines) != (0, [])]


def _checked_state(path: Path) -> tuple[int, list[str]]:
    """dcmpschk's errors but those in text copied from the film: it knows names of one component and its own limits."""
    status, lines = _run("dcmpschk", path)
    wrong = []
    for number, line in enumerate(lines):
        if "Error:" in line:
            named = re.search(r"\((\w{4}),(\w{4})\)", " ".join(lines[number : number + 5]))
            if named is None or keyword_for_tag(int(named[1] + named[2], 16)) not in COPIED_TEXT:
                wrong.append(line)
        elif re.match(r"W: [a-z]", line):  # what it misses, by the name of the attribute
            wrong.append(line)
    return status, wrong


def brought(film: Path) -> frozenset[str]:
    """What dciodvfy complains of in a film itself."""
    return frozenset(what(line) for line in complaints(film))


def ours(path: Path, known: Collection[str]) -> list[str]:
    """What is wrong with one of our files and is not the film's own."""
    return [*(line for line in complaints(path) if what(line) not in known), *unread(path)]


def shown_by_dcmtk(film: Path, state: Path) -> npt.NDArray[np.uint8]:
    """The grey levels of a film under a presentation state as DCMTK renders them, uint8 (H, W)."""
    picture = state.with_suffix(".pgm")
    assert told("dcmp2pgm", "-p", state, film, picture) == (0, [])
    with Image.open(picture) as opened:
        return np.asarray(opened.convert("L"))


def _run(tool: str, *arguments: str | Path) -> tuple[int, list[str]]:
    done = subprocess.run(
        [require_tool(tool), *map(str, arguments)],
        capture_output=True,
        text=True,
        errors="replace",
        timeout=60,
        check=False,
    )
    return done.returncode, (done.stdout + done.stderr).splitlines()
