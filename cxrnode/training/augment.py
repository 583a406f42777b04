"""Variations of films, as exposure, positioning, collimation and storage make them. Draws from the generator alone."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

from cxrnode.training.recipe import Augmentation

_BLOCK = 8


def augment(
    films: Tensor, how: Augmentation, generator: torch.Generator, along: Tensor | None = None
) -> tuple[Tensor, Tensor | None]:
    """Vary grey levels in [0, 1], float32 (N, 1, H, W) on any device; the same shape and range back.

    `along`: masks float32 (N, C, h, w) of the same films, which are moved with them and else left alone.

    `generator` is of the processor, so that the same seed varies alike on every device, noise apart.
    """

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        drawn = torch.rand(shape or (len(films),), generator=generator) * (high - low) + low
        return drawn.to(films.device)

    def once() -> bool:
        return float(torch.rand((), generator=generator)) < how.chance  # for all films of the batch

    def each(values: Tensor) -> Tensor:
        return values.view(-1, 1, 1, 1)

    if how.flip or how.rotate or how.shift or how.zoom_in or how.zoom_out:
        theta = _placing(
            angle=uniform(-how.rotate, how.rotate),
            # The grid is of the output: a step below 1 enlarges.
            step=uniform(1 - how.zoom_in, 1 + how.zoom_out),
            sign=torch.where(uniform(0, 1) < how.flip, -1.0, 1.0),
            shift=uniform(-how.shift, how.shift, len(films), 2),
        )
        films = _placed(films, theta)
        along = None if along is None else _placed(along, theta)
    if how.gamma:
        films = films.clamp(1e-4, 1) ** each(torch.exp(uniform(-how.gamma, how.gamma)))
    if how.histogram:
        films = _toned(films, uniform(0, 1, len(films), 8), how.histogram)
    if how.contrast or how.brightness:
        films = (films - 0.5) * each(uniform(1 - how.contrast, 1 + how.contrast)) + 0.5
        films = (films + each(uniform(-how.brightness, how.brightness))).clamp(0, 1)
    if how.blur and once():
        films = _blurred(films, float(uniform(0, how.blur, 1)) * films.shape[-1])
    if how.shrink and once():
        films = _shrunk(films, float(uniform(1 - how.shrink, 1, 1)))
    if how.noise:
        noise = torch.Generator(films.device).manual_seed(int(torch.randint(2**31, (), generator=generator)))
        drawn = torch.randn(films.shape, generator=noise, device=films.device)
        films = films + drawn * each(uniform(0, how.noise) * (uniform(0, 1) < how.chance))
    if how.jpeg and once():
        films = _coarse(films, each(uniform(0, how.jpeg)))
    if how.erase:
        sides = uniform(0, how.erase, len(films), 2) * (uniform(0, 1, len(films), 1) < how.chance)
        films = _erased(films, sides, uniform(0, 1, len(films), 3))
    films = films.clamp(0, 1)
    if how.border:
        # Margins carry laterality marks and letterboxing, which betray where a film comes from.
        reach = uniform(0, how.border, len(films), 4)
        films = _margined(films, reach * (uniform(0, 1, len(films), 4) < how.border_chance))
    return films, along


def _placing(*, angle: Tensor, step: Tensor, sign: Tensor, shift: Tensor) -> Tensor:
    cos, sin = torch.cos(angle) * step, torch.sin(angle) * step
    rows = [torch.stack([cos * sign, -sin, shift[:, 0]], 1), torch.stack([sin * sign, cos, shift[:, 1]], 1)]
    return torch.stack(rows, 1)


def _placed(films: Tensor, theta: Tensor) -> Tensor:
    grid = functional.affine_grid(theta, list(films.shape), align_corners=False)
    return functional.grid_sample(films, grid, mode="bilinear", padding_mode="zeros", align_corners=False)


def _toned(films: Tensor, steps: Tensor, strength: float) -> Tensor:
    """Send grey through a rising curve of straight pieces from (0, 0) to (1, 1): `steps` (N, K) are its rises."""
    pieces = steps.shape[1]
    rises = (1 - strength) + strength * steps
    heights = functional.pad((rises / rises.sum(1, keepdim=True)).cumsum(1), (1, 0))
    at = films.clamp(0, 1) * pieces
    piece = at.long().clamp(max=pieces - 1)
    flat = piece.flatten(1)
    low, high = heights.gather(1, flat).view_as(films), heights.gather(1, flat + 1).view_as(films)
    return low + (high - low) * (at - piece)


def _blurred(films: Tensor, sigma: float) -> Tensor:
    reach = max(1, math.ceil(2.5 * sigma))
    at = torch.arange(-reach, reach + 1, device=films.device)
    kernel = torch.exp(-0.5 * (at / max(sigma, 1e-3)) ** 2)
    kernel = kernel / kernel.sum()
    films = functional.conv2d(films, kernel.view(1, 1, -1, 1), padding=(reach, 0))
    return functional.conv2d(films, kernel.view(1, 1, 1, -1), padding=(0, reach))


def _shrunk(films: Tensor, share: float) -> Tensor:
    height, width = films.shape[2:]
    small = (max(8, round(height * share)), max(8, round(width * share)))
    films = functional.interpolate(films, small, mode="bilinear", align_corners=False, antialias=True)
    return functional.interpolate(films, (height, width), mode="bilinear", align_corners=False)


def _coarse(films: Tensor, step: Tensor) -> Tensor:
    """Round the cosine transform of 8 x 8 blocks, as JPEG does: to multiples of up to `step` / 2 (N, 1, 1, 1)."""
    n, _, height, width = films.shape
    down, right = -height % _BLOCK, -width % _BLOCK
    padded = functional.pad(films, (0, right, 0, down), mode="replicate")
    rows, columns = padded.shape[2] // _BLOCK, padded.shape[3] // _BLOCK
    blocks = padded.view(n, rows, _BLOCK, columns, _BLOCK).permute(0, 1, 3, 2, 4)
    k = torch.arange(_BLOCK, device=films.device, dtype=films.dtype)
    basis = torch.cos(math.pi * (k[None] + 0.5) * k[:, None] / _BLOCK) * math.sqrt(2 / _BLOCK)
    basis[0] /= math.sqrt(2)
    # Coarser for finer detail; the mean of a block is left alone, or films would change in brightness.
    size = (k[None] + k[:, None]) / (2 * _BLOCK - 2)
    grain = (step.view(n, 1, 1, 1, 1) * size).clamp(min=1e-4)
    rounded = torch.round(basis @ blocks @ basis.T / grain) * grain
    back = (basis.T @ rounded @ basis).permute(0, 1, 3, 2, 4).reshape(padded.shape)
    return back[:, :, :height, :width]


def _erased(films: Tensor, sides: Tensor, where: Tensor) -> Tensor:
    """Put one grey level, `where[:, 2]`, in a rectangle; `sides` (N, 2) and `where[:, :2]` in fractions of the film."""
    inside = []
    for axis, length in enumerate(films.shape[2:]):
        at = (torch.arange(length, device=films.device) + 0.5) / length
        start = where[:, axis, None] * (1 - sides[:, axis, None])
        inside.append((at >= start) & (at < start + sides[:, axis, None]))
    mask = (inside[0][:, :, None] & inside[1][:, None, :])[:, None]
    return torch.where(mask, where[:, 2].view(-1, 1, 1, 1), films)


def _margined(films: Tensor, reach: Tensor) -> Tensor:
    """Blacken margins; `reach` (N, 4) in fractions of the film: left, right, top, bottom."""
    edge = reach[:, :, None]
    rows, columns = (((torch.arange(length, device=films.device) + 0.5) / length)[None] for length in films.shape[2:])
    across = (columns >= edge[:, 0]) & (columns <= 1 - edge[:, 1])
    down = (rows >= edge[:, 2]) & (rows <= 1 - edge[:, 3])
    return films * (down[:, None, :, None] & across[:, None, None, :])
