"""Bad input: every film that is not to be read ends ignored, not analysed, parked or refused, and the node goes on."""

from __future__ import annotations

import subprocess
import time
from io import BytesIO
from pathlib import Path

import pydicom
import pytest
from pydicom.filereader import read_preamble
from pynetdicom import AE, AllStoragePresentationContexts
from pynetdicom.dimse_primitives import C_STORE

from cxrnode.phantom.dicom import phantom_dx
from cxrnode.store.schema import instance
from tests.acceptance.conftest import MakeSite
from tests.acceptance.site import SENDER, Site
from tests.peers import RecordingScp, require_tool, wait_until

CR = "1.2.840.10008.5.1.4.1.1.1"
IMPLICIT = "1.2.840.10008.1.2"
STORAGE = {str(one.abstract_syntax) for one in AllStoragePresentationContexts}
#: What `store_bytes` returns for an object whose class is no storage class: the association itself says so.
NO_CONTEXT = 0x0122


def described(path: Path) -> tuple[str, str, str, bytes]:
    """SOP class, SOP Instance UID, transfer syntax and the bytes of the data set, as far as the file tells."""
    content = path.read_bytes()
    with path.open("rb") as file:
        has_meta = content[128:132] == b"DICM"
        read_preamble(file, force=True)
        meta = pydicom.filereader._read_file_meta_info(file) if has_meta else pydicom.Dataset()
        offset = file.tell() if has_meta else 0
    said = pydicom.dcmread(path, force=True, stop_before_pixels=True, specific_tags=["SOPClassUID", "SOPInstanceUID"])
    return (
        str(said.get("SOPClassUID") or meta.get("MediaStorageSOPClassUID", CR)),
        str(said.get("SOPInstanceUID") or meta.get("MediaStorageSOPInstanceUID", "2.25.404")),
        str(meta.get("TransferSyntaxUID", IMPLICIT)),
        content[offset:],
    )


def store_bytes(site: Site, path: Path) -> int | None:
    """C-STORE a file's bytes unlooked at, as a broken modality would; the status, or None if the node hung up."""
    sop_class, uid, syntax, data = described(path)
    ae = AE(ae_title=SENDER)
    ae.add_requested_context(sop_class, syntax)
    wire = ae.associate("127.0.0.1", site.port, ae_title="CXRNODE")
    if not wire.is_established:
        assert sop_class not in STORAGE, "the node takes every storage class in every syntax"
        return NO_CONTEXT
    request = C_STORE()
    request.MessageID, request.Priority = 1, 0
    request.AffectedSOPClassUID, request.AffectedSOPInstanceUID = sop_class, uid
    request.DataSet = BytesIO(data)
    wire._reactor_checkpoint.clear()
    while not wire._is_paused:
        pass
    wire.dimse.send_msg(request, wire.accepted_contexts[0].context_id or 0)
    _, answer = wire.dimse.get_msg(block=True)
    wire._reactor_checkpoint.set()
    wire.release()
    return None if not isinstance(answer, C_STORE) or answer.Status is None else int(answer.Status)


def verdicts(site: Site) -> dict[str, tuple[str, str]]:
    return {row.sop_instance_uid: (row.verdict, row.reason) for row in site.rows(instance.select())}


def test_what_is_no_chest_film_is_stored_and_ignored_with_its_reason(
    make_site: MakeSite, recording_scp: RecordingScp, data_dir: Path
) -> None:
    site = make_site((recording_scp.aet, recording_scp.port))
    site.start(wait_for="infer")
    files = sorted((data_dir / "dicom" / "negative").glob("*.dcm"))
    assert len(files) == 17
    ends: dict[str, str] = {}
    for path in files:
        uid = described(path)[1]
        status = store_bytes(site, path)
        assert status is not None
        site.wait_at_rest(60)
        verdict, reason = verdicts(site).get(uid, ("refused", f"0x{status:04X}"))
        jobs = [row for row in site.jobs() if row.sop_instance_uid == uid]
        if jobs:
            verdict, reason = jobs[0].outcome or jobs[0].state, jobs[0].reason
        assert reason
        ends[path.name] = f"{verdict}: {reason}"
    print("\n".join(f"{name:34} {end}" for name, end in ends.items()))
    allowed = ("ignored", "not_analysed", "failed", "refused")
    assert {name: end for name, end in ends.items() if not end.startswith(allowed)} == {}
    assert site.echo()


def test_broken_files_are_refused_or_said_to_be_unreadable_and_the_node_goes_on(
    make_site: MakeSite, recording_scp: RecordingScp, data_dir: Path, phantoms: tuple[Path, ...]
) -> None:
    site = make_site((recording_scp.aet, recording_scp.port), phantoms=True)
    site.start(wait_for="infer")
    ends: dict[str, str] = {}
    for path in sorted((data_dir / "dicom" / "malformed").iterdir()):
        uid = described(path)[1]
        status = store_bytes(site, path)
        site.wait_at_rest(60)
        if status is None:
            ends[path.name] = "refused: the association was aborted"
        elif status != 0:
            ends[path.name] = f"refused: 0x{status:04X}"
        else:
            verdict, reason = verdicts(site)[uid]
            jobs = [row for row in site.jobs() if row.sop_instance_uid == uid]
            if jobs:
                verdict, reason = jobs[0].outcome or jobs[0].state, jobs[0].reason
            assert reason
            ends[path.name] = f"{verdict}: {reason}"
        assert site.echo(), f"the node is gone after {path.name}"
    print("\n".join(f"{name:34} {end}" for name, end in ends.items()))
    assert len(ends) == 15
    assert {name: end for name, end in ends.items() if end.startswith("analysed")} == {}
    assert ends["966.dcm"].startswith(("not_analysed", "failed"))
    # A good film afterwards is read as ever.
    assert site.storescu(phantoms[2])
    site.wait_at_rest(60)
    assert (site.jobs()[-1].state, site.jobs()[-1].outcome) == ("delivered", "analysed")
    assert list((site.data_dir / "spool" / "incoming").iterdir()) == []
    site.check_audit()


@pytest.mark.parametrize("moment", ["header", "pixels"])
def test_a_sender_killed_mid_transfer_leaves_nothing_over(
    make_site: MakeSite, recording_scp: RecordingScp, tmp_path: Path, moment: str
) -> None:
    film = phantom_dx(41, rows=2500, cols=2048)
    film.save_as(tmp_path / "film.dcm", enforce_file_format=True)
    site = make_site((recording_scp.aet, recording_scp.port), phantoms=True)
    site.start()
    incoming = site.data_dir / "spool" / "incoming"
    least = 1 if moment == "header" else 1 << 20
    for _ in range(20):
        command = [require_tool("storescu"), "-pdu", "4096", "-aet", SENDER, "-aec", "CXRNODE"]
        sender = subprocess.Popen([*command, "127.0.0.1", str(site.port), str(tmp_path / "film.dcm")])
        until = time.monotonic() + 10
        while time.monotonic() < until and sender.poll() is None:
            if any(f.stat().st_size >= least for f in _files(incoming)):
                break
        sender.kill()
        sender.wait()
    wait_until(lambda: _files(incoming) == [], seconds=20, what="an empty folder of incoming files")
    assert site.echo()
    assert len(site.rows(instance.select())) <= 1


def _files(folder: Path) -> list[Path]:
    found = []
    for path in folder.iterdir():
        try:
            path.stat()
        except FileNotFoundError:
            continue
        found.append(path)
    return found
