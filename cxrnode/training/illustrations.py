"""Explanations of a few held-out films for the report of a run: pictures without a name, a number or a path."""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Sequence

import numpy as np
from PIL import Image

from cxrnode.errors import UnreadableImage
from cxrnode.reading.bundle import Bundle
from cxrnode.reading.engine import Film
from cxrnode.reading.explain import Map, Method
from cxrnode.training.explanation import Region, explain_film, map_over, regions
from cxrnode.training.readers import FilmRow
from cxrnode.training.readers.film_set import open_row
from cxrnode.training.recipe import Recipe

#: Longest side in pixels of a large picture, and of one of many.
LARGE, SMALL = 360, 150


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Drawn:
    """A picture (the bytes of a JPEG) with the label, its score and, where the recipe asks, its regions."""

    label: str
    score: float
    picture: bytes
    empty: bool
    regions: tuple[Region, ...] = ()


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Illustrated:
    """One film: what its list says, the film itself, the label of the highest score, and others, small."""

    said: str
    scale: str
    film: bytes
    top: Drawn
    others: tuple[Drawn, ...]


def illustrate(
    bundle: Bundle, held: Sequence[FilmRow], recipe: Recipe, *, threads: int | None = None
) -> tuple[Illustrated, ...]:
    """Explain films as the recipe says: Grad-CAM for the top label and for all, any other way for the top one alone."""
    how, labels = recipe.explanation, recipe.films.labels
    method = Method(how.method)
    found = []
    for row in chosen(held, labels, how.films):
        try:
            film = open_row(row)
        except UnreadableImage:
            continue
        asked = labels if method is Method.GRADCAM else ()
        explained = explain_film(bundle, film, [method], asked, most=1, threads=threads)
        first, *others = sorted(explained.findings, key=lambda one: -one.score)
        told = [label.replace("_", " ") for label, value in zip(labels, row.findings, strict=True) if value]
        found.append(
            Illustrated(
                said=", ".join(told) or ("none of the labels" if len(labels) > 1 else f"not {labels[0]}"),
                scale=explained.scale,
                film=_jpeg(_thumbnail(film, LARGE).convert("RGB")),
                top=_drawn(film, first.finding, first.score, first.maps[method], LARGE, how.regions),
                others=tuple(
                    _drawn(film, other.finding, other.score, other.maps[method], SMALL, 0) for other in others
                ),
            )
        )
    return tuple(found)


def chosen(held: Sequence[FilmRow], labels: Sequence[str], count: int) -> list[FilmRow]:
    """Return films by turns of the labels, the commonest first, then one without any: the first of each in the list."""
    order = sorted(range(len(labels)), key=lambda i: (-sum(bool(row.findings[i]) for row in held), i))
    wanted = [
        *([[row for row in held if row.findings[i]] for i in order]),
        [row for row in held if not any(row.findings)],
    ]
    if len(labels) == 1:
        wanted *= count
    found: list[FilmRow] = []
    for rows in wanted:
        new = next((row for row in rows if row not in found), None)
        if new is not None and len(found) < count:
            found.append(new)
    return found


def _drawn(film: Film, label: str, score: float, map_: Map, side: int, most: int) -> Drawn:
    peak = float(map_.max())
    small = _thumbnail(film, side)
    picture = map_over(np.asarray(small), map_, outlined=most)
    shown = regions(map_, most=most)
    return Drawn(label=label, score=score, picture=_jpeg(picture), empty=peak <= 0, regions=shown)


def _thumbnail(film: Film, side: int) -> Image.Image:
    small = Image.fromarray(film)
    share = side / max(small.size)
    size = (max(1, round(small.width * share)), max(1, round(small.height * share)))
    return small.resize(size, Image.Resampling.BILINEAR)


def _jpeg(picture: Image.Image) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, format="JPEG", quality=88)
    return buffer.getvalue()
