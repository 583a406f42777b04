"""`cxrnode evaluate`: what a bundle is worth on films with labels. Changes no bundle; the films are only read."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from cxrnode.cli import tables
from cxrnode.cli.models import folder_of
from cxrnode.cli.options import config_option, json_option, load_if_there
from cxrnode.errors import CxrnodeError

if TYPE_CHECKING:
    from cxrnode.reading.bundle import Bundle
    from cxrnode.reading.engine import Engine
    from cxrnode.training.evaluation import Evaluation
    from cxrnode.training.localisation import Located
    from cxrnode.training.readers import FilmList

#: The ways of `reading.explain.Method`, without loading torch to say them.
METHODS = ("gradcam", "gradcam++", "integrated-gradients", "lime", "occlusion")
#: What is held against boxes unless `--method` says otherwise.
COMPARED = METHODS[:3]


@click.command()
@click.argument("bundle")
@click.option(
    "--data",
    "place",
    required=True,
    metavar="FILE.csv|DIR",
    type=click.Path(path_type=Path),
    help="Films with labels: a CSV file, NIH's folder, or folders NORMAL and PNEUMONIA.",
)
@click.option("--fold", "folds", multiple=True, metavar="N", help="Only rows of this fold; may be given again.")
@click.option("--without", multiple=True, metavar="FINDING", help="Leave a finding out; may be given again.")
@click.option("--ignore", multiple=True, metavar="COLUMN", help="Pass over a column; may be given again.")
@click.option(
    "--boxes",
    metavar="FILE.csv",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Boxes (image, finding, x, y, w, h of a 1024 px film): measure localisation.",
)
@click.option(
    "--method",
    "methods",
    multiple=True,
    type=click.Choice(METHODS),
    default=COMPARED,
    show_default=True,
    help="Saliency to hold against the boxes; may be given again. All but gradcam take a second a film, or more.",
)
@click.option("--steps", type=click.IntRange(min=2), help="Steps of integrated gradients.  [default: 8]")
@click.option("--most-boxed", type=click.IntRange(min=1), help="Films with boxes of each finding, at most.")
@click.option(
    "--others",
    metavar="FILE.csv|DIR",
    type=click.Path(path_type=Path),
    help="Pictures that are no film for the model (image, kind): measure plausibility.",
)
@click.option(
    "--apart",
    metavar="DIR",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="The folder `apart` of a run: read each film with the bundle there that never saw its fold.",
)
@click.option(
    "--html",
    metavar="FILE",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Write the report with its plots: one file that needs no other.",
)
@click.option("--threads", type=click.IntRange(min=1), metavar="N", help="Cores to use; else all.")
@json_option
@config_option
def evaluate(
    bundle: str,
    place: Path,
    folds: tuple[str, ...],
    without: tuple[str, ...],
    ignore: tuple[str, ...],
    boxes: Path | None,
    methods: tuple[str, ...],
    most_boxed: int | None,
    steps: int | None,
    others: Path | None,
    apart: Path | None,
    html: Path | None,
    threads: int | None,
    as_json: bool,
    config_path: Path | None,
) -> None:
    """Measure a bundle on films with labels. BUNDLE is a model of the configuration, a bundle's name, or a path."""
    folder = folder_of(load_if_there(config_path), bundle)
    from cxrnode.reading.bundle import load_bundle
    from cxrnode.reading.engine import TorchEngine
    from cxrnode.training import evaluation, readers
    from cxrnode.training.localisation import pooled

    loaded = load_bundle(folder)
    labels = [label.name for label in loaded.manifest.labels]
    if unknown := [name for name in without if name not in labels]:
        raise CxrnodeError(f"--without {unknown[0]}: the model has no such finding, only {', '.join(labels)}")
    wanted = [name for name in labels if name not in without]
    films = evaluation.for_judging(readers.read_films(place, wanted, folds=folds, ignored=ignore, show=True))
    engine = TorchEngine(loaded, threads=threads)
    unseeing = {} if apart is None else _apart(apart, loaded)
    readers_of = {fold: TorchEngine(one, threads=threads) for fold, one in unseeing.items()}
    with progress("films", len(films.rows)) as done:
        found = evaluation.evaluate(loaded, engine, films, apart=readers_of, done=done)
    if others is not None:
        found = _refusal(loaded, engine, found, others)
    if boxes is not None:
        parts = [(loaded, films.rows)]
        if unseeing:
            parts = [(one, tuple(row for row in films.rows if row.fold == fold)) for fold, one in unseeing.items()]
        located = [
            _located(one, dataclasses.replace(films, rows=rows), boxes, methods, most_boxed, steps)
            for one, rows in parts
            if rows
        ]
        found = dataclasses.replace(found, localisation=pooled(located))
    if html is not None:
        from cxrnode.training.page import page

        try:
            html.write_text(page(found), encoding="utf-8")
        except OSError as error:
            raise CxrnodeError(f"--html {html}: cannot be written ({error.strerror})") from None
    for row in found.bad_rows[:20]:
        tables.aside(f"left out: row {row.row}, {row.image}: {row.reason}")
    if len(found.bad_rows) > 20:
        tables.aside(f"left out: {len(found.bad_rows) - 20} rows more; --json and --html name them all")
    if as_json:
        tables.emit(found.to_json())
        return
    _show(found)


def _apart(folder: Path, bundle: Bundle) -> dict[int, Bundle]:
    """The bundles of a run that never saw a fold, by that fold."""
    from cxrnode.reading.bundle import load_bundle

    folds = {place.name.removeprefix("fold-"): place for place in sorted(folder.glob("fold-*"))}
    found = {int(fold): load_bundle(place) for fold, place in folds.items() if fold.isdecimal()}
    if not found:
        raise CxrnodeError(f"--apart {folder}: no bundle fold-N is there; name the folder `apart` of a run")
    for fold, one in found.items():
        if [label.name for label in one.manifest.labels] != [label.name for label in bundle.manifest.labels]:
            raise CxrnodeError(f"--apart {folder}: fold-{fold} has other findings than {bundle.manifest.name}")
    return found


def _refusal(bundle: Bundle, engine: Engine, found: Evaluation, others: Path) -> Evaluation:
    import numpy as np

    from cxrnode.training.refusal import find_strangers, measure_refusal

    strangers = find_strangers(others)
    limit = bundle.manifest.plausibility.limit
    with progress("others", len(strangers)) as done:
        kinds, bad = measure_refusal(engine, strangers, np.array(found.distances), limit, done=done)
    return dataclasses.replace(found, refusal=kinds, bad_rows=(*found.bad_rows, *bad))


def _located(
    bundle: Bundle, films: FilmList, boxes: Path, methods: tuple[str, ...], most: int | None, steps: int | None
) -> tuple[Located, ...]:
    from cxrnode.reading.explain import Method
    from cxrnode.reading.network import build_network
    from cxrnode.training.localisation import STEPS, locate, read_boxes

    labels = [label.name for label in bundle.manifest.labels]
    boxed = read_boxes(boxes, films.rows, films.labels)
    network = build_network(bundle.weights, bundle.manifest.shape)
    with progress("boxes", len(boxed)) as done:
        return locate(
            boxed,
            network,
            bundle.manifest.input,
            labels,
            [Method(name) for name in methods],
            most=most,
            steps=steps or STEPS,
            done=lambda: done(1),
        )


@contextlib.contextmanager
def progress(what: str, total: int) -> Iterator[Callable[[int], None]]:
    """A bar on stderr with the time left, where that is a terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task(what, total=total)
        yield lambda count: progress.advance(task, count)


def _show(found: Evaluation) -> None:
    from cxrnode.training.page import shown

    if found.demonstration:
        tables.say("DEMONSTRATION MODEL: not for patients", style="bold red")
    tables.pairs(
        [
            ("data", f"{found.data}: {found.films} films of {found.patients} patients"),
            ("left out", f"{len(found.bad_rows)} rows" if found.bad_rows else ""),
            (
                "read by",
                f"networks that never saw a film's fold ({', '.join(map(str, found.apart))})" if found.apart else "",
            ),
            ("mean AUROC", shown(found.mean)),
            ("within origins", "" if found.mean_within is None else f"{found.mean_within:.3f}"),
            ("among the ill", "" if found.mean_ill is None else f"{found.mean_ill:.3f}"),
            ("implausible", f"{shown(found.implausible)}: the node would not analyse these films; they count here"),
            ("shown", f"{found.scale}" + (f", at the prevalence of {found.population}" if found.population else "")),
            ("weights", found.weights_digest),
        ],
        title=f"Bundle {found.bundle} {found.version}",
    )
    tables.table(
        (
            "finding",
            "positives",
            "AUROC",
            "average precision",
            "ECE here",
            "rule-out",
            "sensitivity",
            "rule-in",
            "specificity",
        ),
        (
            (
                one.finding.replace("_", " "),
                one.positives,
                shown(one.auroc),
                shown(one.average_precision),
                f"{(one.reliability_here or one.reliability).ece:.3f}",
                f"{one.rule_out.threshold:.4f}" if one.rule_out else "-",
                shown(one.rule_out.sensitivity, 2) if one.rule_out else "-",
                f"{one.rule_in.threshold:.4f}" if one.rule_in else "-",
                shown(one.rule_in.specificity, 2) if one.rule_in else "-",
            )
            for one in found.findings
        ),
        numbers="positives rule-out rule-in",
    )
    if found.subgroups:
        tables.table(
            ("group", "films", "mean AUROC", "of findings"),
            (
                (
                    f"{group.by} {group.group}",
                    group.films,
                    "-" if group.mean_auroc is None else f"{group.mean_auroc:.3f}",
                    len(group.auroc),
                )
                for group in found.subgroups
            ),
            numbers="films",
        )
    if found.refusal:
        tables.table(
            ("no film for the model", "pictures", "AUROC of the distance", "refused"),
            ((one.kind, one.films, shown(one.auroc), shown(one.refused)) for one in found.refusal),
            numbers="pictures",
        )
    if found.localisation:
        tables.table(
            ("finding", "method", "films", "pointing game", "mean IoU", "empty"),
            (
                (
                    one.finding.replace("_", " "),
                    one.method,
                    one.films,
                    shown(one.pointing, 2),
                    f"{one.iou:.3f}",
                    one.empty,
                )
                for one in found.localisation
            ),
            numbers="films empty",
        )
