"""One size and batch measured: warm-up until stable, then contenders in turn, every raw time kept."""

from __future__ import annotations

import gc
import math
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Annotated

from rest_deploy.timing import Burst, take_turns
from rest_deploy.values import Real, Whole, hold

Call = Callable[[], object]

#: A warm-up ends when the medians of two rows of calls differ by less, or after these seconds.
_STABLE, _ROW, _WARM_SECONDS = 0.05, 5, 3.0
#: Seconds of the untimed and of the timed calls of a round; slower calls than the last are not repeated to settle, as
#: what they settle from takes milliseconds.
_SETTLE_SECONDS, _BURST_SECONDS, _SLOW_SECONDS = 0.02, 0.05, 0.25
_WEEK = 7 * 86400.0  # seconds
_PULSE, _PULSE_BURST = "\0pulse", Burst(2, 10)  # no contender can have this name


@dataclass(frozen=True)
class Effort:
    """How long to measure.

    Args:
        min_rounds: Rounds of a case, at least.
        min_seconds: Seconds of timed calls of each contender in a case, at least.
        max_seconds: Seconds of a case after which no round begins; None for no such end.

    Raises:
        ConfigError: A figure out of range.
    """

    min_rounds: Annotated[int, Whole(1, 1_000_000)] = 15
    min_seconds: Annotated[float, Real(0, _WEEK)] = 2.5
    max_seconds: Annotated[float, Real(0, _WEEK, over=True)] | None = None

    def __post_init__(self) -> None:
        hold(self)

    def enough(self, rounds: int, seconds: float, elapsed: float) -> bool:
        """Whether to stop after so many rounds, seconds of the least timed contender, and seconds in all."""
        if self.max_seconds is not None and elapsed >= self.max_seconds:
            return True
        return rounds >= self.min_rounds and seconds >= self.min_seconds


@dataclass
class CaseTimes:
    """Raw seconds of one case.

    Args:
        warmups: Name -> calls before the rounds, the very first included.
        rounds: Name -> calls of each round.
        pulse: Calls of the fixed product in each round.
        interrupted: Whether it was ended by Ctrl-C; a round that was not finished is left out.
    """

    warmups: dict[str, list[float]] = field(default_factory=dict)
    rounds: dict[str, list[list[float]]] = field(default_factory=dict)
    pulse: list[list[float]] = field(default_factory=list)
    interrupted: bool = False

    def calls(self, name: str) -> list[float]:
        """All timed calls of a contender."""
        return [seconds for calls in self.rounds.get(name, ()) for seconds in calls]


def warm_up(run: Call) -> list[float]:
    """Call until the time is stable; the seconds of each call. The first may compile, and is not looked at."""
    seconds = [_timed(run), _timed(run)]
    start = time.perf_counter()
    while not _stable(seconds[1:]) and time.perf_counter() - start + seconds[1] < _WARM_SECONDS:
        seconds.append(_timed(run))
    return seconds


def _stable(seconds: list[float]) -> bool:
    if len(seconds) < 2 * _ROW:
        return False
    before, now = (statistics.median(row) for row in (seconds[-2 * _ROW : -_ROW], seconds[-_ROW:]))
    return abs(now - before) <= _STABLE * before


def burst_of(warmup: list[float]) -> Burst:
    """How often to call in a round what took so long in the warm-up."""
    typical = max(statistics.median(warmup[1:][-_ROW:]), 1e-9)
    settle = 0 if typical > _SLOW_SECONDS else math.ceil(_SETTLE_SECONDS / typical)
    return Burst(settle, math.ceil(_BURST_SECONDS / typical))


def time_case(
    contenders: Mapping[str, Call],
    warmups: Mapping[str, list[float]],
    effort: Effort,
    *,
    pulse: Call | None = None,
    report: Callable[[int], None] | None = None,
) -> CaseTimes:
    """Time contenders that are warm.

    Args:
        contenders: Name -> what to time.
        warmups: Name -> seconds of its warm-up.
        effort: How long.
        pulse: A short fixed product, timed in every round to see the machine's own speed change.
        report: Called with the number of rounds that are done.
    """
    times = CaseTimes(dict(warmups), {name: [] for name in contenders})
    bursts = {name: burst_of(warmups[name]) for name in contenders}
    turns = dict(contenders) if pulse is None else {**contenders, _PULSE: pulse}
    start = time.perf_counter()
    try:
        with _no_garbage_collection():
            for done, turn in enumerate(take_turns(turns, {**bursts, _PULSE: _PULSE_BURST}), 1):
                times.pulse.append(turn.pop(_PULSE, []))
                for name, calls in turn.items():
                    times.rounds[name].append(calls)
                least = min(sum(times.calls(name)) for name in contenders)
                if report is not None:
                    report(done)
                if effort.enough(done, least, time.perf_counter() - start):
                    break
    except KeyboardInterrupt:
        times.interrupted = True
        whole = min((len(rounds) for rounds in times.rounds.values()), default=0)
        times.rounds = {name: rounds[:whole] for name, rounds in times.rounds.items()}
        times.pulse = times.pulse[:whole]
    return times


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    """Python's collector would run in whichever call comes when its counter is full."""
    enabled = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _timed(run: Call) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start
