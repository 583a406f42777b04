"""Every output of real films, as the shipped bundle reads them, before the validators of others.

All films of data/dicom/chest, and some of data/eval (CXRNODE_FILMS; forty for `make outputs-proof`) as DX made here:
with the sex, age and view of their patient, in turn MONOCHROME1 and 2, under names in several character sets. What a
film's own header causes by itself is left out.
"""

from __future__ import annotations

import csv
import dataclasses
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRLittleEndian

from cxrnode.core.findings import Outcome, Report
from cxrnode.core.identity import derived_uid
from cxrnode.dicom.outputs import KINDS, OPTIONAL, Output, OutputSettings, build_outputs
from cxrnode.dicom.pixels import decode_film
from cxrnode.reading.bundle import find_bundle, load_bundle
from cxrnode.reading.engine import Engine, TorchEngine
from tests.unit.outputs.sources import READ_AT, make_source
from tests.validators import brought, ours, shown_by_dcmtk, written

pytestmark = pytest.mark.peers

EVERY_KIND = (KINDS | OPTIONAL) - {"hl7"}
FILMS = int(os.environ.get("CXRNODE_FILMS") or 8)
#: Names as they stand on the wire, by their character set (PS3.5 H, I, J, K).
NAMES = (
    ("ISO_IR 100", "Müller^Jörg".encode("latin-1")),
    ("ISO_IR 144", "Иванова^Анна".encode("iso8859-5")),
    ("ISO_IR 192", "Wang^XiaoDong=王^小东".encode()),
    ("GB18030", "Wang^XiaoDong=王^小东".encode("gb18030")),
    ("\\ISO 2022 IR 87", b"Yamada^Tarou=\x1b$B;3ED\x1b(B^\x1b$BB@O:\x1b(B"),
    ("\\ISO 2022 IR 149", b"Hong^Gildong=\x1b$)C\xfb\xf3^\x1b$)C\xd1\xce\xd4\xd7"),
)

Read = Callable[[Path], tuple[Dataset, tuple[Output, ...]]]


@pytest.fixture(scope="module")
def read(tmp_path_factory: pytest.TempPathFactory) -> Read:
    """What the node makes of a film: its header as read, and every kind of output."""
    bundle = load_bundle(find_bundle("demo", tmp_path_factory.mktemp("data")))
    engine: Engine = TorchEngine(bundle)
    settings = OutputSettings(
        timezone="Europe/Berlin", min_findings=2, urgent=tuple(label.name for label in bundle.manifest.labels)
    )

    def outputs(path: Path) -> tuple[Dataset, tuple[Output, ...]]:
        film = decode_film(path)
        (reading,) = engine.read([film.display])
        report = Report(
            outcome=Outcome.ANALYSED,
            reason="",
            read_at=READ_AT,
            revision=1,
            # A demonstration flags nothing: this is what the same reading by another bundle would send.
            reader=dataclasses.replace(bundle.reader(engine), demonstration=False),
            scale=bundle.scale,
            findings=bundle.findings(reading),
            plausibility=bundle.plausibility_of(reading),
            pixel_digest="11" * 32,
            identity_digest="22" * 32,
        )
        source = pydicom.dcmread(path, stop_before_pixels=True)
        return source, build_outputs(source, report, film.display, reading.saliency, settings, EVERY_KIND)

    return outputs


def faults(path: Path, read: Read, folder: Path) -> list[str]:
    """What is wrong with the outputs of one film, each with the name of the film."""
    _, made = read(path)
    known = brought(path)
    found = [f"{path.name}: {fault}" for file in written(made, folder) for fault in ours(file, known)]
    kinds = {one.kind for one in made}
    if not kinds >= {"sr", "text", "summary", "heatmap", "pdf", "gsps"}:
        found.append(f"{path.name}: only {sorted(kinds)}")
    return found


def test_the_outputs_of_every_chest_film_pass_the_validators(data_dir: Path, read: Read, tmp_path: Path) -> None:
    films = sorted((data_dir / "dicom" / "chest").glob("*.dcm"))
    assert len(films) == 4
    assert [fault for path in films for fault in faults(path, read, tmp_path)] == []


def test_dcmtk_shows_each_chest_film_under_its_presentation_state_as_the_node_does(
    data_dir: Path, read: Read, tmp_path: Path
) -> None:
    apart = {}
    for path in sorted((data_dir / "dicom" / "chest").glob("*.dcm")):
        (state,) = (one for one in written(read(path)[1], tmp_path) if one.name.startswith("gsps"))
        plain = tmp_path / path.name
        film = pydicom.dcmread(path)
        if film.file_meta.TransferSyntaxUID.is_compressed:
            film.decompress()
        film.save_as(plain)
        shown = shown_by_dcmtk(plain, state).astype(int)
        apart[path.name] = int(np.abs(shown - decode_film(path).display).max())
    assert max(apart.values()) <= 1, apart


def as_dx(folder: Path, picture: Path, row: dict[str, str], number: int) -> Path:
    """A film of the evaluation set as a DX: 12 bits, its header as a modality writes it."""
    with Image.open(picture) as opened:
        grey = np.asarray(opened.convert("L"))
    charset, name = NAMES[number % len(NAMES)]
    first_white = number % 2 == 1
    ds = make_source(
        *grey.shape,
        SOPInstanceUID=derived_uid("test", picture.stem),
        StudyInstanceUID=derived_uid("test", "study", row["patient_id"]),
        PatientID=f"NIH{row['patient_id']}",
        PatientSex=row["sex"],
        PatientAge=f"{int(row['age']):03d}Y",
        ViewPosition=row["view"],
        PhotometricInterpretation="MONOCHROME1" if first_white else "MONOCHROME2",
        PresentationLUTShape="INVERSE" if first_white else "IDENTITY",
        TimezoneOffsetFromUTC=None if number % 3 else "+0100",
        SpecificCharacterSet=charset.encode(),
        PatientName=name,
    )
    stored = grey.astype(np.uint16) * 16
    ds.PixelData = ((4095 - stored) if first_white else stored).astype("<u2").tobytes()
    ds["PixelData"].VR = "OW"
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    path = folder / f"{picture.stem}.dcm"
    ds.save_as(path, enforce_file_format=True)
    return path


def test_the_outputs_of_films_of_the_evaluation_set_pass_the_validators(
    data_dir: Path, read: Read, tmp_path: Path
) -> None:
    with (data_dir / "eval.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    chosen = rows[:: len(rows) // FILMS][:FILMS]
    assert len(chosen) == FILMS
    found = []
    for number, row in enumerate(chosen):
        film = as_dx(tmp_path, data_dir / row["image"], row, number)
        found += faults(film, read, tmp_path)
        film.unlink()
    assert found == []
