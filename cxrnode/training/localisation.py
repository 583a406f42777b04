"""Localisation: whether a finding's saliency lies where a radiologist drew its box. Draws nothing, fits nothing.

Pointing game (Zhang et al., ECCV 2016) without tolerance, and the overlap of the map at half of its peak with the
boxes. Both are told beside two ways that never look at the film: its centre, and chance.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional

from cxrnode.core.quality import Share, share
from cxrnode.reading.engine import Film, prepare
from cxrnode.reading.explain import Explainer, Method, explainer
from cxrnode.reading.manifest import Input
from cxrnode.reading.network import Network
from cxrnode.training.readers import BadList, FilmRow
from cxrnode.training.readers.boxes import read_box_list
from cxrnode.training.readers.labels import key
from cxrnode.training.readers.picture import open_row

#: Pixels along a side on which maps and boxes are compared.
SIDE = 224
CENTRE, RANDOM = "centre", "random"
#: Steps of integrated gradients: few, so that a few hundred films take minutes. What more would give: the model card.
STEPS = 8

_DRAWS = 8

Mask = npt.NDArray[np.bool_]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Boxed:
    """One finding on one film. `mask`: bool (SIDE, SIDE), true inside any of its boxes."""

    film: FilmRow
    finding: str
    mask: Mask


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Located:
    """How well one method finds one finding. `iou` is the mean over films; `empty` counts maps that show nothing.

    `pointing` counts hits; by chance it is what the area of the boxes gives, rounded to whole films.
    """

    finding: str
    method: str
    films: int
    pointing: Share
    iou: float
    empty: int


def read_boxes(path: Path, films: Sequence[FilmRow], findings: Sequence[str], *, side: float = 1024) -> list[Boxed]:
    """Return the boxes that lie on these films for these findings, one value for each finding of a film.

    `path` is a list of cxrnode's form or NIH's `BBox_List_2017.csv`; `side` is that of the square film in which x, y,
    w, h count. Raises BadList.
    """
    listed = {film.image: film for film in films}
    spelled = {key(finding): finding for finding in findings}
    masks: dict[tuple[str, str], Mask] = {}
    for box in read_box_list(path):
        finding = spelled.get(key(box.finding))
        if box.image not in listed or finding is None:
            continue
        x, y, w, h = (number / side * SIDE for number in (box.x, box.y, box.w, box.h))
        if w <= 0 or h <= 0 or x + w <= 0 or y + h <= 0 or x >= SIDE or y >= SIDE:
            fault = f"the box lies outside a film of {side:g} pixels; correct the row"
            raise BadList(f"{path.name}: row {box.row}: {fault}")
        mask = masks.setdefault((box.image, finding), np.zeros((SIDE, SIDE), bool))
        mask[max(0, math.floor(y)) : math.ceil(y + h), max(0, math.floor(x)) : math.ceil(x + w)] = True
    if not masks:
        raise BadList(
            f"{path.name}: none of its boxes lies on a film of --data; name the list of the films that have boxes, "
            "with --fold where some of them were trained on"
        )
    return [Boxed(film=listed[image], finding=finding, mask=mask) for (image, finding), mask in masks.items()]


def locate(
    boxed: Sequence[Boxed],
    network: Network,
    given: Input,
    labels: Sequence[str],
    methods: Iterable[Method],
    *,
    most: int | None = None,
    steps: int = STEPS,
    opened: Callable[[FilmRow], Film] = open_row,
    done: Callable[[], None] = lambda: None,
) -> tuple[Located, ...]:
    """Return how well each method, the centre and chance find each finding, on at most `most` films of each.

    `labels` are the network's outputs; `steps` are those of integrated gradients; `done` is called after each film.
    """
    black = torch.tensor([-mean / std for mean, std in zip(given.mean, given.std, strict=True)]).view(1, -1, 1, 1)
    ways: dict[str, Explainer] = {method.value: explainer(method, network, black, steps=steps) for method in methods}
    blank = black.expand(1, given.channels, given.size, given.size)
    with torch.inference_mode():
        cells = network.run(blank).activations.shape[-2:]
    found = []
    for finding in dict.fromkeys(one.finding for one in boxed):
        here = [one for one in boxed if one.finding == finding][:most]
        results: dict[str, list[tuple[float, float, bool]]] = {}
        for order, one in enumerate(here):
            inputs = torch.from_numpy(prepare(opened(one.film), given)[None])
            for name, way in ways.items():
                results.setdefault(name, []).append(judge(way.explain(inputs, labels.index(finding)), one.mask))
            results.setdefault(CENTRE, []).append(judge(_centre(), one.mask))
            chance = [judge(noise, one.mask) for noise in _noise(order, tuple(cells))]
            overlap = sum(iou for _, iou, _ in chance) / len(chance)
            results.setdefault(RANDOM, []).append((float(one.mask.mean()), overlap, False))
            done()
        for name, values in results.items():
            found.append(
                Located(
                    finding=finding,
                    method=name,
                    films=len(here),
                    pointing=share(round(sum(hit for hit, _, _ in values)), len(here)),
                    iou=sum(iou for _, iou, _ in values) / len(here),
                    empty=sum(empty for _, _, empty in values),
                )
            )
    return tuple(found)


def pooled(parts: Sequence[Sequence[Located]]) -> tuple[Located, ...]:
    """Return what several networks find, each on films of its own, as one."""
    found: dict[tuple[str, str], Located] = {}
    for one in (one for part in parts for one in part):
        before = found.get((one.finding, one.method))
        if before is not None:
            films = before.films + one.films
            one = dataclasses.replace(
                one,
                films=films,
                pointing=share(before.pointing.count + one.pointing.count, films),
                iou=(before.iou * before.films + one.iou * one.films) / films,
                empty=before.empty + one.empty,
            )
        found[one.finding, one.method] = one
    return tuple(found.values())


def judge(saliency: npt.NDArray[np.floating], mask: Mask) -> tuple[float, float, bool]:
    """Return (hit, overlap, empty) of a map (h, w), >= 0, against a mask (SIDE, SIDE).

    hit: 1.0 where the peak of the enlarged map lies in the mask; overlap: intersection over union of the mask with
    what is at or above half of the peak. A map of nothing hits nothing.
    """
    map_ = torch.from_numpy(np.ascontiguousarray(saliency, np.float32))[None, None]
    large = functional.interpolate(map_, (SIDE, SIDE), mode="bilinear", align_corners=False)[0, 0].numpy()
    peak = float(large.max())
    if peak <= 0:
        return 0.0, 0.0, True
    shown = large >= peak / 2
    overlap = float((shown & mask).sum() / (shown | mask).sum())
    return float(mask.flat[int(large.argmax())]), overlap, False


def _centre() -> npt.NDArray[np.float32]:
    """A cone over the middle of the film: at half of its peak a disc over half of the side."""
    at = (np.arange(SIDE, dtype=np.float32) + 0.5) / SIDE - 0.5
    cone: npt.NDArray[np.float32] = np.maximum(0.0, 1 - 2 * np.hypot(at[:, None], at[None, :])).astype(np.float32)
    return cone


def _noise(seed: int, cells: tuple[int, ...]) -> npt.NDArray[np.float32]:
    """Maps of noise, float32 (draws, h, w), as coarse as those of the network: `cells` is (h, w)."""
    return np.random.default_rng(seed).random((_DRAWS, *cells), np.float32)
