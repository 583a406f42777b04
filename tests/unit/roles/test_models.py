"""What is said when a model is opened: that nobody chose its engine, which one then finds out by measuring alone."""

from __future__ import annotations

from pathlib import Path

import pytest
from structlog.testing import capture_logs

from cxrnode.bench.films import comparison_films
from cxrnode.config import Model
from cxrnode.reading import admission
from cxrnode.reading.bundle import SHIPPED, load_bundle
from cxrnode.reading.choice import EngineKind
from cxrnode.roles.models import _opened

pytestmark = pytest.mark.slow  # torch


def test_a_model_whose_engine_nobody_chose_says_how_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle, model = load_bundle(SHIPPED / "demo"), Model(bundle="demo")
    with capture_logs() as before:
        assert _opened("chest", bundle, model, tmp_path).name.startswith("torch")
    (said,) = before
    assert (said["event"], said["model"]) == ("engine_not_chosen", "chest")
    assert "`cxrnode model admit chest`" in said["remedy"]
    monkeypatch.setattr(admission, "candidates", lambda: (EngineKind.TORCH,))
    admission.admit(bundle, tmp_path, comparison_films(bundle.manifest.input.size)[:1], rounds=1)
    with capture_logs() as after:
        _opened("chest", bundle, model, tmp_path)
    assert after == [], "the reference was chosen: nothing is to be said"
