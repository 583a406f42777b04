"""`cxrnode audit verify|seal|erase|rebuild`: the audit trail itself, and the identities beside it."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from cxrnode.cli import tables
from cxrnode.cli.options import Fault, config_option, json_option, load, open_store, who
from cxrnode.errors import ConfigError

if TYPE_CHECKING:
    from cxrnode.store.seals import Exported


@click.command("verify")
@click.option(
    *("--seal", "files"),
    multiple=True,
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    metavar="FILE",
    help="Against a seal that was kept elsewhere; may be given again.",
)
@click.option(
    "--digest", "digests", multiple=True, metavar="HEX", help="Against the digest of a seal, as the log has it."
)
@json_option
@config_option
def verify_command(files: tuple[Path, ...], digests: tuple[str, ...], as_json: bool, config_path: Path | None) -> None:
    """Go through the whole trail: every chain, every seal, the database's guards. Names the first broken row."""
    from cxrnode.store import seals

    kept = [_exported(path) for path in files]
    with open_store(load(config_path)) as database:
        faults = list(seals.verify(database))
        for one in kept:
            faults += seals.compare(database, one)
        for digest in digests:
            faults += seals.compare_digest(database, digest.strip().lower())
        sealed = seals.every(database)
    if as_json:
        tables.emit({"good": not faults, "seals": len(sealed), "compared": len(kept) + len(digests), "faults": faults})
    else:
        for fault in faults:
            tables.say(fault.text)
        if not faults:
            last = f"the last of {tables.local(sealed[-1].sealed_at)}" if sealed else "none yet"
            tables.say(f"the trail is whole: every event follows from the one before; {len(sealed)} seals hold, {last}")
    if faults:
        raise Fault(f"the audit trail was changed: {len(faults)} faults")


def _exported(path: Path) -> Exported:
    from cxrnode.store.seals import Exported

    try:
        return Exported.from_json(path.read_text(encoding="utf-8"))
    except (OSError, KeyError, TypeError, ValueError):
        raise ConfigError(f"{path} is no seal that `cxrnode audit seal` or `tend` wrote") from None


@click.command("seal")
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE", help="Write the seal there.")
@json_option
@config_option
def seal_command(out: Path | None, as_json: bool, config_path: Path | None) -> None:
    """Seal the trail now, as `tend` does once a day. Keep what it writes on another machine."""
    from cxrnode.store import seals

    with open_store(load(config_path)) as database:
        taken = seals.take(database) or seals.latest(database)
        if taken is None:
            raise Fault("nothing happened yet that could be sealed")
        if out is not None:
            text = seals.export(database, taken).to_json()
            with os.fdopen(os.open(out, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644), "w") as file:
                file.write(text + "\n")
    if as_json:
        tables.emit(taken)
        return
    tables.pairs(
        [
            ("seal", taken.id),
            ("taken", tables.local(taken.sealed_at)),
            ("events", f"{taken.first_event} to {taken.last_event}"),
            ("digest", taken.digest),
        ]
    )


@click.command("erase")
@click.argument("instance_ids", metavar="[INSTANCE]...", nargs=-1, type=int)
@click.option("--patient-id", metavar="TEXT", help="All films of this patient; - reads it from stdin.")
@click.option("--issuer", metavar="TEXT", default="", help="With --patient-id: of this issuer alone.")
@click.option("--reason", required=True, metavar="TEXT", help="Why; it stands in the audit trail. No patient's name.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@json_option
@config_option
def erase_command(
    instance_ids: tuple[int, ...],
    patient_id: str | None,
    issuer: str,
    reason: str,
    yes: bool,
    as_json: bool,
    config_path: Path | None,
) -> None:
    """Forget whose films these are, for good: names, UIDs, free text and the films themselves. The trail stands."""
    if bool(instance_ids) == (patient_id is not None):
        raise click.UsageError("name either instances or --patient-id")
    from cxrnode.node import open_spool
    from cxrnode.store import erasure

    config = load(config_path)
    if patient_id == "-":
        patient_id = sys.stdin.readline().strip()
    with open_store(config) as database:
        ids = instance_ids or erasure.of_patient(database, patient_id or "", issuer=issuer)
        if ids and not yes:
            click.confirm(f"Erase the identity of {len(ids)} films for good?", abort=True, err=True)
        done = erasure.erase(database, ids, by=who(), reason=reason)
    spool = open_spool(config)
    for key in done.keys:
        spool.remove(key)
    if as_json:
        tables.emit({"erased": done.instances, "files": len(done.keys), "refused": done.refused})
    else:
        tables.say(f"erased: {len(done.instances)} films, {len(done.keys)} files")
        for one, why in done.refused:
            tables.say(f"instance {one}: {why}")
    if done.refused or not ids:
        raise Fault(f"{len(done.refused)} films were refused" if ids else "there is no such film")


@click.command("rebuild")
@config_option
def rebuild_command(config_path: Path | None) -> None:
    """Make the histograms of the QA page anew from the rows of the audit. Safe while the node works."""
    from cxrnode.roles.rules import configured_words
    from cxrnode.store import series, tallies

    config = load(config_path)

    def told(day: int, jobs: int) -> None:
        if jobs:
            tables.aside(f"{series.date_of(day)}: {jobs} jobs")

    with open_store(config) as database:
        done = tallies.rebuild(database, configured_words(config), told=told)
    tables.say(f"counted {done} jobs")
