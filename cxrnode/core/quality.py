"""Measures for quality assurance: drift of a distribution, agreement with truth, percentiles of a histogram. Pure.

Distributions are counts over fixed bins. Where something cannot be measured the value is None, never a number that
looks like one. The daemon loads this module: no numpy. `training.statistics` takes its intervals from here.
"""

from __future__ import annotations

import bisect
import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence

#: Scores are counted in bins of equal width in log-odds: the calibrated scores of a rare finding all lie close to 0,
#: where bins of equal width in the score itself would see nothing move.
SCORE_BINS = 24
_LOGIT_LEAST, _LOGIT_STEP = -9.0, 0.75
#: Times are counted in bins whose ends grow by the fourth root of 2 from a tenth of a second (19 % each).
_TIME_LEAST, _TIME_STEPS = 0.1, 4

#: The customary reading of PSI (Siddiqi, Credit Risk Scorecards, 2006): below 0.1 stable, above 0.25 shifted.
PSI_LIMIT = 0.25
#: Fewer films than this on either side say nothing of a drift.
DRIFT_FILMS = 100
#: The 97.5 % point of the normal distribution.
_Z = 1.959963984540054


def score_bin(score: float) -> int:
    """Return the bin of a score in [0, 1]: 0 to SCORE_BINS - 1. The first and the last are open."""
    if score <= 0.0:
        return 0
    if score >= 1.0:
        return SCORE_BINS - 1
    place = (math.log(score / (1.0 - score)) - _LOGIT_LEAST) / _LOGIT_STEP
    return min(max(math.floor(place), 0), SCORE_BINS - 1)


def score_edges() -> tuple[float, ...]:
    """Return the SCORE_BINS + 1 ends of the bins as scores, from 0 to 1."""
    inner = (1.0 / (1.0 + math.exp(-(_LOGIT_LEAST + _LOGIT_STEP * n))) for n in range(1, SCORE_BINS))
    return (0.0, *inner, 1.0)


def ratio_bin(ratio: float) -> int:
    """Return the bin of a plausibility distance over its limit: SCORE_BINS bins from 0 to 2, the last one open."""
    return min(max(math.floor(ratio * SCORE_BINS / 2.0), 0), SCORE_BINS - 1)


def time_bin(seconds: float) -> int:
    """Return the bin of a duration; 0 holds all up to a tenth of a second."""
    if seconds <= _TIME_LEAST:
        return 0
    return math.floor(math.log2(seconds / _TIME_LEAST) * _TIME_STEPS) + 1


def time_ends(place: int) -> tuple[float, float]:
    """Return the two ends of a bin of durations, in seconds."""
    if place == 0:
        return 0.0, _TIME_LEAST
    low = _TIME_LEAST * 2.0 ** ((place - 1) / _TIME_STEPS)
    return low, low * 2.0 ** (1 / _TIME_STEPS)


def percentile(counts: Mapping[int, int], share: float) -> float | None:
    """Return a percentile of durations counted in bins, in seconds; straight within a bin, so up to 10 % off."""
    total = sum(counts.values())
    if not total:
        return None
    wanted = share * total
    passed = 0
    for place in sorted(counts):
        if passed + counts[place] >= wanted:
            low, high = time_ends(place)
            return low + (high - low) * max(0.0, wanted - passed) / counts[place]
        passed += counts[place]
    raise AssertionError("the counts add up to their sum")


# ---------------------------------------------------------------------------------------------- drift


def psi(reference: Sequence[int], window: Sequence[int]) -> float | None:
    """Return the population stability index of two histograms over the same bins; None where one is empty.

    Half a film is added to each bin, so that an empty bin gives a large number and no infinite one.
    """
    if not sum(reference) or not sum(window):
        return None
    bins = len(reference)
    before, after = sum(reference) + 0.5 * bins, sum(window) + 0.5 * bins
    total = 0.0
    for old, new in zip(reference, window, strict=True):
        share, now = (old + 0.5) / before, (new + 0.5) / after
        total += (now - share) * math.log(now / share)
    return total


def ks(reference: Sequence[int], window: Sequence[int]) -> float | None:
    """Return the Kolmogorov-Smirnov distance at the ends of the bins; None where a histogram is empty.

    It is at most that of the scores themselves: what moves within a bin is not seen.
    """
    before, after = sum(reference), sum(window)
    if not before or not after:
        return None
    most, old, new = 0.0, 0, 0
    for left, right in zip(reference, window, strict=True):
        old, new = old + left, new + right
        most = max(most, abs(old / before - new / after))
    return most


def ks_limit(before: int, after: int) -> float | None:
    """Return the KS distance that two samples of one distribution pass once in 1000 times; None where one is empty.

    The asymptotic bound sqrt(-ln(0.001 / 2) / 2) * sqrt((n + m) / (n m)). Of many films any difference passes it:
    read it beside PSI, which says how large the difference is.
    """
    if not before or not after:
        return None
    return math.sqrt(-math.log(0.0005) / 2.0) * math.sqrt((before + after) / (before * after))


# ---------------------------------------------------------------------------------------------- agreement


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Interval:
    """A value with its 95 % interval; all three None where it cannot be measured."""

    value: float | None
    low: float | None = None
    high: float | None = None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """A share of `count` in `of`, with Wilson's 95 % interval; None where `of` is 0."""

    count: int
    of: int
    value: float | None
    low: float | None
    high: float | None


def share(count: int, of: int) -> Share:
    """Return a share with its interval by score (Wilson, 1927): it holds near 0 and 1, and for few films."""
    if of == 0:
        return Share(count=count, of=of, value=None, low=None, high=None)
    value, weight = count / of, _Z * _Z / of
    middle = (value + weight / 2) / (1 + weight)
    half = _Z * math.sqrt(value * (1 - value) / of + weight / (4 * of)) / (1 + weight)
    return Share(count=count, of=of, value=value, low=max(0.0, middle - half), high=min(1.0, middle + half))


def auroc(positive: Sequence[float], negative: Sequence[float]) -> Interval:
    """Return the AUROC with the interval of DeLong et al. (1988) on the logit scale; ties count half.

    At exactly 0 or 1 the interval is that of Wilson for the smaller class. Films are taken as independent: where a
    patient has several, the interval is somewhat too narrow.
    """
    m, n = len(positive), len(negative)
    if not m or not n:
        return Interval(value=None)
    over = _shares_below(positive, sorted(negative))
    under = [1.0 - one for one in _shares_below(negative, sorted(positive))]
    area = math.fsum(over) / m
    if m < 2 or n < 2:
        return Interval(value=area)
    variance = _variance(over) / m + _variance(under) / n
    if not 0.0 < area < 1.0 or variance <= 0.0:
        bound = share(round(area * min(m, n)), min(m, n))
        return Interval(value=area, low=bound.low, high=bound.high)
    logit, half = math.log(area / (1 - area)), _Z * math.sqrt(variance) / (area * (1 - area))
    return Interval(value=area, low=1 / (1 + math.exp(half - logit)), high=1 / (1 + math.exp(-half - logit)))


def kappa(both: int, first: int, second: int, neither: int) -> float | None:
    """Return Cohen's kappa of two readers: both said yes, only the first, only the second, neither; None without it."""
    total = both + first + second + neither
    if not total:
        return None
    seen = (both + neither) / total
    yes = (both + first) / total * (both + second) / total
    no = (second + neither) / total * (first + neither) / total
    return None if yes + no >= 1.0 else (seen - yes - no) / (1.0 - yes - no)


def _shares_below(values: Iterable[float], ranked: Sequence[float]) -> list[float]:
    """For each value the share of the ranked ones that lie below it, ties half."""
    many = len(ranked)
    return [(bisect.bisect_left(ranked, value) + bisect.bisect_right(ranked, value)) / (2 * many) for value in values]


def _variance(values: Sequence[float]) -> float:
    mean = math.fsum(values) / len(values)
    return math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1)
