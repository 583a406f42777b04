"""A recipe: how a bundle is trained, as frozen values. Loads no torch, opens no file; `recipes` reads and writes it.

A key that is not known is refused by its name: a recipe read half would train something else and not say so.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from cxrnode.sections import Section, Words

#: Beside its labels a network may learn these, as a help where films are few; the bundle does not hold them.
AUXILIARY = ("age", "female", "anteroposterior")
_PLAIN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")

Share = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(ge=1)]


def _listed(value: Any) -> Any:
    return (value,) if isinstance(value, (int, float)) else value


#: One number, or one for each label.
Weights = Annotated[tuple[Annotated[float, Field(ge=0)], ...], BeforeValidator(_listed)]


class Films(Section):
    """`[films]`: the list of films in the folder of `--data`, the labels in the order of the outputs, the folds.

    `list` is a CSV file there. Where it is not there, or "", the folder itself is the list: NIH's layout, Kermany's,
    records. Such a
    folder is its own list too where it has no file of that name: a recipe runs on it as it stands.
    `held_out` folds set the thresholds and are what the metrics are measured on; nothing is fitted or chosen by them.
    `watched` folds end a phase early, lower the rate and judge a search. All others are trained on.
    """

    list: str
    labels: Annotated[Words, Field(min_length=1)]
    held_out: tuple[int, ...] = (0,)
    watched: tuple[int, ...] = ()


class Network(Section):
    """`[network]`: the architecture and its head, as `reading.shape.Shape` has them; `flatten` is for cnn2 alone."""

    architecture: Literal["densenet121", "inceptionv3", "resnet50", "resnet152", "mobilenetv2", "cnn2"]
    hidden: tuple[Count, ...] = ()
    batch_norm: bool = False
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    flatten: bool = False


class Input(Section):
    """`[input]`: the side in pixels at which the bundle reads, channels, and (grey - mean) / std.

    Grey levels are in [0, 1]. "films" measures mean or std on the films trained on.
    """

    size: Annotated[int, Field(ge=32)]
    channels: Literal[1, 3] = 3
    mean: float | Literal["films"] = "films"
    std: Positive | Literal["films"] = "films"


class Loss(Section):
    """`[loss]`: binary cross-entropy of each label, and what each film weighs in it.

    `weighting`: "none"; "frequency", a positive weighs the share of negatives and a negative that of positives;
    "given", `positive` and `negative`, one number or one a label; "balanced", positives and negatives of a label weigh
    the same in sum; "stratified", the same, and the share `others` of the weight of the negatives lies on films with
    other findings.
    `within_origin` does so in each origin apart, so that where a film was collected says little of its findings.
    `most` bounds what a positive may weigh against a negative. `auxiliary` is the weight of age, sex and view.
    `boxes`: a list of boxes, such as `nih_boxes.csv`; the maps of boxed findings are drawn into them with `box_weight`.
    `mixup`: films are mixed in pairs, as Beta(mixup, mixup) draws (Zhang et al., ICLR 2018); 0 is never. The boxes are
    then those of the heavier film, and weigh its share.
    """

    weighting: Literal["none", "frequency", "given", "balanced", "stratified"] = "none"
    within_origin: bool = False
    most: Positive = 10.0
    others: Share = 0.5
    positive: Weights = (1.0,)
    negative: Weights = (1.0,)
    smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    auxiliary: Annotated[float, Field(ge=0)] = 0.0
    boxes: str = ""
    box_weight: Annotated[float, Field(ge=0)] = 0.5
    mixup: Annotated[float, Field(ge=0)] = 0.0


class Optimiser(Section):
    """`[optimiser]`: how the weights move. `average` keeps a running mean of them (0: none), which is exported.

    `renew`: in the end the statistics of batch normalisation are taken anew, on the films as the bundle reads them:
    those that training leaves behind are of varied and mixed films.
    """

    name: Literal["adam", "adamw", "sgd"] = "adamw"
    precision: Literal["bf16", "float32"] = "bf16"
    batch: Count = 32
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    clip: Annotated[float, Field(ge=0)] = 1.0
    average: Annotated[float, Field(ge=0, lt=1)] = 0.0
    renew: bool = False


class Augmentation(Section):
    """`[augmentation]`: how far a film is varied; 0 leaves a thing as it is. Fractions of the side, grey in [0, 1].

    `rotate` in radians; `gamma`: log of the exponent; `histogram`: a random rising curve of grey, 1 for any;
    `border`: how far a black margin reaches in, on each side with chance `border_chance`; `blur`: standard deviation;
    `shrink`: by how much of its side a film is made smaller, and large again; `noise`: standard deviation in grey;
    `jpeg`: coarseness of 8 x 8 blocks; `erase`: side of a grey rectangle. Each of the last five with `chance`.
    """

    flip: Share = 0.0
    rotate: Annotated[float, Field(ge=0, le=3.15)] = 0.0
    shift: Share = 0.0
    zoom_out: Share = 0.0
    zoom_in: Annotated[float, Field(ge=0, lt=1)] = 0.0
    gamma: Annotated[float, Field(ge=0, le=2)] = 0.0
    contrast: Share = 0.0
    brightness: Share = 0.0
    histogram: Share = 0.0
    border: Annotated[float, Field(ge=0, lt=0.5)] = 0.0
    border_chance: Share = 0.3
    blur: Annotated[float, Field(ge=0, le=0.05)] = 0.0
    shrink: Annotated[float, Field(ge=0, lt=1)] = 0.0
    noise: Share = 0.0
    jpeg: Share = 0.0
    erase: Share = 0.0
    chance: Share = 0.5


class Phase(Section):
    """`[[phases]]`: epochs at one side of the input, on one list of films, with one schedule.

    Without `films` and `labels` those of the recipe; several lists are trained on together. A label that the recipe has
    too is the same output; others, and LIST:LABEL, which that list alone tells, are outputs that the bundle does not
    hold: they are there for the features. `importance`: one number, or one a label of the phase. `frozen` names parts
    of the network that stay as start weights made them, such as `features` or `features.denseblock1`; random weights
    never stay.
    `schedule`: "constant"; "cosine", to `end` of the rate; "plateau", `factor` of it when what is watched did not get
    better for `patience` epochs. `rise` is the share of the phase in which the rate rises. `weighting` is that of
    `[loss]` where it is not said, and so are `auxiliary`, `box_weight` and `mixup`; `average` is that of `[optimiser]`.
    """

    name: str = ""
    films: Words = ()
    labels: Words = ()
    importance: Weights = (1.0,)
    auxiliary: Annotated[float, Field(ge=0)] | None = None
    box_weight: Annotated[float, Field(ge=0)] | None = None
    mixup: Annotated[float, Field(ge=0)] | None = None
    average: Annotated[float, Field(gt=0, lt=1)] | None = None
    side: Annotated[int, Field(ge=32)]
    epochs: Count
    rate: Positive
    schedule: Literal["constant", "cosine", "plateau"] = "cosine"
    rise: Share = 0.0
    end: Share = 0.002
    factor: Annotated[float, Field(gt=0, lt=1)] = 0.1
    patience: Count = 2
    frozen: Words = ()
    weighting: Literal["none", "frequency", "given", "balanced", "stratified", None] = None


class EarlyStopping(Section):
    """`[early_stopping]`: a phase ends after `patience` epochs (0: never) that were no better; its best weights stay.

    `watch` is measured on the `watched` folds. It also steers the schedule "plateau".
    """

    patience: Annotated[int, Field(ge=0)] = 0
    watch: Literal["auc", "loss"] = "auc"


class Explanation(Section):
    """`[explanation]`: how the report explains `films` of the held-out films, and how many regions it names."""

    method: Literal["gradcam", "gradcam++", "integrated-gradients", "lime", "occlusion"] = "gradcam"
    films: Annotated[int, Field(ge=0)] = 4
    regions: Annotated[int, Field(ge=0)] = 0


class Card(Section):
    """`[card]`: what the bundle says of itself beside its numbers. Ages in years.

    `prevalence`: "nih" shifts the scores to the published prevalence of ChestX-ray14, "" leaves them.
    """

    version: str = "1"
    description: str
    licence: str
    trained_on: str
    demonstration: bool = True
    prevalence: Literal["", "nih"] = ""
    age_min: Annotated[float, Field(ge=0)] = 18.0
    age_max: Annotated[float, Field(ge=0)] = 100.0
    views: Words = ("PA", "AP")
    modalities: Words = ("CR", "DX")


class Range(Section):
    """A table of `[search]`: from `low` to `high`, on a logarithmic scale where `log`; or one of `choices`."""

    low: float | None = None
    high: float | None = None
    log: bool = False
    choices: tuple[float | int | str | bool, ...] = ()

    @model_validator(mode="after")
    def _either(self) -> Self:
        if self.choices and self.low is None and self.high is None:
            return self
        if self.choices or self.low is None or self.high is None or not self.low < self.high:
            raise ValueError("low below high, or choices, are needed")
        if self.log and self.low <= 0:
            raise ValueError("a logarithmic scale needs low above 0")
        return self


class Recipe(Section):
    """The whole recipe. `search` holds ranges by the dotted key that they replace, such as `phases.0.rate`.

    Where there are few films, all of them can be trained on, and all numbers be measured on films never seen all the
    same: after `phases` a network goes on through `[[apart]]` for each held-out fold, on all films but those of the
    fold, which it then reads; the bundle holds the mean of their weights, gone through `[[together]]` on all films.
    """

    name: str
    title: str
    films: Films
    network: Network
    input: Input
    loss: Loss = Field(default_factory=Loss)
    optimiser: Optimiser = Field(default_factory=Optimiser)
    augmentation: Augmentation = Field(default_factory=Augmentation)
    phases: Annotated[tuple[Phase, ...], Field(min_length=1)]
    apart: tuple[Phase, ...] = ()
    together: tuple[Phase, ...] = ()
    early_stopping: EarlyStopping = Field(default_factory=EarlyStopping)
    explanation: Explanation = Field(default_factory=Explanation)
    card: Card
    #: What the original reported, by the keys of `ORIGINAL`.
    original: Mapping[str, float] = Field(default_factory=dict)
    search: Mapping[str, Range] = Field(default_factory=dict)
    seed: int = 1

    @property
    def epochs(self) -> int:
        """All epochs of all phases, those of each fold apart too."""
        apart = len(self.films.held_out) * sum(phase.epochs for phase in self.apart)
        return apart + sum(phase.epochs for phase in (*self.phases, *self.together))

    @property
    def every_phase(self) -> tuple[Phase, ...]:
        """The phases before, of a fold apart, and together."""
        return (*self.phases, *self.apart, *self.together)

    @model_validator(mode="after")
    def _agrees(self) -> Self:
        """What no table can check alone."""
        films = self.films
        if not _PLAIN.fullmatch(self.name):
            raise ValueError(f"name: {self.name!r} is not a plain name; use letters, digits, dot, dash, underscore")
        if len(set(films.labels)) != len(films.labels):
            raise ValueError("films.labels: a label is named twice; name each once")
        if not films.held_out:
            raise ValueError("films.held_out: empty; the bundle is measured on folds that it never saw, name one")
        if both := sorted(set(films.held_out) & set(films.watched)):
            raise ValueError(f"films.watched: fold {both[0]} is held out too; choose another")
        steered = self.early_stopping.patience or any(phase.schedule == "plateau" for phase in self.every_phase)
        if steered and not films.watched:
            raise ValueError(
                "films.watched: early stopping and the schedule plateau need a fold; name one not held out"
            )
        if self.network.flatten and self.network.architecture != "cnn2":
            raise ValueError("network.flatten: only cnn2 flattens; leave it out")
        if self.network.flatten and any(phase.side != self.input.size for phase in self.every_phase):
            raise ValueError("phases.side: a head that flattens takes one side alone, that of input.size")
        if self.loss.boxes and (self.network.hidden or self.network.flatten):
            raise ValueError("loss.boxes: a head of one layer is needed; leave the boxes out")
        for table in ("phases", "apart", "together"):
            for number, phase in enumerate(getattr(self, table)):
                if len(phase.importance) not in (1, len(phase.labels or films.labels)):
                    raise ValueError(
                        f"{table}.{number}.importance: one number, or one for each label of the phase, is needed"
                    )
                if phase.average is not None and not self.optimiser.average:
                    raise ValueError(f"{table}.{number}.average: nothing is averaged; give optimiser.average too")
        if self.together and not self.apart:
            raise ValueError("together: it follows folds apart; give [[apart]] too, or put it among [[phases]]")
        if self.apart and (len(films.held_out) < 2 or films.watched):
            raise ValueError("apart: two held-out folds or more and no watched one are needed; correct [films]")
        for key in ("positive", "negative"):
            if len(getattr(self.loss, key)) not in (1, len(films.labels)):
                raise ValueError(f"loss.{key}: one number, or one for each of {len(films.labels)} labels, is needed")
        # What comes before folds apart is gone on with: it may end at another side.
        for table in ("apart", "together") if self.apart else ("phases",):
            for last in getattr(self, table)[-1:]:
                if last.labels or last.side != self.input.size:
                    raise ValueError(
                        f"{table}: the last one trains what the bundle holds, at its {self.input.size} px; "
                        "give no labels there"
                    )
        if unknown := sorted(set(self.original) - set(ORIGINAL)):
            raise ValueError(f"original.{unknown[0]}: not known; known are {', '.join(ORIGINAL)}")
        return self


#: What a recipe may say of the original, and how the report calls it.
ORIGINAL = {
    "mean_auc": "mean AUC",
    "auc": "AUC",
    "loss": "loss (binary cross-entropy)",
    "binary_accuracy": "binary accuracy",
    "accuracy": "accuracy",
    "precision": "precision",
    "recall": "recall",
    "f1": "F1",
}
