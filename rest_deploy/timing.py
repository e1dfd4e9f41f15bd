"""Paired timing: contenders take turns in every round, and ratios are formed within a round.

A shared machine changes speed from second to second; what runs side by side changes with it.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Timing:
    """Seconds of each round of one contender, and each round's ratio to the baseline's."""

    seconds: tuple[float, ...]
    ratios: tuple[float, ...]

    @property
    def median(self) -> float:
        """Median seconds."""
        return statistics.median(self.seconds)

    @property
    def ratio(self) -> float:
        """Median of the rounds' ratios."""
        return statistics.median(self.ratios)

    @property
    def spread(self) -> tuple[float, float]:
        """Quartiles of the rounds' ratios."""
        if len(self.ratios) < 2:
            return self.ratios[0], self.ratios[0]
        first, _, third = statistics.quantiles(self.ratios, n=4)
        return first, third


def time_paired(
    contenders: Mapping[str, Callable[[], object]], baseline: str, *, rounds: int, warmup: int = 1, settle: int = 0
) -> dict[str, Timing]:
    """Time contenders in turn, the order reversed in every other round.

    Args:
        contenders: Name -> what to time.
        baseline: Name whose time is the ratios' denominator.
        rounds: Rounds that count.
        warmup: Rounds before them that do not.
        settle: Untimed calls before each timed one, so that no contender meets the other's caches and spinning threads.
    """
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for turn in range(warmup + rounds):
        for name in list(contenders)[:: 1 if turn % 2 else -1]:
            for _ in range(settle):
                contenders[name]()
            start = time.perf_counter()
            contenders[name]()
            if turn >= warmup:
                seconds[name].append(time.perf_counter() - start)
    return {
        name: Timing(tuple(times), tuple(t / b for t, b in zip(times, seconds[baseline], strict=True)))
        for name, times in seconds.items()
    }
