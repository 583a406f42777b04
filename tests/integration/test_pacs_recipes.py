"""docs/pacs-recipes.md, done as it says: Orthanc's script and DCMTK's commands reach our listener."""

from __future__ import annotations

import json
import re
import shlex
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pydicom
import pytest

from cxrnode.config import parse_config
from cxrnode.dicom.listener import Answer, Listener, Received
from cxrnode.phantom.dicom import phantom_dx
from cxrnode.sections import RemoteNode
from tests.peers import REPOSITORY, Dcmtk, Orthanc, require_tool, unused_port, wait_until

pytestmark = pytest.mark.peers

PAGE = (REPOSITORY / "docs" / "pacs-recipes.md").read_text()


def section(title: str) -> str:
    """The text under a heading of the page."""
    return PAGE.split(f"\n## {title}\n", 1)[1].split("\n## ", 1)[0]


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


class Node:
    """cxrnode's listener as the recipes call it; what arrived stands in `arrived`."""

    def __init__(self, folder: Path) -> None:
        self.arrived: list[tuple[str, str]] = []
        self.listener = Listener(
            ae_title="CXRNODE",
            folder=folder,
            admit=lambda calling, called, address: None,
            receive=self._receive,
            host="127.0.0.1",
            port=unused_port(),
        )

    @property
    def port(self) -> int:
        return self.listener.address[1]

    def _receive(self, received: Received) -> Answer:
        self.arrived.append((received.association.calling_aet, received.sop_instance_uid))
        return Answer(status=0)


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    (tmp_path / "incoming").mkdir()
    node = Node(tmp_path / "incoming")
    with node.listener:
        yield node


def film(folder: Path, modality: str, uid: str) -> Path:
    made = phantom_dx(1, rows=64, cols=64)
    made.Modality = modality
    made.SOPInstanceUID = made.file_meta.MediaStorageSOPInstanceUID = pydicom.uid.UID(uid)
    path = folder / f"{uid}.dcm"
    made.save_as(path, enforce_file_format=True)
    return path


def test_orthanc_s_script_routes_chest_films_and_sends_no_result_back(tmp_path: Path, dcmtk: Dcmtk, node: Node) -> None:
    require_tool("Orthanc")
    script = tmp_path / "route-to-cxrnode.lua"
    (lua,) = blocks(section("Orthanc"), "lua")
    script.write_text(lua)
    (written,) = blocks(section("Orthanc"), "json")
    settings = json.loads("{" + written.replace("/etc/orthanc/route-to-cxrnode.lua", str(script)) + "}")
    settings["DicomModalities"]["cxrnode"] |= {"Host": "127.0.0.1", "Port": node.port}
    archive = Orthanc(tmp_path / "orthanc", settings=settings)
    archive.start()
    try:
        dcmtk.send(archive.dicom_port, film(tmp_path, "DX", "2.25.11"), calling="MODALITY", called="ORTHANC")
        wait_until(lambda: len(node.arrived) == 1, seconds=20, what="the film, routed")
        # A result of ours and an ultrasound image stay where they are; the next film shows that Orthanc saw them.
        dcmtk.send(archive.dicom_port, film(tmp_path, "DX", "2.25.12"), calling="CXRNODE", called="ORTHANC")
        dcmtk.send(archive.dicom_port, film(tmp_path, "US", "2.25.13"), calling="MODALITY", called="ORTHANC")
        dcmtk.send(archive.dicom_port, film(tmp_path, "CR", "2.25.14"), calling="MODALITY", called="ORTHANC")
        wait_until(lambda: len(node.arrived) == 2, seconds=20, what="the next film, routed")
    finally:
        archive.kill()
    assert node.arrived == [("ORTHANC", "2.25.11"), ("ORTHANC", "2.25.14")]


def test_the_node_s_side_of_each_recipe_is_a_configuration() -> None:
    written = blocks(PAGE, "toml")
    assert written
    for text in written:
        config = parse_config(tomllib.loads(text))
        assert all(isinstance(one, RemoteNode) and one.can_send for one in config.nodes.values())


def test_dcmtk_s_commands_reach_the_node(tmp_path: Path, dcmtk: Dcmtk, node: Node) -> None:
    (tmp_path / "films").mkdir()
    one = film(tmp_path / "films", "DX", "2.25.21")
    one.rename(tmp_path / "film.dcm")
    film(tmp_path / "films", "DX", "2.25.22")
    commands = [line for block in blocks(section("DCMTK"), "") for line in block.splitlines() if line]
    assert [line.split()[0] for line in commands] == ["echoscu", "dcmsend", "storescu"]
    for line in commands:
        told = line.replace("10.0.0.5", "127.0.0.1").replace("11112", str(node.port))
        dcmtk.run(*shlex.split(told))
    assert node.arrived == [("MODALITY", "2.25.22"), ("MODALITY", "2.25.21")]


def test_the_archive_of_the_trial_takes_results_of_the_node_and_of_nobody_else(tmp_path: Path, dcmtk: Dcmtk) -> None:
    """deploy/compose/orthanc.json, as a real Orthanc reads it; its ports and its password are the test's own."""
    require_tool("Orthanc")
    shipped = json.loads((REPOSITORY / "deploy" / "compose" / "orthanc.json").read_text())
    own = {key: shipped[key] for key in shipped if key not in ("DicomPort", "HttpPort", "AuthenticationEnabled")}
    own["DicomModalities"]["cxrnode"]["Host"] = "127.0.0.1"
    archive = Orthanc(tmp_path / "orthanc", settings=own)
    archive.start()
    try:
        made = film(tmp_path, "DX", "2.25.31")
        where = ("-aec", "ORTHANC", archive.host, archive.dicom_port)
        dcmtk.run("echoscu", "-aet", "CXRNODE", *where)
        assert dcmtk.run("storescu", "-aet", "STRANGER", *where, made, check=False).returncode != 0
        assert archive.instances() == []
        dcmtk.run("storescu", "-aet", "CXRNODE", *where, made)
        assert len(archive.instances()) == 1
    finally:
        archive.kill()
