"""The films of a study as each was read: their order, the findings over them, and what is said of them in sentences.

Nothing is averaged and nothing combined. It draws nothing and writes no object.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from pydicom.dataset import Dataset

from cxrnode.core.findings import GRAVEST_FIRST, Decision, Finding, Outcome, Report
from cxrnode.dicom.outputs.common import Subject
from cxrnode.dicom.outputs.encoding import ascii_text
from cxrnode.dicom.outputs.settings import OutputSettings
from cxrnode.dicom.outputs.source import plain, raw_value, taken_at

NEVER_AVERAGED = "Each film was read on its own: no score is averaged or combined over films."
NOTHING_ON_ANY = "No finding at or above threshold on any film; this does not exclude disease."


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class FilmRead:
    """One film of the study as it was read.

    `source`: its data set without pixels, freshly read. `preview`: uint8 (H, W) of any size, 0 = black, or None.
    """

    source: Dataset
    report: Report
    preview: npt.NDArray[np.uint8] | None = None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One finding over the films: `cells` in their order, None for a film on which nothing was said of it."""

    title: str
    label: str
    cells: tuple[Finding | None, ...]

    @property
    def decisions(self) -> frozenset[Decision]:
        """What was decided on those films that were assessed for it."""
        return frozenset(f.decision for f in self.cells if f is not None) - {Decision.NOT_ASSESSED}

    @property
    def differs(self) -> bool:
        """Whether two films disagree about it."""
        return len(self.decisions) > 1

    @property
    def gravest(self) -> Decision:
        """The gravest decision on any film."""
        return min((f.decision for f in self.cells if f is not None), key=GRAVEST_FIRST.index)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Study:
    """All films of a study in the order they were taken, each with its subject, and the findings over them."""

    subjects: tuple[Subject, ...]
    previews: tuple[npt.NDArray[np.uint8] | None, ...]
    rows: tuple[Row, ...]

    @property
    def demonstration(self) -> bool:
        """Whether a model for demonstration read any of them."""
        return any(one.report.reader.demonstration for one in self.subjects)


#: What a summary says that has a predecessor: an archive may still show that one.
TAKES_THE_PLACE = "This summary takes the place of an earlier one of this study: use the newest."


def arranged(films: Sequence[FilmRead], settings: OutputSettings) -> Study:
    """The films in the order they were taken.

    Raises ValueError for no film, and for films of several studies or patients.
    """
    if not films:
        raise ValueError("the summary of a study needs at least one film")
    for keyword, word in (("StudyInstanceUID", "studies"), ("PatientID", "patients")):
        if len({raw_value(one.source, keyword) for one in films}) > 1:
            raise ValueError(f"the films are of several {word}: no summary is made of them")
    ordered = sorted(films, key=lambda one: (taken_at(one.source), plain(one.source, "SOPInstanceUID")))
    subjects = tuple(Subject(one.source, one.report, settings) for one in ordered)
    return Study(subjects=subjects, previews=tuple(one.preview for one in ordered), rows=_rows(subjects))


def headline(study: Study) -> list[str]:
    """What is found on the films, in sentences that stand alone; first what is present on any of them."""
    present = [row for row in study.rows if row.gravest is Decision.PRESENT]
    everywhere, somewhere = [r for r in present if not r.differs], [r for r in present if r.differs]
    said = []
    if everywhere:
        said.append(f"Present on every film assessed for it: {', '.join(row.title for row in everywhere)}.")
    said += [f"FILMS DISAGREE about {row.title}: {_over_films(row)}." for row in somewhere]
    analysed = [one for one in study.subjects if one.report.outcome is Outcome.ANALYSED]
    if analysed and not said:
        said.append(NOTHING_ON_ANY)
    for number, one in enumerate(study.subjects, start=1):
        if one.report.outcome is not Outcome.ANALYSED:
            reason = ascii_text(one.report.reason).rstrip(". ") or "no reason recorded"
            said.append(f"Film {number}: not analysed. Reason: {reason}.")
    return said


def film_line(number: int, subject: Subject) -> str:
    """Which film it is and how it was read."""
    read = f"read {subject.moment.spoken} by {subject.model}, {subject.bundle}"
    return f"Film {number}: {subject.film}; {read}."


def _rows(subjects: Sequence[Subject]) -> tuple[Row, ...]:
    labels: dict[str, str] = {}
    said: list[dict[str, Finding]] = []
    for one in subjects:
        found = {f.label: f for f in one.report.findings} if one.report.outcome is Outcome.ANALYSED else {}
        said.append(found)
        labels.update({f.label: f.title for f in found.values()})
    rows = [Row(label=label, title=title, cells=tuple(f.get(label) for f in said)) for label, title in labels.items()]
    return tuple(sorted(rows, key=lambda row: (GRAVEST_FIRST.index(row.gravest), -_highest(row))))


def _highest(row: Row) -> float:
    """The largest lead on any film: it orders the findings, and is never shown as the study's."""
    return max(f.lead for f in row.cells if f is not None)


def _over_films(row: Row) -> str:
    """The decisions with the films they were made on: "present on film 1; absent on films 2, 3"."""
    parts = []
    for decision in GRAVEST_FIRST:
        numbers = [str(n) for n, f in enumerate(row.cells, start=1) if f is not None and f.decision is decision]
        if numbers:
            word = decision.replace("_", " ")
            parts.append(f"{word} on film{'s' if len(numbers) > 1 else ''} {', '.join(numbers)}")
    return "; ".join(parts)
