"""What the admission lets through on made films agrees with float32 on real ones: scores, maps, and every decision."""

from __future__ import annotations

from pathlib import Path

import pytest

from cxrnode.bench.films import comparison_films
from cxrnode.reading import admission
from cxrnode.reading.admission import EngineKind, admit, load_engine
from cxrnode.reading.bundle import SHIPPED, load_bundle
from cxrnode.reading.engine import TorchEngine
from cxrnode.training.readers.picture import open_film

pytestmark = pytest.mark.slow

_FILMS = 36


def test_every_engine_that_is_let_through_reads_real_films_as_the_reference_does(
    data_dir: Path, tmp_path: Path
) -> None:
    bundle = load_bundle(SHIPPED / "demo")
    made = admit(bundle, tmp_path, comparison_films(bundle.manifest.input.size), threads=1, rounds=1)
    good = {trial.kind for trial in made.trials if not trial.refused}
    assert EngineKind.ONNX in good
    assert EngineKind.OPENVINO in good or EngineKind.OPENVINO not in admission.candidates()
    pictures = sorted((data_dir / "eval").glob("*.png"))
    films = [open_film(path) for path in pictures[:: max(1, len(pictures) // _FILMS)]][:_FILMS]
    assert len(films) == _FILMS
    reference = TorchEngine(bundle, device="cpu", threads=1).read(films)
    for trial in made.trials:
        if trial.kind is EngineKind.TORCH:
            continue
        engine = load_engine(trial.kind, bundle, admission._graph(bundle, tmp_path), threads=1)
        scores, maps, changed = admission.compare(bundle, reference, engine.read(films))
        said = f"{trial.name}: scores {scores:.5f}, maps {maps:.4f} of their scale, {len(changed)} decisions changed"
        print(said, *changed, "refused: " + trial.refused if trial.refused else "admitted", sep="\n    ")
        if not trial.refused:
            assert scores <= admission.TOLERANCE, said
            # Within the tolerance of the scores a decision can only change that close to its threshold.
            assert len(changed) <= 0.02 * len(films) * len(bundle.manifest.labels), said
