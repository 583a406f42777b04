"""What lies along each ray through the phantom: soft tissue, bone, and air in its place. No film, no grey.

The drawing follows the physics as far as an eye can tell: what absorbs adds up along the beam, and lungs are what
is left between chest wall, mediastinum and diaphragm, so that every silhouette - heart, domes, a pleural line, the
meniscus of an effusion - comes out of thickness, not of paint.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from cxrnode.phantom.anatomy import Anatomy, PhantomFinding, half_width
from cxrnode.phantom.canvas import Canvas, Plane, union
from cxrnode.phantom.skeleton import skeleton

#: What a centimetre of bone absorbs more than soft tissue, and of inflated lung less.
_BONE, _LUNG = 1.15, 0.76


def absorbed(canvas: Canvas, body: Anatomy) -> Plane:
    """Path length along each ray in cm of soft tissue, float32 (rows, cols), 0 = air only."""
    trunk = _trunk(canvas, body)
    cavity = np.minimum(_cavity(canvas, body), trunk * np.float32(0.86))
    filled = _above_diaphragm(canvas, body)
    middle = _mediastinum(canvas, body)
    space = cavity * filled * np.clip(1 - middle / np.float32(15.0), 0, 1)
    dry = _dry(canvas, body)
    lung, free = space * dry, canvas.empty()
    if body.finding is PhantomFinding.PNEUMOTHORAX:
        lung, free, pleura = _collapsed(canvas, body, lung)
        trunk = trunk + pleura
    markings = _markings(canvas, body)
    # Vessels stand in the lung's place: where there is little lung, there are few.
    markings = markings * np.clip(lung / np.float32(7), 0, 1) ** np.float32(0.7)
    gas = _gas(canvas, body, filled)
    total = trunk - np.float32(_LUNG) * np.clip(lung - markings, 0, None) - free - gas
    total += np.float32(_BONE) * skeleton(canvas, body)
    if body.finding is PhantomFinding.NODULE:
        total += np.float32(_LUNG) * _nodule(canvas, body)
    return np.asarray(np.clip(total, 0, None), dtype=np.float32)


def _trunk(canvas: Canvas, body: Anatomy) -> Plane:
    """The whole body as if it were full: neck, shoulders, arms, trunk, breasts."""
    x, y = canvas.x, canvas.y
    half = np.float32(body.thorax + body.fat) * np.clip(
        1 - (np.clip(18 - y, 0, None) / np.float32(18.5)) ** 4, 0, None
    ) ** np.float32(0.25)
    half = half * (1 + np.float32(0.02) * np.sin((y - 18) / 5)) + np.float32(1e-3)
    deep = np.float32(body.depth) * np.clip(0.55 + (y - 3) / 26, 0.4, 1.0)
    trunk = deep * np.clip(1 - np.abs(x / half) ** np.float32(2.6), 0, None) ** np.float32(1 / 2.6)
    broad = body.thorax + body.fat
    parts = [trunk.astype(np.float32), canvas.capsule((0, -8), (0, 9), 5.9, 6.6, depth=0.95)]
    for side in (-1.0, 1.0):
        parts.append(canvas.capsule((side * 3.5, 5.6), (side * (broad + 1.0), 10.0), 4.2, 4.4, depth=1.15))
        parts.append(canvas.capsule((side * (broad + 1.0), 10.0), (side * (broad + 9.0), 20.5), 4.6, 4.2, depth=1.0))
    total = union(*parts)
    if body.woman:
        u = body.rng(5).uniform(-1, 1, 4)
        for side, k in ((-1.0, 0), (1.0, 1)):
            middle = 22.6 + 0.8 * u[2] + 0.4 * side
            breast = canvas.ellipsoid(
                side * (9.0 + 0.6 * u[k]), middle, 6.9 + 0.5 * u[3], 6.3, 3.2, tilt=side * 0.5, power=0.9
            )
            total += breast * np.clip((y - np.float32(middle - 5)) / np.float32(9), 0, 1)
    wrinkles = canvas.clouds(body.rng(6), 5.0, 3)
    return np.asarray(total * (1 + np.float32(0.012) * wrinkles), dtype=np.float32)


def _cavity(canvas: Canvas, body: Anatomy) -> Plane:
    """The inside of the rib cage: an egg cut across, front to back at each ray."""
    x, y = canvas.x, canvas.y
    rise = np.clip((np.float32(body.widest) - y) / np.float32(body.widest - body.apex), -1, 1)
    half = half_width(body, y)
    deep = np.float32(body.depth - 4.2) * np.clip(0.42 + 0.6 * (1 - rise), 0, 1)
    return np.asarray(deep * np.clip(1 - np.abs(x / half) ** 2.2, 0, None) ** np.float32(1 / 2.2), dtype=np.float32)


def _dome(canvas: Canvas, body: Anatomy) -> Plane:
    """y of the diaphragm's highest line under each x, float32 (1, cols)."""
    x = canvas.x
    lines = []
    for side, top in ((-1.0, body.dome_right), (1.0, body.dome_left)):
        u = (x * np.float32(side) - np.float32(0.46 * body.thorax)) / np.float32(0.54 * body.thorax)
        slope = np.where(u > 0, np.float32(4.3) * np.abs(u) ** 2.4, np.float32(1.9) * np.abs(u) ** 2.0)
        lines.append(np.float32(top) + slope)
    blend = 1 / (1 + np.exp(-np.clip(x, -20, 20) * np.float32(2.0)))
    return np.asarray(lines[0] * (1 - blend) + lines[1] * blend, dtype=np.float32)


def _above_diaphragm(canvas: Canvas, body: Anatomy) -> Plane:
    """The part of each ray's way through the cavity that lies above the diaphragm, in [0, 1].

    The dome falls off to the front and the back, so the lung thins out below its top as the root of the depth.
    """
    below = np.clip(canvas.y - _dome(canvas, body), 0, None)
    return np.asarray(np.clip(1 - np.sqrt(below / np.float32(2.6)), 0, 1), dtype=np.float32)


def _mediastinum(canvas: Canvas, body: Anatomy) -> Plane:
    """Heart, great vessels and what lies between the lungs, in cm of tissue."""
    x, y = canvas.x, canvas.y
    right, left = body.heart
    floor = body.dome_left
    top = body.apex
    u = body.rng(7).uniform(-1, 1, 8)
    waist = np.interp(
        y[:, 0],
        [top - 2, top + 1, top + 4.5, top + 9, top + 14, floor + 2],
        [4.2, 3.1, 2.3, 1.9, 1.7, 2.0],
    ).astype(np.float32)[:, None]
    column = np.float32(15) * np.clip(1 - (x / waist) ** 2, 0, None) ** np.float32(0.5)
    depth = 11.5 * (0.8 + 0.45 * body.ratio)
    tilt = 0.62
    cx, cy = 0.30 * left, floor - 0.26 * left - 0.8
    stretch = 1.32
    b = (left - cx) / math.sqrt((stretch * math.cos(tilt)) ** 2 + math.sin(tilt) ** 2)
    ventricle = canvas.ellipsoid(cx, cy, stretch * b, b, depth, tilt=tilt, power=0.55)
    atrium = canvas.ellipsoid(
        -0.42 * right, floor - 4.6, 0.58 * right, 4.9 * (body.ratio / 0.45) ** 0.5, depth, power=0.5
    )
    # The heart rests on the diaphragm: below its widest line its shadow goes straight down.
    ventricle, atrium = (np.maximum.accumulate(part, axis=0) for part in (ventricle, atrium))
    knob_y = top + 8.0 + 0.5 * u[0]
    knob = canvas.ellipsoid(1.75, knob_y, 1.75 + 0.25 * u[1], 1.7, 12.0, power=0.5)
    trunk = canvas.ellipsoid(1.9, knob_y + 3.2, 1.75 + 0.2 * u[2], 2.0, 9.0, power=0.6)
    ear = canvas.ellipsoid(2.0, knob_y + 5.6, 0.30 * left + 0.4, 3.2, 9.0, tilt=1.0, power=0.6)
    cava = canvas.capsule((-1.6, top + 3), (-1.75, floor - 6), 1.1, 1.25, depth=3.2)
    aorta = canvas.capsule((1.75, knob_y), (0.9, floor + 4), 1.35, 1.1, depth=1.6)
    total = union(column.astype(np.float32), ventricle, atrium, knob, trunk, ear, cava) + aorta
    return np.asarray(total, dtype=np.float32)


def _markings(canvas: Canvas, body: Anatomy) -> Plane:
    """Vessels of both lungs from the hila out, and the fine texture between them, in cm of blood."""
    plane = canvas.empty()
    root = body.apex + 11.2
    for side in (-1.0, 1.0):
        rng = body.rng(8 if side < 0 else 9)
        high = root + (0.5 if side < 0 else -0.6)
        count = 12
        angle = np.linspace(-1.38, 1.48, count) + rng.uniform(-0.2, 0.2, count)
        x = side * (2.3 + 1.3 * rng.random(count))
        y = np.full(count, high) + np.linspace(-1.5, 2.3, count) + rng.uniform(-0.4, 0.4, count)
        radius = 0.26 + 0.16 * rng.random(count) + 0.12 * (angle > 0.5)
        for level in range(7):
            reach = (2.9 * 0.86**level) * rng.uniform(0.7, 1.25, angle.size)
            tip = radius * 0.80
            bend = rng.uniform(-0.35, 0.35, angle.size)
            _vessels(canvas, plane, x, y, angle, bend, reach, radius, tip, side, level == 0)
            x = x + side * reach * np.cos(angle + bend / 2)
            y = y + reach * np.sin(angle + bend / 2)
            end = angle + bend
            fork = rng.uniform(0.22, 0.52, (2, angle.size))
            angle = np.concatenate([end - fork[0], end + fork[1]])
            share = rng.uniform(0.62, 0.88, (2, x.size))
            radius = np.concatenate([tip * share[0], tip * share[1][::-1]])
            x, y = np.tile(x, 2), np.tile(y, 2)
            keep = (radius > 0.022) & (np.abs(angle) < 2.3)
            x, y, angle, radius = x[keep], y[keep], angle[keep], radius[keep]
        plane += canvas.ellipsoid(side * 3.5, high + 0.5, 1.15, 2.1, 1.5, tilt=side * 0.35, power=0.9)
    texture = canvas.clouds(body.rng(10), 1.2, 4)
    coarse = canvas.clouds(body.rng(11), 4.0, 2)
    plane += np.float32(0.16) * texture + np.float32(0.22) * coarse + np.float32(0.35)
    return plane


def _vessels(
    canvas: Canvas,
    plane: Plane,
    x: npt.NDArray[np.float64],
    y: npt.NDArray[np.float64],
    angle: npt.NDArray[np.float64],
    bend: npt.NDArray[np.float64],
    reach: npt.NDArray[np.float64],
    radius: npt.NDArray[np.float64],
    tip: npt.NDArray[np.float64],
    side: float,
    rooted: bool,
) -> None:
    """Add one generation of branches, each an arc that tapers, as points over round cross-sections."""
    along = max(6, round(float(reach.max()) / canvas.pitch / 1.3))
    across = max(3, round(float(radius.max()) * 2 / canvas.pitch * 1.2))
    t = ((np.arange(along) + 0.5) / along).astype(np.float32)[None, :, None]
    v = (((np.arange(across) + 0.5) / across) * 2 - 1).astype(np.float32)[None, None, :]
    a, b, n = (np.asarray(k, dtype=np.float32)[:, None, None] for k in (angle, bend, reach))
    r = np.asarray(radius, dtype=np.float32)[:, None, None] * (1 - t) + np.asarray(tip, np.float32)[:, None, None] * t
    turn = a + b * t
    half = a + b * t / 2
    px = np.asarray(x, np.float32)[:, None, None] + np.float32(side) * (n * t * np.cos(half) - v * r * np.sin(turn))
    py = np.asarray(y, np.float32)[:, None, None] + n * t * np.sin(half) + v * r * np.cos(turn)
    chord = 2 * r * np.sqrt(1 - v**2)
    mass = chord * (2 * r / np.float32(across)) * (n / np.float32(along)) * np.ones_like(px)
    if rooted:  # the first generation comes out of the hilum gradually
        mass *= np.clip(t * 2.2, 0, 1)
    # Half as much again as blood would absorb: a film is processed to show them.
    canvas.splat(plane, px, py, np.float32(1.5) * mass)


def _dry(canvas: Canvas, body: Anatomy) -> Plane:
    """The air that an effusion leaves in the lung, in [0, 1]: its level climbs the lateral wall."""
    if body.finding is not PhantomFinding.EFFUSION:
        return np.ones((canvas.rows, canvas.cols), np.float32)
    depth = np.float32(body.thorax) - canvas.x * np.float32(body.side)
    level = np.float32(body.fluid) - np.float32(4.6) * np.exp(-np.clip(depth, 0, None) / np.float32(2.0))
    under = np.clip((canvas.y - level + np.float32(0.7)) / np.float32(2.4), 0, 1)
    wet = under * under * (3 - 2 * under) * (canvas.x * np.float32(body.side) > 0)
    return np.asarray(1 - wet, dtype=np.float32)


def _collapsed(canvas: Canvas, body: Anatomy, lung: Plane) -> tuple[Plane, Plane, Plane]:
    """Lung, free air and visceral pleura (cm each) when the lung has come off the wall at apex and side."""
    side = np.float32(body.side)
    x, y = canvas.x * side, canvas.y
    wall = half_width(body, y)
    gap = np.float32(body.gap) * np.clip((np.float32(body.apex + 20) - y) / 14, 0, 1) ** np.float32(0.8)
    top = np.float32(body.apex + 1.3 * body.gap)
    crown = np.clip((y - top) / np.float32(3.6), 0, 1)
    border = (wall - gap) * (1 - (1 - crown) ** 2) ** np.float32(0.5)
    inside = np.clip((border - x) / np.float32(0.12) + np.float32(0.5), 0, 1)
    inside = np.where(x > 0, inside, np.float32(1))
    line = np.exp(-(((x - border) / np.float32(0.12)) ** 2)) * (crown > 0) * (gap > 0.05) * (x > 0)
    pleura = np.float32(0.6) * line * (lung > 1)
    # The lung that is left holds less air than it did.
    fallen = np.where(x > 0, np.float32(0.90), np.float32(1))
    return (
        np.asarray(lung * inside * fallen, dtype=np.float32),
        np.asarray(lung * (1 - inside), dtype=np.float32),
        np.asarray(pleura, dtype=np.float32),
    )


def _nodule(canvas: Canvas, body: Anatomy) -> Plane:
    """A round opacity with a slightly uneven edge."""
    r = body.spot_radius
    plane = canvas.ellipsoid(body.spot_x, body.spot_y, r, r * 0.92, 2.6 * r, tilt=0.6)
    plane = union(plane, canvas.ellipsoid(body.spot_x + 0.35 * r, body.spot_y + 0.3 * r, 0.6 * r, 0.6 * r, 2.0 * r))
    return np.asarray(plane, dtype=np.float32)


def _gas(canvas: Canvas, body: Anatomy, filled: Plane) -> Plane:
    """Air outside the lungs, in cm: windpipe and main bronchi, stomach bubble over its fluid, some bowel."""
    fork = body.apex + 9.6
    pipe = canvas.capsule((0.1, -3), (0.35, fork), 0.88, 0.80)
    for end in ((-2.7, fork + 2.4), (3.3, fork + 2.3)):
        pipe = np.maximum(pipe, canvas.capsule((0.35, fork), end, 0.62, 0.42))
    rng = body.rng(12)
    u = rng.uniform(-1, 1, 6)
    x, y = 6.2 + 0.8 * u[0], body.dome_left + 2.9 + 0.3 * u[1]
    bubble = canvas.ellipsoid(x, y, 2.7 + 0.5 * u[2], 1.5 + 0.2 * u[3], 4.0, tilt=-0.12, power=0.7)
    bubble = bubble * np.clip((np.float32(y + 0.75 + 0.3 * u[4]) - canvas.y) / np.float32(0.22), 0, 1)
    bowel = canvas.empty()
    for _ in range(9):
        a, b, c, d = rng.uniform(-1, 1, 4)
        loop = canvas.ellipsoid(8.2 + 3.2 * a, y + 5.4 + 2.4 * b, 1.2 + 0.4 * c, 0.9, 1.2 + 0.5 * d, tilt=c, power=1.0)
        bowel = union(bowel, loop)
    abdominal = (bubble + bowel) * (1 - filled)
    return np.asarray(np.float32(0.9) * pipe + abdominal, dtype=np.float32)
