"""The summary of a study: every film under its own number, disagreement said aloud, no score that is not one film's."""

from __future__ import annotations

import io
import itertools
from typing import Any

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset

from cxrnode.core.findings import Outcome, Report, Scale
from cxrnode.dicom.outputs import Output, OutputSettings
from cxrnode.dicom.outputs.common import NOT_FOR_DIAGNOSIS, Subject
from cxrnode.dicom.outputs.drawing import SMALL, Page, contrast, luma
from cxrnode.dicom.outputs.films import NEVER_AVERAGED, NOTHING_ON_ANY, arranged, headline
from cxrnode.dicom.outputs.study import FilmRead, build_study_summary
from cxrnode.dicom.outputs.study_page import draw_study
from tests.unit.outputs.sources import READ_AT, SCORES, make_film, make_report, make_source

#: Effusion present on the first film, absent on the second.
OTHER = tuple(0.1 if i == 2 else s for i, s in enumerate(SCORES))
AT = READ_AT + 60
PREVIEW = make_film(300, 260)


def film(number: int, report: Report | None = None, **changes: Any) -> FilmRead:
    source = make_source(
        **{
            "SOPInstanceUID": f"1.2.3.{number}",
            "AcquisitionTime": f"10150{number}",
            "InstanceNumber": number,
            "ViewPosition": "PA" if number % 2 else "AP",
            **changes,
        }
    )
    return FilmRead(source=source, report=report or make_report(), preview=PREVIEW)


def missed(number: int) -> FilmRead:
    return film(number, make_report(outcome=Outcome.NOT_ANALYSED, reason="the pixels cannot be decoded"))


def summary(*films: FilmRead, **changes: Any) -> tuple[Output, ...]:
    return build_study_summary(films, OutputSettings(), **{"at": AT, **changes})


def read(output: Output) -> Dataset:
    return pydicom.dcmread(io.BytesIO(output.data))


def pages(*films: FilmRead) -> list[Page]:
    study = arranged(films, OutputSettings())
    first = study.subjects[0]
    return list(draw_study(Subject(first.source, first.report, first.settings, at=AT), study))


def said_on(page: Page) -> str:
    return " ".join(text.text for text in page.placed)


def said_by(*films: FilmRead) -> list[str]:
    return headline(arranged(films, OutputSettings()))


def test_a_text_report_and_a_page_are_made_in_series_of_their_own() -> None:
    made = summary(film(1), film(2))
    assert [(o.kind, o.instance_number) for o in made] == [("study_sr", 1), ("study", 1)]
    assert [(int(read(o).SeriesNumber), read(o).SeriesDescription) for o in made] == [
        (9022, "AI study summary, 2 frontal films (not for diagnosis)"),
        (9021, "AI study summary, 2 frontal films (not for diagnosis)"),
    ]
    assert {read(o).StudyInstanceUID for o in made} == {make_source().StudyInstanceUID}


def test_films_stand_in_the_order_in_which_they_were_taken() -> None:
    study = arranged((film(3), film(1), film(2)), OutputSettings())
    assert [str(one.source.SOPInstanceUID) for one in study.subjects] == ["1.2.3.1", "1.2.3.2", "1.2.3.3"]
    assert summary(film(3), film(1)) == summary(film(1), film(3))


def test_where_films_disagree_it_is_said_with_their_numbers() -> None:
    assert said_by(film(1), film(2, make_report(OTHER))) == [
        "Present on every film assessed for it: Cardiomegaly.",
        "FILMS DISAGREE about Effusion: present on film 1; absent on film 2.",
    ]


def test_where_they_agree_nothing_is_said_to_differ() -> None:
    assert said_by(film(1), film(2)) == ["Present on every film assessed for it: Cardiomegaly, Effusion."]
    assert "differ" not in said_on(pages(film(1), film(2))[0])


def test_with_nothing_present_on_any_film_disease_is_not_excluded() -> None:
    quiet = make_report(tuple(0.3 * s for s in SCORES))
    assert said_by(film(1, quiet), film(2, quiet)) == [NOTHING_ON_ANY]


def test_a_film_that_was_not_analysed_is_listed_and_never_counts_as_absent() -> None:
    assert said_by(film(1), missed(2)) == [
        "Present on every film assessed for it: Cardiomegaly, Effusion.",
        "Film 2: not analysed. Reason: the pixels cannot be decoded.",
    ]
    assert said_by(missed(1), missed(2)) == [
        f"Film {n}: not analysed. Reason: the pixels cannot be decoded." for n in (1, 2)
    ]
    assert NOTHING_ON_ANY not in said_on(pages(missed(1))[0])


def test_every_score_stands_under_its_film_and_none_is_averaged() -> None:
    page = pages(film(1), film(2, make_report(OTHER)))[0]
    row = next(t for t in page.placed if t.text == "Effusion")
    cells = sorted((t.box[0], t.text) for t in page.placed if t.box[1] == row.box[1] and t is not row)
    heads = {t.text: t.box[0] for t in page.placed if t.text in ("Film 1, PA", "Film 2, AP")}
    assert [text for _, text in cells] == ["0.620", "present", "0.100", "absent"]
    assert [cells[0][0], cells[2][0]] == [heads["Film 1, PA"], heads["Film 2, AP"]]
    assert "0.360" not in said_on(page)  # the mean of the two
    assert NEVER_AVERAGED in said_on(page)


def test_the_text_report_tells_every_film_and_every_finding() -> None:
    ds = read(summary(film(1), film(2, make_report(OTHER)), missed(3))[0])
    texts = [str(e.value) for e in ds.iterall() if e.keyword == "TextValue"]
    assert (
        "film 1: present, score 0.620; film 2: absent, score 0.100; film 3: not analysed. The films disagree." in texts
    )
    assert sum(text.startswith("film 1: ") for text in texts) == 14
    assert [text[:10] for text in texts if text.startswith("Film ")] == ["Film 1: PA", "Film 2: AP", "Film 3: PA"]
    assert NOT_FOR_DIAGNOSIS in " ".join(texts)


def test_all_films_are_evidence_and_sources() -> None:
    report, page = (read(o) for o in summary(film(1), film(2), missed(3)))
    (study,) = report.CurrentRequestedProcedureEvidenceSequence
    named = [r.ReferencedSOPInstanceUID for s in study.ReferencedSeriesSequence for r in s.ReferencedSOPSequence]
    sources = [one.ReferencedSOPInstanceUID for one in page.SourceImageSequence]
    assert named == sources == ["1.2.3.1", "1.2.3.2", "1.2.3.3"]


def test_more_films_than_a_page_holds_go_on_further_pages_each_with_the_whole_headline() -> None:
    films = [film(n, make_report(OTHER if n == 7 else SCORES)) for n in range(1, 8)]
    drawn = pages(*films)
    assert [f"page {n} of 3" in said_on(page) for n, page in enumerate(drawn, start=1)] == [True] * 3
    assert all("absent on film 7" in said_on(page) for page in drawn)
    assert [o.instance_number for o in summary(*films)[1:]] == [1, 2, 3]


def test_a_further_film_or_another_reading_or_time_gives_other_uids() -> None:
    base = summary(film(1), film(2))
    others = (
        summary(film(1), film(2), film(3)),
        summary(film(1), film(2, make_report(OTHER))),
        summary(film(1), film(2), at=AT + 1),
    )
    for other in others:
        assert {o.sop_instance_uid for o in base} & {o.sop_instance_uid for o in other} == set()
        assert {o.series_instance_uid for o in base} & {o.series_instance_uid for o in other} == set()


def test_films_of_two_patients_or_studies_are_never_put_on_one_page() -> None:
    with pytest.raises(ValueError, match="patients"):
        summary(film(1), film(2, PatientID="OTHER"))
    with pytest.raises(ValueError, match="studies"):
        summary(film(1), film(2, StudyInstanceUID="1.2.9"))
    with pytest.raises(ValueError, match="at least one"):
        summary()


HARD: dict[str, tuple[FilmRead, ...]] = {
    "one film": (film(1),),
    "two that disagree about everything": (film(1, make_report((0.9,) * 14)), film(2, make_report((0.05,) * 14))),
    "three, one missed, a demonstration": (
        film(1, make_report(demonstration=True)),
        missed(2),
        film(3, make_report(scale=Scale.PROBABILITY)),
    ),
    "many that disagree about everything": tuple(film(n, make_report((0.9 - 0.85 * (n % 2),) * 14)) for n in range(9)),
    "many": tuple(film(n, make_report(OTHER if n % 2 else SCORES)) for n in range(1, 10)),
    "long reasons": tuple(
        film(n, make_report(outcome=Outcome.NOT_ANALYSED, reason="too far from the films trained on; " * 9))
        for n in range(1, 10)
    ),
}


@pytest.mark.parametrize("which", HARD)
def test_every_page_is_legible_within_its_size_and_without_overlap(which: str) -> None:
    for page in pages(*HARD[which]):
        width, height = page.image.size
        assert max(width, height) <= 1200
        assert [t.text for t in page.placed if t.box[2] > width or t.box[3] > height] == []
        assert min(t.size for t in page.placed) >= SMALL
        greys = [((luma(t.ink),) * 3, (luma(t.ground),) * 3) for t in page.placed]
        assert min(min(contrast(t.ink, t.ground), contrast(*g)) for t, g in zip(page.placed, greys, strict=True)) >= 4.5
        over = [
            (a.text, b.text)
            for a, b in itertools.combinations(page.placed, 2)
            if a.box[0] < b.box[2] and b.box[0] < a.box[2] and a.box[1] + 3 < b.box[3] and b.box[1] + 3 < a.box[3]
        ]
        assert over == []
        assert NOT_FOR_DIAGNOSIS in said_on(page)
        assert np.asarray(page.image).any()
