"""What a bundle is worth in parts of the films: by sex, age band and view. Pure; reads nothing."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from cxrnode.core.quality import Interval
from cxrnode.training.readers import FilmRow
from cxrnode.training.statistics import auroc

#: Films with and without a finding that a subgroup needs before a number is told of it.
FEWEST_IN_GROUP = 5
#: Ends of the age bands in years: a film belongs to the first band whose end lies above its age.
AGE_BANDS = ((18, "under 18"), (40, "18 to 39"), (60, "40 to 59"), (1000, "60 and over"))

Floats = npt.NDArray[np.float64]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Subgroup:
    """AUROC among the films of one group: `by` is sex, age or view. The mean is over the findings that have a value."""

    by: str
    group: str
    films: int
    mean_auroc: float | None
    auroc: dict[str, Interval]


def subgroups(films: Sequence[FilmRow], findings: Sequence[str], scores: Floats, truth: Floats) -> tuple[Subgroup, ...]:
    """Return the groups of the films, scores and truth (N, C), truth NaN where it is not known."""
    groups: dict[tuple[str, str], list[int]] = {}
    for i, film in enumerate(films):
        band = "" if film.age is None else next(name for end, name in AGE_BANDS if film.age < end)
        for by, group in (("sex", film.sex), ("age", band), ("view", film.view)):
            if group:
                groups.setdefault((by, group), []).append(i)
    order = {name: place for place, (_, name) in enumerate(AGE_BANDS)}
    found = []
    for by, group in sorted(groups, key=lambda key: (("sex", "age", "view").index(key[0]), order.get(key[1], 0), key)):
        whole = np.array(groups[by, group])
        areas = {}
        for column, finding in enumerate(findings):
            here = whole[np.isfinite(truth[whole, column])]
            positives = int(truth[here, column].sum())
            if min(positives, len(here) - positives) >= FEWEST_IN_GROUP:
                patients = [films[i].patient for i in here]
                areas[finding] = auroc(scores[here, column], truth[here, column], patients)
        values = [area.value for area in areas.values() if area.value is not None]
        found.append(
            Subgroup(
                by=by,
                group=group,
                films=len(whole),
                mean_auroc=sum(values) / len(values) if values else None,
                auroc=areas,
            )
        )
    return tuple(found)
