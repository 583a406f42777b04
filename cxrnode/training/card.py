"""The tables of a model card: what a bundle says of itself and what was measured of it, as Markdown. Measures nothing.

A table stands between `<!-- NAME -->` and `<!-- /NAME -->`, where it is written anew; all else is prose.
`python -m cxrnode.training.card BUNDLE --card FILE` does so with what the bundle says; with `--held`, `--judged` (what
`cxrnode evaluate --json` wrote) also with what was measured.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from cxrnode.errors import CxrnodeError, Rejected
from cxrnode.reading.bundle import WEIGHTS, read_manifest
from cxrnode.reading.manifest import Label, Manifest

#: How the methods of localisation are called in the card, in the order of its columns.
_WAYS = ("gradcam", "gradcam++", "integrated-gradients", "centre", "random")


class NoPlace(Rejected):
    """The card has no place for a table; the message names it."""


def refreshed(text: str, tables: Mapping[str, str]) -> str:
    """Return the card with these tables in their places. Raises NoPlace."""
    for name, table in tables.items():
        head, tail = f"<!-- {name} -->", f"<!-- /{name} -->"
        if text.count(head) != 1 or text.count(tail) != 1 or text.index(head) > text.index(tail):
            raise NoPlace(f"the card has no place for {name}; write the lines {head} and {tail} where it is to stand")
        before, _, rest = text.partition(head)
        text = f"{before}{head}\n{table}\n{tail}{rest.partition(tail)[2]}"
    return text


def tables_of(manifest: Manifest) -> dict[str, str]:
    """Return the tables that the bundle's manifest alone gives."""
    return {
        "facts": _facts(manifest),
        "findings": _findings(manifest.labels),
        "calibration": _calibration(manifest),
    }


def tables_of_held_out(found: Mapping[str, Any]) -> dict[str, str]:
    """Return the tables of an evaluation on the held-out films, from its JSON: those that it was asked to measure."""
    tables = {"held-out": _held_out(found)}
    if found["refusal"]:
        tables["plausibility"] = _plausibility(found)
    if found["localisation"]:
        tables["localisation"] = _localisation(found["localisation"])
    return tables


def tables_of_judged(found: Mapping[str, Any]) -> dict[str, str]:
    """Return the table of an evaluation on the films that were kept for judging, from its JSON."""
    rows = [
        (
            name.replace("_", " "),
            one["positives"],
            _interval(one["auroc"]),
            _interval(one["average_precision"]),
            _share(one["rule_out"], "sensitivity"),
            _share(one["rule_in"], "specificity"),
        )
        for name, one in found["findings"].items()
    ]
    mean = f"{found['mean_auroc']:.3f} ({found['mean_auroc_low']:.3f} to {found['mean_auroc_high']:.3f})"
    refused = found["implausible"]
    return {
        "judged": "\n".join(
            (
                f"{found['films']} films of {found['patients']} patients: **mean AUC {mean}**, and "
                f"{refused['count']} of them are refused as implausible.",
                "",
                _table(
                    (
                        "finding",
                        "positives",
                        "AUC",
                        "average precision",
                        "sensitivity of rule-out",
                        "specificity of rule-in",
                    ),
                    rows,
                ),
            )
        )
    }


def _facts(manifest: Manifest) -> str:
    given, use, training = manifest.input, manifest.intended_use, manifest.training
    grey = "grey on three channels" if given.channels == 3 else "grey"
    return _table(
        ("", ""),
        (
            ("name", f"`{manifest.name}`, version {manifest.version}"),
            (
                "architecture",
                f"{manifest.architecture}, {given.size} x {given.size}, {grey}, {len(manifest.labels)} sigmoid outputs",
            ),
            ("weights", f"float16, SHA-256 `{manifest.sha256_of(WEIGHTS)}`"),
            ("maps", f"{manifest.saliency}, in units of the logit"),
            ("training", f"{training.films:,} films of {training.patients:,} patients: {training.data}"),
            ("recipe", training.recipe),
            ("held out", f"{manifest.metrics.films:,} films: {manifest.metrics.data_set}"),
            ("mean AUC", f"{manifest.metrics.mean_auc:.3f} on the held-out films"),
            ("licence", manifest.licence),
            (
                "intended use",
                f"views {' and '.join(use.views)}, modality {' or '.join(use.modalities)}, {use.age_min:g} to "
                f"{use.age_max:g} years" + ("; demonstration" if manifest.demonstration else ""),
            ),
        ),
    )


def _findings(labels: Iterable[Label]) -> str:
    rows = []
    for label in labels:
        concept = f"{label.concept.value} {label.concept.scheme}" if label.concept and label.report else "not reported"
        area, points = label.metrics, label.assessed
        marks = (f"{points.rule_out:.4f}", f"{points.rule_in:.4f}") if points else ("not assessed", "not assessed")
        rows.append(
            (
                label.name.replace("_", " "),
                concept,
                f"{area.auc:.2f} ({area.auc_low:.2f} to {area.auc_high:.2f})" if area else "-",
                label.calibration.positives if label.calibration else 0,
                *marks,
            )
        )
    return _table(("finding", "concept", "AUC (95 % interval)", "positives", "rule-out below", "rule-in from"), rows)


def _calibration(manifest: Manifest) -> str:
    rows = []
    for label in manifest.labels:
        if (card := label.calibration) is None:
            continue
        errors = (card.ece_before, card.ece_after)
        rows.append(
            (
                label.name.replace("_", " "),
                f"{card.slope:.2f}",
                f"{card.offset:.2f}",
                *("-" if error is None else f"{error:.3f}" for error in errors),
                f"{100 * card.prevalence:.1f} %",
                "-" if card.shown_prevalence is None else f"{100 * card.shown_prevalence:.1f} %",
            )
        )
    head = ("finding", "slope", "offset", "ECE before", "ECE after", "held-out films have it", "shown as at")
    where = manifest.calibration.population or "no other population"
    return f"{_table(head, rows)}\n\nMethod: {manifest.calibration.method}. Shown as at the prevalence of: {where}."


def _held_out(found: Mapping[str, Any]) -> str:
    mean = f"{found['mean_auroc']:.3f} ({found['mean_auroc_low']:.3f} to {found['mean_auroc_high']:.3f})"
    within = (
        "" if found["mean_within"] is None else f"; over pairs of films of the same origin {found['mean_within']:.3f}"
    )
    apart = "" if found["mean_ill"] is None else f"; among films with a finding {found['mean_ill']:.3f}"
    present = sum(one["present"] for one in found["findings"].values())
    unlocated = sum(one["unlocated"] or 0 for one in found["findings"].values())
    groups = [
        (f"{one['by']} {one['group']}", one["films"], "-" if one["mean_auroc"] is None else f"{one['mean_auroc']:.3f}")
        for one in found["subgroups"]
    ]
    return "\n".join(
        (
            f"{found['films']:,} films of {found['patients']:,} patients: mean AUC **{mean}**{within}{apart}. "
            f"Of {present} findings called present, {unlocated} have no map above its floor.",
            "",
            _table(("group", "films", "mean AUC"), groups),
        )
    )


def _plausibility(found: Mapping[str, Any]) -> str:
    rows = [(one["kind"], one["films"], _interval(one["auroc"]), _percent(one["refused"])) for one in found["refusal"]]
    rows.append(("the held-out films themselves", found["films"], "-", _percent(found["implausible"])))
    return _table(("", "films", "AUC against the held-out films", "refused (95 % interval)"), rows)


def _localisation(found: Sequence[Mapping[str, Any]]) -> str:
    ways = [way for way in _WAYS if any(one["method"] == way for one in found)]
    by_finding: dict[str, dict[str, Mapping[str, Any]]] = {}
    for one in found:
        by_finding.setdefault(one["finding"], {})[one["method"]] = one
    cells: dict[str, Callable[[Mapping[str, Any]], str]] = {
        "pointing game": lambda one: _interval(one["pointing"]),
        "mean overlap (IoU)": lambda one: f"{one['iou']:.2f}",
    }
    parts = []
    for what, cell in cells.items():
        rows = [
            (name.replace("_", " "), next(iter(each.values()))["films"], *(cell(each[way]) for way in ways))
            for name, each in by_finding.items()
        ]
        parts.append(_table((what, "films", *ways), rows))
    return "\n\n".join(parts)


def _interval(value: Mapping[str, Any] | None) -> str:
    if value is None or value["value"] is None:
        return "-"
    interval = "" if value["low"] is None else f" ({value['low']:.2f} to {value['high']:.2f})"
    return f"{value['value']:.2f}{interval}"


def _share(point: Mapping[str, Any] | None, of: str) -> str:
    return "-" if point is None else _interval(point[of])


def _percent(share: Mapping[str, Any]) -> str:
    return f"{100 * share['value']:.1f} % ({100 * share['low']:.1f} to {100 * share['high']:.1f} %)"


def _table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    return "\n".join((*lines, *(f"| {' | '.join(str(cell) for cell in row)} |" for row in rows)))


def main(arguments: list[str] | None = None) -> int:
    """Write the tables of a card anew and return the exit status."""
    parser = argparse.ArgumentParser(description="Write the tables of a model card anew; its prose stays as it is.")
    parser.add_argument("bundle", type=Path, help="folder of the bundle")
    parser.add_argument("--card", type=Path, required=True, help="the Markdown file")
    parser.add_argument("--held", type=Path, help="`cxrnode evaluate --json` of the held-out films")
    parser.add_argument("--judged", type=Path, help="`cxrnode evaluate --json` of the films kept for judging")
    given = parser.parse_args(arguments)
    try:
        manifest, digest = read_manifest(given.bundle)
        tables = tables_of(manifest)
        for path, read in ((given.held, tables_of_held_out), (given.judged, tables_of_judged)):
            if path is not None:
                found = json.loads(path.read_text(encoding="utf-8"))
                if found["bundle_digest"] != digest:
                    raise NoPlace(f"{path.name} was measured on another bundle; evaluate {given.bundle.name} again")
                tables |= read(found)
        given.card.write_text(refreshed(given.card.read_text(encoding="utf-8"), tables), encoding="utf-8")
    except (CxrnodeError, OSError, ValueError, KeyError) as error:
        print(f"card: {error}", file=sys.stderr)
        return 1
    print(f"{given.card}: {', '.join(tables)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
