"""What coordination bears: claims and settles by several processes on one PostgreSQL, beside workers that really read.

    python -m benchmarks.fleet [--jobs 4000] [--batch 16] [--model-ms 0] [--workers 1,2,4] [--read FILMS]
                               [--together 8] [--url URL] [--durable] [--profile] [--json FILE]

A worker of the first table claims, sleeps for as long as the model would take (0 shows the ceiling), and settles a
report with 14 findings and its outputs' rows, as `infer` does without pixels. `--read N` adds the role as it is, with
the demonstration model on N phantoms. Without `--url` a PostgreSQL is started for the while; `--durable` lets it fsync.
"""

from __future__ import annotations

import argparse
import contextlib
import cProfile
import dataclasses
import hashlib
import json
import os
import pstats
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from cxrnode.config import Config, parse_config
from cxrnode.core.findings import Decision, Finding, Outcome, Reader, Report, Thresholds
from cxrnode.core.kept import Kept
from cxrnode.errors import Transient
from cxrnode.store import jobs, reports, upgrade
from cxrnode.store.database import Database
from cxrnode.store.jobs import Claim, Limits
from cxrnode.store.receipt import Arrival, Order, record
from cxrnode.store.reports import StoredOutput
from cxrnode.store.schema import event, job, metadata
from cxrnode.store.together import Finished, settle_together

DIGEST = "b" * 64
_NOBODY = dict.fromkeys(
    (
        "patient_id",
        "issuer",
        "patient_name",
        "birth_date",
        "sex",
        "accession",
        "study_instance_uid",
        "series_instance_uid",
    ),
    "1",
)
#: Jobs a second that coordination must bear on PostgreSQL.
BAR = 500.0


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One row of the table: `cpu` are core-milliseconds of a job in the workers, and in PostgreSQL where it is ours."""

    what: str
    workers: int
    jobs: int
    seconds: float
    worker_cpu: float
    database_cpu: float

    @property
    def rate(self) -> float:
        """Jobs a second from the first claim to the last settle."""
        return self.jobs / self.seconds


def digest_of(number: int) -> str:
    """A digest as that of pixels: the store's locks take its first digits, in which numbers are alike."""
    return hashlib.sha256(str(number).encode()).hexdigest()


def report_of(held: Claim) -> Report:
    """A report of 14 findings, and of pixels that no other film has."""
    return Report(
        outcome=Outcome.ANALYSED,
        reason="",
        read_at=held.claimed_at,
        revision=held.revision,
        reader=Reader(
            name="chest", version="1", bundle_digest=DIGEST, weights_digest=DIGEST, calibration="none",
            demonstration=True, engine="sleep",
        ),
        findings=tuple(
            Finding(label=f"Finding {number}", index=number, score=0.1, decision=Decision.ABSENT,
                    thresholds=Thresholds(rule_out=0.2, rule_in=0.5))
            for number in range(14)
        ),
        pixel_digest=digest_of(held.instance_id),
        identity_digest=DIGEST,
    )  # fmt: skip


def outputs_of(held: Claim, count: int) -> list[StoredOutput]:
    """Rows of an SR, a summary and heatmaps; no file stands behind them."""
    return [
        StoredOutput(
            kind="sr" if number == 0 else "heatmap", label="", sop_class_uid="1.2.840.10008.5.1.4.1.1.88.33",
            sop_instance_uid=f"2.25.{held.job_id}.{number}", series_instance_uid=f"2.25.{held.job_id}",
            transfer_syntax_uid="1.2.840.10008.1.2.1", instance_number=number + 1,
            file=Kept(key=f"{held.job_id:024x}{number:08x}", digest=DIGEST, size=1),
        )
        for number in range(count)
    ]  # fmt: skip


def fill(database: Database, count: int) -> None:
    """Receive so many films that wait to be read, in a few threads."""
    order = Order(model="chest", mode="active", outputs=("sr", "heatmap"), send_to=("PACS",))

    def some(numbers: Sequence[int]) -> None:
        for number in numbers:
            film = Arrival(
                sop_instance_uid=f"1.2.{number}", dataset_digest=digest_of(number),
                sop_class_uid="1.2.840.10008.5.1.4.1.1.1.1", transfer_syntax_uid="1.2.840.10008.1.2.1",
                calling_aet="MODALITY", called_aet="CXRNODE", accepted=True,
                reason="a frontal chest film", rule="all", header={"Modality": "DX"}, identity=_NOBODY,
                spool_key=f"{number:032x}", size=1,
            )  # fmt: skip
            record(database, film, [order], ageing=600, config_digest=DIGEST)

    threads = [threading.Thread(target=some, args=(range(start, count, 4),)) for start in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def coordinate(url: str, *, owner: str, batch: int, model_ms: float, outputs: int, together: int) -> int:
    """Claim, sleep, settle `together` at a time until nothing waits; return how many jobs."""
    database, done = Database(url), 0
    while True:
        claims = jobs.claim(
            database, owner=owner, models={"chest": DIGEST}, engine="sleep", limit=batch, lease=120.0, limits=Limits()
        )
        if not claims:
            with database.read() as transaction:
                if not transaction.scalar(sa.select(sa.exists().where(job.c.state == "queued"))):
                    database.close()
                    return done
            continue
        time.sleep(model_ms * len(claims) / 1000)
        for start in range(0, len(claims), together):
            ready = [
                Finished(
                    held=held, report=report_of(held), outputs=outputs_of(held, outputs), saliency=None, preview=None
                )
                for held in claims[start : start + together]
            ]
            try:
                stands = settle_together(database, ready) if together > 1 else {}
            except Transient:  # another worker holds the same lock: each for itself, as `infer` does
                stands = {}
            for one in ready:
                if one.held.job_id not in stands:
                    reports.settle_report(database, one.held, one.report, one.outputs, saliency=None, preview=None)
        done += len(claims)


def config_of(url: str, folder: Path) -> Config:
    """A node that reads phantoms and sends nothing."""
    return parse_config(
        {
            "node": {"data_dir": str(folder), "purpose": "bench"},
            "models": {"chest": {"bundle": "demo", "mode": "shadow"}},
            "rules": [{"name": "all", "unsure": "read", "models": ["chest"]}],
            "reading": {"implausible": "read"},
            "database": {"url": url},
        }
    )


def read(url: str, folder: Path, *, owner: str) -> None:
    """The role itself, until nothing waits."""
    from cxrnode.roles.context import Context
    from cxrnode.roles.infer import FilmReader
    from cxrnode.roles.leases import LeaseKeeper
    from cxrnode.spool import FolderSpool

    database = Database(url)
    context = Context(
        config=config_of(url, folder), database=database, spool=FolderSpool(folder / "spool"), owner=owner,
        stopping=threading.Event(), beat=lambda: None, ready=lambda: None,
    )  # fmt: skip
    reader = FilmReader(context)
    print("ready", flush=True)
    sys.stdin.readline()
    with LeaseKeeper[Claim](lambda held: jobs.renew(database, held, lease=120.0), lease=120.0) as keeper:
        while reader.turn(keeper):
            pass
    reader.close()


def started(what: str, url: str, count: int, arguments: Sequence[str]) -> tuple[float, float]:
    """Start workers, let them go together, and wait; seconds, and core-seconds of all of them."""
    command = [sys.executable, "-m", "benchmarks.fleet", "--worker", what, "--url", url, *arguments]
    workers = [
        subprocess.Popen([*command, "--owner", f"w{n}"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for n in range(count)
    ]
    for one in workers:
        assert one.stdout is not None and one.stdin is not None
        while (line := one.stdout.readline()) != "ready\n":  # the role's log comes before
            if not line:
                raise SystemExit("a worker did not start")
    began = time.monotonic()
    for one in workers:
        assert one.stdin is not None
        one.stdin.write("go\n")
        one.stdin.close()
    cpu = 0.0
    for one in workers:
        assert one.stdout is not None
        said = one.stdout.read().split()
        if one.wait() != 0:
            raise SystemExit("a worker ended with a fault")
        cpu += float(said[-1]) if said else 0.0
    return time.monotonic() - began, cpu


@contextlib.contextmanager
def server(url: str, *, durable: bool) -> Iterator[tuple[str, int]]:
    """The URL of an empty database, and the process id of PostgreSQL where it is ours, else 0."""
    if url:
        yield url, 0
        return
    from tests.peers import Postgres

    programs = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    if not programs:
        raise SystemExit("PostgreSQL is not installed: make peers, or name one with --url")
    postgres = Postgres(programs[-1].parent)
    postgres.start()
    try:
        made = postgres.new_database()
        if durable:
            with sa.create_engine(made).connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
                connection.execute(sa.text("ALTER SYSTEM SET fsync = on"))
                connection.execute(sa.text("SELECT pg_reload_conf()"))
        assert postgres._process is not None
        yield made, postgres._process.pid
    finally:
        postgres.stop()


def database_cpu(pid: int) -> float:
    """Core-seconds of PostgreSQL and its processes so far, those that ended with them."""
    if not pid:
        return 0.0
    tick = os.sysconf("SC_CLK_TCK")
    total = 0
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    for one, last in ((str(pid), 15), *((child, 13) for child in children)):
        with contextlib.suppress(OSError):
            fields = Path(f"/proc/{one}/stat").read_text().rsplit(")", 1)[1].split()
            total += sum(int(fields[place]) for place in range(11, last))
    return total / tick


def emptied(database: Database) -> None:
    """No row, so that each run finds the same."""
    from cxrnode.store import guards

    with database.write() as transaction:
        guards.remove(transaction.connection)
        names = ", ".join(table.name for table in metadata.sorted_tables)
        transaction.connection.execute(sa.text(f"TRUNCATE {names} RESTART IDENTITY CASCADE"))
        guards.install(transaction.connection)


def checked(database: Database, count: int) -> None:
    """Every job was reported once: a figure of anything else would be worth nothing."""
    with database.read() as transaction:
        found = transaction.scalar(sa.select(sa.func.count()).select_from(event).where(event.c.name == "reported"))
        done = transaction.scalar(sa.select(sa.func.count()).select_from(job).where(job.c.state.in_(("reported",))))
    if (found, done) != (count, count):
        raise SystemExit(f"{found} reports of {done} jobs, {count} were to be")


def measured(asked: argparse.Namespace, url: str, pid: int) -> list[Run]:
    """All rows of the table."""
    database = Database(url)
    upgrade.upgrade(database)
    found: list[Run] = []
    counts = [int(one) for one in asked.workers.split(",")]
    kinds = [("claim and settle", 0.0, 0), ("the same with 4 outputs and a delivery", 0.0, 4)]
    if asked.model_ms:
        kinds.append((f"the same, a model of {asked.model_ms:g} ms", asked.model_ms, 4))
    for what, model_ms, outputs in kinds:
        for count in counts:
            emptied(database)
            fill(database, asked.jobs)
            more = ["--batch", str(asked.batch), "--model-ms", str(model_ms), "--outputs", str(outputs)]
            more += ["--together", str(asked.together)]
            before = database_cpu(pid)
            seconds, cpu = started("sleep", url, count, more + (["--profile"] if asked.profile else []))
            checked(database, asked.jobs)
            found.append(
                Run(what=what, workers=count, jobs=asked.jobs, seconds=seconds, worker_cpu=1000 * cpu / asked.jobs,
                    database_cpu=1000 * (database_cpu(pid) - before) / asked.jobs)
            )  # fmt: skip
            say(found[-1])
    if asked.read:
        found += _read_runs(asked, database, url, pid, counts)
    database.close()
    return found


def _read_runs(asked: argparse.Namespace, database: Database, url: str, pid: int, counts: Sequence[int]) -> list[Run]:
    from cxrnode.phantom.dicom import write_phantoms

    found = []
    with tempfile.TemporaryDirectory(prefix="cxrnode-fleet-") as name:
        films = write_phantoms(Path(name) / "films", range(asked.read), rows=1024, cols=1024)
        for count in counts:
            emptied(database)
            folder = Path(name) / f"node-{count}"
            receive(database, config_of(url, folder), folder, films)
            before = database_cpu(pid)
            seconds, cpu = started("read", url, count, ["--folder", str(folder)])
            checked(database, len(films))
            found.append(
                Run(what="infer itself, 1024 x 1024", workers=count, jobs=len(films), seconds=seconds,
                    worker_cpu=1000 * cpu / len(films), database_cpu=1000 * (database_cpu(pid) - before) / len(films))
            )  # fmt: skip
            say(found[-1])
    return found


def receive(database: Database, config: Config, folder: Path, films: Sequence[Path]) -> None:
    """Receive films as a listener hands them over."""
    import shutil

    from cxrnode.core.routing import Association
    from cxrnode.dicom.header import read_header
    from cxrnode.dicom.listener import Received
    from cxrnode.dicom.part10 import dataset_digest, dataset_offset
    from cxrnode.roles.context import Context
    from cxrnode.roles.receive import Receiver
    from cxrnode.spool import FolderSpool

    spool = FolderSpool(folder / "spool")
    receiver = Receiver(
        Context(config=config, database=database, spool=spool, owner="bench", stopping=threading.Event(),
                beat=lambda: None, ready=lambda: None)
    )  # fmt: skip
    for number, film in enumerate(films):
        copy = spool.incoming / f"film-{number}"
        shutil.copyfile(film, copy)
        header = read_header(film)
        receiver.receive(
            Received(
                path=copy, sop_class_uid=header.SOPClassUID, sop_instance_uid=header.SOPInstanceUID,
                transfer_syntax_uid=header.file_meta.TransferSyntaxUID,
                association=Association(calling_aet="MODALITY", called_aet="CXRNODE", host="127.0.0.1"),
                size=film.stat().st_size, dataset_offset=dataset_offset(film), digest=dataset_digest(film),
            )
        )  # fmt: skip


def say(one: Run) -> None:
    """One line of the table."""
    print(
        f"{one.what:42}{one.workers:>8}{one.jobs:>7}{one.seconds:>9.2f}{one.rate:>9.0f}{one.worker_cpu:>11.2f}"
        f"{one.database_cpu:>12.2f}",
        flush=True,
    )


def _work(asked: argparse.Namespace) -> None:
    spent = -time.process_time()
    if asked.worker == "read":
        read(asked.url, asked.folder, owner=asked.owner)
    else:
        database = Database(asked.url)
        with database.read():
            pass  # the first connection is no part of it
        print("ready", flush=True)
        sys.stdin.readline()
        spent = -time.process_time()  # starting is no part of it
        how: dict[str, Any] = {name: getattr(asked, name) for name in ("owner", "batch", "model_ms", "together")}
        profile = cProfile.Profile() if asked.profile and asked.owner == "w0" else None
        with profile or contextlib.nullcontext():
            coordinate(asked.url, outputs=asked.outputs, **how)
        if profile:
            pstats.Stats(profile, stream=sys.stderr).sort_stats("tottime").print_stats(25)
    print(spent + time.process_time() + sum(os.times()[2:4]))


def main() -> None:
    """Measure and print a table; exit status 1 where coordination bears less than it must."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.fleet", description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--jobs", type=int, default=4000)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--together", type=int, default=8, help="jobs settled in one transaction, as `infer` does")
    parser.add_argument("--model-ms", type=float, default=0.0, help="a third run, whose workers sleep so long a job")
    parser.add_argument("--workers", default="1,2,4")
    parser.add_argument("--read", type=int, default=0, metavar="FILMS")
    parser.add_argument("--url", default="", help="of an EMPTY database: it is truncated")
    parser.add_argument("--durable", action="store_true")
    parser.add_argument("--profile", action="store_true")
    parser.add_argument("--json", type=Path)
    for name in ("worker", "owner"):
        parser.add_argument(f"--{name}", default="", help=argparse.SUPPRESS)
    parser.add_argument("--outputs", type=int, default=0, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.worker:
        _work(asked)
        return
    print(f"{'':42}{'workers':>8}{'jobs':>7}{'seconds':>9}{'jobs/s':>9}{'worker ms':>11}{'database ms':>12}")
    with server(asked.url, durable=asked.durable) as (url, pid):
        found = measured(asked, url, pid)
    best = max(one.rate for one in found if one.what == "claim and settle")
    print(f"coordination's ceiling: {best:.0f} jobs/s, {BAR:.0f} must be; load {os.getloadavg()[0]:.1f}")
    if asked.json:
        rows = [{**dataclasses.asdict(one), "rate": one.rate} for one in found]
        asked.json.write_text(
            json.dumps({"ceiling": best, "bar": BAR, "durable": asked.durable, "runs": rows}, indent=1)
        )
    sys.exit(0 if best >= BAR else 1)


if __name__ == "__main__":
    main()
