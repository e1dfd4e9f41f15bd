"""What raw times tell: percentiles, and whether one contender is slower than another beyond noise."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from enum import Enum
from typing import Any

import numpy as np

from rest_deploy.values import Real

#: Of an interval of a ratio, where none is asked for. A run holds many intervals, so that 0.95 would err in every one.
CONFIDENCE = 0.99
CONFIDENCES = Real(0.5, 0.999999)
#: Ratios nearer to 1 than this are never called a difference: two copies of one file in one process differ by up to as
#: much for as long as they are open, by where their memory happens to lie (docs/benchmarks.md, "Noise").
LEAST_DIFFERENCE = 0.02


class Verdict(str, Enum):
    """What a paired ratio says of a contender."""

    SLOWER = "slower"
    FASTER = "faster"
    SAME = "no difference beyond noise"
    UNKNOWN = "too few rounds"


def percentile(values: Sequence[float], share: float) -> float | None:
    """The value that a share of all are at most, linearly interpolated.

    Args:
        values: In any order.
        share: 0.5, 0.9, 0.99, ...

    Returns:
        None where there are fewer than ``1 / (1 - share)`` values, of which none would lie beyond it.
    """
    if not values or len(values) < round(1 / (1 - share)) * (share > 0.5):
        return None
    return float(np.quantile(values, share))


def median_interval(values: Sequence[float], confidence: float) -> tuple[float, float] | None:
    """A confidence interval of the median by order statistics, which assumes nothing of the values' distribution.

    The median lies below the k-th smallest of n values where at most k - 1 of them do, with the probability of as few
    heads in n throws of a coin (H. A. David and H. N. Nagaraja, Order Statistics, section 7.1).

    Returns:
        (low, high) that hold the median with at least this confidence; None where there are too few values.
    """
    ordered, n = sorted(values), len(values)
    tail, most = 0.0, (1 - confidence) / 2
    k = 0
    while k < n:
        tail += math.comb(n, k) / 2.0**n
        if tail > most:
            break
        k += 1
    return (ordered[k - 1], ordered[n - k]) if k else None


@dataclass(frozen=True)
class Ratio:
    """A contender's time over another's, formed within each round.

    Args:
        to: The other.
        median: Over the rounds; over 1 is slower than the other.
        low, high: Interval of the median; None where there are too few rounds for one.
        confidence: Of the interval.
        rounds: How many.
    """

    to: str
    median: float
    low: float | None
    high: float | None
    confidence: float
    rounds: int

    @property
    def verdict(self) -> Verdict:
        """Slower or faster only where the whole interval is, by more than two copies of one file may differ."""
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
        rounds, others: Seconds of the calls of each round, of either; what counts of a round is the median.
        to: Name of the second.
        confidence: Of the interval.
    """
    ratios = [float(np.median(own) / np.median(other)) for own, other in zip(rounds, others, strict=True)]
    low, high = median_interval(ratios, confidence) or (None, None)
    return Ratio(to, float(np.median(ratios)), low, high, confidence, len(ratios))
