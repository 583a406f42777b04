"""Engines are compared, one is chosen and written down; a start reads what stands there and measures nothing."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from cxrnode.errors import BundleError, Rejected
from cxrnode.reading import admission
from cxrnode.reading.admission import EngineKind, admission_of, admit, open_engine
from cxrnode.reading.bundle import Bundle, load_bundle
from cxrnode.reading.engine import Arithmetic, TorchEngine
from cxrnode.reading.onnx_engine import OnnxEngine, export
from cxrnode.reading.openvino_engine import OpenVinoEngine, in_parts

Film = np.ndarray


@pytest.fixture(scope="module")
def bundle(made_once: Path) -> Bundle:
    return load_bundle(made_once)


@pytest.fixture(scope="module")
def graph(bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("graph") / "tiny.onnx"
    export(bundle, path)
    return path


def test_without_an_admission_the_reference_reads(bundle: Bundle, tmp_path: Path) -> None:
    assert admission_of(bundle, tmp_path) is None
    assert open_engine(bundle, tmp_path, threads=1).name.endswith("float32")
    assert list(tmp_path.iterdir()) == []


def test_onnxruntime_reads_as_the_reference_does_alone_and_together(
    bundle: Bundle, graph: Path, films: list[Film]
) -> None:
    engine = OnnxEngine(bundle, graph, threads=1)
    reference = TorchEngine(bundle, device="cpu", threads=1).read(films)
    for theirs, ours, film in zip(reference, engine.read(films), films, strict=True):
        np.testing.assert_allclose(ours.scores, theirs.scores, atol=1e-4)
        assert ours.saliency is not None and theirs.saliency is not None
        np.testing.assert_allclose(ours.saliency, theirs.saliency, rtol=2e-2, atol=2e-3)
        assert ours.distance == pytest.approx(theirs.distance, rel=1e-3)
        (alone,) = engine.read([film])
        np.testing.assert_allclose(alone.scores, ours.scores, atol=1e-5)
    assert engine.name.split()[0] == "onnxruntime" and engine.name.split()[2:] == ["cpu", "float32"]


def test_where_others_work_beside_it_several_films_take_half_the_cores_and_read_the_same(
    bundle: Bundle, films: list[Film], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(admission, "candidates", lambda: (EngineKind.TORCH, EngineKind.ONNX))
    monkeypatch.setattr(admission, "_timed", lambda *_: {EngineKind.TORCH: 9.0, EngineKind.ONNX: 5.0})
    admit(bundle, tmp_path, films, threads=1)
    engines = [open_engine(bundle, tmp_path, threads=4, beside_others=beside) for beside in (False, True)]
    counts = []
    for engine in engines:
        assert isinstance(engine, OnnxEngine)
        sessions = engine._alone, engine._together
        counts.append([one.get_session_options().intra_op_num_threads for one in sessions])
    assert counts == [[4, 4], [4, 2]]
    whole, half = (engine.read(films) for engine in engines)
    for one, other in zip(whole, half, strict=True):
        np.testing.assert_allclose(one.scores, other.scores, atol=1e-5)


def test_bf16_keeps_the_head_and_the_maps_in_float32(bundle: Bundle, films: list[Film]) -> None:
    engine = TorchEngine(bundle, device="cpu", threads=1, arithmetic=Arithmetic.BF16)
    reference = TorchEngine(bundle, device="cpu", threads=1).read(films)
    scores, maps, _ = admission.compare(bundle, reference, engine.read(films))
    assert 0 < scores < 0.05 and maps < 0.5
    assert engine.name.endswith("cpu bf16")


def test_the_fastest_that_agrees_is_written_down_and_opened_at_the_next_start(
    bundle: Bundle, films: list[Film], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(admission, "candidates", lambda: (EngineKind.TORCH, EngineKind.ONNX))
    times = {EngineKind.TORCH: 9.0, EngineKind.ONNX: 5.0}
    monkeypatch.setattr(admission, "_timed", lambda *_: times)
    made = admit(bundle, tmp_path, films, threads=1)
    assert (made.kind, made.bundle_digest) == (EngineKind.ONNX, bundle.digest)
    assert [trial.ms for trial in made.trials] == [9.0, 5.0]
    assert admission_of(bundle, tmp_path) == made
    monkeypatch.setattr(admission, "_timed", lambda *_: pytest.fail("a start measures nothing"))
    assert isinstance(open_engine(bundle, tmp_path, threads=1), OnnxEngine)


def test_one_that_does_not_agree_is_not_taken_however_fast(
    bundle: Bundle, films: list[Film], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(admission, "candidates", lambda: (EngineKind.TORCH, EngineKind.TORCH_BF16))
    monkeypatch.setattr(admission, "_timed", lambda *_: {EngineKind.TORCH: 9.0, EngineKind.TORCH_BF16: 1.0})
    monkeypatch.setattr(admission, "TOLERANCE", 1e-9)
    made = admit(bundle, tmp_path, films, threads=1)
    assert made.kind is EngineKind.TORCH
    assert "from the reference's" in made.trials[1].refused
    with pytest.raises(Rejected, match="is not admitted"):
        admit(bundle, tmp_path, films, wanted=EngineKind.TORCH_BF16, threads=1, rounds=1)
    assert admission_of(bundle, tmp_path) == made


def test_changed_decisions_are_listed(bundle: Bundle, films: list[Film]) -> None:
    (one,) = TorchEngine(bundle, device="cpu", threads=1).read(films[:1])
    before, after = (dataclasses.replace(one, scores=np.full_like(one.scores, s), distance=s * 3) for s in (0.5, 0.9))
    scores, _, changed = admission.compare(bundle, [before], [after])
    assert scores == pytest.approx(0.4)
    assert "film 0, Effusion: undetermined becomes present at 0.5000" in changed
    assert any(line.startswith("film 0: plausible True becomes False") for line in changed)


def test_another_machine_reads_with_the_reference_again(
    bundle: Bundle, films: list[Film], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(admission, "candidates", lambda: (EngineKind.TORCH,))
    admit(bundle, tmp_path, films[:1], threads=1, rounds=1)
    monkeypatch.setattr(admission, "machine_digest", lambda: "f" * 64)
    assert admission_of(bundle, tmp_path) is None


@pytest.mark.parametrize("harm", ["other graph", "no graph", "no json"])
def test_what_was_altered_since_is_refused_by_name(bundle: Bundle, graph: Path, tmp_path: Path, harm: str) -> None:
    folder = tmp_path / "engines"
    folder.mkdir()
    chosen = admission.Admission(
        bundle_digest=bundle.digest,
        machine_digest=admission.machine_digest(),
        kind=EngineKind.ONNX,
        name="onnxruntime",
        graph_sha256="0" * 64,
    )
    text = json.dumps(dataclasses.asdict(chosen)) if harm != "no json" else "{"
    (folder / f"{bundle.digest[:16]}-{chosen.machine_digest[:16]}.json").write_text(text)
    if harm == "other graph":
        (folder / f"{bundle.digest[:16]}.onnx").write_bytes(graph.read_bytes())
    with pytest.raises(BundleError, match="cxrnode model admit"):
        open_engine(bundle, tmp_path, threads=1)


@pytest.mark.parametrize(
    ("flags", "fastest"),
    [
        ("fma avx512f avx512_bf16 amx_tile amx_bf16", "amx_bf16"),
        ("fma avx512f avx512_bf16", "avx512_bf16"),
        ("fma avx2", ""),
        ("", ""),
    ],
)
def test_the_fastest_instructions_for_bf16_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, flags: str, fastest: str
) -> None:
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text(f"processor\t: 0\nmodel name\t: made up\nflags\t\t: {flags}\n")
    monkeypatch.setattr(admission, "_CPUINFO", cpuinfo)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert admission.bf16_instructions() == fastest
    kinds = set(admission.candidates())
    assert EngineKind.TORCH in kinds and (EngineKind.TORCH_BF16 in kinds) == bool(fastest)


@pytest.fixture
def openvino(bundle: Bundle, graph: Path) -> OpenVinoEngine:
    if not admission.bf16_instructions():
        pytest.skip("this processor does not multiply in bf16")
    return OpenVinoEngine(bundle, graph, threads=2)


def test_openvino_reads_in_bf16_and_a_film_alone_as_together(
    bundle: Bundle, openvino: OpenVinoEngine, films: list[Film]
) -> None:
    reference = TorchEngine(bundle, device="cpu", threads=1).read(films)
    together = openvino.read(films)
    scores, maps, _ = admission.compare(bundle, reference, together)
    assert 0 < scores < 0.05 and maps < 0.5  # of random weights; of trained ones: tests/integration
    for film, one in zip(films, together, strict=True):
        (alone,) = openvino.read([film])
        assert one.saliency is not None and alone.saliency is not None
        np.testing.assert_array_equal(alone.scores, one.scores)
        np.testing.assert_array_equal(alone.saliency, one.saliency)
    assert openvino.name.split()[0] == "openvino" and openvino.name.split()[2:] == ["cpu", "bf16"]


def test_many_films_come_back_in_their_order(openvino: OpenVinoEngine, films: list[Film]) -> None:
    many = [films[place % len(films)] for place in range(23)]  # more than are read at once, and than a batch
    alone = [openvino.read([film])[0].scores for film in films]
    for place, reading in enumerate(openvino.read(many)):
        np.testing.assert_array_equal(reading.scores, alone[place % len(films)])


def test_a_film_in_parts_is_the_film_and_its_first_part_is_what_bf16_keeps() -> None:
    given = np.random.default_rng(3).standard_normal((2, 3, 5, 7)).astype(np.float32)
    main, rest, again = np.split(in_parts(given), 3, axis=1)
    assert not (main.view(np.uint32) & 0xFFFF).any(), "bf16 keeps the upper half of a float32"
    assert (np.abs(rest) <= np.abs(given) * 2.0**-8).all() and rest.any()
    np.testing.assert_array_equal(main, again)
    np.testing.assert_array_equal(main + rest, given)


def test_openvino_is_imported_without_what_reports_to_its_maker() -> None:
    seen = subprocess.run(
        [
            *(sys.executable, "-c"),
            "import sys; from cxrnode.reading.openvino_engine import _openvino; _openvino(); "
            "print(*(name for name, found in sys.modules.items() if 'openvino_telemetry' in name and found))",
        ],
        capture_output=True,
        text=True,
        check=True,
    )
    assert seen.stdout.strip() == ""


def test_openvino_is_chosen_written_down_and_opened_at_the_next_start(
    bundle: Bundle, films: list[Film], tmp_path: Path, openvino: OpenVinoEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    for limit in ("TOLERANCE", "MAP_TOLERANCE"):  # which are for trained weights
        monkeypatch.setattr(admission, limit, 0.5)
    made = admit(bundle, tmp_path, films, wanted=EngineKind.OPENVINO, threads=1, rounds=1)
    assert made.kind is EngineKind.OPENVINO and made.graph_sha256
    opened = open_engine(bundle, tmp_path, threads=4, beside_others=True)
    assert isinstance(opened, OpenVinoEngine)
    for one, other in zip(opened.read(films), openvino.read(films), strict=True):
        np.testing.assert_array_equal(one.scores, other.scores)
    admission._graph(bundle, tmp_path).write_bytes(b"no graph")
    with pytest.raises(BundleError, match="cxrnode model admit"):
        open_engine(bundle, tmp_path, threads=1)
    with pytest.raises(BundleError, match="OpenVINO cannot load it"):
        OpenVinoEngine(bundle, admission._graph(bundle, tmp_path), threads=1)
