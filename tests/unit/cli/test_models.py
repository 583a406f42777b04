"""`model`: the bundles of a machine, and their cards."""

from __future__ import annotations

from tests.unit.cli.clinic import Clinic, tiny_bundle


def test_model_ls_names_bundles_and_who_uses_them(clinic: Clinic) -> None:
    rows = {row["bundle"]: row for row in clinic.json("model", "ls")}
    assert (rows["tiny"]["used_as"], rows["tiny"]["problem"], rows["tiny"]["demonstration"]) == (
        ["chest (active)"],
        "",
        True,
    )
    assert "DEMONSTRATION" in clinic.run("model", "ls").stdout


def test_model_ls_says_what_is_wrong_with_a_bundle_and_shows_the_others(clinic: Clinic) -> None:
    models = clinic.folder / "data" / "models"
    tiny_bundle(models / "torn")
    (models / "torn" / "manifest.toml").write_text("format = 1\n")
    clinic.config.write_text(clinic.config.read_text() + '[models.lost]\nbundle = "nowhere"\n')
    rows = {row["bundle"]: row for row in clinic.json("model", "ls")}
    assert ("missing" in rows["torn"]["problem"], "no bundle 'nowhere'" in rows["nowhere"]["problem"]) == (True, True)
    assert rows["tiny"]["problem"] == ""


def test_model_show_prints_the_card_under_its_warning(clinic: Clinic) -> None:
    text = clinic.run("model", "show", "chest").stdout
    lines = [line.split() for line in text.splitlines() if line.strip()]
    assert lines[0] == ["DEMONSTRATION", "MODEL:", "not", "for", "patients"]
    assert ["Effusion", "0.800", "0.700", "to", "0.900", "0.2000", "0.6000", "60", "yes"] in lines
    assert "not representative: it gives scores" in text
    card = clinic.json("model", "show", "tiny")
    assert (card["name"], card["intended_use"]["age_min"], len(card["digest"])) == ("tiny", 18, 64)


def test_model_show_of_nothing_says_where_it_looked(clinic: Clinic) -> None:
    result = clinic.run("model", "show", "nowhere")
    assert (result.exit_code, result.stderr.startswith("cxrnode: no bundle 'nowhere': looked in")) == (1, True)


def test_model_verify_of_an_altered_bundle_names_the_file(clinic: Clinic) -> None:
    weights = clinic.folder / "data" / "models" / "tiny" / "weights.safetensors"
    weights.write_bytes(weights.read_bytes() + b"\0")
    answer = clinic.json("model", "verify", "chest", status=1)
    (only,) = answer["checks"]
    assert (answer["ok"], only["name"], "tiny/weights.safetensors" in only["detail"]) == (False, "files", True)
