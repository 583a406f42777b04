"""`check` looks at the urgent flag before it is needed: a finding that can never flag is named."""

from __future__ import annotations

from cxrnode.cli.check import _models
from cxrnode.config import load_config
from tests.unit.cli.clinic import Clinic


def faults(clinic: Clinic, findings: str, *, outputs: str = '"sr", "key_object"') -> list[str]:
    """The names of what `check` finds wrong with the models and what is asked of them."""
    file = clinic.folder / "cxrnode.toml"
    text = file.read_text().replace('send_to = ["PACS"]', f'send_to = ["PACS"]\noutputs = [{outputs}]')
    file.write_text(f"{text}\n[key_object]\nfindings = {findings}\n")
    return [one.name for one in _models(load_config(file, environ={})) if not one.ok]


def in_service(clinic: Clinic) -> None:
    """The same bundle as one that is no demonstration."""
    card = clinic.folder / "data" / "models" / "tiny" / "manifest.toml"
    text = card.read_text()
    assert "demonstration = true" in text
    card.write_text(text.replace("demonstration = true", "demonstration = false"))


def test_a_finding_that_a_model_in_service_assesses_is_in_order(clinic: Clinic) -> None:
    in_service(clinic)
    assert faults(clinic, '["Effusion"]') == []


def test_a_misspelt_finding_and_one_that_is_not_assessed_are_named(clinic: Clinic) -> None:
    in_service(clinic)
    assert faults(clinic, '["Efusion", "Hernia", "Effusion"]') == ["key object Efusion", "key object Hernia"]


def test_a_demonstration_model_flags_nothing_and_check_says_so(clinic: Clinic) -> None:
    assert faults(clinic, '["Effusion"]') == ["key object Effusion"]


def test_a_site_that_sends_no_key_objects_is_told_nothing(clinic: Clinic) -> None:
    assert faults(clinic, '["Efusion"]', outputs='"sr"') == []
