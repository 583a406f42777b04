"""`python -m benchmarks.console --url URL`: every page of the console on a large database, in milliseconds.

Made for the databases of `benchmarks.history`. Each page is asked through the application itself, logged in, with what
people look for: a table of the median and the 95th percentile, the worst, the first time (cold), and the processor's
time of this process and of a PostgreSQL server beside it, which hold on a busy machine, too; as JSON with `--json`. The
bars are the design's: a page in 300 ms, an audit query in 200 ms, at the 95th percentile. Exit status 1 where one is
passed. With `--http` all goes through a port.
"""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import json
import os
import random
import secrets
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import click
import httpx2 as httpx
import sqlalchemy as sa
from starlette.testclient import TestClient

from benchmarks.population import SENDERS
from cxrnode.cli.stats import stats_of
from cxrnode.config import Config, parse_config
from cxrnode.spool import FolderSpool
from cxrnode.store import accounts, audit
from cxrnode.store.database import Database
from cxrnode.store.schema import event, identity, job
from cxrnode.store.upgrade import upgrade
from cxrnode.web import server
from cxrnode.web.app import application
from cxrnode.web.console import Console
from cxrnode.web.passwords import hashed

PAGE_MS, AUDIT_MS = 300.0, 200.0
_PASSWORD = "correct horse battery"
_PORT_HOST = "127.0.0.1"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One thing that is asked, `ask` each time for another film where it is of a film; and how long it may take."""

    name: str
    ask: Callable[[], int]
    bar: float = PAGE_MS


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Timed:
    """Milliseconds. `first` is the cold time; `processor` the mean of this process, `server` that of the database's.

    `statuses` are those of the answers; `server` is None for a server that is not on this machine, and for SQLite.
    """

    name: str
    first: float
    p50: float
    p95: float
    worst: float
    processor: float
    server: float | None
    bar: float
    statuses: tuple[int, ...]

    @property
    def good(self) -> bool:
        """Whether it is within its bar, and answered."""
        return self.p95 < self.bar and set(self.statuses) <= {200}


class Films:
    """Jobs and people of the database, drawn anew for each question."""

    def __init__(self, database: Database, seed: int) -> None:
        """Look how many there are."""
        self._database, self._random = database, random.Random(seed)
        with database.read() as transaction:
            self.jobs = int(transaction.scalar(sa.select(sa.func.max(job.c.id))) or 0)
            self.events = int(transaction.scalar(sa.select(sa.func.max(event.c.id))) or 0)
            self.first, self.now = transaction.scalar(sa.select(sa.func.min(job.c.created_at))), transaction.now
            ids = [self._random.randint(1, self.jobs) for _ in range(200)]
            known = sa.select(identity).where(identity.c.instance_id.in_(ids))
            self._people = transaction.rows(known)

    def job(self) -> int:
        """One job."""
        return self._random.randint(1, self.jobs)

    def day(self) -> str:
        """A date of the history."""
        at = self._random.uniform(self.first, self.now)
        return time.strftime("%Y-%m-%d", time.gmtime(at))

    def accession(self) -> str:
        """An accession number."""
        return str(self._random.choice(self._people).accession)

    def patient(self) -> str:
        """A patient's number."""
        return str(self._random.choice(self._people).patient_id)


#: What people look for in the list of jobs.
SEARCHES: Mapping[str, str] = {
    "the newest": "",
    "failed": "state=failed",
    "queued": "state=queued",
    "delivered": "state=delivered",
    "withdrawn": "state=withdrawn",
    "superseded": "state=superseded",
    "not analysed": "outcome=not_analysed",
    "duplicates": "outcome=duplicate",
    "failed, not analysed (none)": "state=failed&outcome=not_analysed",
    "a sender": "aet=ICU_MOB1",
    "a sender that there is not": "aet=NOWHERE",
    "a model in shadow": "model=candidate&mode=shadow",
    "a sender's failed": "aet=WARD_CR1&state=failed",
    "a finding, present": "finding=Effusion&decision=present",
    "a finding, by score": "finding=Pneumothorax&least=0.6",
    "a finding between scores": "finding=Nodule&least=0.4&most=0.45",
    "a finding, score of none": "finding=Hernia&least=0.9999",
    "a finding of a model": "finding=Effusion&decision=present&model=candidate",
    "a finding of a sender, last week": "finding=Effusion&decision=present&aet=ER_DX1&since=7d",
    "the last day": "since=1d",
    "the last day, a sender": "since=1d&aet=RAD_DX1",
    "disputed": "disputed=yes",
}


def steps(get: Callable[[str], int], post: Callable[[str, dict[str, str]], int], films: Films) -> Iterator[Step]:
    """Every page and listing, by its name."""

    def page(name: str, path: Callable[[], str] | str) -> Step:
        return Step(name=name, ask=lambda: get(path if isinstance(path, str) else path()))

    yield page("overview", "/")
    for name, query in SEARCHES.items():
        yield page(f"jobs: {name}", f"/jobs?{query}")
    yield page("jobs: a day of the past", lambda: f"/jobs?since={(day := films.day())}&until={day}")
    yield page("jobs: a finding on a day of the past", lambda: _finding_on(films.day()))
    yield page("jobs: a page far back", lambda: f"/jobs?before={films.job()}")
    yield page("jobs: failed, far back", lambda: f"/jobs?state=failed&before={films.job()}")
    yield Step(name="jobs: an accession number", ask=lambda: post("/jobs", {"accession": films.accession()}))
    yield Step(name="jobs: a patient", ask=lambda: post("/jobs", {"patient_id": films.patient()}))
    yield Step(name="jobs: a patient that there is not", ask=lambda: post("/jobs", {"patient_id": "NOBODY"}))
    for name, query in (
        ("the newest", ""),
        ("ignored", "verdict=ignored"),
        ("a sender's ignored", "verdict=ignored&aet=WARD_CR1"),
    ):
        yield page(f"films: {name}", f"/films?{query}")
    yield page("film", lambda: f"/films/{films.job()}")
    yield page("job", lambda: f"/jobs/{films.job()}")
    for days in (30, 90, 365):
        yield page(f"qa: {days} days", f"/qa?days={days}")
    for part in ("device", "view", "sex", "age"):
        yield page(f"qa: 365 days by {part}", f"/qa?days=365&by={part}&finding=Effusion")
    yield page("qa: the model in shadow", "/qa?model=candidate&days=90")
    yield page("compare", "/models/compare?active=chest&shadow=candidate&days=365")
    for one in ("", "?outcome=accepted", "?outcome=rejected", "?outcome=failed"):
        yield page(f"associations{one.replace('?outcome=', ': ')}", f"/associations{one}")
    yield page("models", "/models")
    yield page("alerts", "/alerts")
    yield page("metrics", "/metrics")
    yield page("readyz", "/readyz")
    yield page("api: overview", "/api/v1/overview")
    for name in (
        "the newest",
        "failed",
        "a finding, present",
        "a finding, score of none",
        "a sender that there is not",
    ):
        yield page(f"api: jobs, {name}", f"/api/v1/jobs?limit=200&{SEARCHES[name]}")
    for name, query in (("the newest", ""), ("ignored", "&verdict=ignored"), ("a sender's", "&aet=WARD_CR1")):
        yield page(f"api: films, {name}", f"/api/v1/films?limit=200{query}")
    yield page("api: film", lambda: f"/api/v1/films/{films.job()}")
    yield page("api: job", lambda: f"/api/v1/jobs/{films.job()}")
    yield page("api: events of a job", lambda: f"/api/v1/events?job={films.job()}")
    yield page("api: events of an instance", lambda: f"/api/v1/events?instance={films.job()}")
    for one in ("associations", "models", "changes", "alerts", "quality?days=365", "openapi.json"):
        yield page(f"api: {one}", f"/api/v1/{one}")


def _finding_on(day: str) -> str:
    return f"/jobs?finding=Effusion&decision=present&since={day}&until={day}"


def audits(database: Database, films: Films) -> Iterator[Step]:
    """What `cxrnode audit query` and `stats` ask."""

    def query(**chosen: Any) -> Callable[[], int]:
        def ask() -> int:
            list(audit.query(database, audit.EventFilter(**chosen), limit=200))
            return 200

        return ask

    def of_job() -> int:
        return query(job_id=films.job())()

    yield Step(name="audit query: a job", ask=of_job, bar=AUDIT_MS)
    yield Step(name="audit query: the last hour", ask=query(since=films.now - 3600), bar=AUDIT_MS)
    yield Step(
        name="audit query: parked, the last week", ask=query(since=films.now - 7 * 86400, name="parked"), bar=AUDIT_MS
    )

    def stats() -> int:
        stats_of(database, "chest", 90, 90)
        return 200

    yield Step(name="audit stats: 90 days", ask=stats, bar=AUDIT_MS)


class Server:
    """The processor's time of all processes of a PostgreSQL server on this machine, from /proc; None of any other."""

    def __init__(self, database: Database) -> None:
        """Look whose child the process of a connection is."""
        self._postmaster: int | None = None
        if database.is_sqlite:
            return
        with database.read() as transaction:
            process = int(transaction.scalar(sa.text("SELECT pg_backend_pid()")))
            with contextlib.suppress(OSError):
                name, fields = _process(process)
                if name == "postgres":
                    self._postmaster = int(fields[1])

    def seconds(self) -> float | None:
        """What it has worked so far, with its processes that have ended."""
        if self._postmaster is None:
            return None
        ticks = sum(map(int, _process(self._postmaster)[1][13:15]))
        for folder in Path("/proc").iterdir():
            with contextlib.suppress(OSError):
                if folder.name.isdigit() and int((found := _process(int(folder.name))[1])[1]) == self._postmaster:
                    ticks += sum(map(int, found[11:13]))
        return ticks / os.sysconf("SC_CLK_TCK")


def _process(number: int) -> tuple[str, list[str]]:
    """The name of a process, and what stands behind it in proc(5)'s stat: the first of it is its state, field 3."""
    said = Path(f"/proc/{number}/stat").read_text()
    return said[said.index("(") + 1 : said.rindex(")")], said[said.rindex(")") + 2 :].split()


def timed(step: Step, rounds: int, server: Server) -> Timed:
    """Ask once for the cold time, then so many times."""
    began = time.perf_counter()
    statuses = {step.ask()}
    first = 1000 * (time.perf_counter() - began)
    taken, processor, beside = [], time.process_time(), server.seconds()
    for _ in range(rounds):
        began = time.perf_counter()
        statuses.add(step.ask())
        taken.append(1000 * (time.perf_counter() - began))
    processor = 1000 * (time.process_time() - processor) / rounds
    after = server.seconds()
    taken.sort()
    p50, p95 = (taken[min(rounds - 1, int(share * rounds))] for share in (0.5, 0.95))
    return Timed(
        name=step.name,
        first=first,
        p50=p50,
        p95=p95,
        worst=taken[-1],
        processor=processor,
        server=None if beside is None or after is None else 1000 * (after - beside) / rounds,
        bar=step.bar,
        statuses=tuple(sorted(statuses)),
    )


def _config(folder: Path, port: int) -> Config:
    return parse_config(
        {
            "node": {"data_dir": str(folder)},
            "nodes": {
                "PACS": {"aet": "ORTHANC", "host": "127.0.0.1", "port": 4242},
                **{n: {"aet": n, "host": "127.0.0.1", "port": 104, "can_send": True} for n in SENDERS},
            },
            "models": {"chest": {"bundle": "demo"}, "candidate": {"bundle": "demo", "mode": "shadow"}},
            "rules": [{"name": "films", "models": ["chest", "candidate"], "send_to": ["PACS"]}],
            "spool": {"min_free": "1 MiB"},
            "web": {"port": port},
        }
    )


@contextlib.contextmanager
def visiting(database: Database, *, http: bool) -> Iterator[Any]:
    """Yield a client that is logged in as an administrator, and the token of its forms."""
    with socket.socket() as free:
        free.bind((_PORT_HOST, 0))
        port = free.getsockname()[1]
    with tempfile.TemporaryDirectory() as folder:
        config = _config(Path(folder), port)
        spool = FolderSpool(Path(folder) / "spool")
        base = f"http://{_PORT_HOST}:{port}"
        name = f"bench{secrets.token_hex(3)}"
        accounts.add(database, name, "admin", hashed(_PASSWORD), by="benchmark")
        with contextlib.ExitStack() as stack:
            if http:
                stack.enter_context(_served(config, database, spool))
                client: Any = stack.enter_context(httpx.Client(base_url=base, timeout=60, trust_env=False))
            else:
                console = Console(config=config, database=database, spool=spool, key=secrets.token_bytes(32))
                client = TestClient(application(console), base_url=base, client=(_PORT_HOST, 50000))
            fields = {"name": name, "password": _PASSWORD, "purpose": "a measurement"}
            answer = client.post("/login", data=fields, follow_redirects=False)
            if answer.status_code != 303:
                raise click.ClickException(f"cannot log in: {answer.status_code}")
            token = client.get("/").text.partition('name="csrf" value="')[2].partition('"')[0]
            yield client, token


@contextlib.contextmanager
def _served(config: Config, database: Database, spool: FolderSpool) -> Iterator[None]:
    stopping, up = threading.Event(), threading.Event()
    serve = {"stopping": stopping, "beat": lambda: None, "ready": up.set}
    thread = threading.Thread(target=server.run, args=(config, database, spool), kwargs=serve)
    thread.start()
    try:
        if not up.wait(30):
            raise click.ClickException("the console did not start")
        yield
    finally:
        stopping.set()
        thread.join()


def measure(database: Database, *, rounds: int, http: bool, only: str = "") -> Iterator[Timed]:
    """Yield the figures of each page."""
    films, server = Films(database, seed=7), Server(database)
    with visiting(database, http=http) as (client, token):

        def get(path: str) -> int:
            return int(client.get(path, follow_redirects=False).status_code)

        def post(path: str, fields: dict[str, str]) -> int:
            return int(client.post(path, data={"csrf": token, **fields}, follow_redirects=False).status_code)

        for step in (*steps(get, post, films), *audits(database, films)):
            if only in step.name:
                # As a role does when it is ready, and as a command's own process has little to walk.
                gc.collect()
                gc.freeze()
                yield timed(step, rounds, server)


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--url", required=True, help="The database; a file of SQLite by its path will do.")
@click.option("--rounds", default=20, show_default=True)
@click.option("--http", is_flag=True, help="Through a port instead of in the process.")
@click.option("--only", default="", help="Only the pages whose name has this.")
@click.option("--json", "as_json", type=click.Path(path_type=Path), help="Write the figures there, too.")
def main(url: str, rounds: int, http: bool, only: str, as_json: Path | None) -> None:
    """Time every page of the console. An account and the events of looking stay in the database."""
    if "://" not in url:
        url = f"sqlite+pysqlite:///{Path(url).resolve()}"
    database = Database(url)
    upgrade(database)
    films = Films(database, seed=7)
    engine = "SQLite" if database.is_sqlite else "PostgreSQL"
    click.echo(f"{engine}: {films.jobs} jobs, {films.events} events; {rounds} rounds{' over HTTP' if http else ''}")
    click.echo("    P50     P95   worst   first  processor  server ms")
    found = []
    for one in measure(database, rounds=rounds, http=http, only=only):
        found.append(one)
        mark = (
            "" if one.good else f"  OVER {one.bar:g} ms" if set(one.statuses) <= {200} else f"  answered {one.statuses}"
        )
        row = f"{one.p50:7.1f} {one.p95:7.1f} {one.worst:7.1f} {one.first:7.1f} {one.processor:10.1f}"
        row += " " * 11 if one.server is None else f" {one.server:10.1f}"
        click.echo(f"{row}  {one.name}{mark}")
    if as_json is not None:
        head = {"engine": engine, "jobs": films.jobs, "events": films.events, "rounds": rounds, "http": http}
        as_json.write_text(json.dumps({**head, "pages": [dataclasses.asdict(one) for one in found]}, indent=1) + "\n")
    over = [one.name for one in found if not one.good]
    click.echo(f"{len(found) - len(over)} of {len(found)} within their bars")
    database.close()
    sys.exit(1 if over else 0)


if __name__ == "__main__":
    main()
