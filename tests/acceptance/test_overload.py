"""Overload: a disk that fills, a queue that grows, more senders than there is room for. Nothing is lost."""

from __future__ import annotations

import concurrent.futures
import json
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa
from pynetdicom import AE
from pynetdicom.sop_class import Verification  # type: ignore[attr-defined]  # made at run time

from cxrnode.config import load_config
from cxrnode.spool import FolderSpool
from cxrnode.store.schema import event, instance
from tests.acceptance.conftest import MakeSite
from tests.acceptance.site import SENDER, Site
from tests.acceptance.swift import film, statuses, swift, urgent, written
from tests.peers import RecordingScp, absent, wait_until

MIB = 1 << 20


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 MB of its own."""
    folder = tmp_path / "small"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=64m,mode=0700", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(command, capture_output=True, check=False).returncode != 0:
        absent("a file system cannot be mounted here: as root only", "CXRNODE_REQUIRE_PEERS")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def checked(site: Site) -> dict[str, tuple[bool, str]]:
    """What `cxrnode check` says of each thing: whether it is good, and the remedy."""
    command = [sys.executable, "-m", "cxrnode", "check", "--json", "--config", str(site.config)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    return {one["name"]: (one["ok"], one["remedy"]) for one in json.loads(done.stdout)["checks"]}


def readyz(site: Site) -> tuple[int, str]:
    """Status and text of /readyz."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{site.web}/readyz", timeout=30) as response:
            return response.status, response.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def happened(site: Site, name: str) -> list[dict[str, str]]:
    rows = site.rows(sa.select(event.c.detail).where(event.c.name == name).order_by(event.c.id))
    return [json.loads(row[0]) for row in rows]


def free(site: Site) -> int:
    return FolderSpool(load_config(site.config).spool_dir).free()


@pytest.mark.timeout(600)
def test_on_a_file_system_of_64_mb_films_are_refused_in_time_and_taken_again_when_there_is_room(
    small_disk: Path, make_site: MakeSite, recording_scp: RecordingScp, tmp_path: Path
) -> None:
    alerts = '[alerts]\nhold = "1s"\n\n[log]'
    changes = {'min_free = "50 MiB"': 'min_free = "20 MiB"', "[log]": alerts}
    site = make_site((recording_scp.aet, recording_scp.port), phantoms=True, web=True)
    site.data_dir.symlink_to(small_disk)
    swift(site, tmp_path, **changes)
    (small_disk / "ballast").write_bytes(bytes(32 * MIB))
    site.start(wait_for="infer")
    wait_until(lambda: readyz(site)[0] == 200, seconds=60, what="a node that is ready")

    taken: list[int] = []
    refused: list[int] = []
    for number in range(60):
        answer = statuses(site, written(tmp_path / "films", [number]))
        if answer == [0]:
            taken.append(number)
        else:
            refused += answer
            if len(refused) == 3:
                break
    print(f"taken {len(taken)}, then {[hex(one) for one in refused]}, {free(site) / MIB:.1f} MiB left of 64")
    assert refused == [0xA700] * 3
    assert len(taken) >= 5
    # It is said wherever somebody may look, each with what to do.
    good, remedy = checked(site)["spool"]
    assert (good, "free space, or lower spool.min_free" in remedy) == (False, True)
    status, text = readyz(site)
    assert (status, "disk" in text) == (503, True), text
    wait_until(lambda: bool(happened(site, "receiving_refused")), seconds=60, what="the event")
    [refusing] = happened(site, "receiving_refused")
    assert (refusing["what"], "free space" in refusing["remedy"]) == ("disk", True)
    wait_until(lambda: bool(happened(site, "alert_raised")), seconds=90, what="the alert")
    assert "disk" in {one["rule"] for one in happened(site, "alert_raised")}
    assert site.logged("spool_full")
    # What was refused was not kept, not even in part; what was taken may wait for room for its results.
    assert list((small_disk / "spool" / "incoming").iterdir()) == []
    assert len(site.rows(sa.select(instance.c.id))) == len(taken)
    assert free(site) > 16 * MIB

    (small_disk / "ballast").unlink()
    number = 100
    wait_until(lambda: statuses(site, written(tmp_path / "films", [number])) == [0], seconds=30, what="room again")
    taken.append(number)
    wait_until(lambda: bool(happened(site, "receiving_resumed")), seconds=60, what="the end of it")
    wait_until(lambda: readyz(site)[0] == 200, seconds=60, what="a node that is ready again")
    site.wait_at_rest(120)
    assert len(site.jobs()) == len(taken)
    assert {row.state for row in site.jobs()} == {"delivered"}
    assert len(recording_scp.by_uid()) == len(taken)
    assert checked(site)["spool"][0]
    site.check_audit()
    assert site.stop() == 0


def test_a_long_queue_refuses_and_takes_films_again_as_it_is_read(
    make_site: MakeSite, recording_scp: RecordingScp, tmp_path: Path
) -> None:
    site = make_site((recording_scp.aet, recording_scp.port), phantoms=True)
    reading, deaf = 'roles = ["receive", "infer", "send", "tend"]', 'roles = ["receive", "send", "tend"]'
    swift(site, tmp_path, **{"[listen]": "[listen]\nmax_queue = 3", reading: deaf})
    site.start()  # nothing reads as yet, whatever else this machine does
    answers: list[int] = []
    waiting = list(range(40))
    while waiting and 0xA700 not in answers:
        answers += statuses(site, written(tmp_path / "films", waiting[:1]))
        if answers[-1] == 0:
            waiting.pop(0)
    waiting = waiting[:8]
    assert site.stop() == 0
    site.config.write_text(site.config.read_text().replace(deaf, reading))
    site.start()
    until = time.monotonic() + 120
    while waiting and time.monotonic() < until:
        answer = statuses(site, written(tmp_path / "films", waiting[:1]))
        answers += answer
        if answer == [0]:
            waiting.pop(0)
        else:
            time.sleep(0.3)
    print(f"{answers.count(0)} taken, {answers.count(0xA700)} refused on the way")
    assert waiting == []
    assert set(answers) == {0, 0xA700}
    assert site.logged("queue_full")
    site.wait_at_rest(120)
    assert {row.state for row in site.jobs()} == {"delivered"}
    assert len(site.jobs()) == answers.count(0)


@pytest.mark.timeout(600)
def test_a_burst_of_fifty_associations_is_taken_whole_in_bounded_memory(
    make_site: MakeSite, recording_scp: RecordingScp, tmp_path: Path
) -> None:
    """Fifty senders at once, each with a film of 15 MB: 750 MB, more than memory would hold, were they held there."""
    site = make_site((recording_scp.aet, recording_scp.port), phantoms=True)
    swift(site, tmp_path, **{'roles = ["receive", "infer", "send", "tend"]': 'roles = ["receive", "tend"]'})
    site.start()
    (tmp_path / "films").mkdir()
    films = [tmp_path / "films" / f"{number}.dcm" for number in range(50)]
    for number, path in enumerate(films):
        film(number, tiles=5).save_as(path, enforce_file_format=True)
    size = films[0].stat().st_size
    assert statuses(site, written(tmp_path / "first", [99])) == [0]
    before = most = site.resident("receive")[0]
    with concurrent.futures.ThreadPoolExecutor(50) as pool:
        began = time.monotonic()
        sent = [pool.submit(statuses, site, [path]) for path in films]
        while not all(one.done() for one in sent):
            most = max(most, site.resident("receive")[0])
            time.sleep(0.05)
        answers = [one.result() for one in sent]
        took = time.monotonic() - began
    print(
        f"50 associations with {size / MIB:.0f} MiB each in {took:.1f} s; receive held {before / MIB:.0f} MiB before, "
        f"{most / MIB:.0f} MiB at most"
    )
    assert answers == [[0]] * 50
    assert len(site.rows(sa.select(instance.c.id))) == 51
    # Each association costs two threads and their buffers, not its film.
    assert most - before < 64 * MIB
    assert site.logged("association_rejected") == []


def test_more_associations_than_allowed_are_refused_as_such_and_may_come_again(
    make_site: MakeSite, recording_scp: RecordingScp, tmp_path: Path
) -> None:
    site = make_site((recording_scp.aet, recording_scp.port), phantoms=True)
    changes = {
        "[listen]": "[listen]\nmax_associations = 3",
        'roles = ["receive", "infer", "send", "tend"]': 'roles = ["receive", "tend"]',
    }
    swift(site, tmp_path, **changes)
    site.start()
    held = []
    for _ in range(5):
        entity = AE(SENDER)
        entity.add_requested_context(Verification)
        held.append(entity.associate("127.0.0.1", site.port, ae_title="CXRNODE"))
    assert [one.is_established for one in held] == [True, True, True, False, False]
    # PS3.8 9.3.4: rejected-transient, by the presentation provider, local limit exceeded.
    primitive = held[3].acceptor.primitive
    assert primitive is not None
    assert (primitive.result, primitive.result_source, primitive.diagnostic) == (2, 3, 2)
    held[0].release()
    wait_until(site.echo, seconds=10, what="room for another")
    for one in held[1:3]:
        one.release()
    [line] = site.logged("association_rejected")[:1]
    assert line["remedy"] == "[listen] max_associations = 3 is reached"


@pytest.mark.timeout(300)
def test_routine_films_are_read_under_a_stream_of_urgent_ones(
    make_site: MakeSite, recording_scp: RecordingScp, tmp_path: Path
) -> None:
    """A priority is a head start of ten minutes: what waits longer than that goes first (design, rule 10)."""
    site = make_site((recording_scp.aet, recording_scp.port), phantoms=True)
    all_roles = 'roles = ["receive", "infer", "send", "tend"]'
    swift(site, tmp_path, **urgent(priority=1), **{all_roles: 'roles = ["receive", "tend"]'})
    site.start()
    assert statuses(site, written(tmp_path / "films", range(4))) == [0] * 4
    with site.database.write() as transaction:  # they came a quarter of an hour ago
        transaction.connection.execute(sa.text("UPDATE job SET rank = rank - 900"))
    assert statuses(site, written(tmp_path / "films", range(4, 12)), calling_aet="STAT") == [0] * 8
    assert statuses(site, written(tmp_path / "films", range(12, 14))) == [0] * 2
    assert site.stop() == 0
    site.config.write_text(site.config.read_text().replace('roles = ["receive", "tend"]', all_roles))
    site.start(wait_for="infer")
    site.wait_at_rest(120)
    claimed = site.rows(sa.select(event.c.job_id).where(event.c.name == "claimed").order_by(event.c.id))
    ids = [row.id for row in site.jobs()]
    # The routine films that waited longest, then the urgent ones, then routine films that came after those.
    assert [row[0] for row in claimed] == ids
    assert {row.state for row in site.jobs()} == {"delivered"}
