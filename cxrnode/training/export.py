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
from cxrnode.reading.plausibility import CELLS, Cloud, Clouds, flatness
from cxrnode.reading.shape import Shape
from cxrnode.training.concepts import CONCEPTS
from cxrnode.training.held_out import Aims, HeldOut, fill
from cxrnode.training.prevalence import Prevalence
from cxrnode.training.readers import FilmRow, targets
from cxrnode.training.readers.picture import open_row

__all__ = ["LIMIT", "Aims", "Apart", "CannotExport", "Card", "Exported", "export_bundle", "observe"]

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
class Apart:
    """A network that never saw one fold: the films it learnt from, and those of the fold, which it is measured on."""

    fold: int
    network: Network
    train: Sequence[FilmRow]
    held: Sequence[FilmRow]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Exported:
    """The bundle, and the held-out films that could be opened: scores float32 (N, C) of the network itself, before
    calibration; truth float32 (N, C), NaN where it is not known; `unreadable` counts films that were left out.
    `apart` are bundles by the fold that they never saw, where the films were measured on folds apart.
    """

    bundle: Bundle
    scores: npt.NDArray[np.float32]
    truth: npt.NDArray[np.float32]
    unreadable: int
    apart: Mapping[int, Bundle] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Measured:
    """What a network makes of films it never saw, and the clouds of those it learnt from, in units of 1."""

    rows: Sequence[FilmRow]
    seen: Sequence[Observation]
    clouds: Clouds


def export_bundle(
    folder: Path,
    network: Network,
    shape: Shape,
    train_rows: Sequence[FilmRow],
    held_rows: Sequence[FilmRow],
    card: Card,
    *,
    apart: Sequence[Apart] = (),
    aims: Aims | None = None,
    prevalence: Prevalence | None = None,
    representative: bool = False,
    threads: int | None = None,
    device: str | None = None,
    opened: Callable[[FilmRow], Film] = open_row,
    progress: Callable[[int], None] = lambda count: None,
) -> Exported:
    """Measure on the held-out films, write the bundle and return it.

    With `apart` the network may have learnt from all films: each held-out film is read by the network that never saw
    it, and what is measured so is written down for `network`, which no film is left to measure by. Their bundles go
    into a folder `apart` beside this one, `fold-N` each.

    Scores are moved to `prevalence` unless the held-out films are `representative`: unselected films of the intended
    use. `progress` is told how many more films were read. Raises CannotExport, and BundleError for weights that are
    not finite.
    """
    aims = aims or Aims()
    sides = apart or (Apart(fold=0, network=network, train=train_rows, held=held_rows),)
    for side in sides:
        _require(shape, side.train, side.held, card)
    blank = _manifest(shape, train_rows, card, representative=representative)

    def read(network: Network, rows: Sequence[FilmRow]) -> Iterator[tuple[FilmRow, Observation]]:
        engine = _engine(blank, network, threads=threads, device=device)
        yield from observe(engine, rows, opened, progress)

    def clouds_of(network: Network, rows: Sequence[FilmRow]) -> Clouds:
        # Films of all patients, the same every time: the order of the list may be that of the findings.
        some = np.random.default_rng(0).permutation(len(rows))[: aims.fitted]
        seen = [seen for _, seen in read(network, [rows[i] for i in sorted(some)])]
        if not seen:
            raise CannotExport("none of the training films can be opened; check their files")
        return Clouds(
            layout=Cloud.fit(np.stack([s.layout for s in seen]), aims.layout_components),
            features=Cloud.fit(np.stack([s.features for s in seen]), aims.feature_components),
        )

    measured = []
    for side in sides:
        held = list(read(side.network, side.held))
        if not held:
            raise CannotExport("none of the held-out films can be opened; check their files")
        clouds = clouds_of(side.network, side.train)
        measured.append(_Measured(rows=[row for row, _ in held], seen=[seen for _, seen in held], clouds=clouds))
    held_out = _held_out(measured)
    layouts = np.concatenate([m.clouds.layout.distances(np.stack([s.layout for s in m.seen])) for m in measured])
    features = np.concatenate([m.clouds.features.distances(np.stack([s.features for s in m.seen])) for m in measured])

    def told(clouds: Clouds) -> Clouds:
        """The clouds in units of what a stated share of the good films lies beyond."""
        return Clouds(
            layout=clouds.layout.beyond(layouts, aims.layout_alarms),
            features=clouds.features.beyond(features, aims.feature_alarms),
        )

    whole = fill(blank, held_out, aims, prevalence=prevalence)
    units = told(measured[0].clouds)
    far = np.maximum(layouts / float(units.layout.reference[0]), features / float(units.features.reference[0]))
    far = np.maximum(far, np.concatenate([flatness(np.stack([s.layout for s in m.seen])) for m in measured]))
    alarms = round(float((far > LIMIT).mean()), 4)
    whole = dataclasses.replace(
        whole,
        plausibility=dataclasses.replace(whole.plausibility, false_alarm_rate=alarms, films=len(held_out.truth)),
    )
    clouds = clouds_of(network, train_rows) if apart else measured[0].clouds
    write_bundle(folder, whole, weights_of(network), told(clouds).tensors())
    bundles = {}
    for side, seen in zip(apart, measured, strict=False):
        place = folder.with_name("apart") / f"fold-{side.fold}"
        manifest = dataclasses.replace(
            whole,
            name=f"{card.name}-without-fold-{side.fold}",
            training=_training(side.train, card),
        )
        write_bundle(place, manifest, weights_of(side.network), told(seen.clouds).tensors())
        bundles[side.fold] = load_bundle(place)
    return Exported(
        bundle=load_bundle(folder),
        scores=np.asarray(held_out.scores, np.float32),
        truth=np.asarray(held_out.truth, np.float32),
        unreadable=sum(len(side.held) for side in sides) - len(held_out.truth),
        apart=bundles,
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


def _engine(blank: Manifest, network: Network, *, threads: int | None, device: str | None) -> TorchEngine:
    """The engine that will read films, of these weights as they are stored."""
    nowhere = Clouds(layout=Cloud.fit(np.eye(2, CELLS * CELLS), 1), features=Cloud.fit(np.eye(2, blank.evidence), 1))
    with tempfile.TemporaryDirectory() as part:
        write_bundle(Path(part), blank, weights_of(network), nowhere.tensors())
        return TorchEngine(load_bundle(Path(part)), device=device, threads=threads)


def _held_out(measured: Sequence[_Measured]) -> HeldOut:
    rows = [row for one in measured for row in one.rows]
    seen = [seen for one in measured for seen in one.seen]
    maps = [s.saliency for s in seen if s.saliency is not None]
    return HeldOut(
        scores=np.stack([s.scores for s in seen]),
        saliency=np.stack(maps) if maps else None,
        truth=targets(rows),
        patients=tuple(row.patient for row in rows),
    )


def _training(rows: Sequence[FilmRow], card: Card) -> Training:
    return Training(data=card.data, films=len(rows), patients=len({row.patient for row in rows}), recipe=card.recipe)


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
        training=_training(train_rows, card),
        metrics=Metrics(data_set=card.held, films=0, mean_auc=0.0),
        files=(),
        labels=tuple(
            Label(name=label, report=concept is not None, concept=concept) for label, concept in concepts.items()
        ),
    )
