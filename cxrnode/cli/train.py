"""`cxrnode train`: from films with labels to a bundle, after a recipe. The films are only read."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cxrnode.cli import tables
from cxrnode.cli.options import config_option, json_option

if TYPE_CHECKING:
    from cxrnode.training.course import Course
    from cxrnode.training.epochs import Epoch
    from cxrnode.training.recipe import Recipe
    from cxrnode.training.run import Finished


@click.command()
@click.argument("recipe")
@click.option(
    "--data",
    "place",
    required=True,
    metavar="DIR",
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder of the films and of the recipe's lists.",
)
@click.option(
    "--out",
    metavar="RUN",
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder of the run (default: runs/RECIPE). A run that was stopped goes on there.",
)
@click.option("--seed", type=int, help="Another seed than the recipe's. The same seed gives the same weights.")
@click.option("--threads", type=click.IntRange(min=1), help="Threads of the processor (default: all it has).")
@click.option("--device", metavar="NAME", help="cpu or cuda (default: cuda where there is one).")
@click.option(
    "--start-weights",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="Begin with these (transfer): a bundle, .safetensors, or a state dict of torch.",
)
@click.option(
    "--held-out", "folds", type=int, multiple=True, metavar="N", help="Another fold held out; again for more."
)
@click.option("--epochs", type=click.IntRange(min=1), help="For a try: at most so many epochs in each phase.")
@click.option("--films", type=click.IntRange(min=1), help="For a try: at most so many films of each list.")
@click.option("--side", type=click.IntRange(min=32), help="For a try: another side of the input, in pixels.")
@click.option(
    "--search",
    "trials",
    type=click.IntRange(min=1),
    metavar="N",
    help="Search the recipe's ranges with Optuna in N trials; write the best as a recipe, and train nothing else.",
)
@json_option
@config_option
def train(
    recipe: str,
    place: Path,
    out: Path | None,
    seed: int | None,
    threads: int | None,
    device: str | None,
    start_weights: Path | None,
    folds: tuple[int, ...],
    epochs: int | None,
    films: int | None,
    side: int | None,
    trials: int | None,
    as_json: bool,
    config_path: Path | None,
) -> None:
    """Train RECIPE, a shipped recipe's name or a TOML file, on films with labels; write a bundle and a report."""
    from cxrnode.training.recipes import changed, in_small, read_recipe

    chosen = in_small(read_recipe(recipe), epochs=epochs, side=side, held_out=folds or None)
    if seed is not None:
        chosen = changed(chosen, {"seed": seed})
    folder = out or Path("runs") / chosen.name
    given: dict[str, Any] = {"films": films, "threads": threads, "device": device, "start": start_weights}
    with _Shown(chosen) as shown:
        if trials is not None:
            _search(chosen, place, folder, shown, trials, given, as_json)
            return
        from cxrnode.training.run import train as run

        finished = run(chosen, place, folder, shown, **given)
        shown.said("verifying the bundle")
        from cxrnode.reading.oracle import verify_bundle

        checks = verify_bundle(finished.folder / "bundle", threads=threads)
    left_out = (*finished.course.bad, *finished.unreadable)
    for bad in left_out[:20]:
        tables.aside(f"left out: row {bad.row}, {bad.image}: {bad.reason}")
    if len(left_out) > 20:
        tables.aside(f"left out: {len(left_out) - 20} rows more; the report names them")
    for note in finished.course.notes:
        tables.aside(f"note: {note}")
    good = all(check.ok for check in checks)
    if as_json:
        from cxrnode.training.run import metrics_text

        click.echo(metrics_text(finished))
    else:
        _tell(chosen, finished, good)
    if not good:
        for check in checks:
            if not check.ok:
                tables.aside(f"the bundle does not verify: {check.name}: {check.detail}")
        raise SystemExit(1)


def _tell(recipe: Recipe, finished: Finished, good: bool) -> None:
    from cxrnode.training.recipe import ORIGINAL

    course, outcome = finished.course, finished.outcome
    tables.pairs(
        [
            ("trained on", f"{len(course.train)} films"),
            ("held out", f"{outcome.films} films"),
            ("left out", f"{left_out} rows" if (left_out := len(course.bad) + len(finished.unreadable)) else ""),
            ("epochs", f"{len(finished.log)} in {finished.minutes:.1f} minutes"),
            ("bundle", str(finished.folder / "bundle") + (", verified" if good else "")),
            ("report", str(finished.folder / "report.html")),
        ],
        title=recipe.title,
    )
    rows = [
        (name, _number(outcome.measured.get(key)), _number(recipe.original.get(key)))
        for key, name in ORIGINAL.items()
        if key in outcome.measured or key in recipe.original
    ]
    tables.table(("measure", "held-out films", "original"), rows, numbers="held-out original")


def _number(value: float | None) -> str:
    return "-" if value is None or value != value else f"{value:.3f}"


def _search(
    recipe: Recipe, place: Path, folder: Path, shown: _Shown, trials: int, given: Mapping[str, Any], as_json: bool
) -> None:
    from cxrnode.training.search import search

    found = search(recipe, place, folder, shown, trials=trials, **given)
    if as_json:
        tables.emit(found.to_json())
        return
    tables.table(
        ("trial", "value", *found.keys),
        (
            (one.number, _number(one.value), *(_setting(one.values.get(key)) for key in found.keys))
            for one in found.trials
        ),
        numbers="trial value",
    )
    tables.say(f"best: trial {found.best.number}; {found.recipe} trains it: cxrnode train {found.recipe}")


def _setting(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


class _Shown:
    """A `Watcher`: one bar with loss, AUC and time left on stderr where that is a terminal, and a line an epoch."""

    def __init__(self, recipe: Recipe) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

        self._recipe = recipe
        self._console = Console(stderr=True)
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.fields[said]}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
        )
        self._progress = Progress(
            *columns,
            console=self._console,
            transient=True,
            disable=not self._console.is_terminal,
            speed_estimate_period=600,
        )
        self._task = self._progress.add_task("reading the lists", total=None, said="")
        self._steps: list[int] = []
        self._auc = ""

    def __enter__(self) -> _Shown:
        self._progress.start()
        return self

    def __exit__(self, *raised: object) -> None:
        self._progress.stop()

    def planned(self, course: Course, steps: int) -> None:
        """Say how many films there are: of the run, and of each network of folds apart."""
        self._recipe = course.recipe
        self._console.print(
            f"{course.recipe.name}: {len(course.train)} films to train on, {len(course.watched)} watched, "
            f"{len(course.held)} held out; {len(course.bad)} rows left out",
            highlight=False,
        )
        size = course.recipe.optimiser.batch
        self._steps = [max(1, len(lesson.rows) // size) for lesson in course.lessons]
        self._progress.update(self._task, total=steps, completed=0, description="opening films")

    def opened(self, count: int) -> None:
        """Films are opened or read: no step of training, but a sign of life."""
        self._progress.advance(self._task, 0)

    def stepped(self, phase: int, epoch: int, share: float, loss: float) -> None:
        """Move the bar to where the run is: a run that goes on begins in the middle."""
        phases = self._recipe.phases
        before = sum(
            one.epochs * steps for one, steps in zip(phases, self._steps, strict=False) if one in phases[:phase]
        )
        done = before + (epoch + share) * self._steps[phase]
        title = f"phase {phase + 1}/{len(phases)} epoch {epoch + 1}/{phases[phase].epochs}"
        self._progress.update(self._task, completed=done, description=title, said=f"loss {loss:.4f}{self._auc}")

    def ended(self, line: Epoch) -> None:
        """Print the epoch."""
        self._auc = f" AUC {line.mean_auc:.3f}"
        name = self._recipe.phases[line.phase].name or f"phase {line.phase + 1}"
        self._console.print(
            f"{name}, epoch {line.epoch + 1} of {self._recipe.phases[line.phase].epochs} at {line.side} px: "
            f"loss {line.loss:.4f}, unseen {line.seen_loss:.4f}, AUC {line.mean_auc:.4f}, {line.seconds:.0f} s",
            highlight=False,
        )

    def said(self, what: str) -> None:
        """Say what follows."""
        self._progress.update(self._task, description=what, said="")
        if not self._console.is_terminal:
            self._console.print(what, highlight=False)
