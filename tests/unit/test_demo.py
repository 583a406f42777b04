"""What `cxrnode demo` prints, without the node: `tests/acceptance` runs the whole."""

from __future__ import annotations

from pathlib import Path

import pytest

from cxrnode.core.findings import NIH14, Decision, Finding, Outcome, Reader, Report, Scale, Thresholds
from cxrnode.demo.run import Shown, _show_table, console_of_stdout

REPORT = Report(
    outcome=Outcome.ANALYSED,
    reason="",
    read_at=0.0,
    revision=1,
    reader=Reader(
        name="demo",
        version="3",
        bundle_digest="d" * 64,
        weights_digest="e" * 64,
        calibration="none",
        demonstration=True,
        engine="test",
    ),
    scale=Scale.SCORE,
    findings=tuple(
        Finding(
            label=label,
            index=index,
            score=0.9,
            decision=Decision.PRESENT,
            thresholds=Thresholds(rule_out=0.1, rule_in=0.5),
        )
        for index, label in enumerate(NIH14)
    ),
    pixel_digest="a" * 64,
    identity_digest="b" * 64,
)


def test_into_a_pipe_each_thing_is_a_line(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    console = console_of_stdout()
    console.print(f"Objects        {tmp_path / ('x' * 100)}")
    film = Shown(path=Path("[film].dcm"), sop_instance_uid="", success_at=0.0, outcome="analysed", report=REPORT)
    ignored = Shown(path=Path("hand.dcm"), sop_instance_uid="", success_at=0.0, verdict="ignored", reason="y" * 100)
    _show_table([film, ignored], console)
    lines = capsys.readouterr().out.splitlines()
    titles = ", ".join(label.replace("_", " ") for label in NIH14)
    for line in (
        f"Objects        {tmp_path / ('x' * 100)}",
        f"[film].dcm: {titles}",
        f"hand.dcm: ignored, {'y' * 100}",
    ):
        assert line in lines
