"""Plausibility: how far a film lies from the training films, in its layout and in its features. numpy alone.

Each is a Mahalanobis distance (Lee et al., NeurIPS 2018, for one class) under probabilistic principal components
(Tipping and Bishop, 1999): along the first components by their own variance, in all other directions by one common
variance. The layout is the film as a few cells of grey: coarse, blind to disease, and the better of the two at telling
a hand or a slice; the features see what the layout cannot: pooled at the end texture above all, halfway through the
network and told by regions (`manifest.Evidence`) which parts of a chest are where, hence a lateral.

What is flat, an empty picture or noise of many pixels, lies in the middle of both: it is told by its contrast.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Self

import numpy as np
import numpy.typing as npt

from cxrnode.errors import BundleError

#: Cells along each side of the layout.
CELLS = 8

#: Deviation of the cells' grey in [0, 1] below which a picture shows nothing. Of 8,761 real chest films (of 2,747 NIH,
#: 5,814 Kermany and 200 kept for judging) the flattest has 0.051; noise of 64 x 64 pixels 0.036, of 1024 x 1024 0.002.
LEAST_CONTRAST = 0.04
#: A flat picture is told as at most so far away: a report holds no infinite number.
_FARTHEST = 100.0
#: Keeps an empty film's layout from being nothing but enlarged noise.
_ADDEND = 0.05

_SHAPES = {"mean": 1, "components": 2, "deviation": 1, "rest": 1, "reference": 1}
_PARTS = ("layout", "features")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Cloud:
    """Training films as vectors: mean float32 (K,), components float32 (P, K) orthonormal, deviation float32 (P,)
    along them, rest float32 (1,): the deviation in every other direction. Distances are told in units of `reference`,
    float32 (1,).
    """

    mean: npt.NDArray[np.float32]
    components: npt.NDArray[np.float32]
    deviation: npt.NDArray[np.float32]
    rest: npt.NDArray[np.float32]
    reference: npt.NDArray[np.float32]

    @classmethod
    def fit(cls, vectors: npt.NDArray[np.floating], components: int) -> Self:
        """Fit to vectors (N, K) of training films; `components` is cut to what N and K allow."""
        vectors = np.asarray(vectors, np.float64)
        count, width = vectors.shape
        mean = vectors.mean(0)
        _, singular, axes = np.linalg.svd(vectors - mean, full_matrices=False)
        variance = singular**2 / max(count - 1, 1)
        kept = max(1, min(components, len(variance) - 1, width - 1))
        # A floor: a value that never varies must not make every film implausible.
        rest = max(float(variance[kept:].sum() / (width - kept)), float(variance.mean()) * 1e-4, 1e-12)
        return cls(
            mean=mean.astype(np.float32),
            components=axes[:kept].astype(np.float32),
            deviation=np.sqrt(np.maximum(variance[:kept], rest)).astype(np.float32),
            rest=np.array([np.sqrt(rest)], np.float32),
            reference=np.ones(1, np.float32),
        )

    def distances(self, vectors: npt.NDArray[np.floating]) -> npt.NDArray[np.float64]:
        """Return float64 (N,), >= 0, for vectors (N, K). With reference 1 a training film lies at about 1."""
        away = np.asarray(vectors, np.float64) - self.mean
        along = away @ self.components.T.astype(np.float64)
        beside = np.maximum((away**2).sum(1) - (along**2).sum(1), 0.0)
        squared = ((along / self.deviation) ** 2).sum(1) + beside / float(self.rest[0]) ** 2
        distances: npt.NDArray[np.float64] = np.sqrt(squared / len(self.mean)) / float(self.reference[0])
        return distances

    def beyond(self, distances: npt.NDArray[np.floating], share: float) -> Self:
        """Return the cloud with its reference set so that this share of these distances of good films lies beyond 1."""
        far = float(np.quantile(distances, 1 - share, method="higher"))
        return dataclasses.replace(self, reference=self.reference * np.float32(far))


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Clouds:
    """The layout cloud (CELLS * CELLS wide) and the cloud of features: what plausibility.safetensors holds."""

    layout: Cloud
    features: Cloud

    def distances(
        self, layouts: npt.NDArray[np.floating], features: npt.NDArray[np.floating]
    ) -> npt.NDArray[np.float64]:
        """Return float64 (N,): the largest of both distances and `flatness`. A chest film is near in all."""
        away = np.maximum(self.layout.distances(layouts), self.features.distances(features))
        return np.maximum(away, flatness(layouts))

    def tensors(self) -> dict[str, npt.NDArray[np.float32]]:
        """Return the arrays as plausibility.safetensors holds them, such as `layout.mean`."""
        return {f"{part}.{key}": getattr(getattr(self, part), key) for part in _PARTS for key in _SHAPES}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, npt.NDArray[np.generic]], width: int) -> Self:
        """Read what `tensors` wrote, for features `width` wide. Raises BundleError that names what does not fit."""
        wanted = {f"{part}.{key}" for part in _PARTS for key in _SHAPES}
        if different := sorted(wanted ^ set(tensors)):
            raise BundleError(f"plausibility.safetensors: missing or unknown: {', '.join(different)}; export it again")
        layout, features = (
            Cloud(**{key: np.asarray(tensors[f"{part}.{key}"], np.float32) for key in _SHAPES}) for part in _PARTS
        )
        for part, cloud, columns in (("layout", layout, CELLS * CELLS), ("features", features, width)):
            ranks = {key: getattr(cloud, key).ndim for key in _SHAPES}
            if ranks != _SHAPES or cloud.components.shape != (len(cloud.deviation), columns) != (0, columns):
                raise BundleError(
                    f"plausibility.safetensors: {part} does not fit vectors of {columns}; export it again"
                )
            if len(cloud.mean) != columns or len(cloud.rest) != 1 or len(cloud.reference) != 1:
                raise BundleError(
                    f"plausibility.safetensors: {part} does not fit vectors of {columns}; export it again"
                )
            if min(cloud.deviation.min(), cloud.rest[0], cloud.reference[0]) <= 0:
                raise BundleError(
                    f"plausibility.safetensors: {part} has a deviation that is not above 0; export it again"
                )
        return cls(layout=layout, features=features)


def flatness(layouts: npt.NDArray[np.floating]) -> npt.NDArray[np.float64]:
    """Return float64 (N,), > 0: LEAST_CONTRAST over the contrast of the films of these layouts, at most 100."""
    deviation = np.asarray(layouts, np.float64).std(1)
    contrast = _ADDEND * deviation / np.maximum(1 - deviation, 1e-9)  # `layouts_of`, the other way round
    told: npt.NDArray[np.float64] = LEAST_CONTRAST / np.maximum(contrast, LEAST_CONTRAST / _FARTHEST)
    return told


def layouts_of(grey: npt.NDArray[np.floating]) -> npt.NDArray[np.float64]:
    """Return float64 (N, CELLS * CELLS), each of mean 0 and deviation about 1, from grey levels in [0, 1] (N, H, W).

    A cell is the mean of its pixels. Sides that CELLS does not divide are cut at the nearest pixel.
    """
    levels = np.asarray(grey, np.float64)
    for axis in (1, 2):
        side = levels.shape[axis]
        edges = [math.floor(i * side / CELLS + 0.5) for i in range(CELLS + 1)]
        sums = np.add.reduceat(levels, edges[:-1], axis)
        shape = [1, 1, 1]
        shape[axis] = CELLS
        levels = sums / np.diff(edges).reshape(shape)
    flat = levels.reshape(len(levels), -1)
    normal: npt.NDArray[np.float64] = (flat - flat.mean(1, keepdims=True)) / (flat.std(1, keepdims=True) + _ADDEND)
    return normal
