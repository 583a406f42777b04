"""Splits by patient: folds that are made, and sides that share a patient."""

from __future__ import annotations

import dataclasses
import random
from pathlib import Path

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies

from cxrnode.training.readers import BadList, FilmList, FilmRow, targets
from cxrnode.training.readers.splits import require_both, require_disjoint, with_folds


def row(number: int, patient: str, findings: tuple[int | None, ...] = (0,), **more: object) -> FilmRow:
    film = FilmRow(path=Path(f"{number}.png"), patient=patient, findings=findings, row=number, image=f"{number}.png")
    return dataclasses.replace(film, **more)  # type: ignore[arg-type]


def films(*rows: FilmRow) -> FilmList:
    return FilmList(name="films.csv", labels=tuple("ABCDE"[: len(rows[0].findings)]), rows=rows)


def drawn(patients: int, seed: int = 0) -> FilmList:
    """Films of so many patients, one to four each; the first label is common, the second rare."""
    rng, rows = random.Random(seed), list[FilmRow]()
    for patient in range(patients):
        for _ in range(rng.randint(1, 4)):
            rows.append(row(len(rows) + 1, f"p{patient}", (int(rng.random() < 0.4), int(rng.random() < 0.03))))
    return films(*rows)


@hypothesis.given(patients=strategies.integers(5, 60), seed=strategies.integers(0, 3), folds=strategies.integers(2, 5))
def test_folds_keep_patients_together_and_shares_even(patients: int, seed: int, folds: int) -> None:
    made = with_folds(drawn(patients, seed), folds=folds, seed=seed)
    sides = [[film for film in made.rows if film.fold == fold] for fold in range(folds)]
    assert sum(len(side) for side in sides) == len(made.rows)
    for fold, side in enumerate(sides):
        require_disjoint(side, [film for film in made.rows if film.fold != fold])
    sums = np.array([targets(side).reshape(-1, 2).sum(0) for side in sides])
    # A patient has four films at most: no fold is further from another than a patient or two.
    assert (sums.max(0) - sums.min(0) <= 4).all()
    sizes = [len(side) for side in sides]
    assert max(sizes) - min(sizes) <= 8


def test_folds_do_not_depend_on_the_order_of_the_rows() -> None:
    whole = drawn(40)
    turned = dataclasses.replace(whole, rows=tuple(random.Random(1).sample(whole.rows, len(whole.rows))))
    expected = {film.image: film.fold for film in with_folds(whole, seed=7).rows}
    assert {film.image: film.fold for film in with_folds(turned, seed=7).rows} == expected
    assert {film.image: film.fold for film in with_folds(whole, seed=8).rows} != expected


def test_the_folds_of_a_list_stay_and_a_row_without_one_is_bad() -> None:
    made = with_folds(films(row(1, "a", fold=3), row(2, "b", fold=0), row(3, "c")))
    assert [film.fold for film in made.rows] == [3, 0]
    assert [(bad.row, bad.reason) for bad in made.bad] == [(3, "its fold is not said")]


def test_a_patient_on_both_sides_is_counted_and_not_named() -> None:
    one = [row(1, "secret-1"), row(2, "secret-2"), row(3, "c")]
    with pytest.raises(BadList, match=r"^2 patients on both sides of the split: .* by patient$") as caught:
        require_disjoint(one, [row(4, "secret-1"), row(5, "secret-2")])
    assert "secret" not in str(caught.value)
    with pytest.raises(BadList, match=r"^1 patient on both"):
        with_folds(films(row(1, "a", part="train"), row(2, "a", part="test")))


def test_fewer_patients_than_folds_are_refused() -> None:
    with pytest.raises(BadList, match=r"films\.csv: 2 patients are too few for 5 folds"):
        with_folds(films(row(1, "a"), row(2, "b")))


def test_an_empty_class_is_named_with_the_remedy() -> None:
    rows = [row(1, "a", (0, 1, 0)), row(2, "b", (0, 1, 1)), row(3, "c", (0, None, 1))]
    with pytest.raises(BadList, match=r"^films: no film with A, no film without B: .*the label out of the recipe$"):
        require_both(rows, ["A", "B", "C"], "films")
    require_both([row(1, "a", (0,)), row(2, "b", (1,))], ["C"], "f")
