"""The export: a trained network and its held-out films in, a bundle out. Never sees the evaluation films.

All numbers of the bundle are measured with the engine that will read films, on weights already stored as float16.
"""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from cxrnode.core.findings import Concept
from cxrnode.errors import Rejected, UnreadableImage
from cxrnode.reading.bundle import Bundle, load_bundle, write_bundle
from cxrnode.reading.engine import Film, Observation, TorchEngine
from cxrnode.reading.manifest import (
    Calibration,
    Evidence,
    Head,
    Input,
    IntendedUse,
    Label,
    Manifest,
    Metrics,
    PlausibilityLimit,
    Saliency,
    Training,
)
from cxrnode.reading.manifest_text import FORMAT
from cxrnode.reading.network import Network, weights_of
from cxrnode.reading.plausibility import CELLS, Cloud, Clouds
from cxrnode.reading.shape import Shape
from cxrnode.training.concepts import CONCEPTS
from cxrnode.training.held_out import Aims, HeldOut, fill
from cxrnode.training.prevalence import Prevalence
from cxrnode.training.readers import FilmRow, targets
from cxrnode.training.readers.picture import open_row

__all__ = ["LIMIT", "Aims", "CannotExport", "Card", "Exported", "export_bundle", "observe"]

#: Distances are told in units of what the stated share of good films exceeds; the addend is float32's rounding.
LIMIT = 1.0001

_BATCH = 16


class CannotExport(Rejected):
    """No bundle can be made of this; the message says why, and what to do."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Card:
    """What a bundle says of itself that cannot be measured. `labels` are in the order of the network's outputs.

    `data`, `held` and `recipe` are sentences: the training films, the held-out films, how it was trained. A label
    without a concept is not reported.
    """

    name: str
    version: str
    labels: tuple[str, ...]
    input: Input
    intended_use: IntendedUse
    description: str
    demonstration: bool
    licence: str
    data: str
    held: str
    recipe: str
    saliency: Saliency
    concepts: Mapping[str, Concept] = dataclasses.field(default_factory=lambda: CONCEPTS)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Exported:
    """The bundle, and the held-out films that could be opened: scores float32 (N, C) of the network itself, before
    calibration; truth float32 (N, C), NaN where it is not known; `unreadable` counts films that were left out.
    """

    bundle: Bundle
    scores: npt.NDArray[np.float32]
    truth: npt.NDArray[np.float32]
    unreadable: int


def export_bundle(
    folder: Path,
    network: Network,
    shape: Shape,
    train_rows: Sequence[FilmRow],
    held_rows: Sequence[FilmRow],
    card: Card,
    *,
    aims: Aims | None = None,
    prevalence: Prevalence | None = None,
    representative: bool = False,
    threads: int | None = None,
    device: str | None = None,
    opened: Callable[[FilmRow], Film] = open_row,
    progress: Callable[[int], None] = lambda count: None,
) -> Exported:
    """Measure on the held-out films, write the bundle and return it.

    Scores are moved to `prevalence` unless the held-out films are `representative`: unselected films of the intended
    use. `progress` is told how many more films were read. Raises CannotExport, and BundleError for weights that are
    not finite.
    """
    aims = aims or Aims()
    _require(shape, train_rows, held_rows, card)
    weights = weights_of(network)
    blank = _manifest(shape, train_rows, card, representative=representative)
    nowhere = Clouds(layout=Cloud.fit(np.eye(2, CELLS * CELLS), 1), features=Cloud.fit(np.eye(2, blank.evidence), 1))
    with tempfile.TemporaryDirectory() as part:
        write_bundle(Path(part), blank, weights, nowhere.tensors())
        engine = TorchEngine(load_bundle(Path(part)), device=device, threads=threads)
    # Films of all patients, the same every time: the order of the list may be that of the findings.
    some = np.random.default_rng(0).permutation(len(train_rows))[: aims.fitted]
    trained = [seen for _, seen in observe(engine, [train_rows[i] for i in sorted(some)], opened, progress)]
    kept, held = [], []
    for row, seen in observe(engine, held_rows, opened, progress):
        kept.append(row)
        held.append(seen)
    if not trained or not held:
        raise CannotExport("none of the training films, or of the held-out films, can be opened; check their files")
    layouts, features = np.stack([s.layout for s in held]), np.stack([s.features for s in held])
    clouds = Clouds(
        layout=Cloud.fit(np.stack([s.layout for s in trained]), aims.layout_components).beyond(
            layouts, aims.layout_alarms
        ),
        features=Cloud.fit(np.stack([s.features for s in trained]), aims.feature_components).beyond(
            features, aims.feature_alarms
        ),
    )
    maps = [s.saliency for s in held if s.saliency is not None]
    measured = HeldOut(
        scores=np.stack([s.scores for s in held]),
        saliency=np.stack(maps) if maps else None,
        truth=targets(kept),
        patients=tuple(row.patient for row in kept),
    )
    whole = fill(blank, measured, aims, prevalence=prevalence)
    alarms = float((clouds.distances(layouts, features) > LIMIT).mean())
    whole = dataclasses.replace(
        whole,
        plausibility=dataclasses.replace(whole.plausibility, false_alarm_rate=round(alarms, 4), films=len(held)),
    )
    write_bundle(folder, whole, weights, clouds.tensors())
    return Exported(
        bundle=load_bundle(folder),
        scores=np.stack([s.scores for s in held]),
        truth=targets(kept),
        unreadable=len(held_rows) - len(held),
    )


def observe(
    engine: TorchEngine,
    rows: Sequence[FilmRow],
    opened: Callable[[FilmRow], Film] = open_row,
    progress: Callable[[int], None] = lambda count: None,
) -> Iterator[tuple[FilmRow, Observation]]:
    """Read films a few at a time; what cannot be opened is left out."""
    for start in range(0, len(rows), _BATCH):
        batch = []
        for row in rows[start : start + _BATCH]:
            try:
                batch.append((row, opened(row)))
            except UnreadableImage:
                continue
        yield from zip([row for row, _ in batch], engine.observe([film for _, film in batch]), strict=True)
        progress(len(rows[start : start + _BATCH]))


def _require(shape: Shape, train_rows: Sequence[FilmRow], held_rows: Sequence[FilmRow], card: Card) -> None:
    if shape.outputs != len(card.labels):
        raise CannotExport(f"the network has {shape.outputs} outputs for {len(card.labels)} labels; make them the same")
    for what, rows in (("training", train_rows), ("held-out", held_rows)):
        if not rows:
            raise CannotExport(f"there is no {what} film; choose other folds, or give more films")
        if len(rows[0].findings) != len(card.labels):
            raise CannotExport(f"the {what} films are read for {len(rows[0].findings)} labels, not {len(card.labels)}")
    both = {row.patient for row in train_rows} & {row.patient for row in held_rows}
    if both:
        raise CannotExport(
            f"{len(both)} patients have films among the training films and the held-out films; split by patient"
        )


def _manifest(shape: Shape, train_rows: Sequence[FilmRow], card: Card, *, representative: bool) -> Manifest:
    """The card before anything is measured."""
    concepts = {label: card.concepts.get(label, card.concepts.get(label.replace(" ", "_"))) for label in card.labels}
    return Manifest(
        format=FORMAT,
        name=card.name,
        version=card.version,
        architecture=shape.architecture,
        activation="sigmoid",
        saliency=card.saliency,
        licence=card.licence,
        demonstration=card.demonstration,
        description=card.description,
        input=card.input,
        intended_use=card.intended_use,
        head=Head(hidden=shape.hidden, batch_norm=shape.batch_norm, dropout=shape.dropout, flatten_to=shape.flatten_to),
        calibration=Calibration(
            data_set=card.held, method="", films=0, representative=representative, weights_sha256=""
        ),
        plausibility=PlausibilityLimit(
            limit=LIMIT, false_alarm_rate=0.0, films=0, weights_sha256="", features=Evidence.MIDDLE
        ),
        training=Training(
            data=card.data,
            films=len(train_rows),
            patients=len({row.patient for row in train_rows}),
            recipe=card.recipe,
        ),
        metrics=Metrics(data_set=card.held, films=0, mean_auc=0.0),
        files=(),
        labels=tuple(
            Label(name=label, report=concept is not None, concept=concept) for label, concept in concepts.items()
        ),
    )
