"""The evaluation as a whole: an engine that reads scores from the films' grey levels, so that all is known."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cxrnode.cli.tables import to_json
from cxrnode.reading.bundle import Bundle
from cxrnode.reading.engine import Film, Reading
from cxrnode.reading.manifest import BundleFile, Label, LabelCalibration
from cxrnode.training.evaluation import Evaluation, evaluate, for_judging
from cxrnode.training.page import page
from cxrnode.training.readers import BadList, FilmList, read_films
from tests.unit.reading.conftest import card, label

FILMS = 40


class GreyEngine:
    """Effusion scores the first pixel, Mass the second, Hernia the third; bright films lie far away."""

    name = "grey"

    def read(self, films: Sequence[Film]) -> list[Reading]:
        return [
            Reading(
                scores=(film[0, :3] / np.float32(255)).astype(np.float32),
                saliency=None,
                distance=9.0 if film[0, 3] else 0.0,
            )
            for film in films
        ]


def bundle(labels: tuple[Label, ...] | None = None) -> Bundle:
    manifest = dataclasses.replace(card(labels), files=(BundleFile(name="weights.safetensors", sha256="a" * 64),))
    return Bundle(folder=Path("x"), manifest=manifest, digest="d", weights={}, plausibility={})


def films(folder: Path, *, torn: bool = False, hernia: bool = True) -> FilmList:
    """Effusion is known exactly, Mass the wrong way round, Hernia not at all; two films are implausible."""
    lines = ["image,patient_id,view,age,sex,Effusion,Mass,Hernia"]
    for i in range(FILMS):
        effusion, mass = i % 2, int(i % 4 == 0)
        levels = [200 + i if effusion else i, 10 if mass else 240, 100, int(i < 2) * 255]
        Image.fromarray(np.array([levels * 2] * 8, np.uint8)).save(folder / f"{i}.png")
        view, sex = ("PA", "F") if i < 20 else ("AP", "M")
        lines.append(f"{i}.png,{i},{view},{20 + i},{sex},{effusion},{mass},{int(hernia and i % 5 == 0)}")
    if torn:
        (folder / "3.png").write_bytes(b"no picture")
    (folder / "films.csv").write_text("\n".join(lines) + "\n")
    return read_films(folder, ["Effusion", "Mass", "Hernia"])


@pytest.fixture
def found(tmp_path: Path) -> Evaluation:
    return evaluate(bundle(), GreyEngine(), films(tmp_path, torn=True))


def test_areas_are_those_of_the_scores(found: Evaluation) -> None:
    areas = {one.finding: one.auroc.value for one in found.findings}
    assert areas == {"Effusion": 1.0, "Mass": 0.0, "Hernia": 0.5}
    assert found.mean.value == 0.5
    assert [one.positives for one in found.findings] == [19, 10, 8]


def test_a_film_that_cannot_be_read_is_left_out_and_named(found: Evaluation) -> None:
    (bad,) = found.bad_rows
    assert (bad.row, bad.image, bad.reason) == (4, "3.png", "no picture that can be read (UnidentifiedImageError)")
    assert (found.films, found.patients, found.implausible.count) == (FILMS - 1, FILMS - 1, 2)


def test_the_operating_points_are_those_of_the_manifest(found: Evaluation) -> None:
    effusion = found.findings[0]
    assert effusion.rule_out is not None and effusion.rule_in is not None
    assert (effusion.rule_out.threshold, effusion.rule_in.threshold) == (0.2, 0.8)
    # 19 films of 200 to 239 of 255; the rule-in of 0.8 lies at 204.
    assert (effusion.rule_in.sensitivity.count, effusion.rule_in.specificity.value) == (18, 1.0)


def test_groups_are_told_by_sex_age_and_view(found: Evaluation) -> None:
    groups = {(group.by, group.group): group for group in found.subgroups}
    assert list(groups) == [
        ("sex", "F"),
        ("sex", "M"),
        ("age", "18 to 39"),
        ("age", "40 to 59"),
        ("view", "AP"),
        ("view", "PA"),
    ]
    assert (groups["sex", "F"].films, groups["age", "40 to 59"].films) == (19, 20)
    # Four hernias among the first twenty films are too few.
    assert sorted(groups["sex", "F"].auroc) == ["Effusion", "Mass"]
    assert groups["sex", "F"].mean_auroc == 0.5


def test_the_calibration_error_is_told_as_shown_and_at_the_prevalence_of_the_films(tmp_path: Path) -> None:
    """Effusion is on half of the films, and its scores were calibrated where it is on one in a hundred."""
    calibrated = dataclasses.replace(
        label("Effusion"),
        calibration=LabelCalibration(
            positives=60, prevalence=0.5, slope=2.0, shown_prevalence=0.01, ece_before=0.2, ece_after=0.1
        ),
    )
    found = evaluate(bundle((calibrated, label("Mass"), label("Hernia"))), GreyEngine(), films(tmp_path))
    effusion, mass = found.findings[:2]
    assert effusion.auroc.value == 1.0
    assert effusion.reliability_here is not None
    assert effusion.reliability_here.ece < 0.1 < effusion.reliability.ece
    assert mass.reliability_here is None, "what was not calibrated is not moved"


def test_pairs_of_one_origin_are_told_apart_and_maps_of_nothing_are_counted(tmp_path: Path) -> None:
    """The score of Effusion is the origin and nothing else."""
    listed = films(tmp_path)
    rows = tuple(dataclasses.replace(row, origin="ab"[bool(row.findings[0])]) for row in listed.rows)
    mixed = dataclasses.replace(rows[0], findings=(1, *rows[0].findings[1:]))
    found = evaluate(bundle(), GreyEngine(), dataclasses.replace(listed, rows=(mixed, *rows[1:])))
    assert found.findings[0].auroc_within == 0.0 and (found.findings[0].auroc.value or 0) > 0.9
    assert (found.findings[0].present, found.findings[0].unlocated) == (18, None)


def test_telling_ill_from_well_is_no_telling_of_findings(tmp_path: Path) -> None:
    """The odd films are bright and ill: every other one has an effusion, the others a mass."""
    listed = films(tmp_path)
    rows = tuple(
        dataclasses.replace(row, findings=(int(i % 4 == 1), int(i % 4 == 3), int(i == 1)))
        for i, row in enumerate(listed.rows)
    )
    found = evaluate(bundle(), GreyEngine(), dataclasses.replace(listed, rows=rows))
    effusion = found.findings[0]
    # Of 100 pairs of an effusion and a mass the effusion is brighter in 45; of 200 with a film of the well in all.
    assert effusion.auroc_ill == pytest.approx(0.45)
    assert effusion.auroc.value == pytest.approx(245 / 300)
    assert found.mean_ill == pytest.approx(sum(one.auroc_ill or 0 for one in found.findings) / 3)


def test_what_a_list_does_not_know_of_a_film_is_left_out_of_that_finding_alone(tmp_path: Path) -> None:
    listed = films(tmp_path)
    rows = tuple(dataclasses.replace(row, findings=(None, *row.findings[1:])) for row in listed.rows[:10])
    found = evaluate(bundle(), GreyEngine(), dataclasses.replace(listed, rows=rows + listed.rows[10:]))
    assert [one.films for one in found.findings] == [FILMS - 10, FILMS, FILMS]
    assert found.findings[0].auroc.value == 1.0


def test_a_list_with_test_films_of_its_own_is_judged_by_those_alone(tmp_path: Path) -> None:
    listed = films(tmp_path)
    rows = tuple(dataclasses.replace(row, part="test" if i < 8 else "train") for i, row in enumerate(listed.rows))
    assert len(for_judging(dataclasses.replace(listed, rows=rows)).rows) == 8
    assert for_judging(listed) is listed


def test_json_has_the_areas_first_and_no_number_that_is_none(found: Evaluation) -> None:
    whole = json.loads(json.dumps(to_json(found.to_json()), allow_nan=False))
    assert list(whole)[:4] == ["mean_auroc", "mean_auroc_low", "mean_auroc_high", "auroc"]
    assert whole["auroc"] == {"Effusion": 1.0, "Mass": 0.0, "Hernia": 0.5}
    assert whole["findings"]["Effusion"]["rule_in"]["sensitivity"]["count"] == 18
    assert not {"distances", "curve"} & {*whole, *whole["findings"]["Effusion"]}


def test_a_finding_that_no_film_has_is_an_error_that_names_it(tmp_path: Path) -> None:
    with pytest.raises(BadList, match=r"no film with, or none without, Hernia: .*--without Hernia"):
        evaluate(bundle(), GreyEngine(), films(tmp_path, hernia=False))


def test_a_list_of_torn_films_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"")
    (tmp_path / "films.csv").write_text("image,Effusion\na.png,1\n")
    with pytest.raises(BadList, match=r"none of 1 films can be read; the first, a\.png: no picture"):
        evaluate(bundle(), GreyEngine(), read_films(tmp_path, ["Effusion"]))


def test_the_page_needs_nothing_else_and_reads_no_markup_from_files(tmp_path: Path) -> None:
    found = evaluate(bundle(), GreyEngine(), films(tmp_path))
    text = page(dataclasses.replace(found, data="<script>alert(1)</script>"))
    assert re.findall(r"<script|https?://|src=|href=|@import|url\(", text) == []
    assert text.count("<polyline") == 3
    assert "DEMONSTRATION MODEL" in text
    assert text.count("<svg") == text.count("</svg>") == 7
