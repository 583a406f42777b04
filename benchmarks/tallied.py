"""What `tend` would have counted of a history, and what people would have said of it, as rows in bulk.

A test holds the tallies against `store.tallies.rebuild`, which makes them from the jobs.
"""

from __future__ import annotations

import dataclasses
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import sqlalchemy as sa

from benchmarks.population import DECISIONS
from cxrnode.core.quality import SCORE_BINS, time_bin
from cxrnode.store.schema import daily, daily_pair, daily_time
from cxrnode.store.tallies import COUNTED, DAY, GROUP, KEY, PARTS, age_band

Integers = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

_FIRST_BIN = len(COUNTED) - SCORE_BINS
_PAIRED = ("day", "active", "shadow", "label", "active_bundle", "shadow_bundle")
_SUMS = ("films", "both", "only_active", "only_shadow", "difference", "distance")

#: The columns that are written of each table.
COLUMNS: dict[sa.Table, tuple[str, ...]] = {
    daily: (*KEY, *COUNTED),
    daily_time: ("day", "model", "stage", "bin", "jobs"),
    daily_pair: (*_PAIRED, *_SUMS),
}


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """One reading that was reported. `ratio` is its plausibility distance over the limit; times in seconds.

    `scores` and `decided` (C,) are of the model's labels; a film that was not analysed has them, too, and they do not
    count. `delivered`: when, None where nothing was sent.
    """

    model: str
    mode: str
    bundle: str
    sender: str
    view: str
    sex: str
    age: float
    revision: int
    analysed: bool
    ratio: float
    received: float
    created: float
    claimed: float
    reported: float
    delivered: float | None
    scores: Sequence[float]
    decided: Sequence[int]

    @property
    def day(self) -> int:
        """The day on which it counts."""
        return int(self.created // DAY)

    @property
    def group(self) -> dict[str, str]:
        """The columns of the group that its film belongs to."""
        names = (self.sender, self.sender, self.view, self.sex, age_band(self.age))
        return dict(zip(GROUP, names, strict=True))


class Tallied:
    """Collects readings in order of time; `take` hands over the rows of days that are over."""

    def __init__(self, labels: Sequence[str]) -> None:
        """`labels`: the models', in their order."""
        self._labels = ("", *labels)
        self._said: list[Reading] = []
        self._daily: dict[tuple[Any, ...], Integers] = {}
        self._times: Counter[tuple[Any, ...]] = Counter()
        self._pairs: defaultdict[tuple[Any, ...], Floats] = defaultdict(lambda: np.zeros(len(_SUMS)))

    def add(self, one: Reading) -> None:
        """A reading that was reported."""
        self._said.append(one)
        if one.revision > 1:
            return
        stages = [
            ("queue", one.claimed - one.received),
            ("reading", one.reported - one.claimed),
            ("report", one.reported - one.received),
        ]
        if one.delivered is not None:
            stages += [("delivery", one.delivered - one.reported), ("total", one.delivered - one.received)]
        for stage, seconds in stages:
            self._times[one.day, one.model, stage, time_bin(seconds)] += 1

    def pair(self, active: Reading, shadow: Reading) -> None:
        """Two readings of one film."""
        present = DECISIONS.index("present")
        for i, label in enumerate(self._labels[1:]):
            mine, theirs = shadow.decided[i] == present, active.decided[i] == present
            moved = shadow.scores[i] - active.scores[i]
            added = (1, mine and theirs, theirs and not mine, mine and not theirs, moved, abs(moved))
            key = (shadow.day, active.model, shadow.model, label, active.bundle[:12], shadow.bundle[:12])
            self._pairs[key] += np.array(added, float)

    def take(self, *, last: bool) -> dict[sa.Table, list[tuple[Any, ...]]]:
        """The rows of the days before that of the newest reading; of all days with `last`."""
        self._count()
        over = max((key[3] for key in self._daily), default=0) + (1 if last else 0)
        done = sorted(key for key in self._daily if key[3] < over)
        rows: dict[sa.Table, list[tuple[Any, ...]]] = {
            daily: [(*key, *map(int, self._daily.pop(key))) for key in done],
            daily_time: [(*key, n) for key, n in sorted(self._times.items()) if key[0] < over],
            daily_pair: [
                (*key, *map(int, sums[:4]), *map(float, sums[4:]))
                for key, sums in sorted(self._pairs.items())
                if key[0] < over
            ],
        }
        self._times = Counter({key: n for key, n in self._times.items() if key[0] >= over})
        for key in [key for key in self._pairs if key[0] < over]:
            del self._pairs[key]
        return rows

    def _count(self) -> None:
        """Add the readings at hand to the histograms, all at once: a part has a row a day, group and label."""
        said, self._said = self._said, []
        if not said:
            return
        counts = self._counts(said)
        for part, columns in PARTS.items():
            keys = [(one.model, one.day, one.mode, one.bundle[:12], *_place(one.group, columns)) for one in said]
            places = {key: number for number, key in enumerate(dict.fromkeys(keys))}
            where = np.array([places[key] for key in keys])
            total = np.zeros((len(places), len(self._labels), len(COUNTED)), np.int64)
            np.add.at(total, where, counts)
            for (model, *rest), number in places.items():
                for label, one in zip(self._labels, total[number], strict=True):
                    if one.any():
                        key = (part, model, label, *rest)
                        self._daily[key] = self._daily.get(key, 0) + one

    def _counts(self, said: Sequence[Reading]) -> Integers:
        """What each reading adds, int64 (N, 1 + C, columns): the film as a whole, then each label."""
        counts = np.zeros((len(said), len(self._labels), len(COUNTED)), np.int64)
        every = np.arange(len(said))
        analysed = np.array([one.analysed for one in said])
        ratio = np.array([one.ratio for one in said])
        counts[:, 0, COUNTED.index("films")] = 1
        counts[~analysed, 0, COUNTED.index("refused")] = 1
        counts[every, 0, _FIRST_BIN + np.clip(np.floor(ratio * SCORE_BINS / 2.0), 0, SCORE_BINS - 1).astype(int)] = 1
        scores = np.array([one.scores for one in said])
        odds = np.log(scores / (1.0 - scores))
        bins = np.clip(np.floor((odds + 9.0) / 0.75), 0, SCORE_BINS - 1).astype(int)
        decided = np.array([COUNTED.index(str(one)) for one in DECISIONS])[np.array([one.decided for one in said])]
        rows, labels = every[:, None], np.arange(scores.shape[1])[None, :] + 1
        counts[rows, labels, COUNTED.index("films")] = 1
        counts[rows, labels, decided] = 1
        counts[rows, labels, _FIRST_BIN + bins] = 1
        counts[~analysed, 1:] = 0
        return counts


def _place(group: Mapping[str, str], columns: Sequence[str]) -> Iterator[str]:
    return (group[name] if name in columns else "" for name in GROUP)
