"""Films for the tests of training: a list like NIH's and one like Kermany's, whose findings can be seen."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
from PIL import Image

from cxrnode.core.findings import NIH14


def write_lists(place: Path, *, films: int = 40, side: int = 48) -> Path:
    """Write both lists, five folds each. A film with Effusion, or with pneumonia, is bright below."""
    random = np.random.default_rng(0)
    nih = ["image", "origin", "patient_id", "view", "age", "sex", *NIH14, "no_finding", "fold5"]
    kermany = ["image", "pneumonia", "patient_id", "fold5"]
    with (
        (place / "train_nih.csv").open("w", newline="") as first,
        (place / "train_kermany.csv").open("w", newline="") as second,
    ):
        one, two = csv.DictWriter(first, nih), csv.DictWriter(second, kermany)
        one.writeheader()
        two.writeheader()
        for i in range(films):
            film = random.integers(0, 120, (side, side - 4), np.uint8)
            ill = (i // 5) % 2
            if ill:
                film[side // 2 :] += 120
            Image.fromarray(film).save(place / f"{i}.png")
            # Every finding is on some of the films that are ill, Effusion on all.
            found = {
                label: int(bool(ill) and (label == "Effusion" or (i + k) % 3 == 0)) for k, label in enumerate(NIH14)
            }
            about = {"origin": "ab"[i % 2], "view": ("PA", "AP")[i % 2], "age": 30 + i, "sex": "FM"[i % 2]}
            one.writerow(
                {"image": f"{i}.png", "patient_id": i, "fold5": i % 5, "no_finding": 1 - ill, **about, **found}
            )
            two.writerow({"image": f"{i}.png", "patient_id": f"k{i}", "fold5": i % 5, "pneumonia": ill})
    boxes = ["image,finding,x,y,w,h", *(f"{i}.png,Effusion,100,512,800,512" for i in range(films) if (i // 5) % 2)]
    (place / "nih_boxes.csv").write_text("\n".join(boxes) + "\n")
    return place
