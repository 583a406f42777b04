"""The outputs before the validators of others: dciodvfy (dicom3tools) and DCMTK find nothing in them that is ours.

What a copied attribute of the film causes by itself is found by running the validator over the film too, and listed.
"""

from __future__ import annotations

import dataclasses
import re
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from cxrnode.core.findings import Outcome, Report, Scale
from cxrnode.dicom.outputs import KINDS, OPTIONAL, Output, OutputSettings, build_outputs
from cxrnode.dicom.pixels import decode_film
from tests.peers import require_tool
from tests.unit.outputs.sources import code, make_film, make_report, make_saliency, make_source

pytestmark = pytest.mark.peers

#: What dciodvfy of 2022 says of sound objects: it does not know private coding schemes.
_HARMLESS = re.compile(r"Unrecognized defined term <99\w+> for value 1 of attribute <Coding Scheme Designator>")


def complaints(path: Path) -> list[str]:
    """The errors and warnings of dciodvfy about a file."""
    done = subprocess.run(
        [require_tool("dciodvfy"), str(path)], capture_output=True, text=True, errors="replace", timeout=60, check=False
    )
    lines = (done.stdout + done.stderr).splitlines()
    return [line for line in lines if line.startswith(("Error", "Warning")) and not _HARMLESS.search(line)]


def told(tool: str, *arguments: str | Path) -> tuple[int, list[str]]:
    """The exit status of a DCMTK tool, and its errors."""
    done = subprocess.run(
        [require_tool(tool), *map(str, arguments)],
        capture_output=True,
        text=True,
        errors="replace",
        timeout=60,
        check=False,
    )
    return done.returncode, [line for line in done.stderr.splitlines() if line.startswith(("E:", "F:"))]


def written(outputs: tuple[Output, ...], folder: Path) -> list[Path]:
    paths = []
    for output in outputs:
        path = folder / f"{output.kind}-{output.instance_number}.dcm"
        path.write_bytes(output.data)
        paths.append(path)
    return paths


def outputs(source: Dataset, report: Report | None = None, **settings: Any) -> tuple[Output, ...]:
    film = make_film(int(source.get("Rows", 300) or 300), int(source.get("Columns", 300) or 300))
    kinds = KINDS | OPTIONAL
    flagged = {"urgent": ("Cardiomegaly",), **settings}
    return build_outputs(source, report or make_report(), film, make_saliency(), OutputSettings(**flagged), kinds)


CASES: dict[str, tuple[dict[str, Any], dict[str, Any], dict[str, Any]]] = {
    # changes to the film, to the report, settings
    "as it is": ({}, {}, {}),
    "comprehensive 3D": ({}, {}, {"sr_class": "comprehensive3d"}),
    "own codes": ({}, {}, {"scheme": "99CXRNODE"}),
    "probabilities": ({}, {"scale": Scale.PROBABILITY}, {}),
    "demonstration": ({}, {"reader": dataclasses.replace(make_report().reader, demonstration=True)}, {}),
    "not analysed": ({}, {"outcome": Outcome.NOT_ANALYSED, "reason": "the pixels cannot be decoded"}, {}),
    "contour alone": ({}, {}, {"style": "contour"}),
    "jpeg": ({}, {}, {"encoding": "jpeg"}),
    "all findings": ({}, {}, {"min_findings": 6}),
    "odd header": (
        {
            "PatientSex": b"U",
            "PatientBirthDate": b"1970-13-01",
            "StudyTime": b"10:15:00",
            "PatientAge": b"56",
            "TimezoneOffsetFromUTC": b"JST",
        },
        {},
        {},
    ),
    "lossy film": (
        {
            "LossyImageCompression": "01",
            "LossyImageCompressionRatio": [7.5],
            "LossyImageCompressionMethod": "ISO_15444_1",
        },
        {},
        {},
    ),
    "lossy film that tells no ratio": ({"LossyImageCompression": "01"}, {}, {}),
    "no orientation, no request": (
        {"PatientOrientation": None, "RequestAttributesSequence": None, "TimezoneOffsetFromUTC": None},
        {},
        {},
    ),
    "procedure of its own": (
        {"ProcedureCodeSequence": Sequence([code("XCHEST", "99LOCAL", "Thorax")])},
        {},
        {"timezone": "Europe/Berlin"},
    ),
}


@pytest.mark.parametrize("which", CASES)
def test_dciodvfy_finds_nothing_in_any_output(which: str, tmp_path: Path) -> None:
    film, report, settings = CASES[which]
    made = outputs(make_source(320, 280, **film), make_report(**report), **settings)
    found = {path.name: complaints(path) for path in written(made, tmp_path)}
    assert {name: lines for name, lines in found.items() if lines} == {}


@pytest.mark.parametrize("which", CASES)
def test_dcmtk_reads_every_report_and_draws_every_picture(which: str, tmp_path: Path) -> None:
    film, report, settings = CASES[which]
    for path in written(outputs(make_source(320, 280, **film), make_report(**report), **settings), tmp_path):
        if path.name.startswith(("sr", "text", "key_object")):
            assert told("dsrdump", path) == (0, [])
            assert told("dsr2html", path, tmp_path / "sr.html") == (0, [])
        elif path.name.startswith("pdf"):
            assert told("dcm2pdf", path, tmp_path / "page.pdf") == (0, [])
        elif settings.get("encoding") == "jpeg":
            assert told("dcmj2pnm", path, tmp_path / "sc.ppm") == (0, [])
        else:
            assert told("dcm2pnm", path, tmp_path / "sc.ppm") == (0, [])


def test_the_validators_can_fail(tmp_path: Path) -> None:
    summary = next(one for one in outputs(make_source(320, 280)) if one.kind == "summary")
    broken = pydicom.dcmread(written((summary,), tmp_path)[0])
    del broken.ConversionType
    broken.save_as(tmp_path / "broken.dcm")
    assert any("ConversionType" in line.replace(" ", "") for line in complaints(tmp_path / "broken.dcm"))


REAL = ("966_fixed.dcm", "RG1_J2KI.dcm", "nih_00000002_000.dcm", "siim_6904.dcm")


@pytest.mark.parametrize("name", REAL)
def test_on_real_films_only_what_the_film_brings_along_is_found(name: str, data_dir: Path, tmp_path: Path) -> None:
    path = data_dir / "dicom" / "chest" / name
    film = decode_film(path)
    source = pydicom.dcmread(path, stop_before_pixels=True)
    made = build_outputs(source, make_report(), film.display, make_saliency(), OutputSettings())
    brought = {_what(line) for line in complaints(path)}
    ours = {p.name: [line for line in complaints(p) if _what(line) not in brought] for p in written(made, tmp_path)}
    assert {n: lines for n, lines in ours.items() if lines} == {}
    assert np.ptp(film.display) > 50


def _what(line: str) -> str:
    """A complaint without the module and the file it was found in."""
    return re.sub(r" Module=<\w+>| - in module <\w+>", "", line)
