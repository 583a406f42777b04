"""Orthanc around the same model, driven over REST: it receives and sends, a script polls it, reads and uploads."""

from __future__ import annotations

import io
import json
import socket
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any, Self

import pydicom

from benchmarks.peers.script import Script

_BINARY = Path("/usr/sbin/Orthanc")


def installed() -> bool:
    """Whether Orthanc is here."""
    return _BINARY.is_file()


def free_port() -> int:
    """A port of the loopback that nobody has at the moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Orthanc:
    """An Orthanc as it comes, with an empty storage in `folder`; what it makes goes to `archive_port` as ARCHIVE."""

    def __init__(self, folder: Path, *, archive_port: int = 0) -> None:
        """Write its configuration."""
        folder.mkdir(parents=True, exist_ok=True)
        self.port, self.http = free_port(), free_port()
        self._path = folder / "orthanc.json"
        modalities = {"archive": ["ARCHIVE", "127.0.0.1", archive_port]} if archive_port else {}
        self._path.write_text(
            json.dumps(
                {
                    "StorageDirectory": str(folder / "storage"),
                    "IndexDirectory": str(folder / "storage"),
                    "Plugins": [],
                    "DicomAet": "ORTHANC",
                    "DicomPort": self.port,
                    "DicomAlwaysAllowStore": True,
                    "DicomCheckCalledAet": False,
                    "DicomModalities": modalities,
                    "HttpPort": self.http,
                    "RemoteAccessAllowed": False,
                    "AuthenticationEnabled": False,
                }
            )
        )
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            [str(_BINARY), str(self._path)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        until = time.monotonic() + 120
        while True:
            try:
                self.get("/system")
                return self
            except (urllib.error.URLError, ConnectionError):
                if time.monotonic() > until:
                    raise
                time.sleep(0.1)

    def __exit__(self, *fault: object) -> None:
        assert self._process is not None
        self._process.terminate()
        self._process.wait(30)

    @property
    def pid(self) -> int:
        """Its process."""
        assert self._process is not None
        return self._process.pid

    def get(self, path: str) -> Any:
        """GET: JSON."""
        return json.loads(self._ask(path))

    def file(self, instance: str) -> bytes:
        """GET: a DICOM file."""
        return self._ask(f"/instances/{instance}/file")

    def post(self, path: str, body: bytes) -> Any:
        """POST: JSON."""
        return json.loads(self._ask(path, body))

    def _ask(self, path: str, body: bytes | None = None) -> bytes:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.http}{path}", data=body, timeout=120) as answer:
            return bytes(answer.read())


def follow(orthanc: Orthanc, script: Script, films: int, *, seconds: float) -> None:
    """Read the next `films` new instances that are no results, upload what is made of them, and have it sent on."""
    since, done, ours, until = 0, 0, set(), time.monotonic() + seconds
    while done < films and time.monotonic() < until:
        changes = orthanc.get(f"/changes?since={since}&limit=100")
        since = changes["Last"]
        for change in changes["Changes"]:
            if change["ChangeType"] != "NewInstance" or change["ID"] in ours:
                continue
            made = script.analyse(pydicom.dcmread(io.BytesIO(orthanc.file(change["ID"]))))
            ids = []
            for one in made:
                file = io.BytesIO()
                one.save_as(file, enforce_file_format=True)
                ids.append(orthanc.post("/instances", file.getvalue())["ID"])
            ours.update(ids)
            orthanc.post("/modalities/archive/store", json.dumps(ids).encode())
            done += 1
        if changes["Done"]:
            time.sleep(0.1)
