"""`cxrnode plan`: the table, the JSON, the picture, and figures of one's own."""

from __future__ import annotations

import json
from pathlib import Path

from click.testing import CliRunner
from PIL import Image

from cxrnode.cli import main


def planned(*arguments: str) -> tuple[int, str]:
    done = CliRunner().invoke(main, ["plan", *arguments])
    return done.exit_code, done.output


def test_a_plan_is_told_in_a_table_and_in_json(tmp_path: Path) -> None:
    status, text = planned("--films-per-day", "274000", "--peak-factor", "4", "--gpu", "h100")
    assert status == 0
    assert "gives way first" in text and "spool, traffic" in text
    _, raw = planned("--films-per-day", "274000", "--peak-factor", "4", "--gpu", "h100", "--json")
    said = json.loads(raw)
    assert said["first"] == "spool, traffic" and said["nodes"] == said["workers"] + 1
    assert f"{said['nodes']}, of which one may be lost" in text


def test_a_bench_of_this_machine_takes_the_place_of_the_shipped_figures(tmp_path: Path) -> None:
    group = "whole node, 1024 x 1024, 8 bits"
    figures = [
        ("ceilings: bare forward pass", "onnxruntime, batch 8", 100.0),
        *((group, f"{role}: cost", value) for role, value in (("receive", 50.0), ("infer", 900.0), ("send", 70.0))),
        (group, "cost in all roles", 1020.0),
        (group, "outputs", 2.5),
    ]
    bench = tmp_path / "bench.json"
    bench.write_text(json.dumps({"figures": [{"group": g, "name": n, "value": v} for g, n, v in figures]}))
    nodes = {}
    for name, more in (("shipped", ()), ("bench", ("--bench", str(bench)))):
        status, raw = planned("--films-per-day", "100000", "--json", *more)
        assert status == 0
        nodes[name] = json.loads(raw)
    assert nodes["bench"]["nodes"] >= 2 * nodes["shipped"]["nodes"]
    assert nodes["bench"]["spool_gb"] == 100_000 * 30 * 17.5 / 1000
    bench.write_text(json.dumps({"figures": []}))
    status, text = planned("--films-per-day", "1000", "--bench", str(bench))
    assert status == 1 and "no figures of the whole node" in text


def test_the_picture_is_one(tmp_path: Path) -> None:
    status, _ = planned("--films-per-day", "20000", "--png", str(tmp_path / "plan.png"))
    assert status == 0
    with Image.open(tmp_path / "plan.png") as picture:
        assert min(picture.size) > 400


def test_what_cannot_be_planned_is_a_question_of_usage() -> None:
    status, text = planned("--films-per-day", "100", "--gpu", "abacus")
    assert status == 2 and "known: none, t4" in text
