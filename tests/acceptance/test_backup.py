"""A restore drill: a backup taken while films come, everything lost, the backup brought back, and the node goes on."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pydicom
import pytest

from cxrnode.store.schema import instance
from tests.acceptance.conftest import MakeSite
from tests.acceptance.site import Site
from tests.peers import RecordingScp, wait_until

FILMS = 24
BEFORE = 8


def cxrnode(site: Site, *arguments: str) -> subprocess.CompletedProcess[str]:
    """A command as an administrator types it."""
    return subprocess.run(
        [sys.executable, "-m", "cxrnode", *arguments, "--config", str(site.config)],
        capture_output=True,
        text=True,
        env=os.environ,
        timeout=120,
        check=False,
    )


class Modality(threading.Thread):
    """Sends one film after the other, and knows for which it has Success. The last one waits for `last`."""

    def __init__(self, site: Site, films: tuple[Path, ...]) -> None:
        super().__init__(daemon=True)
        self.site = site
        self.films = films
        self.acknowledged: list[Path] = []
        self.last = threading.Event()

    def run(self) -> None:
        for film in self.films:
            if film == self.films[-1]:
                self.last.wait(240)
            if self.site.storescu(film):
                self.acknowledged.append(film)
            time.sleep(0.3)


def uid_of(film: Path) -> str:
    return str(pydicom.dcmread(film, stop_before_pixels=True).SOPInstanceUID)


@pytest.mark.timeout(400)
@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_what_was_acknowledged_before_a_backup_is_read_and_sent_once_after_a_restore(
    make_site: MakeSite,
    recording_scp: RecordingScp,
    phantoms: tuple[Path, ...],
    tmp_path: Path,
    kind: str,
    request: pytest.FixtureRequest,
) -> None:
    new_url: Callable[[], str] = (
        request.getfixturevalue("postgres").new_database if kind == "postgresql" else lambda: ""
    )
    films, backup = phantoms[:FILMS], tmp_path / "backup"
    pacs = (recording_scp.aet, recording_scp.port)
    site = make_site(pacs, phantoms=True, url=new_url())
    site.start(wait_for="infer")
    modality = Modality(site, films)
    modality.start()
    wait_until(lambda: len(modality.acknowledged) >= BEFORE, seconds=120, what="films before the backup")
    before = list(modality.acknowledged)
    done = cxrnode(site, "db", "backup", str(backup), "--json")
    assert done.returncode == 0, done.stderr
    card = json.loads(done.stdout)
    during = len(modality.acknowledged)
    assert modality.is_alive()  # films came before, while and after
    modality.last.set()
    modality.join(240)
    assert modality.acknowledged == list(films)
    site.kill()  # the machine is lost, with all that it had

    other = make_site(pacs, phantoms=True, url=new_url())
    done = cxrnode(other, "db", "restore", str(backup))
    assert done.returncode == 0, done.stderr
    restored = {row.sop_instance_uid for row in other.rows(instance.select())}
    assert {uid_of(film) for film in before} <= restored
    states = dict(other.states())
    checked = {one["name"]: one["ok"] for one in json.loads(cxrnode(other, "check", "--json").stdout)["checks"]}
    assert [checked[name] for name in ("configuration", "database", "queue", "spool", "model chest", "port")] == [
        True
    ] * 6
    verified = cxrnode(other, "audit", "verify")
    assert (verified.returncode, "the trail is whole" in verified.stdout) == (0, True), verified.stdout

    # The node goes on, and the modality sends once more what the log of its own says came after the backup.
    other.start(wait_for="infer")
    later = [film for film in films if film not in before]
    assert all(other.storescu(film) for film in later)
    other.wait_at_rest(240)
    jobs = other.jobs()
    assert Counter(row.sop_instance_uid for row in jobs) == Counter(uid_of(film) for film in films)
    assert {row.state for row in jobs} == {"delivered"}
    expected = {one.sop_instance_uid for row in jobs for one in other.outputs(row.id)}
    assert set(recording_scp.by_uid()) == expected  # from both lives of the node one set of objects a film
    other.check_audit()
    assert cxrnode(other, "audit", "verify").returncode == 0
    assert other.stop() == 0
    print(
        f"{kind}: {len(before)} films before the backup, {during} by its end, {FILMS} at the end; "
        f"restored {len(restored)} ({states}), {card['files']} files, {card['size'] >> 10} KiB, "
        f"writers waited {card['writers_waited']:.3f} s"
    )
