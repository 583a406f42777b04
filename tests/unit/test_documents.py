"""The documents against each other and against the code: links lead somewhere, lists are whole, tables are current."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from cxrnode.dicom.destination import FaultKind
from cxrnode.reading.bundle import SHIPPED, read_manifest
from tests import conformance
from tests.peers import REPOSITORY

DOCS = REPOSITORY / "docs"
PAGES = sorted([*DOCS.glob("*.md"), *REPOSITORY.glob("*.md")])
MODEL_CARD = (DOCS / "model-card.md").read_text()
OPERATIONS = (DOCS / "operations.md").read_text()

_LINK = re.compile(r"(?<!!)\[[^\]\[]*\]\(([^)\s]+)\)|!\[[^\]]*\]\(([^)\s]+)\)")
_FENCE = re.compile(r"^```.*?^```", re.DOTALL | re.MULTILINE)


def anchor(heading: str) -> str:
    """The anchor of a heading, as the sites that show Markdown make it."""
    plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).replace("`", "").strip().lower()
    return re.sub(r"[^\w\- ]", "", plain).replace(" ", "-")


def anchors(page: Path) -> set[str]:
    text = _FENCE.sub("", page.read_text())
    return {anchor(heading) for heading in re.findall(r"^#{1,6} +(.*)$", text, re.MULTILINE)}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_within_the_project_leads_somewhere(page: Path) -> None:
    text = _FENCE.sub("", page.read_text())
    broken = []
    for link in (one or other for one, other in _LINK.findall(text)):
        if re.match(r"[a-z]+:", link):
            continue
        path, _, wanted = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        if not target.exists() or (wanted and wanted not in anchors(target)):
            broken.append(link)
    assert broken == []


def test_the_readme_leads_to_every_page() -> None:
    text = (REPOSITORY / "README.md").read_text()
    assert {page.name for page in DOCS.glob("*.md") if f"docs/{page.name}" not in text} == set()


def test_the_readme_says_of_the_demonstration_model_what_its_card_and_manifest_say() -> None:
    text = " ".join((REPOSITORY / "README.md").read_text().replace("\n> ", " ").split())
    card, _ = read_manifest(SHIPPED / "demo")
    assert f"on {card.metrics.films:,} of them" in text and f"the mean AUC is {card.metrics.mean_auc:.3f}" in text
    judged = re.search(r"^(\d+) films of \d+ patients: \*\*mean AUC ([\d.]+) ", MODEL_CARD, re.MULTILINE)
    assert judged and f"{judged[2]} on {judged[1]} films" in text
    assert f"trained on {card.training.films:,} films" in text


# ------------------------------------------------------------------------------- the conformance statement


@pytest.mark.slow
def test_the_tables_of_the_conformance_statement_are_current() -> None:
    page = conformance.PAGE.read_text()
    stale = [name for name in conformance.TABLES if f"{conformance.TABLES[name]()}\n<!-- /table -->" not in page]
    assert stale == [], "write them anew: make docs"


def test_the_conformance_statement_has_a_place_for_every_table() -> None:
    assert sorted(conformance.marks(conformance.PAGE.read_text())) == sorted(conformance.TABLES)


def test_the_conformance_statement_is_in_the_order_of_annex_n() -> None:
    headings = re.findall(r"^## (\S+ .*)$", conformance.PAGE.read_text(), re.MULTILINE)
    assert [heading.split()[0] for heading in headings] == [*"12345678", *["Annex"] * 5]
    assert [heading.split()[1] for heading in headings[8:]] == ["A.A", "A.B", "A.C", "A.D", "A.E"]


# ------------------------------------------------------------------------------------------- the runbook


def test_the_runbook_says_what_to_do_about_each_reason_of_a_circuit() -> None:
    rows = set(re.findall(r"^\| `(\w+)` \|", OPERATIONS, re.MULTILINE))
    assert {kind.value for kind in FaultKind} - rows == set()


def parked_reasons() -> set[str]:
    """Why jobs are parked: what `infer` and what it asks raise as Rejected, and what the store says at its limits."""
    found: set[str] = set()
    for name in ("roles/infer.py", "dicom/decoder.py", "store/jobs.py", *_spool()):
        for node in ast.walk(ast.parse((REPOSITORY / "cxrnode" / name).read_text())):
            if isinstance(node, ast.Call) and _called(node) in ("Rejected", "_park") and node.args:
                if name != "store/jobs.py":  # there they answer people who ask for a retry
                    found.add(_said(node.args[-1]))
            elif isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") in ("reason", "said"):
                # `reason = f"..."`: of the limits in jobs.py, and of the forward pass in infer.py.
                found.add(_said(node.value))
    return {text for text in found if text}


def _spool() -> tuple[str, ...]:
    package = REPOSITORY / "cxrnode" / "spool"
    return tuple(f"spool/{path.name}" for path in sorted(package.glob("*.py"))) if package.is_dir() else ("spool.py",)


def _called(node: ast.Call) -> str:
    return node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")


def _said(node: ast.expr) -> str:
    """The longest part of a message that does not change."""
    texts = [part.value for part in ast.walk(node) if isinstance(part, ast.Constant) and isinstance(part.value, str)]
    return max(texts, key=len, default="").strip()


#: What is put before or behind a reason.
_NO_REASON = {"(", "attempts)"}


def test_the_runbook_says_what_to_do_about_each_reason_for_which_a_job_is_parked() -> None:
    reasons = parked_reasons() - _NO_REASON
    assert any("workers were lost" in reason for reason in reasons)
    assert {reason for reason in reasons if reason not in OPERATIONS} == set()
