"""The PACS is away for the whole run: every film is taken and read, one connection a minute is tried, and when it is
back everything goes out in the order of rank. No process grows meanwhile. `make away-proof` takes a thousand films."""

from __future__ import annotations

import contextlib
import itertools
import os
import socket
import threading
import time
from pathlib import Path

import pytest
import sqlalchemy as sa

from cxrnode.store.schema import delivery, job, output
from tests.acceptance.conftest import MakeSite
from tests.acceptance.swift import statuses, swift, uid_of, urgent, written
from tests.peers import RecordingScp, unused_port, wait_until

FILMS = int(os.environ.get("CXRNODE_AWAY_FILMS", "40"))
#: Seconds between two tries, by the default of `send.probe_every`.
MINUTE = 60.0
MIB = 1 << 20
#: What a process may grow by after a tenth of the films, in bytes; a film is 0.6 MB.
GROWTH = 32 * MIB


class Away:
    """Something that listens in the PACS's place, hangs up on whoever comes, and knows when."""

    def __init__(self, port: int) -> None:
        self.attempts: list[float] = []
        self._socket = socket.create_server(("127.0.0.1", port))
        self._thread = threading.Thread(target=self._hang_up, daemon=True)
        self._thread.start()

    def _hang_up(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._socket.accept()
                self.attempts.append(time.monotonic())
                connection.close()

    def end(self) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        self._thread.join(10)


@pytest.mark.timeout(3600)
def test_films_wait_for_a_pacs_that_is_away_and_go_out_in_order_when_it_is_back(
    make_site: MakeSite, tmp_path: Path
) -> None:
    port = unused_port()
    changes = {**urgent(priority=5), 'probe_every = "2s"': 'probe_every = "1m"'}
    site = swift(make_site(("RECORDER", port), phantoms=True), tmp_path, **changes)
    away = Away(port)
    try:
        site.start(wait_for="infer")
        began = time.monotonic()
        early: dict[str, tuple[int, int]] = {}
        # Every tenth film is urgent, and comes after those that it goes before.
        for number in range(FILMS):
            films = written(tmp_path / "films", [number])
            assert statuses(site, films, calling_aet="STAT" if number % 10 == 9 else "MODALITY") == [0], (
                f"film {number}"
            )
            if number == FILMS // 10:
                wait_until(lambda: site.states()["job reported"] > FILMS // 20, seconds=120, what="films read")
                early = {role: site.resident(role) for role in ("receive", "infer", "tend")}
        accepted = time.monotonic() - began
        wait_until(
            lambda: site.states()["job reported"] == FILMS, seconds=60 + 5 * FILMS, what=f"films read {site.states()}"
        )
        wait_until(lambda: len(away.attempts) >= 2, seconds=3 * MINUTE, what="two tries")
        waited = time.monotonic() - began
        wait_until(  # the last try has been given up
            lambda: dict(site.states()) == {"job reported": FILMS, "delivery pending": FILMS},
            seconds=40,
            what="the try",
        )
        attempts = list(away.attempts)
        late = {role: site.resident(role) for role in early}
        idle = site.resident("send")
    finally:
        away.end()

    pacs = RecordingScp(port=port)
    pacs.start()
    try:
        wait_until(lambda: len(pacs.stored) >= 1, seconds=MINUTE + 30, what="the first result")
        back = time.monotonic()
        wait_until(lambda: site.states()["job delivered"] == FILMS, seconds=60 + 2 * FILMS, what="the rest")
        drained = time.monotonic() - back
        early, late = {**early, "send": idle}, {**late, "send": site.resident("send")}
    finally:
        pacs.stop()

    between = [later - sooner for sooner, later in itertools.pairwise(attempts)]
    print(
        f"{FILMS} films accepted in {accepted:.0f} s and read in {waited:.0f} s with the PACS away; "
        f"{len(attempts)} tries, {min(between):.1f} to {max(between):.1f} s apart; "
        f"delivered in {drained:.1f} s over {pacs.associations} associations"
    )
    for role, (now, peak) in late.items():
        before = early[role][0]
        print(f"{role}: {before / MIB:.1f} MiB early, {now / MIB:.1f} at the end, {peak / MIB:.1f} at its peak")
    assert [role for role in late if late[role][0] - early[role][0] > GROWTH] == []
    # Of two clocks, and of a process that may be scheduled late between them: half a second.
    assert min(between) > MINUTE - 0.5
    # Each once, in the order of rank, the urgent ones first.
    rows = site.rows(
        sa.select(output.c.sop_instance_uid, job.c.id)
        .join(job, job.c.id == output.c.job_id)
        .join(delivery, delivery.c.job_id == job.c.id)
        .order_by(delivery.c.rank, delivery.c.id)
    )
    assert [one.sop_instance_uid for one in pacs.stored] == [row.sop_instance_uid for row in rows]
    urgent_uids = {uid_of(number) for number in range(9, FILMS, 10)}
    jobs = {row.id: row.sop_instance_uid for row in site.jobs()}
    first = [jobs[row.id] for row in rows[: len(urgent_uids)]]
    assert set(first) == urgent_uids
    assert {row.state for row in site.jobs()} == {"delivered"}
    assert len(pacs.stored) == len(jobs) == FILMS
    site.check_audit()
    assert site.stop() == 0
