"""Folds apart: all films are trained on, and every number is measured on films that were never seen all the same.

For each held-out fold a network goes on from the same weights on all films but those of the fold, and later reads them:
what it makes of them tells what the recipe gives (cross-fitting). The bundle holds one network: the mean of their
weights (Wortsman et al., ICML 2022), which after that sees all films once more.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from cxrnode.reading.network import Network, new_network
from cxrnode.reading.shape import Shape
from cxrnode.training.course import Course, read_course
from cxrnode.training.epochs import Epoch
from cxrnode.training.export import Apart
from cxrnode.training.pixels import Pixels
from cxrnode.training.readers import BadRow
from cxrnode.training.recipe import Phase, Recipe
from cxrnode.training.trainer import Trainer
from cxrnode.training.watcher import Watcher


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Trained:
    """A network that is trained, with its films: those it learnt from, and those that it is measured on.

    `apart` are the networks that never saw a fold, where the recipe has folds apart: `course.train` are then all films.
    `log` counts phases as `stages` names them.
    """

    network: Network
    course: Course
    apart: tuple[Apart, ...]
    log: tuple[Epoch, ...]
    unreadable: tuple[BadRow, ...]


def stages(recipe: Recipe) -> list[str]:
    """Return the names of all that a run goes through, in its order: what `Epoch.phase` counts in a whole log."""
    names = _names(recipe.phases)
    if recipe.apart:
        for fold in recipe.films.held_out:
            names += [f"{name}, without fold {fold}" for name in _names(recipe.apart)]
        names += [f"{name}, all films" for name in _names(recipe.together)]
    return names


def before(recipe: Recipe) -> Recipe:
    """Return the recipe of what comes before folds go apart; statistics are renewed in networks that are read with."""
    if not recipe.apart:
        return recipe
    optimiser = recipe.optimiser.model_copy(update={"renew": False})
    return recipe.model_copy(update={"apart": (), "together": (), "optimiser": optimiser})


def train_whole(
    recipe: Recipe,
    begun: Trainer,
    place: Path,
    watcher: Watcher,
    ended: Callable[[Trainer, Epoch], None],
    *,
    films: int | None = None,
    threads: int | None = None,
) -> Trained:
    """Train what comes before, with `begun`; then, where the recipe has it, each fold apart and all films together.

    Each network has a folder of its own in that of `begun`. Raises BadList, RunError.
    """
    network = begun.run(watcher.stepped, lambda line: ended(begun, line))
    log, apart, unreadable = list(begun.log), [], list(begun.pixels.bad)
    if not recipe.apart:
        return Trained(network=network, course=begun.course, apart=(), log=tuple(log), unreadable=tuple(unreadable))

    def gone_on(
        name: str, held_out: tuple[int, ...], phases: Sequence[Phase], start: Network
    ) -> tuple[Course, Network]:
        course = read_course(_cut(recipe, name, held_out, phases), place, films=films)
        watcher.planned(course, course.steps)
        folder = begun.folder / name.replace(" ", "-")
        pixels = Pixels(folder, threads=threads, done=watcher.opened)
        mean, std = begun.norm
        trainer = Trainer(
            course, folder, pixels, mean=mean, std=std, threads=threads, device=str(begun.device), start=start
        )
        trained = trainer.run(watcher.stepped, lambda line: ended(trainer, line))
        first = max((line.phase for line in log), default=-1) + 1
        log.extend(dataclasses.replace(line, phase=first + line.phase) for line in trainer.log)
        unreadable.extend(bad for bad in pixels.bad if bad not in unreadable)
        return course, trained

    for fold in recipe.films.held_out:
        course, trained = gone_on(f"without fold {fold}", (fold,), recipe.apart, network)
        apart.append(Apart(fold=fold, network=trained, train=course.train, held=course.held))
    joined = mean_of([one.network for one in apart], begun.shape)
    if recipe.together:
        whole, joined = gone_on("all films", (), recipe.together, joined)
    else:
        whole = read_course(_cut(recipe, "all films", (), recipe.apart[-1:]), place, films=films)
    return Trained(
        network=joined,
        course=dataclasses.replace(whole, recipe=recipe, held=tuple(row for one in apart for row in one.held)),
        apart=tuple(apart),
        log=tuple(log),
        unreadable=tuple(unreadable),
    )


def mean_of(networks: Sequence[Network], shape: Shape) -> Network:
    """Return a network, in eval mode, with the mean of the weights and statistics of networks of one shape."""
    states = [network.state_dict() for network in networks]
    mean = {
        key: torch.stack([state[key] for state in states]).mean(0) if tensor.is_floating_point() else tensor
        for key, tensor in states[0].items()
    }
    joined = new_network(shape)
    joined.load_state_dict(mean)
    return joined.eval()


def _cut(recipe: Recipe, name: str, held_out: tuple[int, ...], phases: Sequence[Phase]) -> Recipe:
    """The recipe of one of the networks: not checked again, since no fold may be held out of it."""
    films = recipe.films.model_copy(update={"held_out": held_out})
    cut = {"name": f"{recipe.name}, {name}", "films": films, "phases": tuple(phases)}
    return recipe.model_copy(update={**cut, "apart": (), "together": ()})


def _names(phases: Sequence[Phase]) -> list[str]:
    return [phase.name or f"phase {number}" for number, phase in enumerate(phases, 1)]
