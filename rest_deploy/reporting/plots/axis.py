"""Axes: values to positions, and where the ticks are."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

_TINY = 1e-100  # what is nearer to zero is drawn as zero
_LOG_RANGE = 8.0  # largest over smallest value from which an axis is logarithmic
_FLOOR = 18.0  # pixels that a logarithmic axis keeps for zero
_STEPS = (1.0, 2.0, 2.5, 5.0, 10.0)


@dataclass(frozen=True)
class Axis:
    """A linear or logarithmic map of values to positions.

    Args:
        low, high: The values at its ends.
        start, end: Their positions in pixels.
        log: Whether it is logarithmic.
        floor: Whether zero has a place of its own, at the start of a logarithmic axis.
    """

    low: float
    high: float
    start: float
    end: float
    log: bool
    floor: bool = False

    def __call__(self, value: float) -> float:
        """Position of a value; one past an end is put there."""
        first = self.start + math.copysign(_FLOOR, self.end - self.start) * self.floor
        if self.log and value <= _TINY:
            return self.start
        share = (self._map(value) - self._map(self.low)) / (self._map(self.high) - self._map(self.low))
        return first + (self.end - first) * min(1.0, max(0.0, share))

    def ticks(self, most: int) -> list[float]:
        """Values to be marked, at most so many of them and zero."""
        values = log_ticks(self.low, self.high, most) if self.log else linear_ticks(self.low, self.high, most)
        return [0.0] * self.floor + values

    def _map(self, value: float) -> float:
        return math.log10(value) if self.log else value


def axis(values: Iterable[float | None], start: float, end: float, *, log: bool | None = None) -> Axis:
    """An axis on which all values have a place, none of them at its very end.

    Args:
        values: Finite numbers; None is left out.
        start, end: Positions of its ends, in pixels.
        log: Whether it is logarithmic; None: where the largest is over 8 times the smallest.
    """
    known = [value for value in values if value is not None]
    positive = [value for value in known if value > _TINY]
    if log is None:
        log = len(positive) == len(known) and bool(known) and max(known) > _LOG_RANGE * min(known)
    if not log:
        low, high = min([0.0, *known]), max([0.0, *known])
        return Axis(low, 1.06 * high if high - low > _TINY else 1.0, start, end, log=False)
    low, high = min(positive, default=0.1), max(positive, default=1.0)
    margin = max((high / low) ** 0.06, 1.15)
    return Axis(low / margin, high * margin, start, end, log=True, floor=len(positive) < len(known))


def close_axis(values: Sequence[float], start: float, end: float, least: float, most: float = math.inf) -> Axis:
    """A linear axis that does not begin at zero: for shares that are all near one.

    Args:
        values: At least one.
        start, end: Positions of its ends, in pixels.
        least: Smallest range that is shown, so that noise is not blown up.
        most: Largest value that can be; there is little room past it.
    """
    low, high = min(values), max(values)
    room = max(0.12 * (high - low), (least - (high - low)) / 2, 1e-6 * abs(high))
    end_value = min(high + room, max(high, most) + 0.1 * (high - low + 2 * room))
    return Axis(low - room, end_value, start, end, log=False)


def linear_ticks(low: float, high: float, most: int) -> list[float]:
    """Round values between two ends, at equal steps of 1, 2, 2.5 or 5 times a power of ten."""
    raw = (high - low) / max(1, most)
    power = 10.0 ** math.floor(math.log10(raw))
    for step in (power * factor for factor in _STEPS):
        first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
        if last - first + 1 <= most:
            return [float(f"{number * step:.12g}") for number in range(first, last + 1)]
    return []


def log_ticks(low: float, high: float, most: int) -> list[float]:
    """Powers of ten between two ends; also 2 and 5 times them, or 3 times, or equal steps, where these are too few."""
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    decades = [10.0**power for power in range(first, last + 1)]
    choices = [
        [value for decade in decades for factor in factors if low <= (value := factor * decade) <= high]
        for factors in ((1, 2, 5), (1, 3), (1,))
    ]
    powers = choices[-1]
    if len(powers) > most:
        return powers[:: math.ceil(len(powers) / most)]
    finest = next((choice for choice in choices if 3 <= len(choice) <= most), powers)
    return linear_ticks(low, high, most) if len(finest) < 2 or high < 3 * low else finest


def tick_text(value: float) -> str:
    """A tick in few characters."""
    if value == 0 or 0.01 <= abs(value) < 1e5:
        return f"{value:,.6g}"
    mantissa, _, power = f"{value:.2e}".partition("e")
    return f"{float(mantissa):g}e{int(power)}"
