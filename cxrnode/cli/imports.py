"""`cxrnode model pull` and `cxrnode model import`: published checkpoints, fetched and turned into bundles.

Two steps on purpose: what comes from the network is opened only when a person says so, offline.
"""

from __future__ import annotations

import re
from pathlib import Path

import click

from cxrnode.cli import tables
from cxrnode.cli.options import config_option, json_option, load_if_there
from cxrnode.errors import CxrnodeError


@click.command("pull")
@click.argument("name", required=False)
@click.option("--folder", type=click.Path(path_type=Path, file_okay=False), help="Else data_dir/downloads.")
@json_option
@config_option
def pull_command(name: str | None, folder: Path | None, as_json: bool, config_path: Path | None) -> None:
    """Fetch a published checkpoint and check its digest; without NAME list those that are known. Opens none."""
    from cxrnode.training.published import PUBLISHED, pull

    if name is None:
        _list(as_json)
        return
    if name not in PUBLISHED:
        raise CxrnodeError(f"no published checkpoint {name!r}, only {', '.join(PUBLISHED)}")
    published = PUBLISHED[name]
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task(name, total=None)
        path = pull(
            published,
            folder or _data_dir(config_path) / "downloads",
            progress=lambda done, whole: progress.update(task, completed=done, total=whole),
        )
    if as_json:
        tables.emit({"name": name, "file": str(path), "licence": published.licence, "note": published.note})
        return
    tables.say(f"{path}: its digest is the pinned one")
    tables.say(f"licence: {published.licence}")
    tables.say(f"next: cxrnode model import {path} --trust --name {name}, if you trust {published.repository}")


@click.command("import")
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@click.option("--name", help="Of the bundle; else that of the file.")
@click.option("--trust", is_flag=True, help="Run the program that a pickle is: offline, and after its digest matched.")
@click.option("--digest", metavar="HEX", help="SHA-256, or what `git hash-object` prints: checked before all else.")
@click.option("--labels", metavar="A,B,...", help="The outputs in their order; else the 14 of ChestX-ray14.")
@click.option("--size", type=click.IntRange(min=32), default=224, show_default=True, help="Side of the input, pixels.")
@click.option("--licence", metavar="TEXT", help="Of the weights; else as the table of published files states.")
@click.option(
    "--calibration",
    metavar="MANIFEST",
    type=click.Path(path_type=Path, dir_okay=False),
    help="A manifest.toml with thresholds for these very weights; else nothing is assessed.",
)
@click.option(
    "--films",
    "films_at",
    metavar="FILE.csv|DIR",
    type=click.Path(path_type=Path),
    help="Ordinary chest films, 50 or more, that plausibility is learnt from.",
)
@click.option("--folder", type=click.Path(path_type=Path, file_okay=False), help="Else data_dir/models.")
@click.option("--force", is_flag=True, help="Replace a bundle of this name.")
@json_option
@config_option
@click.pass_context
def import_command(
    ctx: click.Context,
    file: Path,
    name: str | None,
    trust: bool,
    digest: str | None,
    labels: str | None,
    size: int,
    licence: str | None,
    calibration: Path | None,
    films_at: Path | None,
    folder: Path | None,
    force: bool,
    as_json: bool,
    config_path: Path | None,
) -> None:
    """Turn a DenseNet-121 checkpoint (safetensors, a state dict, a whole pickled model) into a bundle; verify it."""
    from cxrnode.core.findings import NIH14
    from cxrnode.reading.oracle import verify_bundle
    from cxrnode.training.checkpoint import import_checkpoint
    from cxrnode.training.listed import find_films
    from cxrnode.training.readers.picture import open_film

    name = name or re.sub(r"[^A-Za-z0-9._-]+", "-", file.name.split(".")[0])
    if Path(name).name != name or name in ("", ".", ".."):
        raise CxrnodeError(f"--name {name}: a plain name is needed, which becomes that of a folder")
    target = (folder or _data_dir(config_path) / "models") / name
    if target.exists() and not force:
        raise CxrnodeError(f"{target} is there already; --force replaces it, --name gives another")
    import_checkpoint(
        file,
        target,
        name=name,
        labels=tuple(part.strip() for part in labels.split(",")) if labels else NIH14,
        size=size,
        trust=trust,
        digest=digest,
        licence=licence,
        calibration=calibration,
        films=[open_film(path) for path in find_films(films_at)] if films_at else (),
    )
    checks = verify_bundle(target)
    # Without films it cannot be otherwise, and is said below.
    good = all(one.ok or (one.name == "plausibility" and films_at is None) for one in checks)
    if as_json:
        tables.emit({"bundle": name, "folder": str(target), "ok": good, "checks": checks})
    else:
        tables.say(f"{target}")
        tables.table(("what", "state", "seen"), ((one.name, "ok" if one.ok else "FAULT", one.detail) for one in checks))
    if films_at is None:
        tables.aside("plausibility knows the layout of films alone, no texture; --films DIR teaches it more")
    if calibration is None:
        tables.aside("no thresholds: nothing is assessed; `cxrnode evaluate` measures the bundle on films with labels")
    ctx.exit(0 if good else 1)


def _list(as_json: bool) -> None:
    from cxrnode.training.published import PUBLISHED

    rows = list(PUBLISHED.values())
    if as_json:
        tables.emit(rows)
        return
    tables.table(
        ("name", "repository", "mean AUC stated", "on", "licence", "note"),
        (
            (row.name, row.repository, f"{row.auc:g}" if row.auc else "-", row.measured, row.licence, row.note)
            for row in rows
        ),
    )


def _data_dir(config_path: Path | None) -> Path:
    from cxrnode.config import Node

    config = load_if_there(config_path)
    return (config.node if config else Node()).data_dir
