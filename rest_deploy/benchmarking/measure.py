"""Measures one size and batch: warm-up until stable, then contenders in turn; every raw time is kept."""

from __future__ import annotations

import gc
import math
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Annotated

from rest_deploy.errors import RestDeployError, one_line
from rest_deploy.timing import Burst, take_turns, until_idle
from rest_deploy.values import Real, Whole, hold

Call = Callable[[], object]

#: A warm-up ends when the medians of two rows of calls differ by less than a share, or after some seconds.
_STABLE, _ROW, _WARM_SECONDS = 0.05, 5, 3.0
#: Seconds of the untimed and of the timed calls in a round. A call slower than the last figure has no untimed ones,
#: because what they settle takes milliseconds.
_SETTLE_SECONDS, _BURST_SECONDS, _SLOW_SECONDS = 0.02, 0.05, 0.25
_WEEK = 7 * 86400.0  # seconds
_PROBE_BURST = Burst(2, 10)


@dataclass(frozen=True)
class Effort:
    """How long to measure.

    Args:
        min_rounds: Smallest number of rounds of a case.
        min_seconds: Smallest seconds of timed calls of each contender in a case.
        max_seconds: Seconds of a case after which no round starts; None for no limit.

    Raises:
        ConfigError: A value is out of range.
    """

    min_rounds: Annotated[int, Whole(1, 1_000_000)] = 15
    min_seconds: Annotated[float, Real(0, _WEEK)] = 2.5
    max_seconds: Annotated[float, Real(0, _WEEK, over=True)] | None = None

    def __post_init__(self) -> None:
        hold(self)

    def enough(self, rounds: int, seconds: float, elapsed: float) -> bool:
        """Whether to stop, given rounds, seconds of the least timed contender, and seconds in total."""
        if self.max_seconds is not None and elapsed >= self.max_seconds:
            return True
        return rounds >= self.min_rounds and seconds >= self.min_seconds


@dataclass
class CaseTimes:
    """Raw seconds of one case.

    Args:
        warmups: Name -> calls before the rounds, including the first.
        rounds: Name -> calls of each round.
        probe: Median of the fixed product's calls in each round.
        errors: Name -> why a contender has no times.
        interrupted: Whether Ctrl-C ended it; an unfinished round is left out.
    """

    warmups: dict[str, list[float]] = field(default_factory=dict)
    rounds: dict[str, list[list[float]]] = field(default_factory=dict)
    probe: list[float] = field(default_factory=list)
    errors: dict[str, str] = field(default_factory=dict)
    interrupted: bool = False

    def calls(self, name: str) -> list[float]:
        """All timed calls of a contender."""
        return [seconds for calls in self.rounds.get(name, ()) for seconds in calls]


def warm_up(run: Call) -> list[float]:
    """Call until the time is stable; returns the seconds of each call. The first call may compile and is ignored."""
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
    """Number of calls in a round, from the times of the warm-up."""
    typical = max(statistics.median(warmup[1:][-_ROW:]), 1e-9)
    settle = 0 if typical > _SLOW_SECONDS else math.ceil(_SETTLE_SECONDS / typical)
    return Burst(settle, math.ceil(_BURST_SECONDS / typical))


def warm_up_all(contenders: Mapping[str, Call], report: Callable[[str], None]) -> CaseTimes:
    """Warm up every contender; those that fail are among the errors.

    Args:
        contenders: Name -> what to call.
        report: Called with the name of each.
    """
    times = CaseTimes()
    for name, run in contenders.items():
        report(name)
        until_idle()
        try:
            times.warmups[name] = warm_up(run)
        except (RestDeployError, MemoryError) as exc:
            times.errors[name] = _words(exc)
    return times


def time_case(
    contenders: Mapping[str, Call], times: CaseTimes, effort: Effort, *, probe: Call, report: Callable[[int], None]
) -> None:
    """Time contenders in turns; if one fails, start again without it.

    Args:
        contenders: Name -> what to time.
        times: Result of the warm-up, with the warm contenders; the rounds are added to it.
        effort: How long.
        probe: A short fixed product, timed after every round to see changes in the speed of the machine.
        report: Called with the number of finished rounds.
    """
    warm = {name: partial(_named, name, contenders[name]) for name in times.warmups}
    while warm:
        times.rounds, times.probe = {name: [] for name in warm}, []
        try:
            with _no_garbage_collection():
                _time_rounds(warm, times, effort, probe, report)
        except _ContenderError as exc:
            times.errors[exc.name] = str(exc)
            del warm[exc.name], times.rounds[exc.name]
            times.probe = []  # those rounds no longer count
            continue
        except KeyboardInterrupt:
            times.interrupted = True
            whole = min(len(rounds) for rounds in times.rounds.values())
            times.rounds = {name: rounds[:whole] for name, rounds in times.rounds.items()}
            times.probe = times.probe[:whole]
        return


def _time_rounds(
    contenders: Mapping[str, Call], times: CaseTimes, effort: Effort, probe: Call, report: Callable[[int], None]
) -> None:
    bursts = {name: burst_of(times.warmups[name]) for name in contenders}
    start = time.perf_counter()
    for done, turn in enumerate(take_turns(contenders, bursts), 1):
        for name, calls in turn.items():
            times.rounds[name].append(calls)
        until_idle()
        products = [_timed(probe) for _ in range(_PROBE_BURST.settle + _PROBE_BURST.timed)]
        times.probe.append(statistics.median(products[_PROBE_BURST.settle :]))
        report(done)
        if effort.enough(done, min(sum(times.calls(name)) for name in contenders), time.perf_counter() - start):
            return


class _ContenderError(Exception):
    """A contender failed in a call; ``name`` says which."""

    def __init__(self, name: str, error: BaseException) -> None:
        super().__init__(_words(error))
        self.name = name


def _named(name: str, run: Call) -> object:
    """Call a contender; its name is added to an error."""
    try:
        return run()
    except (RestDeployError, MemoryError) as exc:
        raise _ContenderError(name, exc) from exc


def _words(error: BaseException) -> str:
    return one_line(error) or type(error).__name__


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    """Python's collector would run in some call, when its counter is full."""
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
