"""How common findings are in a published collection: what calibrated scores are moved to. A table; measures nothing."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Prevalence:
    """Films of a collection that have a finding, by label, of `films`; `name` is how a bundle cites it."""

    name: str
    films: int
    counts: Mapping[str, int]

    def of(self, label: str) -> float | None:
        """Return the share of films with this label, None where it is not known."""
        count = self.counts.get(label.replace(" ", "_"))
        return None if count is None else count / self.films


#: ChestX-ray14 as NIH lists it in `Data_Entry_2017_v2020.csv`: one hospital, labels mined from reports.
NIH = Prevalence(
    name="NIH ChestX-ray14 (112,120 films; Wang et al., CVPR 2017)",
    films=112_120,
    counts={
        "Atelectasis": 11_559,
        "Cardiomegaly": 2_776,
        "Effusion": 13_317,
        "Infiltration": 19_894,
        "Mass": 5_782,
        "Nodule": 6_331,
        "Pneumonia": 1_431,
        "Pneumothorax": 5_302,
        "Consolidation": 4_667,
        "Edema": 2_303,
        "Emphysema": 2_516,
        "Fibrosis": 1_686,
        "Pleural_Thickening": 3_385,
        "Hernia": 227,
        "No_Finding": 60_361,
        "Abnormal": 51_759,
    },
)
