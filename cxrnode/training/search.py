"""A search over the ranges that a recipe declares, with Optuna: a table, a plot, and the best values as a recipe.

Judges by the watched folds alone; what is held out plays no part. A search that was stopped goes on.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import math
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cxrnode.errors import Rejected
from cxrnode.training.recipe import Range, Recipe
from cxrnode.training.recipes import changed, format_recipe
from cxrnode.training.run import prepare, write_text
from cxrnode.training.student import RunError
from cxrnode.training.watcher import Watcher

if TYPE_CHECKING:
    import optuna

TABLE, PLOT, BEST, JOURNAL = "trials.json", "trials.png", "best.toml", "trials.log"


class CannotSearch(Rejected):
    """The recipe cannot be searched, or nothing came of it; the message says what to do."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """One trial: its settings by dotted key, and the best mean AUC on the watched films; None where it failed."""

    number: int
    value: float | None
    values: dict[str, Any]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Searched:
    """A search that is over. `recipe` is the file with the best values."""

    keys: tuple[str, ...]
    trials: tuple[Trial, ...]
    best: Trial
    recipe: Path

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "best": dataclasses.asdict(self.best),
            "recipe": str(self.recipe),
            "trials": [dataclasses.asdict(trial) for trial in self.trials],
        }


def search(recipe: Recipe, place: Path, folder: Path, watcher: Watcher, *, trials: int, **given: Any) -> Searched:
    """Try `trials` settings in all, those of a stopped search among them. `given` is as for `run.prepare`.

    Raises CannotSearch, and what a run raises before its first step.
    """
    if not recipe.search:
        raise CannotSearch(f'recipe {recipe.name} declares no ranges; give it tables such as [search."phases.0.rate"]')
    if not recipe.films.watched:
        raise CannotSearch(
            f"recipe {recipe.name} watches no fold, and what is held out must not choose; give films.watched a fold"
        )
    try:
        import optuna
        from optuna.storages import JournalStorage
        from optuna.storages.journal import JournalFileBackend
    except ImportError as error:
        raise CannotSearch(f"a search needs {error.name}: pip install 'cxrnode[train]'") from error
    optuna.logging.set_verbosity(logging.WARNING)
    for key, where in recipe.search.items():
        changed(recipe, {key: where.choices[0] if where.choices else where.low})  # a wrong key is said before all work

    def judged(trial: optuna.Trial) -> float:
        values = {key: _suggested(trial, key, where) for key, where in recipe.search.items()}
        watcher.said(f"trial {trial.number + 1} of {trials}")
        part = folder / "trial"
        shutil.rmtree(part, ignore_errors=True)  # of a trial that was stopped
        trainer = prepare(changed(recipe, values), place, part, watcher, **given)
        try:
            trainer.run(watcher.stepped, watcher.ended)
        except RunError as error:  # a rate at which nothing is learnt is an answer too
            raise optuna.TrialPruned(str(error)) from error
        finally:
            shutil.rmtree(part, ignore_errors=True)
        last = len(recipe.phases) - 1
        areas = [line.mean_auc for line in trainer.log if line.phase == last and not math.isnan(line.mean_auc)]
        if not areas:
            raise CannotSearch("the watched films have no label both ways: nothing can be compared; give more films")
        return max(areas)

    folder.mkdir(parents=True, exist_ok=True)
    # Another recipe in the same folder is another search.
    name = hashlib.sha256(format_recipe(recipe).encode()).hexdigest()[:16]
    study = optuna.create_study(
        study_name=name,
        load_if_exists=True,
        direction="maximize",
        sampler=optuna.samplers.TPESampler(seed=recipe.seed),
        storage=JournalStorage(JournalFileBackend(str(folder / JOURNAL))),
    )
    over = sum(trial.state.is_finished() for trial in study.trials)
    study.optimize(judged, n_trials=max(trials - over, 0))
    found = tuple(
        Trial(number=trial.number + 1, value=trial.value, values=dict(trial.params))
        for trial in study.trials
        if trial.state.is_finished()
    )
    told = [trial for trial in found if trial.value is not None]
    if not told:
        raise CannotSearch("no trial came to its end; narrow the ranges of [search]")
    best = max(told, key=lambda trial: (trial.value, -trial.number))
    searched = Searched(keys=tuple(recipe.search), trials=found, best=best, recipe=folder / BEST)
    chosen = changed(recipe, {**best.values, "search": {}})
    head = (
        f"# {recipe.name} with the best of {len(found)} trials: number {best.number}, {best.value:.4f} when watched.\n"
    )
    write_text(folder / BEST, head + format_recipe(chosen))
    write_text(folder / TABLE, json.dumps(searched.to_json(), indent=1) + "\n")
    from cxrnode.training import plots

    settings = [[trial.values.get(key) for key in searched.keys] for trial in found]
    (folder / PLOT).write_bytes(plots.trials([trial.value for trial in found], searched.keys, settings))
    return searched


def _suggested(trial: optuna.Trial, key: str, where: Range) -> Any:
    if where.choices:
        return trial.suggest_categorical(key, list(where.choices))
    assert where.low is not None and where.high is not None  # the recipe was checked
    return trial.suggest_float(key, where.low, where.high, log=where.log)
