"""Statistics of raw times: percentiles, and whether one contender is slower than another beyond noise."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from enum import Enum
from typing import Any

import numpy as np

from rest_deploy.values import Real

#: Default confidence of an interval. A run has many intervals, so with 0.95 nearly every run would have a wrong one.
CONFIDENCE = 0.99
CONFIDENCES = Real(0.5, 0.999999)
#: A smaller difference from 1 is never called a difference: two open copies of one file differ by up to as much, by
#: their place in memory (docs/benchmarks.md, "Noise").
LEAST_DIFFERENCE = 0.02


class Verdict(str, Enum):
    """Verdict on a contender, from a paired ratio."""

    SLOWER = "slower"
    FASTER = "faster"
    SAME = "no difference beyond noise"
    UNKNOWN = "too few rounds"


def percentile(values: Sequence[float], share: float) -> float | None:
    """Percentile, linearly interpolated.

    Args:
        values: In any order.
        share: 0.5, 0.9, 0.99, ...

    Returns:
        None with fewer than ``1 / (1 - share)`` values, because no value would lie above it.
    """
    if not values or len(values) < round(1 / (1 - share)) * (share > 0.5):
        return None
    return float(np.quantile(values, share))


def median_interval(values: Sequence[float], confidence: float) -> tuple[float, float] | None:
    """A confidence interval of the median by order statistics, which assumes no distribution of the values.

    The median lies below the k-th smallest of n values if at most k - 1 of them do, with the probability of so few
    heads in n coin tosses (H. A. David and H. N. Nagaraja, Order Statistics, section 7.1).

    Returns:
        (low, high) that contain the median with at least this confidence; None with too few values.
    """
    ordered, n = sorted(values), len(values)
    # logarithms, because 2**n is no float from n = 1024 on; they lose less than a share of 1e-8
    tail, most = 0.0, (1 - confidence) / 2 * (1 + 1e-8)
    k = 0
    while k < n:
        log_ways = math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)
        tail += math.exp(log_ways - n * math.log(2))
        if tail > most:
            break
        k += 1
    return (ordered[k - 1], ordered[n - k]) if k else None


@dataclass(frozen=True)
class Ratio:
    """A contender's time over another's, computed within each round.

    Args:
        to: The other.
        median: Over the rounds; over 1 is slower than the other.
        low, high: Interval of the median; None with too few rounds.
        confidence: Of the interval.
        rounds: Number of rounds.
    """

    to: str
    median: float
    low: float | None
    high: float | None
    confidence: float
    rounds: int

    @property
    def verdict(self) -> Verdict:
        """Slower or faster only if the whole interval is, by more than copies of one file may differ."""
        if self.low is None or self.high is None:
            return Verdict.UNKNOWN
        if self.low > 1 + LEAST_DIFFERENCE:
            return Verdict.SLOWER
        if self.high < 1 / (1 + LEAST_DIFFERENCE):
            return Verdict.FASTER
        return Verdict.SAME

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {**asdict(self), "verdict": self.verdict.value}


def paired_ratio(
    rounds: Sequence[Sequence[float]], others: Sequence[Sequence[float]], to: str, confidence: float = CONFIDENCE
) -> Ratio:
    """The ratio of two contenders that took turns.

    Args:
        rounds, others: Seconds of the calls in each round, of both; the median of a round counts.
        to: Name of the second.
        confidence: Of the interval.
    """
    ratios = [float(np.median(own) / np.median(other)) for own, other in zip(rounds, others, strict=True)]
    low, high = median_interval(ratios, confidence) or (None, None)
    return Ratio(to, float(np.median(ratios)), low, high, confidence, len(ratios))
