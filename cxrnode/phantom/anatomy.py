"""Whom the phantom shows: the measures of one chest, in cm, drawn from a seed. Draws nothing.

The measures are those of adults on a 35 x 43 cm film. Image left is the patient's right; `side` is -1 for the
patient's right and +1 for the left. What a finding needs is drawn from a stream of its own, so that the same
seed with and without a finding shows the same person.
"""

from __future__ import annotations

import dataclasses
from enum import StrEnum
from typing import Literal, TypeAlias

import numpy as np
import numpy.typing as npt

View: TypeAlias = Literal["PA", "AP"]

#: Height of the film in cm: the image plate's, for every number of rows.
FILM_HEIGHT = 43.0


class PhantomFinding(StrEnum):
    """What can be drawn into a phantom, by the label of ChestX-ray14 that it stands for."""

    EFFUSION = "Effusion"
    CARDIOMEGALY = "Cardiomegaly"
    NODULE = "Nodule"
    PNEUMOTHORAX = "Pneumothorax"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Anatomy:
    """One chest. Lengths in cm, angles in radians, grey levels in [0, 1]."""

    seed: int
    finding: PhantomFinding | None
    view: View
    side: int
    woman: bool
    thorax: float  # half the inner width of the thorax at its widest
    widest: float  # y of that
    apex: float  # y of the lungs' upper end
    dome_right: float  # y of the diaphragm
    dome_left: float
    fat: float  # of the chest wall
    depth: float  # of the trunk
    ratio: float  # cardiothoracic
    rib_pitch: float
    rib_drop: float
    rotation: float
    scale: float
    shift: float
    exposure: float
    contrast: float
    spot_x: float  # centre of the nodule
    spot_y: float
    spot_radius: float
    fluid: float  # y of the effusion's level
    gap: float  # width of the pneumothorax at the lateral wall

    @property
    def heart(self) -> tuple[float, float]:
        """How far the heart reaches to the right and to the left of the midline."""
        width = self.ratio * 2 * self.thorax
        return 0.34 * width, 0.66 * width

    def rng(self, purpose: int) -> np.random.Generator:
        """A stream of random numbers of its own for each purpose, the same with and without a finding."""
        return np.random.default_rng([self.seed, purpose])

    def region(self) -> tuple[float, float, float, float] | None:
        """The box (x0, y0, x1, y1), in cm before `rotation`, in which the finding was drawn."""
        wall = self.side * self.thorax
        right, left = self.heart
        match self.finding:
            case None:
                return None
            case PhantomFinding.NODULE:
                r = self.spot_radius
                return self.spot_x - r, self.spot_y - r, self.spot_x + r, self.spot_y + r
            case PhantomFinding.EFFUSION:
                return min(wall, 0.3 * wall), self.fluid - 4, max(wall, 0.3 * wall), self.fluid + 8
            case PhantomFinding.PNEUMOTHORAX:
                return min(wall, 0.2 * wall), self.apex - 0.5, max(wall, 0.2 * wall), self.apex + 16
            case PhantomFinding.CARDIOMEGALY:
                return -right, self.dome_left - 12, left, self.dome_left + 2


def plan(seed: int, finding: PhantomFinding | None, view: View) -> Anatomy:
    """Return the chest of this seed. Raises ValueError for a negative seed."""
    if seed < 0:
        raise ValueError(f"a seed must not be negative, not {seed}")
    person, ill = np.random.default_rng([seed, 1]), np.random.default_rng([seed, 2])
    u = person.uniform(-1, 1, 20)
    woman = bool(person.random() < 0.45)
    portable = view == "AP"
    thorax = 13.2 + 0.6 * u[0] - 0.8 * woman
    dome_right = 27.3 + 0.9 * u[1] - 0.6 * woman - 1.6 * portable
    dome_left = dome_right + 1.3 + 0.35 * u[2]
    ratio = 0.445 + 0.025 * u[3] + 0.045 * portable
    side = 1 if ill.random() < 0.5 else -1
    v = ill.uniform(-1, 1, 8)
    if finding is PhantomFinding.CARDIOMEGALY:
        ratio = 0.625 + 0.03 * v[0]
    return Anatomy(
        seed=seed,
        finding=finding,
        view=view,
        side=side,
        woman=woman,
        thorax=thorax,
        widest=dome_right - 0.5,
        apex=4.6 + 0.5 * u[4],
        dome_right=dome_right,
        dome_left=dome_left,
        fat=2.0 + 0.6 * u[5] - 0.2 * woman,
        depth=21.0 + 1.8 * u[6] - 1.0 * woman,
        ratio=ratio,
        rib_pitch=2.42 + 0.08 * u[7],
        rib_drop=8.2 + 0.8 * u[8],
        rotation=0.022 * u[9],
        scale=1.12 + 0.03 * u[10],
        shift=0.5 * u[11],
        exposure=0.35 * u[12],
        contrast=1.0 + 0.08 * u[13],
        spot_x=side * (7.6 + 1.4 * v[1]),
        spot_y=15.6 + 4.6 * v[2] if abs(v[2]) > 0.25 else 12.6,
        spot_radius=1.25 + 0.2 * v[3],
        fluid=dome_right - 2.4 + 1.2 * v[4],
        gap=2.7 + 0.5 * v[5],
    )


def half_width(body: Anatomy, y: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Half the inner width of the thorax at each y in cm: a dome above its widest line, nearly upright below."""
    rise = (np.float32(body.widest) - y) / np.float32(body.widest - body.apex)
    dome = np.clip(1 - np.clip(rise, 0, 1) ** np.float32(2.45), 0, None) ** np.float32(0.49)
    sides = 1 - (np.clip(y - np.float32(body.widest), 0, None) / np.float32(26)) ** 2
    return np.asarray(np.float32(body.thorax) * dome * sides + np.float32(1e-3), dtype=np.float32)
