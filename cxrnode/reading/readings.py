"""What an engine is given for a film, and what it gives, with the steps that all engines share. Loads no torch."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt
from PIL import Image

from cxrnode.errors import Rejected, UnreadableImage
from cxrnode.reading.manifest import Input
from cxrnode.reading.plausibility import Clouds

Film = npt.NDArray[np.uint8]


class NotFinite(Rejected):
    """The model gave a score, map or distance that is not a finite number: nothing can be said about the film."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Reading:
    """What the network gives for one film, before any threshold.

    scores: float32 (C,) in [0, 1]; saliency: float16 (C, h, w), >= 0, unscaled Grad-CAM in units of the logit,
    row 0 = top of the film, None where the bundle makes no maps; distance: >= 0, from the training films; about 1 for
    the farthest of good films.
    """

    scores: npt.NDArray[np.float32]
    saliency: npt.NDArray[np.float16] | None
    distance: float


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Observation:
    """What one forward pass gives for one film: `scores` and `saliency` as in `Reading`, and where the film lies.

    layout: float64 (64,), the film as 8 x 8 cells of grey; features: float32 (K,), what the manifest's `Evidence`
    names: the pooled activations, or the channels halfway, each as 3 x 3 means over regions by rows.
    """

    scores: npt.NDArray[np.float32]
    saliency: npt.NDArray[np.float16] | None
    layout: npt.NDArray[np.float64]
    features: npt.NDArray[np.float32]


class Engine(Protocol):
    """A way to run a bundle. `name` says library, version, device and arithmetic; it stands in every report."""

    @property
    def name(self) -> str:
        """What ran the model."""
        ...

    def read(self, films: Sequence[Film]) -> list[Reading]:
        """Read films, each uint8 (H, W), 0 = black, row 0 = top. Raises NotFinite or UnreadableImage."""
        ...


def squashed(film: Film, size: int) -> Film:
    """Return uint8 (size, size): squashed with Pillow's bilinear filter, as in training.

    Raises UnreadableImage for what is no film: another type, shape or no pixels.
    """
    if film.dtype != np.uint8 or film.ndim != 2 or 0 in film.shape:
        raise UnreadableImage(f"a film is uint8 (H, W) with pixels, not {film.dtype} {film.shape}")
    return np.asarray(Image.fromarray(film).resize((size, size), Image.Resampling.BILINEAR))


def prepare(film: Film, given: Input) -> npt.NDArray[np.float32]:
    """Return float32 (channels, size, size): `squashed`, then normalised. Raises UnreadableImage."""
    grey = squashed(film, given.size).astype(np.float32) / np.float32(255)
    mean = np.array(given.mean, np.float32)[:, None, None]
    std = np.array(given.std, np.float32)[:, None, None]
    prepared: npt.NDArray[np.float32] = (grey[None] - mean) / std
    return prepared


def judged(seen: Sequence[Observation], clouds: Clouds) -> list[Reading]:
    """Return the readings of what was observed: with each film's distance from the training films. Raises NotFinite."""
    if not seen:
        return []
    layouts, features = (np.stack(part) for part in zip(*((s.layout, s.features) for s in seen), strict=True))
    distances = clouds.distances(layouts, features)
    if not np.isfinite(distances).all():
        raise NotFinite
    return [
        Reading(scores=s.scores, saliency=s.saliency, distance=float(distance))
        for s, distance in zip(seen, distances, strict=True)
    ]
