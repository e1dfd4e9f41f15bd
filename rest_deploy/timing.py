"""Taking turns: contenders are timed round by round, and ratios are computed within a round.

The speed of a shared machine changes from second to second; within a round it changes for all contenders.
"""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import count, islice

_SEED = 20210528  # of the order, so that a run can be repeated
#: Seconds of one check that the process is idle, the share of a processor that still counts as idle, and most checks.
_LOOK_SECONDS, _IDLE, _LOOKS = 0.005, 0.1, 100


@dataclass(frozen=True)
class Burst:
    """Calls of one contender in a round.

    Args:
        settle: Untimed calls before the timed ones, so that the caches are its own.
        timed: Timed calls.
    """

    settle: int
    timed: int


@dataclass(frozen=True)
class Timing:
    """Seconds of each round of one contender, and their ratio to the baseline in the same round."""

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


def take_turns(
    contenders: Mapping[str, Callable[[], object]], bursts: Mapping[str, Burst]
) -> Iterator[dict[str, list[float]]]:
    """Time contenders in turn, without end.

    Every other round has a random order, and the round after it the reverse order. So each contender gets each
    predecessor and each place in a round, and equal contenders get equal times. Each starts when the threads of the one
    before it have come to rest.

    Args:
        contenders: Name -> what to time.
        bursts: Name -> its calls in a round.

    Yields:
        Name -> seconds of its timed calls in one round.
    """
    clock = time.perf_counter
    order, drawn = list(contenders), random.Random(_SEED)  # noqa: S311  (an order, not a secret)
    for turn in count():
        if turn % 2:
            order.reverse()
        else:
            drawn.shuffle(order)
        seconds: dict[str, list[float]] = {name: [] for name in contenders}
        for name in order:
            run, burst, times = contenders[name], bursts[name], seconds[name]
            until_idle()
            for _ in range(burst.settle):
                run()
            for _ in range(burst.timed):
                start = clock()
                run()
                times.append(clock() - start)
        yield seconds


def until_idle() -> None:
    """Wait until no thread of this process computes any more, at most half a second.

    Runtimes let their threads spin after a call, so that the next call starts fast; ONNX Runtime's use 50 ms of a
    processor. Other work then lacks this processor, and two copies of one file differ by 30% and more.
    """
    for _ in range(_LOOKS):
        before = time.process_time()
        time.sleep(_LOOK_SECONDS)
        if time.process_time() - before < _IDLE * _LOOK_SECONDS:
            return


def time_paired(
    contenders: Mapping[str, Callable[[], object]], baseline: str, *, rounds: int, warmup: int = 1, settle: int = 0
) -> dict[str, Timing]:
    """Time contenders in turn, one call a round.

    Args:
        contenders: Name -> what to time.
        baseline: Name of the contender whose time is the denominator of the ratios.
        rounds: Timed rounds.
        warmup: Rounds before them, which do not count.
        settle: Untimed calls before each timed one.
    """
    turns = take_turns(contenders, dict.fromkeys(contenders, Burst(settle, 1)))
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for turn in islice(turns, warmup, warmup + rounds):
        for name, (once,) in turn.items():
            seconds[name].append(once)
    return {
        name: Timing(tuple(times), tuple(t / b for t, b in zip(times, seconds[baseline], strict=True)))
        for name, times in seconds.items()
    }
