"""The report of a run: one HTML file that needs nothing else, and the plots beside it. No script, no address.

Names no patient and no file of a film but those of rows that were left out, which a person must find again.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Iterable, Sequence
from html import escape
from typing import TYPE_CHECKING

from cxrnode.training import plots
from cxrnode.training.apart import stages
from cxrnode.training.illustrations import Drawn, Illustrated, illustrate
from cxrnode.training.readers import BadRow
from cxrnode.training.recipe import ORIGINAL
from cxrnode.training.recipes import format_recipe

if TYPE_CHECKING:
    from cxrnode.training.run import Finished

RESEARCH = "Research software, not a medical device. What this report shows is no diagnosis and is not for patients."

_STYLE = """
body{font:15px/1.5 system-ui,sans-serif;max-width:66rem;margin:2rem auto;padding:0 1.2rem;color:#1b2733;background:#fff}
h1{font-size:1.6rem;margin:.2rem 0}h2{font-size:1.2rem;margin-top:2.4rem;border-bottom:1px solid #d5dde5}
h3{font-size:1rem;margin:1.4rem 0 .3rem}table{border-collapse:collapse;font-variant-numeric:tabular-nums;margin:.6rem 0}
th,td{padding:.2rem 1.4rem .2rem 0;text-align:right}th:first-child,td:first-child{text-align:left}
th{font-weight:600;border-bottom:1px solid #9fb0c0}tr.marked td{background:#eef3f8;font-weight:600}
.warning{background:#8f1d1d;color:#fff;padding:.5rem .8rem;font-weight:600}.note{color:#51616f;max-width:52rem}
dl{display:grid;grid-template-columns:max-content 1fr;gap:.1rem 1.2rem}dt{color:#51616f}dd{margin:0}
figure{margin:0}figcaption{font-size:13px;line-height:1.35;margin-top:.25rem}img{max-width:100%;height:auto;display:block}
.films{display:flex;flex-wrap:wrap;gap:1rem;align-items:flex-start}.all{display:flex;flex-wrap:wrap;gap:.6rem;margin-top:.7rem}
.all figure{width:135px}.wide{overflow-x:auto}pre{font-size:12.5px;background:#f5f7f9;padding:.8rem;overflow-x:auto}
code{font-size:13px;overflow-wrap:anywhere}summary{cursor:pointer;color:#1f5fa8}
"""


def write_report(finished: Finished, unreadable: Sequence[BadRow], *, threads: int | None = None) -> None:
    """Write `plots/*.png` and `report.html` in the folder of the run."""
    from cxrnode.training.run import REPORT, write_text

    recipe, exported = finished.course.recipe, finished.exported
    drawn = {
        "frequencies": plots.frequencies(finished.outcome.frequencies),
        "curves": plots.curves(finished.log, stages(recipe)),
        "roc": plots.rocs(recipe.films.labels, exported.scores, exported.truth),
    }
    folder = finished.folder / "plots"
    folder.mkdir(exist_ok=True)
    for name, png in drawn.items():
        (folder / f"{name}.png").write_bytes(png)
    # A film that the network learnt from would be explained too well: the one that never saw it is asked.
    fold, bundle = next(iter(exported.apart.items()), (None, exported.bundle))
    held = [row for row in finished.course.held if fold is None or row.fold == fold]
    films = illustrate(bundle, held, recipe, threads=threads)
    for number, film in enumerate(films, 1):
        (folder / f"explained-{number}.jpg").write_bytes(film.top.picture)
    write_text(finished.folder / REPORT, page(finished, drawn, films, unreadable))


def page(
    finished: Finished, drawn: dict[str, bytes], films: Sequence[Illustrated], unreadable: Sequence[BadRow]
) -> str:
    """Return the whole page. All that comes from files is escaped."""
    recipe, outcome = finished.course.recipe, finished.outcome
    bad = [*finished.course.bad, *unreadable]
    parts = [
        f'<p class="note">cxrnode train {escape(recipe.name)}</p><h1>{escape(recipe.title)}</h1>',
        f'<p class="warning">{escape(RESEARCH)}</p>',
        _about(finished, len(bad)),
        "<h2>Beside the original</h2>",
        _beside(finished),
        "<h2>Training</h2>",
        _image(drawn["curves"], "loss and AUC by epoch"),
        f'<p class="note">{escape(_seen(finished))}</p>',
        "<h2>Class frequency before and after balancing</h2>",
        _image(drawn["frequencies"], "class frequencies"),
        _table(
            ("label", "films", "positives", "share", "share of the weight"),
            (
                (one.label.replace("_", " "), one.films, one.positives, f"{one.share:.3f}", f"{one.balanced:.3f}")
                for one in outcome.frequencies
            ),
        ),
        "<h2>ROC on the held-out films</h2>",
        _image(drawn["roc"], "ROC curves"),
        _areas(finished),
        *_cuts(finished),
        *_explained(finished, films),
        *(f"<p class='note'>{escape(note)}</p>" for note in finished.course.notes),
        *_left_out(bad),
        "<h2>The recipe as run</h2>",
        f"<details><summary>{escape(recipe.name)}, seed {recipe.seed}</summary>"
        f"<pre>{escape(format_recipe(recipe))}</pre></details>",
        f'<p class="note">{escape(RESEARCH)}</p>',
    ]
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width">'
        f"<title>{escape(recipe.title)}</title><style>{_STYLE}</style></head><body>\n"
        + "\n".join(parts)
        + "\n</body></html>\n"
    )


def _about(finished: Finished, bad: int) -> str:
    course, bundle = finished.course, finished.exported.bundle
    patients = len({row.patient for row in course.train})
    given = bundle.manifest.input
    facts = [
        (
            "films",
            f"{course.name}: {len(course.train)} of {patients} patients trained on, {len(course.watched)} watched",
        ),
        (
            "held out",
            f"{finished.outcome.films} of {len({row.patient for row in course.held})} patients, "
            + (
                "each read by a network that was trained on all films but those of its fold; the bundle holds "
                "their mean, trained on all films"
                if course.recipe.apart
                else "none trained on"
            ),
        ),
        ("left out", f"{bad} rows" if bad else "no row"),
        (
            "input",
            f"{given.size} x {given.size} x {given.channels}, mean {given.mean[0]:g}, deviation {given.std[0]:g}",
        ),
        ("epochs", f"{len(finished.log)} in {finished.minutes:.1f} minutes, seed {course.recipe.seed}"),
        ("weights", f"<code>{bundle.weights_digest}</code>"),
        ("bundle", f"<code>{bundle.digest}</code>"),
    ]
    rows = (
        f"<dt>{name}</dt><dd>{value if value.startswith('<code>') else escape(value)}</dd>" for name, value in facts
    )
    return f"<dl>{''.join(rows)}</dl>"


def _beside(finished: Finished) -> str:
    recipe, measured = finished.course.recipe, finished.outcome.measured
    rows = [
        (name, _number(measured.get(key)), _number(recipe.original.get(key)))
        for key, name in ORIGINAL.items()
        if key in measured or key in recipe.original
    ]
    note = (
        f"Measured on {finished.outcome.films} held-out films, at 0.5 where a threshold is needed, on the network's "
        "own scores before any calibration. The original's numbers are of other films, many more of them, and of "
        "another split: they stand here to be seen together, not to be beaten."
    )
    if not recipe.original:
        note = note.partition(" The original")[0]
    return _table(("", "this run", "original"), rows) + f'<p class="note">{escape(note)}</p>'


def _seen(finished: Finished) -> str:
    films = finished.course.recipe.films
    if films.watched:
        folds = ", ".join(map(str, films.watched))
        return f"Unseen films are those of the watched fold {folds}, by which epochs are chosen; not the held-out ones."
    return "Unseen films are some of the held-out ones, for the eye alone: no epoch was chosen by them."


def _areas(finished: Finished) -> str:
    rows = []
    for label in finished.exported.bundle.manifest.labels:
        area, told = finished.outcome.auc[label.name], label.metrics
        interval = f"{told.auc_low:.3f} to {told.auc_high:.3f}" if told else "-"
        rows.append((label.name.replace("_", " "), told.positives if told else 0, _number(area), interval))
    return _table(("label", "positives", "AUC", "95 % interval"), rows)


def _cuts(finished: Finished) -> list[str]:
    if not finished.outcome.cuts:
        return []
    rows = (
        (f"{one.threshold:.2f}", *map(_number, (one.precision, one.recall, one.f1, one.accuracy)))
        for one in finished.outcome.cuts
    )
    best = max(range(len(finished.outcome.cuts)), key=lambda i: finished.outcome.cuts[i].f1 or 0.0)
    return [
        "<h2>Thresholds</h2>",
        _table(("threshold", "precision", "recall", "F1", "accuracy"), rows, marked=best),
        '<p class="note">The row of the best F1 is marked. The bundle has thresholds of its own, set for a stated '
        "sensitivity and specificity; these are told because the original told them.</p>",
    ]


def _explained(finished: Finished, films: Sequence[Illustrated]) -> list[str]:
    if not films:
        return []
    method = finished.course.recipe.explanation.method
    parts = [
        f"<h2>Explained by {escape(method)}</h2>",
        '<p class="note">Held-out films, chosen by their labels and not by how they look. Each map is on the scale of '
        "its own peak: compare places, not strengths. A region of influence, not an outline of a lesion nor its "
        "side.</p>",
    ]
    for number, film in enumerate(films, 1):
        parts.append(f"<h3>Film {number}. The list says: {escape(film.said)}</h3>")
        bare = _figure(film.film, "the film")
        parts.append(f'<div class="films">{bare}{_told(film.top, film.scale)}{_regions(film.top)}</div>')
        if film.others:
            parts.append(f'<div class="all">{"".join(_told(one, "") for one in film.others)}</div>')
    return parts


def _told(one: Drawn, scale: str) -> str:
    name = one.label.replace("_", " ")
    caption = f"{name}, {scale + ' ' if scale else ''}{one.score:.2f}{'; no localisation' if one.empty else ''}"
    return _figure(one.picture, caption)


def _regions(one: Drawn) -> str:
    if not one.regions:
        return ""
    rows = [(number, f"{region.share:.0%}") for number, region in enumerate(one.regions, 1)]
    return f"<div>{_table(('region', 'of the map'), rows)}</div>"


def _left_out(bad: Sequence[BadRow]) -> list[str]:
    if not bad:
        return []
    rows = ((one.image, one.row, one.reason) for one in bad[:100])
    more = f'<p class="note">and {len(bad) - 100} more</p>' if len(bad) > 100 else ""
    return ["<h2>Rows left out</h2>", _table(("image", "row", "reason"), rows) + more]


def _table(head: Sequence[str], rows: Iterable[Sequence[object]], *, marked: int = -1) -> str:
    top = "".join(f"<th>{escape(cell)}</th>" for cell in head)
    body = "".join(
        f"<tr{' class=marked' if i == marked else ''}>"
        + "".join(f"<td>{escape(str(cell))}</td>" for cell in row)
        + "</tr>\n"
        for i, row in enumerate(rows)
    )
    return f'<div class="wide"><table><tr>{top}</tr>\n{body}</table></div>'


def _image(png: bytes, what: str) -> str:
    return f'<img alt="{escape(what)}" src="data:image/png;base64,{base64.b64encode(png).decode()}">'


def _figure(jpeg: bytes, caption: str) -> str:
    data = base64.b64encode(jpeg).decode()
    return (
        f'<figure><img alt="{escape(caption)}" src="data:image/jpeg;base64,{data}">'
        f"<figcaption>{escape(caption)}</figcaption></figure>"
    )


def _number(value: float | None) -> str:
    return "-" if value is None or math.isnan(value) else f"{value:.3f}"
