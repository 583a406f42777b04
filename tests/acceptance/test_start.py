"""How soon a film is begun with on an idle node: on one machine, and where another machine received it.

By the times of events, which are the database's: from the receipt, which is written just before Success, to the claim.
"""

from __future__ import annotations

import statistics
import time
from pathlib import Path

import pytest
import sqlalchemy as sa

from cxrnode.store.schema import job
from tests.acceptance.conftest import MakeSite
from tests.acceptance.site import Site
from tests.peers import Postgres, unused_port

pytestmark = [pytest.mark.acceptance, pytest.mark.peers]

FILMS = 20
#: On an idle machine it is a few milliseconds, and 10 are promised; a poll alone makes 500 in the mean. Seconds.
BOUND = 0.15


def started(site: Site, films: tuple[Path, ...]) -> list[float]:
    """Seconds from receipt to claim of each film, sent one at a time while nothing else is to do."""
    for number, film in enumerate(films, start=1):
        assert site.storescu(film)
        until = time.monotonic() + 60
        while [one.state for one in site.jobs()].count("reported") < number:
            assert time.monotonic() < until, "the film was not read within a minute"
            time.sleep(0.05)
        time.sleep(0.3)  # the worker has looked once more, found nothing, and waits
    rows = site.rows(sa.select(job.c.created_at, job.c.claimed_at).order_by(job.c.id))
    return [row.claimed_at - row.created_at for row in rows]


def said(what: str, taken: list[float]) -> float:
    """The median, printed with the slowest."""
    median = statistics.median(taken)
    print(f"{what}: median {1000 * median:.1f} ms of {len(taken)} films, slowest {1000 * max(taken):.1f} ms")
    return median


def test_an_idle_node_begins_at_once(make_site: MakeSite, phantoms: tuple[Path, ...]) -> None:
    site: Site = make_site(("PACS", unused_port()), phantoms=True, settings={"node": {"roles": ["receive", "infer"]}})
    site.start(wait_for="infer")
    assert said("receipt to claim, one machine, SQLite", started(site, phantoms[:FILMS])) < BOUND


def test_an_idle_machine_begins_at_once_with_what_another_received(
    make_site: MakeSite, phantoms: tuple[Path, ...], postgres: Postgres, tmp_path: Path
) -> None:
    """The two share nothing but PostgreSQL and the spool: a datagram of one does not reach the other."""
    url, shared = postgres.new_database(), {"url": str(tmp_path / "spool")}

    def machine(role: str) -> Site:
        settings = {"node": {"roles": [role]}, "spool": shared}
        return make_site(("PACS", unused_port()), url=url, phantoms=True, settings=settings)

    receiver, reader = machine("receive"), machine("infer")
    receiver.start()
    reader.start(wait_for="infer")
    assert said("receipt to claim, two machines, PostgreSQL", started(receiver, phantoms[:FILMS])) < BOUND
