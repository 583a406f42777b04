"""Each stage of a film's way alone, in this process: what it costs the processor, in milliseconds a film.

Receiving and sending are `exchanges`', which need another end.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

from cxrnode.bench.exchanges import exchanges
from cxrnode.bench.figures import Figure, take_turns
from cxrnode.core.findings import Decision, Finding, Outcome, Report
from cxrnode.dicom.header import dataset_digest, identity_of, read_header, to_header
from cxrnode.dicom.kept_header import keep_header
from cxrnode.dicom.outputs import OutputSettings, build_outputs
from cxrnode.dicom.pixels import decode_film
from cxrnode.reading.bundle import Bundle
from cxrnode.reading.engine import NetworkEngine, Reading, prepare
from cxrnode.spool import FolderSpool

#: Above this a stage has been looked at (docs/performance.md says what was found).
LOOKED_AT_MS = 5.0


def stages(film: Path, bundle: Bundle, engine: NetworkEngine, folder: Path, *, size: str, rounds: int) -> list[Figure]:
    """Measure every stage on one film, with two findings shown."""
    decoded = decode_film(film)
    (reading,) = engine.read([decoded.display])
    report = two_shown(bundle, engine, reading)
    settings, spool = OutputSettings(), FolderSpool(folder / "spool")

    def outputs(*kinds: str) -> list[tuple[bytes | memoryview, ...]]:
        made = build_outputs(read_header(film), report, decoded.display, reading.saliency, settings, frozenset(kinds))
        return [one.pieces for one in made]

    def header() -> None:
        read = read_header(film)
        keep_header(read)
        to_header(read)
        identity_of(read)

    made = outputs("sr", "heatmap")
    steps = {
        "receive: header, kept header, identity": header,
        "decode: digest of the data set": lambda: dataset_digest(film),
        "decode: pixels and display pipeline": lambda: decode_film(film),
        "read: film to input": lambda: prepare(decoded.display, bundle.manifest.input),
        "read: forward with all maps and plausibility": lambda: engine.read([decoded.display]),
        "outputs: SR": lambda: outputs("sr"),
        "outputs: SR, summary and two heatmaps": lambda: outputs("sr", "heatmap"),
        "outputs: into the spool": lambda: spool.put(*made),
        "report: JSON and digest": lambda: (report.to_json(), report.sha256),
    }
    costs = take_turns(steps, rounds=rounds)
    size_of = sum(len(piece) for one in made for piece in one) / 1e6
    found = [
        Figure(
            group=f"stages, {size}",
            name=name,
            value=cost.cpu,
            unit="core-ms a film",
            better="less",
            note=f"{size_of:.1f} MB" if name == "outputs: into the spool" else "",
        )
        for name, cost in costs.items()
    ]
    return [*found, *exchanges(film, [b"".join(one) for one in made], folder, size=size, rounds=rounds)]


def two_shown(bundle: Bundle, engine: NetworkEngine, reading: Reading) -> Report:
    """A report in which the first two assessed findings are present and nothing else is."""
    present = 0
    findings: list[Finding] = []
    for finding in bundle.findings(reading):
        if finding.thresholds is None:
            findings.append(finding)
        elif present < 2:
            present += 1
            score = max(finding.score, finding.thresholds.rule_in)
            findings.append(dataclasses.replace(finding, score=score, decision=Decision.PRESENT))
        else:
            findings.append(dataclasses.replace(finding, score=0.0, decision=Decision.ABSENT))
    return Report(
        outcome=Outcome.ANALYSED,
        reason="",
        read_at=1_800_000_000.0,
        revision=1,
        reader=bundle.reader(engine),
        scale=bundle.scale,
        findings=tuple(findings),
        plausibility=bundle.plausibility_of(reading),
        pixel_digest="0" * 64,
        identity_digest="0" * 64,
    )
