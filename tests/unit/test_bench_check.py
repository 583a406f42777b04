"""The gate of the benches: a quarter worse passes, more does not, whichever way is better."""

from __future__ import annotations

import json

import pytest

pytest.importorskip("highdicom")

from benchmarks.check import BASELINE, best, judged, kind

_BASELINE: dict[str, dict[str, object]] = {
    "cost": {"value": 1.0, "better": "less"},
    "gain": {"value": 20.0, "better": "more"},
}


@pytest.mark.parametrize(
    ("cost", "gain", "faults"), [(1.0, 20.0, 0), (1.24, 16.1, 0), (1.26, 20.0, 1), (1.0, 15.9, 1), (0.1, 90.0, 0)]
)
def test_more_than_a_quarter_worse_is_a_fault(cost: float, gain: float, faults: int) -> None:
    assert len(judged({"cost": (cost, "less"), "gain": (gain, "more")}, _BASELINE)) == faults


@pytest.mark.parametrize(("better", "chosen"), [("less", 1.0), ("more", 2.0)])
def test_of_two_measurements_the_better_counts(better: str, chosen: float) -> None:
    assert chosen == best(1.0, 2.0, better) == best(2.0, 1.0, better)


def test_what_was_not_measured_is_a_fault() -> None:
    assert judged({"cost": (1.0, "less")}, _BASELINE) == ["gain: was not measured"]


@pytest.mark.parametrize(
    ("engine", "instructions", "name"),
    [
        ("openvino 2026.3.0 cpu bf16", "amx_bf16", "openvino amx_bf16"),
        ("openvino 2026.3.0 cpu bf16", "avx512_bf16", "openvino avx512_bf16"),
        ("onnxruntime 1.30 cpu float32", "avx512_bf16", "onnxruntime"),
    ],
)
def test_instructions_count_where_they_multiply(engine: str, instructions: str, name: str) -> None:
    assert kind(engine, instructions) == name


def test_the_committed_baseline_is_made_of_ratios() -> None:
    baselines = json.loads(BASELINE.read_text())
    assert {"onnxruntime", "openvino amx_bf16", "openvino avx512_bf16"} <= set(baselines)
    for baseline in baselines.values():
        assert baseline and all(one["better"] in ("more", "less") and one["value"] > 0 for one in baseline.values())
