"""The evaluation of a bundle on films it was never fitted to: findings and plausibility. Fits nothing."""

from __future__ import annotations

import argparse
import csv
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from cxrnode.core.findings import NIH14
from cxrnode.reading.bundle import load_bundle
from cxrnode.reading.engine import Film, TorchEngine
from cxrnode.training.export import measure, open_films
from cxrnode.training.films import read_rows, targets_of
from cxrnode.training.measure import auc, auc_within


def evaluate(
    bundle_folder: Path, films_folder: Path, held_out: Sequence[int], *, threads: int | None = None
) -> dict[str, object]:
    """Return AUCs on the held-out folds (over all and within an origin), on eval.csv, and on what is no chest film."""
    bundle = load_bundle(bundle_folder)
    engine, limit = TorchEngine(bundle, threads=threads), bundle.manifest.plausibility.limit
    rows = [row for row in read_rows(films_folder) if row.fold in held_out]
    held, truth = measure(engine, open_films(rows)), targets_of(rows)
    origins = [row.origin for row in rows]
    labels = {
        label: {
            "positives": int(truth[:, i].sum()),
            "auc": auc(held.scores[:, i], truth[:, i]),
            "auc_within_origin": auc_within(held.scores[:, i], truth[:, i], origins),
        }
        for i, label in enumerate(NIH14)
    }
    found: dict[str, object] = {
        "held_out": labels,
        "held_out_mean_auc": float(np.mean([values["auc"] for values in labels.values()])),
        "held_out_mean_auc_within_origin": float(np.nanmean([v["auc_within_origin"] for v in labels.values()])),
    }
    present = drawn = 0
    for i, label in enumerate(bundle.manifest.labels):
        if label.assessed is not None:
            above = held.scores[:, i] >= label.assessed.rule_in
            present += int(above.sum())
            drawn += int((held.saliency[above, i].max((1, 2)) > label.map_floor).sum())
    found["held_out_present"] = present
    found["held_out_present_with_a_map"] = drawn
    listed = _listed(films_folder, "eval.csv")
    if listed:
        evaluated = measure(engine, [film for film, _ in listed])
        areas = {
            label: auc(evaluated.scores[:, i], np.array([float(row[label]) for _, row in listed]))
            for i, label in enumerate(NIH14)
        }
        found["eval_auc"] = areas
        found["eval_mean_auc"] = float(np.nanmean(list(areas.values())))
        found["eval_implausible"] = float((evaluated.distances > limit).mean())
    others = _listed(films_folder, "notchest.csv")
    if others:
        distances = measure(engine, [film for film, _ in others]).distances
        kinds = np.array([row.get("kind") or row.get("source") or "other" for _, row in others])
        found["notchest"] = {
            str(kind): {
                "films": int((kinds == kind).sum()),
                "auroc": auc(
                    np.concatenate([held.distances, distances[kinds == kind]]),
                    np.repeat([0.0, 1.0], [len(held.distances), int((kinds == kind).sum())]),
                ),
                "refused": float((distances[kinds == kind] > limit).mean()),
            }
            for kind in np.unique(kinds)
        }
    return found


def _listed(folder: Path, name: str) -> list[tuple[Film, dict[str, str]]]:
    if not (folder / name).exists():
        return []
    with (folder / name).open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    films = []
    for row in rows:
        with Image.open(folder / row["image"]) as image:
            films.append((np.asarray(image.convert("L")), row))
    return films


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Evaluate a bundle on films it was never fitted to; prints JSON.")
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--threads", type=int, default=None)
    parser.add_argument("--held-out", type=int, nargs="+", default=[0, 1])
    given = parser.parse_args()
    print(json.dumps(evaluate(given.bundle, given.data, given.held_out, threads=given.threads), indent=1))
