"""What the admission lets through on made films agrees with float32 on real ones: scores, maps, and every decision."""

from __future__ import annotations

from pathlib import Path

import pytest

from cxrnode.bench.films import comparison_films
from cxrnode.reading import admission
from cxrnode.reading.admission import EngineKind, admit
from cxrnode.reading.bundle import SHIPPED, load_bundle
from cxrnode.reading.engine import Arithmetic, NetworkEngine, TorchEngine
from cxrnode.reading.onnx_engine import OnnxEngine
from cxrnode.training.readers.picture import open_film

pytestmark = pytest.mark.slow

_FILMS = 36


def test_every_engine_that_is_let_through_reads_real_films_as_the_reference_does(
    data_dir: Path, tmp_path: Path
) -> None:
    bundle = load_bundle(SHIPPED / "demo")
    made = admit(bundle, tmp_path, comparison_films(bundle.manifest.input.size), threads=1, rounds=1)
    assert EngineKind.ONNX in {trial.kind for trial in made.trials if not trial.refused}
    pictures = sorted((data_dir / "eval").glob("*.png"))
    films = [open_film(path) for path in pictures[:: max(1, len(pictures) // _FILMS)]][:_FILMS]
    assert len(films) == _FILMS
    reference = TorchEngine(bundle, device="cpu", threads=1).read(films)
    for trial in made.trials:
        engine: NetworkEngine
        if trial.kind is EngineKind.ONNX:
            engine = OnnxEngine(bundle, admission._graph(bundle, tmp_path), threads=1)
        elif trial.kind is EngineKind.TORCH_BF16:
            engine = TorchEngine(bundle, device="cpu", threads=1, arithmetic=Arithmetic.BF16)
        else:
            continue
        scores, maps, changed = admission.compare(bundle, reference, engine.read(films))
        said = f"{trial.name}: scores {scores:.5f}, maps {maps:.4f} of their scale, {len(changed)} decisions changed"
        print(said, *changed, "refused: " + trial.refused if trial.refused else "admitted", sep="\n    ")
        if not trial.refused:
            assert scores <= admission.TOLERANCE, said
            # Within the tolerance of the scores a decision can only change that close to its threshold.
            assert len(changed) <= 0.02 * len(films) * len(bundle.manifest.labels), said
