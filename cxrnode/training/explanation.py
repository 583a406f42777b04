"""Explanations of one film by several methods side by side: pictures and a comparison sheet. Decides nothing.

Each map is drawn on the scale of its own peak, so that places can be compared and strengths cannot; every picture
says so, and whether the model is a demonstration.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image, ImageDraw

from cxrnode.core.findings import Plausibility
from cxrnode.dicom.outputs.drawing import AMBER, BODY, LARGE, MUTED, SMALL, Page, line_height
from cxrnode.dicom.outputs.influence import CONTOUR_LEVEL, Influence, overlay
from cxrnode.errors import Rejected
from cxrnode.reading.bundle import Bundle
from cxrnode.reading.engine import Film, TorchEngine, prepare
from cxrnode.reading.explain import Map, Method, explainer
from cxrnode.reading.network import build_network

#: Longest side in pixels of a picture, and of a film on the sheet.
PICTURE, TILE = 1024, 384
#: Cells along each side of the grid in which regions are told: that of LIME.
CELLS = 8
#: Regions that are told, and outlined over a map of LIME.
REGIONS = 5

_MARGIN = 24


class UnknownFinding(Rejected):
    """The model has no such finding; the message names those that it has."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Region:
    """A cell of the grid in fractions of the film, from its upper left, and its share of the whole map."""

    left: float
    top: float
    right: float
    bottom: float
    share: float


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Explained:
    """One finding on the film: its score, and a map (h, w), >= 0, by each method."""

    finding: str
    score: float
    maps: dict[Method, Map]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Explanation:
    """All findings asked for, with what must be said beside them."""

    model: str
    demonstration: bool
    scale: str
    plausibility: Plausibility
    findings: tuple[Explained, ...]


def explain_film(
    bundle: Bundle,
    film: Film,
    methods: Sequence[Method],
    findings: Sequence[str] = (),
    *,
    most: int = 3,
    threads: int | None = None,
) -> Explanation:
    """Explain a film, uint8 (H, W), 0 = black: these findings, else the `most` reported ones with the highest scores.

    Scores are those that the node would show. An implausible film is explained too, and is called that. Raises
    UnknownFinding, MissingLibrary, NotFinite.
    """
    labels = [label.name for label in bundle.manifest.labels]
    if unknown := [finding for finding in findings if finding not in labels]:
        raise UnknownFinding(f"the model has no finding {unknown[0]}, only {', '.join(labels)}")
    network = build_network(bundle.weights, bundle.manifest.shape)
    given = bundle.manifest.input
    black = torch.tensor([-mean / std for mean, std in zip(given.mean, given.std, strict=True)]).view(1, -1, 1, 1)
    ways = {method: explainer(method, network, black) for method in methods}
    (reading,) = TorchEngine(bundle, device="cpu", threads=threads).read([film])
    scores = bundle.calibrated(reading.scores)
    reported = {label.name for label in bundle.manifest.labels if label.report} or set(labels)
    ranked = [labels[i] for i in np.argsort(-scores, kind="stable") if labels[i] in reported]
    chosen = list(findings) or ranked[:most]
    inputs = torch.from_numpy(prepare(film, given)[None])
    return Explanation(
        model=f"{bundle.manifest.name} {bundle.manifest.version} ({bundle.digest[:12]})",
        demonstration=bundle.manifest.demonstration,
        scale=str(bundle.scale),
        plausibility=bundle.plausibility_of(reading),
        findings=tuple(
            Explained(
                finding=finding,
                score=float(scores[labels.index(finding)]),
                maps={method: way.explain(inputs, labels.index(finding)) for method, way in ways.items()},
            )
            for finding in chosen
        ),
    )


def regions(map_: Map, *, most: int = REGIONS) -> tuple[Region, ...]:
    """Return the cells that hold most of a map (h, w), the fullest first; none of an empty map."""
    large = np.asarray(Image.fromarray(map_).resize((CELLS * 8, CELLS * 8), Image.Resampling.BILINEAR)).clip(0)
    cells = large.reshape(CELLS, 8, CELLS, 8).sum((1, 3))
    if cells.sum() <= 0:
        return ()
    order = np.argsort(-cells, axis=None, kind="stable")[:most]
    return tuple(
        Region(
            left=column / CELLS,
            top=row / CELLS,
            right=(column + 1) / CELLS,
            bottom=(row + 1) / CELLS,
            share=float(cells[row, column] / cells.sum()),
        )
        for row, column in (divmod(int(place), CELLS) for place in order)
        if cells[row, column] > 0
    )


def map_over(film: Film, map_: Map, *, outlined: int = 0) -> Image.Image:
    """Return a film, uint8 (H, W), with a map (h, w) over it on the scale of its own peak; RGB (H, W).

    `outlined` regions of it, the fullest, get a border and their rank.
    """
    peak = float(map_.max())
    cells = (map_ / peak if peak > 0 else np.zeros_like(map_)).astype(np.float32)
    # A map of steps gets the borders of its regions, and no contour: that would break at each step.
    told = CONTOUR_LEVEL / 2 if outlined else 1.0
    drawn = Image.fromarray(overlay(film, Influence(cells, told if peak > 0 else 0.0), colour=True))
    _outline(drawn, regions(map_, most=outlined))
    return drawn


def picture(film: Film, explanation: Explanation, one: Explained, method: Method) -> Image.Image:
    """Return the film with one map over it, and below it what it is; RGB, at most PICTURE wide or high.

    Over a map of LIME its five fullest regions are outlined and numbered, as `regions` ranks them.
    """
    drawn = map_over(_shrunk(film, PICTURE), one.maps[method], outlined=_outlined(method))
    lines = [
        (f"{one.finding.replace('_', ' ')}: {explanation.scale} {one.score:.2f}, by {method}", BODY, (240, 240, 240)),
        *((text, SMALL, ink) for text, ink in _notes(explanation)),
    ]
    if not one.maps[method].max() > 0:
        lines.insert(1, ("The map is empty: no localisation.", SMALL, AMBER))
    elif method is Method.LIME:
        shares = ", ".join(f"{rank}: {one_.share:.0%}" for rank, one_ in enumerate(regions(one.maps[method]), 1))
        lines.insert(
            1, (f"Outlined: the regions that speak for it most, with their share of the map. {shares}", SMALL, MUTED)
        )
    width = max(drawn.width, 640)
    room = width - 2 * _MARGIN
    page = Page(width, drawn.height + sum(3 * line_height(size) for _, size, _ in lines))
    page.put((width - drawn.width) // 2, 0, np.asarray(drawn))
    y = drawn.height + 8
    for text, size, ink in lines:
        y = page.paragraph(_MARGIN, y, room, text, size, ink)
    page.cut(y + 12)
    return page.image


def sheet(film: Film, explanation: Explanation) -> Image.Image:
    """Return the comparison: a row for each finding, the film and then a column for each method; RGB."""
    methods = list(explanation.findings[0].maps)
    bare = Image.fromarray(film).convert("RGB")
    bare.thumbnail((TILE, TILE), Image.Resampling.BILINEAR)
    step_x, step_y = bare.width + 16, bare.height + line_height(SMALL) + 16
    width = max(2 * _MARGIN + step_x * (1 + len(methods)), 900)
    head = _MARGIN + line_height(LARGE) + 4 * line_height(SMALL) + line_height(BODY)
    page = Page(width, head + step_y * len(explanation.findings) + _MARGIN)
    y = page.paragraph(_MARGIN, _MARGIN, width - 2 * _MARGIN, "Explanations compared", LARGE)
    for text, ink in _notes(explanation):
        y = page.paragraph(_MARGIN, y, width - 2 * _MARGIN, text, SMALL, ink)
    for column, name in enumerate(("film", *(str(method) for method in methods))):
        page.text(_MARGIN + column * step_x, head - line_height(BODY), name, SMALL, MUTED)
    for row, one in enumerate(explanation.findings):
        top = head + row * step_y
        page.put(_MARGIN, top, np.asarray(bare))
        title = f"{one.finding.replace('_', ' ')}: {explanation.scale} {one.score:.2f}"
        page.text(_MARGIN, top + bare.height + 2, title, SMALL)
        for column, method in enumerate(methods, 1):
            tile = map_over(_shrunk(film, TILE), one.maps[method], outlined=_outlined(method))
            page.put(_MARGIN + column * step_x, top, np.asarray(tile))
            if not one.maps[method].max() > 0:
                page.text(_MARGIN + column * step_x, top + bare.height + 2, "empty: no localisation", SMALL, AMBER)
    return page.image


def _notes(explanation: Explanation) -> list[tuple[str, tuple[int, int, int]]]:
    notes = [
        (f"Model {explanation.model}. Each map is on the scale of its own peak: compare places, not strengths.", MUTED)
    ]
    if not explanation.plausibility.plausible:
        notes.insert(0, ("IMPLAUSIBLE: this is not like the training films; the node would not analyse it.", AMBER))
    if explanation.demonstration:
        notes.insert(0, ("DEMONSTRATION MODEL: not for patients.", AMBER))
    return notes


def _outlined(method: Method) -> int:
    return REGIONS if method is Method.LIME else 0


def _shrunk(film: Film, longest: int) -> Film:
    small = Image.fromarray(film)
    small.thumbnail((longest, longest), Image.Resampling.BILINEAR)
    return np.asarray(small)


def _outline(drawn: Image.Image, ranked: Sequence[Region]) -> None:
    """Draw each region's border, amber within black so that it stands out anywhere, and its rank, 1 the fullest."""
    pen, size = ImageDraw.Draw(drawn), max(14, drawn.width // 40)
    for rank, region in reversed(list(enumerate(ranked, 1))):
        left, right = (round(side * drawn.width) for side in (region.left, region.right))
        top, bottom = (round(side * drawn.height) for side in (region.top, region.bottom))
        pen.rectangle((left, top, right - 1, bottom - 1), outline=(0, 0, 0), width=4)
        pen.rectangle((left + 1, top + 1, right - 2, bottom - 2), outline=AMBER, width=2)
        ground = pen.textbbox((left + 6, top + 4), str(rank), font_size=size)
        pen.rectangle((ground[0] - 3, ground[1] - 3, ground[2] + 3, ground[3] + 3), fill=(0, 0, 0))
        pen.text((left + 6, top + 4), str(rank), fill=AMBER, font_size=size)
