"""The shipped model is what its card says, and the card's tables can be written anew."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cxrnode.core.findings import NIH14, Scale
from cxrnode.reading.bundle import SHIPPED, load_bundle, read_manifest
from cxrnode.reading.oracle import verify_bundle
from cxrnode.training.card import NoPlace, main, refreshed, tables_of
from cxrnode.training.concepts import CONCEPTS

pytestmark = pytest.mark.slow  # a network, and torch itself, to be loaded

CARD = Path(__file__).resolve().parents[3] / "docs" / "model-card.md"
DEMO = SHIPPED / "demo"


def test_the_shipped_bundle_passes_its_admission_check() -> None:
    assert [(check.name, check.ok) for check in verify_bundle(DEMO, threads=1)] == [
        ("files", True),
        ("forward pass", True),
        ("plausibility", True),
        ("maps", True),
    ]


def test_the_shipped_bundle_says_that_it_is_a_demonstration_and_gives_scores() -> None:
    bundle = load_bundle(DEMO)
    assert bundle.manifest.demonstration
    assert bundle.scale is Scale.SCORE
    assert bundle.intended_use.age_min >= 18
    assert [(label.name, label.concept) for label in bundle.manifest.labels] == [(n, CONCEPTS[n]) for n in NIH14]


def test_some_labels_are_assessed_and_the_rare_ones_are_not() -> None:
    assessed = {label.name: label.assessed is not None for label in load_bundle(DEMO).manifest.labels}
    assert assessed["Effusion"] and assessed["Pneumothorax"]
    assert not assessed["Hernia"] and not assessed["Fibrosis"]


def test_the_card_holds_the_tables_of_the_shipped_manifest_word_for_word() -> None:
    text = CARD.read_text(encoding="utf-8")
    remedy = "run python -m cxrnode.training.card cxrnode/bundles/demo --card docs/model-card.md"
    assert refreshed(text, tables_of(read_manifest(DEMO)[0])) == text, remedy


def test_the_places_of_the_card_are_those_of_the_tables_and_no_measured_one_is_empty() -> None:
    text = CARD.read_text(encoding="utf-8")
    for name in ("facts", "held-out", "findings", "judged", "calibration", "plausibility", "localisation"):
        inside = text.split(f"<!-- {name} -->")[1].split(f"<!-- /{name} -->")[0]
        assert "|---|" in inside, name


def test_a_table_is_written_where_it_stands_and_prose_is_left_alone() -> None:
    text = "before\n<!-- facts -->\nold\n<!-- /facts -->\nafter\n"
    once = refreshed(text, {"facts": "| new |"})
    assert once == "before\n<!-- facts -->\n| new |\n<!-- /facts -->\nafter\n"
    assert refreshed(once, {"facts": "| new |"}) == once


@pytest.mark.parametrize("text", ["", "<!-- facts -->", "<!-- /facts --> <!-- facts -->"])
def test_a_card_without_a_place_is_refused_by_its_name(text: str) -> None:
    with pytest.raises(NoPlace, match="no place for facts; write the lines"):
        refreshed(text, {"facts": ""})


def interval(value: float) -> dict[str, float]:
    return {"value": value, "low": value - 0.1, "high": value + 0.1}


def evaluation(digest: str) -> dict[str, object]:
    """What `cxrnode evaluate --json` writes, in short."""
    ways = ("gradcam", "centre", "random")
    point = {"sensitivity": interval(0.9), "specificity": interval(0.8)}
    return {
        "bundle_digest": digest,
        "mean_auroc": 0.7,
        "mean_auroc_low": 0.65,
        "mean_auroc_high": 0.75,
        "mean_within": 0.68,
        "mean_ill": 0.61,
        "films": 1080,
        "patients": 648,
        "implausible": {"count": 7, **interval(0.2)},
        "findings": {
            "Mass": {
                "positives": 57,
                "auroc": interval(0.66),
                "average_precision": interval(0.2),
                "present": 40,
                "unlocated": 3,
                "rule_out": point,
                "rule_in": None,
            }
        },
        "subgroups": [{"by": "sex", "group": "F", "films": 500, "mean_auroc": 0.71}],
        "refusal": [{"kind": "hand", "films": 120, "auroc": interval(0.8), "refused": interval(0.5)}],
        "localisation": [
            {"finding": "Mass", "method": way, "films": 29, "pointing": interval(0.2), "iou": 0.07} for way in ways
        ],
    }


def test_a_whole_card_is_written_from_a_bundle_and_what_evaluate_wrote(tmp_path: Path) -> None:
    digest = read_manifest(DEMO)[1]
    for name in ("held", "judged"):
        (tmp_path / f"{name}.json").write_text(json.dumps(evaluation(digest)))
    card = tmp_path / "card.md"
    card.write_text(CARD.read_text(encoding="utf-8"))
    measured = ["--held", str(tmp_path / "held.json"), "--judged", str(tmp_path / "judged.json")]
    assert main([str(DEMO), "--card", str(card), *measured]) == 0
    text = card.read_text()
    for line in (
        "mean AUC **0.700 (0.650 to 0.750)**; over pairs of films of the same origin 0.680; "
        "among films with a finding 0.610. Of 40 findings",
        "| pointing game | films | gradcam | centre | random |",
        "| Mass | 29 | 0.20 (0.10 to 0.30) | 0.20 (0.10 to 0.30) | 0.20 (0.10 to 0.30) |",
        "| hand | 120 | 0.80 (0.70 to 0.90) | 50.0 % (40.0 to 60.0 %) |",
        "| Mass | 57 | 0.66 (0.56 to 0.76) | 0.20 (0.10 to 0.30) | 0.90 (0.80 to 1.00) | - |",
    ):
        assert line in text, line


def test_what_was_measured_on_another_bundle_is_not_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "held.json").write_text(json.dumps(evaluation("0" * 64)))
    card = tmp_path / "card.md"
    card.write_text("nothing")
    assert main([str(DEMO), "--card", str(card), "--held", str(tmp_path / "held.json")]) == 1
    assert "held.json was measured on another bundle; evaluate demo again" in capsys.readouterr().err
    assert card.read_text() == "nothing"
