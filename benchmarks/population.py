"""Who sent what and when, and what a model said of it: draws for a plausible history. Nobody's films.

Films come by a hospital's hours; one sender drifts in the last two months, so that what looks for drift finds some.
"""

from __future__ import annotations

import dataclasses
from enum import IntEnum

import numpy as np
import numpy.typing as npt

from cxrnode.core.findings import Decision, Thresholds
from cxrnode.reading.manifest import Manifest

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]

#: Senders, and the share of films that each sends.
SENDERS = {"RAD_DX1": 0.34, "RAD_DX2": 0.27, "ER_DX1": 0.2, "ICU_MOB1": 0.12, "WARD_CR1": 0.07}
#: The sender whose films change towards the end, and the finding that shows it.
DRIFTING, DRIFT_LABEL = "ER_DX1", "Effusion"
#: Films an hour of the day, from midnight on, relative to each other; and a day of the week, from Monday on.
_HOURS = (2, 1, 1, 1, 2, 4, 9, 16, 24, 26, 25, 23, 18, 20, 22, 20, 16, 11, 8, 7, 6, 5, 4, 3)
_DAYS = (1.1, 1.1, 1.05, 1.05, 1.0, 0.45, 0.4)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """How the films of `DRIFTING` change: in the last so many days, by so much, in log-odds."""

    days: float = 60.0
    odds: float = 0.9


class Fate(IntEnum):
    """What becomes of a film."""

    DELIVERED = 0
    IGNORED = 1
    NOT_ANALYSED = 2
    DUPLICATE = 3
    PARKED = 4
    UNDELIVERED = 5
    WITHDRAWN = 6
    READ_AGAIN = 7


_SHARES = {
    Fate.DELIVERED: 0.85,
    Fate.IGNORED: 0.09,
    Fate.NOT_ANALYSED: 0.03,
    Fate.DUPLICATE: 0.015,
    Fate.PARKED: 0.004,
    Fate.UNDELIVERED: 0.003,
    Fate.WITHDRAWN: 0.003,
    Fate.READ_AGAIN: 0.005,
}
#: Share of the films of the last quarter that a candidate reads in shadow.
_SHADOWED = 0.4

DECISIONS = (Decision.ABSENT, Decision.UNDETERMINED, Decision.PRESENT, Decision.NOT_ASSESSED)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Population:
    """A column each for (N,) films. at: seconds since 1970, ascending; sender: index into SENDERS; fate: a `Fate`;
    shadowed: whether the candidate reads it too.
    """

    at: Floats
    sender: Integers
    fate: Integers
    shadowed: npt.NDArray[np.bool_]

    @property
    def jobs(self) -> Integers:
        """How many jobs each film makes, int64 (N,)."""
        accepted = self.fate != Fate.IGNORED
        jobs: Integers = accepted.astype(np.int64) + (self.fate == Fate.READ_AGAIN) + (self.shadowed & accepted)
        return jobs


def draw(random: np.random.Generator, *, jobs: int, until: float, days: float) -> Population:
    """Draw as many films as make `jobs` jobs, received in the `days` before `until`."""
    count = int(jobs * 1.2) + 50
    fate = random.choice(len(_SHARES), count, p=list(_SHARES.values()))
    fate[0] = Fate.DELIVERED  # a duplicate is one of an earlier film
    quarter = np.arange(count) / count > 0.75
    shadowed = quarter & (random.random(count) < _SHADOWED) & (fate == Fate.DELIVERED)
    whole = Population(at=np.zeros(count), sender=np.zeros(count, np.int64), fate=fate, shadowed=shadowed)
    kept = int(np.searchsorted(np.cumsum(whole.jobs), jobs)) + 1
    return Population(
        at=_times(random, kept, until, days),
        sender=random.choice(len(SENDERS), kept, p=list(SENDERS.values())),
        fate=fate[:kept],
        shadowed=shadowed[:kept],
    )


def _times(random: np.random.Generator, count: int, until: float, days: float) -> Floats:
    hours = max(int(days * 24), 1)
    start = until - hours * 3600.0
    of_day = ((start + 3600.0 * np.arange(hours)) // 3600).astype(np.int64)
    weights = np.array(_HOURS, float)[of_day % 24] * np.array(_DAYS)[(of_day // 24 + 3) % 7]  # 1970 began on a Thursday
    cells = random.choice(hours, count, p=weights / weights.sum())
    times: Floats = np.sort(start + 3600.0 * (cells + random.random(count)))
    return np.round(times, 3)


def score(
    random: np.random.Generator,
    films: Population,
    first: int,
    count: int,
    card: Manifest,
    until: float,
    change: Change = Change(),
) -> tuple[Floats, Integers]:
    """Scores float64 (count, C) of the films from `first` on, and their decisions as indices into DECISIONS."""
    thresholds = [label.thresholds or Thresholds(rule_out=0.5, rule_in=0.5) for label in card.labels]
    high = np.array([one.rule_in for one in thresholds])
    odds = np.log(high / (1 - high)) - 1.7 + 1.05 * random.standard_normal((count, len(high)))
    chosen = slice(first, first + count)
    lately = films.at[chosen] > until - change.days * 86400
    drifting = (films.sender[chosen] == list(SENDERS).index(DRIFTING)) & lately
    names = [label.name for label in card.labels]
    if DRIFT_LABEL in names:
        odds[drifting, names.index(DRIFT_LABEL)] += change.odds
    return _decided(odds, card)


def second(random: np.random.Generator, scores: Floats, card: Manifest) -> tuple[Floats, Integers]:
    """What another model says of the same films: near, and not the same."""
    odds = np.log(scores / (1 - scores))
    return _decided(odds + 0.15 + 0.5 * random.standard_normal(scores.shape), card)


def _decided(odds: Floats, card: Manifest) -> tuple[Floats, Integers]:
    thresholds = [label.thresholds or Thresholds(rule_out=0.5, rule_in=0.5) for label in card.labels]
    scores: Floats = np.round(1 / (1 + np.exp(-odds)), 6)
    decided = (scores >= np.array([one.rule_out for one in thresholds])).astype(np.int64)
    decided += scores >= np.array([one.rule_in for one in thresholds])
    decided[:, [label.assessed is None for label in card.labels]] = DECISIONS.index(Decision.NOT_ASSESSED)
    return scores, decided
