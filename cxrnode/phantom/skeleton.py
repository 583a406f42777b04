"""The bones of the phantom as clouds of points in space, projected along the beam. No soft tissue."""

from __future__ import annotations

import itertools
import math

import numpy as np

from cxrnode.phantom.anatomy import Anatomy, half_width
from cxrnode.phantom.canvas import Canvas, Plane, softened

#: How many vertebrae are drawn, from C5 down.
_VERTEBRAE = 22


def skeleton(canvas: Canvas, body: Anatomy) -> Plane:
    """The bones' path lengths in cm of bone, float32 (rows, cols)."""
    plane = canvas.empty()
    for side in (-1.0, 1.0):
        plane += _ribs(canvas, body, side) + _girdle(canvas, body, side)
    return softened(plane) + np.float32(0.72) * softened(_spine(canvas, body), 2)


def _tube(
    canvas: Canvas, plane: Plane, x: Plane, y: Plane, z: Plane, height: Plane, width: float, marrow: float
) -> None:
    """Add a flat bone along a path in space: `height` cm up and down (n,), `width` cm front to back, a dense shell.

    Its mass is spread over the cross-section, so that an edge seen along the shell comes out bright by itself.
    """
    tx, ty, tz = np.gradient(x), np.gradient(y), np.gradient(z)
    length = np.sqrt(tx**2 + ty**2 + tz**2) + np.float32(1e-6)
    tx, ty, tz = tx / length, ty / length, tz / length
    # b: across the path, as near to vertical as it can be; n: across both, the thin direction.
    bx, by, bz = -ty * tx, 1 - ty * ty, -ty * tz
    norm = np.sqrt(bx**2 + by**2 + bz**2) + np.float32(1e-3)
    bx, by = bx / norm, by / norm
    nx, ny = by * tz - (bz / norm) * ty, (bz / norm) * tx - bx * tz
    across = max(9, round(float(height.max()) / canvas.pitch * 1.3))
    v, u = np.meshgrid(
        (np.arange(across, dtype=np.float32) + np.float32(0.5)) / np.float32(across) * 2 - 1,
        np.linspace(-0.9, 0.9, 7, dtype=np.float32),
    )
    r = np.sqrt(v**2 + u**2).ravel()
    keep = r < 1
    v, u, r = v.ravel()[keep], u.ravel()[keep], r[keep]
    density = marrow + (1 - marrow) * np.clip((r - 0.62) / 0.2, 0, 1)
    half = height[:, None] / 2
    px = x[:, None] + bx[:, None] * v * half + nx[:, None] * u * np.float32(width / 2)
    py = y[:, None] + by[:, None] * v * half + ny[:, None] * u * np.float32(width / 2)
    cell = length[:, None] * height[:, None] * np.float32(width * math.pi / 4 / v.size) * density
    canvas.splat(plane, px.astype(np.float32), py.astype(np.float32), cell.astype(np.float32))


def _ribs(canvas: Canvas, body: Anatomy, side: float) -> Plane:
    plane = canvas.empty()
    jitter = body.rng(3).uniform(-1, 1, (12, 3)) * 0.5
    for number in range(1, 12):
        shift, lean, tall = jitter[number]
        start = body.apex - 0.9 + body.rib_pitch * (number - 1) + 0.12 * shift
        drop = (body.rib_drop + 0.3 * lean) * (0.52 + 0.48 * min(1.0, (number - 1) / 5.0))
        # The rib turns forward where it meets the wall of the thorax, half-way down.
        turn = np.asarray([start + drop * 0.5**1.15 - 0.6], dtype=np.float32)
        reach = float(half_width(body, turn)[0]) + 0.25
        front = 0.80 if number < 8 else 0.80 - 0.075 * (number - 7)  # where the bone ends, in half turns
        steps = max(80, round(3.2 * reach / canvas.pitch / 1.4))
        t = np.linspace(0.03, front, steps, dtype=np.float32) * np.float32(math.pi)
        x = np.float32(side) * np.float32(reach) * np.sin(t) ** np.float32(0.82)
        z = -np.float32(0.68 * reach) * np.cos(t)
        fall = np.float32(0.5) * (1 - np.cos(t))
        y = np.float32(start) + np.float32(drop) * fall ** np.float32(1.15)
        y -= np.float32(0.55) * np.sin(2 * t).clip(0, None)
        height = np.float32(1.18 + 0.1 * tall) * (1 + np.float32(0.18) * fall)
        _tube(canvas, plane, x, y.astype(np.float32), z, height.astype(np.float32), 0.5, 0.30)
    return plane


def _girdle(canvas: Canvas, body: Anatomy, side: float) -> Plane:
    """Clavicle, scapula and humerus of one side."""
    lift = 0.9 if body.view == "AP" else 0.0
    t = np.linspace(0, 1, max(80, round(17 / canvas.pitch / 1.4)), dtype=np.float32)
    x = np.float32(side) * (np.float32(1.7) + np.float32(14.0) * t)
    y = np.float32(body.apex + 2.9 - lift) - np.float32(2.3) * t + np.float32(0.75) * np.sin(np.float32(5.6) * t)
    height = np.float32(1.25) - np.float32(0.5) * np.sin(np.float32(math.pi) * t)
    plane = canvas.empty()
    _tube(canvas, plane, x, y.astype(np.float32), 3 * t, height.astype(np.float32), 1.15, 0.30)

    # The shoulder blade is turned out of the lungs on a PA film, and lies over them on an AP film.
    out = body.thorax + (0.2 if body.view == "PA" else -1.8)
    top = body.apex + 1.8
    inner = [(out + 0.1, top), (out - 0.7, top + 4.0), (out - 0.3, top + 8.0), (out + 0.5, top + 11.0)]
    outer = [(out + 0.5, top + 11.0), (out + 2.1, top + 7.5), (out + 3.3, top + 4.2), (out + 3.6, top + 2.6)]
    spine = [(out + 0.0, top + 3.0), (out + 2.2, top + 1.3), (out + 4.0, top - 0.3), (out + 5.4, top - 0.9)]
    for path, thick in ((inner, 0.42), (outer, 0.75), (spine, 0.95)):
        px, py = (np.interp(t, np.linspace(0, 1, len(path)), [p[k] for p in path]).astype(np.float32) for k in (0, 1))
        for _ in range(3):
            px, py = _eased(px), _eased(py)
        taper = np.sqrt(np.sin(np.float32(math.pi) * (np.float32(0.03) + np.float32(0.94) * t)))
        _tube(canvas, plane, np.float32(side) * px, py, t * 0, thick * taper, 0.7 * thick, 0.5)
    for low, high in itertools.pairwise(inner):
        plane += 0.035 * canvas.capsule((side * (low[0] + 1.5), low[1]), (side * (high[0] + 1.2), high[1]), 1.7, 1.3)
    head = (side * (out + 5.2), top + 2.6)
    plane += 0.26 * canvas.ellipsoid(*head, 2.35, 2.45, 3.6, power=0.35)
    plane += 0.35 * canvas.capsule(head, (side * (out + 7.5), top + 17), 1.7, 1.15)
    plane -= 0.22 * canvas.capsule(head, (side * (out + 7.5), top + 17), 1.2, 0.6)
    return plane


def _eased(path: Plane) -> Plane:
    """The path under a running mean a tenth of its length wide; its ends stay."""
    n = max(3, path.size // 10) | 1
    padded = np.pad(path, n // 2, mode="reflect", reflect_type="odd")
    return np.convolve(padded, np.full(n, 1 / n, np.float32), "valid").astype(np.float32)


def _spine(canvas: Canvas, body: Anatomy) -> Plane:
    """Bodies with bright end plates, pedicles, transverse and spinous processes."""
    plane = canvas.empty()
    y = body.apex - 0.9 - 4 * 1.75
    lean = body.rng(4).uniform(-1, 1, 2)
    for number in range(_VERTEBRAE):
        tall = 1.75 if number < 4 else 1.85 + 0.055 * (number - 4)
        wide = 1.15 if number < 4 else 1.3 + 0.035 * (number - 4)
        middle = y + tall / 2
        x = 0.25 * float(lean[0]) * math.sin(middle / 9.0 + float(lean[1]))
        box = canvas.window(x - wide - 2.6, y - 0.4, x + wide + 2.6, y + tall + 1.6)
        dx, dy = canvas.x[:, box[1]] - np.float32(x), canvas.y[box[0]] - np.float32(middle)
        waist = np.float32(wide) * (np.float32(0.90) + np.float32(0.14) * (dy / np.float32(tall / 2)) ** 2)
        inside = np.clip((waist - np.abs(dx)) / np.float32(0.10), 0, 1)
        level = np.abs(dy) / np.float32(tall / 2 - 0.17)
        inside = inside * np.clip((1.06 - level) / 0.06, 0, 1)
        rim = np.clip((level - 0.84) / 0.1, 0, 1) + np.clip((np.abs(dx) - waist + 0.28) / 0.15, 0, 1) * 0.8
        bone = inside * (np.float32(0.40) + np.float32(0.42) * rim)
        for hand in (-1, 1):  # pedicles: rings in the upper outer part of the body; transverse processes
            r = np.sqrt(((dx - hand * wide * 0.66) / 0.30) ** 2 + ((dy + tall * 0.16) / 0.46) ** 2)
            bone = bone + 0.55 * np.clip(1 - np.abs(r - 0.9) / 0.4, 0, 1)
            if number > 3:
                reach = np.clip(1 - np.abs(hand * dx - wide - 0.75) / 1.2, 0, 1) ** 0.5
                bone = bone + 0.45 * reach * np.clip(1 - ((dy + tall * 0.22) / 0.42) ** 2, 0, 1)
        bone = bone + 0.75 * np.clip(1 - (dx / 0.24) ** 2 - ((dy - tall * 0.62) / 0.75) ** 2, 0, 1) ** 0.5
        plane[box] += bone.astype(np.float32)
        y += tall
    return plane
