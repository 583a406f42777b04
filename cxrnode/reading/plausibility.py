"""Plausibility: how far a film's features lie from those of the training films. Decides nothing; numpy alone.

A Mahalanobis distance (Lee et al., NeurIPS 2018, for one class) under probabilistic principal components (Tipping and
Bishop, 1999): along the first components by their own variance, in all other directions by one common variance. It
is divided by the root of the number of directions, so that a training film lies at about 1.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Self

import numpy as np
import numpy.typing as npt

from cxrnode.errors import BundleError

_SHAPES = {"mean": 1, "components": 2, "deviation": 1, "rest": 1}


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Cloud:
    """The training films' features: mean float32 (K,), components float32 (P, K) orthonormal, deviation float32 (P,)
    along them, rest float32 (1,): the deviation in every other direction.
    """

    mean: npt.NDArray[np.float32]
    components: npt.NDArray[np.float32]
    deviation: npt.NDArray[np.float32]
    rest: npt.NDArray[np.float32]

    @classmethod
    def fit(cls, features: npt.NDArray[np.floating], components: int) -> Self:
        """Fit to features (N, K) of training films; `components` is cut to what N and K allow."""
        features = np.asarray(features, np.float64)
        count, width = features.shape
        mean = features.mean(0)
        _, singular, axes = np.linalg.svd(features - mean, full_matrices=False)
        variance = singular**2 / max(count - 1, 1)
        kept = max(1, min(components, len(variance) - 1, width - 1))
        # A floor: a feature that never varies must not make every film implausible.
        rest = max(float(variance[kept:].sum() / (width - kept)), float(variance.mean()) * 1e-4, 1e-12)
        return cls(
            mean=mean.astype(np.float32),
            components=axes[:kept].astype(np.float32),
            deviation=np.sqrt(np.maximum(variance[:kept], rest)).astype(np.float32),
            rest=np.array([np.sqrt(rest)], np.float32),
        )

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, npt.NDArray[np.generic]], width: int) -> Self:
        """Read what `tensors` wrote, for features (width,). Raises BundleError that names what does not fit."""
        if set(tensors) != set(_SHAPES):
            raise BundleError(
                f"plausibility.safetensors: must hold {', '.join(_SHAPES)}, not {', '.join(sorted(tensors))}"
            )
        cloud = cls(**{key: np.asarray(tensors[key], np.float32) for key in _SHAPES})
        ranks = {key: getattr(cloud, key).ndim for key in _SHAPES}
        if ranks != _SHAPES or cloud.components.shape != (len(cloud.deviation), width) or len(cloud.mean) != width:
            raise BundleError(
                f"plausibility.safetensors: the shapes do not fit {width} features; export the bundle again"
            )
        if cloud.deviation.min() <= 0 or cloud.rest.min() <= 0:
            raise BundleError("plausibility.safetensors: a deviation is not above 0; export the bundle again")
        return cloud

    def tensors(self) -> dict[str, npt.NDArray[np.float32]]:
        """Return the arrays as plausibility.safetensors holds them."""
        return {key: getattr(self, key) for key in _SHAPES}

    def distances(self, features: npt.NDArray[np.floating]) -> npt.NDArray[np.float64]:
        """Return float64 (N,), >= 0, for features (N, K)."""
        away = np.asarray(features, np.float64) - self.mean
        along = away @ self.components.T.astype(np.float64)
        beside = np.maximum((away**2).sum(1) - (along**2).sum(1), 0.0)
        squared = ((along / self.deviation) ** 2).sum(1) + beside / float(self.rest[0]) ** 2
        distances: npt.NDArray[np.float64] = np.sqrt(squared / len(self.mean))
        return distances
