"""The table of a model card: what a manifest says of each label, as Markdown. Measures nothing."""

from __future__ import annotations

from cxrnode.reading.manifest import Label, Manifest

_HEAD = (
    "| finding | concept | AUC (95 % interval) | positives | rule-out below | rule-in from |",
    "|---|---|---|---|---|---|",
)


def label_table(manifest: Manifest) -> str:
    """Return the table of the labels, in the network's order: the shipped card holds it word for word."""
    return "\n".join((*_HEAD, *(_row(label) for label in manifest.labels)))


def _row(label: Label) -> str:
    concept = f"{label.concept.value} {label.concept.scheme}" if label.concept and label.report else "not reported"
    area = (
        f"{label.metrics.auc:.2f} ({label.metrics.auc_low:.2f} to {label.metrics.auc_high:.2f})"
        if label.metrics
        else "-"
    )
    positives = str(label.calibration.positives) if label.calibration else "0"
    points = label.assessed
    marks = (f"{points.rule_out:.3f}", f"{points.rule_in:.3f}") if points else ("not assessed", "not assessed")
    return f"| {' | '.join((label.name.replace('_', ' '), concept, area, positives, *marks))} |"
