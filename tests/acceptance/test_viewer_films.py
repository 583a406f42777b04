"""Real films through the whole node, seen in OHIF: over STOW-RS into Orthanc, each output in viewer and validators.

The four DICOM films always, and as many of the evaluation's pictures as CXRNODE_VIEWER_FILMS says, under the header of
a film of their source. `make viewer-proof` takes forty. Nothing of a film is kept but screenshots, in CXRNODE_ARTEFACTS
or pytest's own folder.
"""

from __future__ import annotations

import dataclasses
import io
import os
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pydicom
import pytest
from hl7apy.parser import parse_message
from PIL import Image
from playwright.sync_api import Error
from pydicom.uid import ExplicitVRLittleEndian

from cxrnode.core.identity import derived_uid
from cxrnode.dicom.pixels import decode_film
from tests.acceptance.site import Site
from tests.acceptance.viewer import Ohif, browsing, dicomweb_settings, likeness, require_viewer, serving
from tests.integration.test_mllp import Receiver
from tests.peers import Dcmtk, Orthanc, require_tool
from tests.validators import brought, ours

pytestmark = [pytest.mark.peers, pytest.mark.timeout(3600)]

#: Pictures of the evaluation beside the four films.
PICTURES = int(os.environ.get("CXRNODE_VIEWER_FILMS", "2"))
SC = "1.2.840.10008.5.1.4.1.1.7"
#: How long one thing may take to show, in seconds: a machine without a graphics card draws slowly, a busy one more so.
PATIENCE = 120.0
#: Films of which OHIF 3.13.2 draws nothing, with our objects beside them or without: 15 bits stored, MONOCHROME1.
UNDRAWN = {"RG1_J2KI"}
#: By SOP class: how the validators' file names call the object, for `tests.validators.unread`.
_KINDS = {
    SC: "picture",
    "1.2.840.10008.5.1.4.1.1.88.33": "sr",
    "1.2.840.10008.5.1.4.1.1.88.11": "text",
    "1.2.840.10008.5.1.4.1.1.104.1": "pdf",
    "1.2.840.10008.5.1.4.1.1.11.1": "gsps",
}
_TO_ORTHANC = """\
[nodes.PACS]
kind = "stow"
url = "http://127.0.0.1:{http}/dicom-web"

[nodes.RIS]
kind = "hl7"
host = "127.0.0.1"
port = {mllp}

"""


@dataclasses.dataclass(frozen=True, slots=True)
class Seen:
    """One film and what came back for it: the files of the objects, by their SOP Instance UIDs."""

    film: Path
    source: pydicom.Dataset
    objects: dict[str, bytes]

    def captures(self) -> list[Image.Image]:
        """The pictures in the order of their numbers."""
        found = [pydicom.dcmread(io.BytesIO(data)) for data in self.objects.values()]
        ordered = sorted((ds for ds in found if ds.SOPClassUID == SC), key=lambda ds: int(ds.InstanceNumber))
        return [Image.fromarray(ds.pixel_array) for ds in ordered]


def _as_dicom(picture: Path, header: Path, folder: Path) -> Path:
    """A picture of the evaluation under the header of a DICOM film of the same source, as a film of its own."""
    with Image.open(picture) as opened:
        pixels = np.asarray(opened.convert("L"))
    ds = pydicom.dcmread(header)
    name = picture.stem
    ds.Rows, ds.Columns = pixels.shape
    ds.PixelData = pixels.tobytes() + b"\0" * (pixels.size % 2)
    ds["PixelData"].VR = "OB"
    ds.PatientID, ds.PatientName, ds.AccessionNumber = f"EVAL-{name[:8]}", f"EVAL^{name[:8]}", name[:16]
    ds.StudyInstanceUID, ds.SeriesInstanceUID = derived_uid("test", "study", name), derived_uid("test", "series", name)
    ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = pydicom.uid.UID(derived_uid("test", "film", name))
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    path = folder / f"{name}.dcm"
    ds.save_as(path, enforce_file_format=True)
    return path


def _configured(site: Site, archive: Orthanc, receiver: Receiver) -> None:
    """The site's PACS over the web, a RIS beside it, and every output that a demonstration sends."""
    text = site.config.read_text()
    start, end = text.index("[nodes.PACS]"), text.index("[models]")
    text = text[:start] + _TO_ORTHANC.format(http=archive.http_port, mllp=receiver.port) + text[end:]
    text = text.replace('outputs = ["sr", "heatmap"]', 'outputs = ["sr", "heatmap", "text", "pdf", "gsps", "hl7"]')
    text = text.replace('send_to = ["PACS"]', 'send_to = ["PACS", "RIS"]')
    site.config.write_text(text + "\n[heatmap]\nmin_findings = 2\n")


@pytest.fixture(scope="module")
def receiver() -> Iterator[Receiver]:
    made = Receiver()
    yield made
    made.close()


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Orthanc]:
    require_tool("Orthanc")
    orthanc = Orthanc(tmp_path_factory.mktemp("archive"), settings=dicomweb_settings())
    orthanc.start()
    yield orthanc
    orthanc.kill()


@pytest.fixture(scope="module")
def seen(data_dir: Path, archive: Orthanc, receiver: Receiver, tmp_path_factory: pytest.TempPathFactory) -> list[Seen]:
    """The films read by a node of its own, and what stands in the archive's studies beside them."""
    require_viewer()
    folder = tmp_path_factory.mktemp("films")
    chest = sorted((data_dir / "dicom" / "chest").glob("*.dcm"))
    header = data_dir / "dicom" / "chest" / "nih_00000002_000.dcm"
    pictures = sorted((data_dir / "eval").glob("*.png"))
    pictures = pictures[:: max(1, len(pictures) // max(1, PICTURES))][:PICTURES]
    films = [*chest, *(_as_dicom(one, header, folder) for one in pictures)]
    assert (len(chest), len(pictures)) == (4, PICTURES)
    for film in films:
        archive.request("/instances", film.read_bytes(), method="POST")
    site = Site(tmp_path_factory.mktemp("site"), pacs=(archive.aet, archive.dicom_port))
    _configured(site, archive, receiver)
    try:
        site.start(wait_for="infer")
        Dcmtk(folder).send(site.port, *films, calling="MODALITY", called="CXRNODE")
        site.wait_at_rest(300 + 20 * len(films))
        assert Counter(row.state for row in site.jobs()) == {"delivered": len(films)}
        site.check_audit()
    finally:
        site.stop()
        site.database.close()
    sources = [pydicom.dcmread(film, stop_before_pixels=True) for film in films]
    own = {str(source.SOPInstanceUID) for source in sources}
    stored: dict[str, dict[str, bytes]] = {}
    for one in archive.instances():
        data = archive.file(one)
        said = pydicom.dcmread(io.BytesIO(data), specific_tags=["StudyInstanceUID", "SOPInstanceUID"])
        if said.SOPInstanceUID not in own:
            stored.setdefault(str(said.StudyInstanceUID), {})[str(said.SOPInstanceUID)] = data
    return [
        Seen(film, source, stored[str(source.StudyInstanceUID)]) for film, source in zip(films, sources, strict=True)
    ]


def test_the_validators_find_nothing_of_ours_in_any_object(seen: list[Seen], tmp_path: Path) -> None:
    wrong: list[str] = []
    count: Counter[str] = Counter()
    for one in seen:
        known = brought(one.film)
        for number, data in enumerate(one.objects.values()):
            kind = _KINDS[str(pydicom.dcmread(io.BytesIO(data), specific_tags=["SOPClassUID"]).SOPClassUID)]
            path = tmp_path / f"{kind}-{number}.dcm"
            path.write_bytes(data)
            wrong += [f"{one.film.stem}: {line}" for line in ours(path, known)]
            path.unlink()
            count[kind] += 1
    print(f"{len(seen)} films, objects: {dict(count)}")
    assert wrong == []
    assert {"sr", "text", "picture", "pdf", "gsps"} == set(count)


def test_orthanc_previews_every_picture_as_it_is(seen: list[Seen], archive: Orthanc) -> None:
    wanted = {uid: data for one in seen for uid, data in one.objects.items()}
    apart = []
    for instance in archive.instances():
        uid = archive.tags(instance)["SOPInstanceUID"]
        if uid not in wanted:
            continue
        ds = pydicom.dcmread(io.BytesIO(wanted[uid]))
        if ds.SOPClassUID == SC:
            preview = Image.open(io.BytesIO(archive.request(f"/instances/{instance}/preview"))).convert("RGB")
            if likeness(preview, Image.fromarray(ds.pixel_array)) <= 0.99:
                apart.append(uid)
        elif ds.SOPClassUID == "1.2.840.10008.5.1.4.1.1.104.1":
            assert archive.request(f"/instances/{instance}/pdf").startswith(b"%PDF-")
    assert apart == []


def test_each_film_has_one_message_that_names_its_study(seen: list[Seen], receiver: Receiver) -> None:
    told = {}
    for data in receiver.received:
        message = parse_message(data.decode("latin-1"), find_groups=True)
        assert message.validate()
        assert message.MSH.msh_11.value == "T"  # the demonstration
        first = next(line for line in data.decode("latin-1").split("\r") if line.startswith("OBX|1|"))
        told[first.split("|")[5]] = message.MSH.msh_10.value
    assert len(receiver.received) == len(seen)
    assert sorted(told) == sorted(str(one.source.StudyInstanceUID) for one in seen)


def test_ohif_shows_every_film_with_its_pictures_as_one_stack_and_its_reports(
    seen: list[Seen], archive: Orthanc, tmp_path_factory: pytest.TempPathFactory
) -> None:
    shots = Path(os.environ.get("CXRNODE_ARTEFACTS") or tmp_path_factory.mktemp("screenshots"))
    shots.mkdir(parents=True, exist_ok=True)
    wrong: list[str] = []
    with serving(require_viewer(), archive) as origin:
        for number, one in enumerate(seen):
            began = time.monotonic()
            # A browser of its own for each: none inherits what another left.
            with browsing(origin, shots) as viewer:
                try:
                    least = _looked_at(viewer, one)
                except (TimeoutError, AssertionError, Error) as fault:
                    wrong.append(f"{one.film.stem}: {fault}")
                    viewer.shot(f"film-{number:02d}-{one.film.stem}-WRONG")
                    continue
            print(
                f"{one.film.stem}: {len(one.captures())} pictures, least likeness {least:.3f}, "
                f"{time.monotonic() - began:.0f} s"
            )
    assert wrong == []


def _looked_at(viewer: Ohif, one: Seen) -> float:
    """What a radiologist does with one study; the least likeness of a picture. Raises TimeoutError, AssertionError."""
    pictures = one.captures()
    viewer.open(str(one.source.StudyInstanceUID), seconds=PATIENCE)
    listed = viewer.series(6, seconds=PATIENCE)
    ours_listed = [(row.modality, row.images) for row in listed if row.description.startswith("AI ")]
    assert [entry for entry in ours_listed if entry[0] == "OT"] == [("OT", len(pictures))], listed
    assert [entry for entry in ours_listed if entry[0] == "SR"] == [("SR", 1), ("SR", 1)], listed
    film = Image.fromarray(decode_film(one.film).display)
    likenesses = []
    if one.film.stem not in UNDRAWN:
        # What OHIF opens a study with. Who opens another series before it is drawn may see that one black.
        likenesses.append(viewer.wait_for_picture(film, seconds=PATIENCE))
    viewer.show("OT", "AI maps")
    for count, picture in enumerate(pictures, start=1):
        viewer.wait_for_text(f"({count}/{len(pictures)})", seconds=PATIENCE)
        likenesses.append(viewer.wait_for_picture(picture, seconds=PATIENCE))
        if count <= 2:
            viewer.shot(f"film-{one.film.stem}-{count}")
        viewer.scroll()
    viewer.show("SR", "AI text")
    told = viewer.wait_for_text("AI reading of one chest film, not a diagnosis", seconds=PATIENCE)
    assert "DEMONSTRATION MODEL" in told and "Research use - not for diagnosis" in told
    assert (viewer.complaints, viewer.troubled()) == ([], False)
    viewer.show(str(one.source.Modality), "")
    viewer.wait_for_text("1/1", seconds=PATIENCE)
    viewer.close_player()
    if one.film.stem not in UNDRAWN:
        likenesses.append(viewer.wait_for_picture(film, seconds=PATIENCE))
    viewer.shot(f"film-{one.film.stem}-source")
    return min(likenesses)
