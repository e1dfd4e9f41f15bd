"""Was the machine quiet while a case was measured? Evidence, and what it is called."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from rest_deploy.environment import Load

#: Shares past which a run is called noisy. Quiet runs on a shared machine of two cores stay under them
#: (docs/benchmarks.md, "Noise").
_SPREAD, _STOLEN, _OTHERS = 0.15, 0.02, 0.05
#: The machine's own speed in the last third of a case against the first, past which it was slowed down.
_DRIFT = 1.10


@dataclass(frozen=True)
class Conditions:
    """What happened meanwhile.

    Args:
        load: Who used the processors.
        pulse: Seconds that one fixed matrix product took, a median for each round.
    """

    load: Load
    pulse: tuple[float, ...]

    @property
    def spread(self) -> float | None:
        """Middle half of the pulse over its median; None with too few rounds to tell."""
        if len(self.pulse) < 4:
            return None
        low, middle, high = np.quantile(self.pulse, [0.25, 0.5, 0.75])
        return float((high - low) / middle)

    @property
    def drift(self) -> float | None:
        """Median of the last third of the pulse over that of the first; None with too few rounds to tell."""
        third = len(self.pulse) // 3
        if third < 2:
            return None
        return statistics.median(self.pulse[-third:]) / statistics.median(self.pulse[:third])

    @property
    def flags(self) -> list[str]:
        """What makes the figures less than trustworthy, in words."""
        load, flags = self.load, []
        if self.spread is not None and self.spread > _SPREAD:
            flags.append(
                f"noisy: a fixed matrix product took {self.spread:.0%} longer or shorter from round to round (middle "
                "half of the rounds)"
            )
        if self.drift is not None and self.drift > _DRIFT:
            flags.append(f"throttled or loaded: the machine was {self.drift - 1:.0%} slower at the end than at first")
        if load.throttled:
            flags.append(f"throttled: the CPU says that it got too hot {load.throttled} times")
        if load.stolen is not None and load.stolen > _STOLEN:
            flags.append(f"noisy: the hypervisor took {load.stolen:.0%} of the processors' time")
        if load.others is not None and load.others > _OTHERS:
            flags.append(f"noisy: other processes used {load.others:.0%} of the processors' time")
        return flags

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "probe_ms": statistics.median(self.pulse) * 1e3 if self.pulse else None,
            "probe_spread": self.spread,
            "probe_drift": self.drift,
            "stolen": self.load.stolen,
            "others": self.load.others,
            "throttled": self.load.throttled,
            "flags": self.flags,
        }


def per_round(rounds: Sequence[Sequence[float]]) -> tuple[float, ...]:
    """Median seconds of each round."""
    return tuple(statistics.median(calls) for calls in rounds)
