"""The pictures of docs/reading-the-outputs.md, drawn from a phantom at half size; they are the golden renderings too.

`python -m tests.unit.outputs.pictures docs/pictures` draws them anew, to be looked at before they are kept.
"""

from __future__ import annotations

import io
import sys
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pydicom
from PIL import Image

from cxrnode.core.findings import NIH14, Outcome, Report
from cxrnode.dicom.outputs import Output, OutputSettings, build_outputs
from cxrnode.dicom.outputs.study import FilmRead, build_study_summary
from cxrnode.dicom.outputs.withdrawal import Rejection, Withdrawal, build_withdrawal
from cxrnode.phantom.anatomy import PhantomFinding
from cxrnode.phantom.film import draw_film, mark
from tests.unit.outputs.overlaid import overlaid
from tests.unit.outputs.sources import READ_AT, make_report, make_source, sent_object

#: Scores for the phantom with an effusion, in the order of NIH14; the last two labels are not assessed.
SCORES = (0.34, 0.11, 0.83, 0.22, 0.04, 0.06, 0.27, 0.03, 0.31, 0.09, 0.02, 0.05, 0.4, 0.01)
ROWS, COLUMNS = 1000, 860


def pictures() -> dict[str, Image.Image]:
    """Each picture by its name, RGB, at half of the size that is sent; the presentation state over the film itself."""
    film = mark(draw_film(7, PhantomFinding.EFFUSION, ROWS, COLUMNS), ("L", "SYNTHETIC", "PHANTOM"))
    shown = (film >> 4).astype(np.uint8)
    report = make_report(SCORES, demonstration=True)
    missed = make_report(SCORES, outcome=Outcome.NOT_ANALYSED, reason="the film lies too far from those trained on")
    quiet = make_report(tuple(0.5 * s for s in SCORES), demonstration=True)
    return {
        "summary": _drawn(report, shown, 0),
        "heatmap": _drawn(report, shown, 1),
        "heatmap-contour": _drawn(report, shown, 1, style="contour"),
        "summary-nothing-found": _drawn(quiet, shown, 0),
        "not-analysed": _drawn(missed, shown, 0),
        "presentation": _laid_over(report, shown),
        "study": _study(report, missed, shown),
        "withdrawn": _withdrawn(report, shown),
    }


def saliency() -> npt.NDArray[np.float16]:
    """The map of the effusion at the base of one lung; float16 (14, 7, 7)."""
    y, x = np.mgrid[0:7, 0:7].astype(np.float32)
    maps = np.zeros((14, 7, 7), np.float32)
    maps[NIH14.index("Effusion")] = 2.1 * np.exp(-(((x - 5.1) / 1.1) ** 2 + ((y - 4.0) / 1.0) ** 2))
    return maps.astype(np.float16)


def _drawn(report: Report, film: npt.NDArray[np.uint8], number: int, style: str = "colour") -> Image.Image:
    settings = OutputSettings(style=style)
    made = build_outputs(make_source(ROWS, COLUMNS), report, film, saliency(), settings, frozenset({"heatmap"}))
    return _half(made[number])


def _laid_over(report: Report, film: npt.NDArray[np.uint8]) -> Image.Image:
    source = make_source(ROWS, COLUMNS)
    (state,) = build_outputs(source, report, film, saliency(), OutputSettings(), frozenset({"gsps"}))
    return overlaid(film, pydicom.dcmread(io.BytesIO(state.data)))


def _study(report: Report, missed: Report, film: npt.NDArray[np.uint8]) -> Image.Image:
    """A PA, an AP on which the effusion is not seen, and a film that was not analysed."""
    unlike = make_report(tuple(0.15 if i == 2 else s for i, s in enumerate(SCORES)), demonstration=True)
    films = [
        FilmRead(
            source=make_source(
                ROWS, COLUMNS, SOPInstanceUID=f"1.2.{n}", AcquisitionTime=f"10150{n}", ViewPosition=view
            ),
            report=one,
            preview=film,
        )
        for n, (view, one) in enumerate((("PA", report), ("AP", unlike), ("AP", missed)), start=1)
    ]
    return _half(build_study_summary(films, OutputSettings(), at=READ_AT + 60)[1])


def _withdrawn(report: Report, film: npt.NDArray[np.uint8]) -> Image.Image:
    source, settings = make_source(ROWS, COLUMNS), OutputSettings()
    sent = build_outputs(source, report, film, saliency(), settings)
    order = Withdrawal(
        rejection=Rejection.QUALITY,
        reason="the model was recalled by its maker",
        at=READ_AT + 7200,
        objects=tuple(sent_object(one.kind, one.label, one.data) for one in sent),
    )
    return _half(build_withdrawal(source, report, order, settings)[-1])


def _half(output: Output) -> Image.Image:
    picture = Image.fromarray(pydicom.dcmread(io.BytesIO(output.data)).pixel_array)
    return picture.resize((picture.width // 2, picture.height // 2), Image.Resampling.LANCZOS)


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    for name, picture in pictures().items():
        picture.save(folder / f"{name}.jpg", quality=92, subsampling="4:4:4")
