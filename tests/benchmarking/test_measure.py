"""Warm-up, rounds and interruption, on a clock that the test sets."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable
from typing import Any

import pytest

from rest_deploy.benchmarking.measure import CaseTimes, Effort, burst_of, time_case, warm_up
from rest_deploy.errors import ConfigError, RestDeployError


class Clock:
    """Seconds that pass only in the calls that are made with it."""

    def __init__(self) -> None:
        self.now = 0.0

    def call(self, seconds: Callable[[int], float] | float, calls: list[int] | None = None) -> Callable[[], None]:
        """A contender that takes so long; a function is given the number of the call, from 0."""
        counter = calls if calls is not None else [0]

        def run() -> None:
            self.now += seconds(counter[0]) if callable(seconds) else seconds
            counter[0] += 1

        return run


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(time, "perf_counter", lambda: made.now)
    return made


def test_a_warm_up_ends_when_times_are_stable(clock: Clock) -> None:
    def cooling(call: int) -> float:
        return 5.0 if call == 0 else 0.010 * (1 + 2.0 ** -(call / 3))

    seconds = warm_up(clock.call(cooling))
    assert seconds[0] == pytest.approx(5.0)  # the first compiles; it is kept, and not looked at
    assert 15 < len(seconds) < 40
    assert seconds[-1] == pytest.approx(seconds[-6], rel=0.05)


def test_a_warm_up_of_steady_calls_is_short(clock: Clock) -> None:
    assert len(warm_up(clock.call(0.010))) == 11


def test_a_warm_up_of_slow_calls_is_two(clock: Clock) -> None:
    assert len(warm_up(clock.call(9.0))) == 2


def test_a_warm_up_that_never_settles_ends(clock: Clock) -> None:
    seconds = warm_up(clock.call(lambda call: 0.1 * (call + 1)))
    assert sum(seconds[2:]) <= 3.0 + max(seconds)


@pytest.mark.parametrize(
    ("seconds", "settle", "timed"), [(0.001, 20, 50), (0.010, 2, 5), (0.2, 1, 1), (0.3, 0, 1), (5.0, 0, 1)]
)
def test_bursts(seconds: float, settle: int, timed: int) -> None:
    burst = burst_of([9.0, *[seconds] * 6])
    assert (burst.settle, burst.timed) == (settle, timed)


def _time(clock: Clock, effort: Effort, **contenders: Callable[[], None]) -> CaseTimes:
    times = CaseTimes({name: [0.01] * 3 for name in contenders})
    time_case(contenders, times, effort, probe=lambda: None, report=lambda done: None)
    return times


def test_rounds_until_there_are_enough(clock: Clock) -> None:
    times = _time(clock, Effort(min_rounds=7, min_seconds=0.0), a=clock.call(0.01), b=clock.call(0.02))
    assert {name: len(rounds) for name, rounds in times.rounds.items()} == {"a": 7, "b": 7}
    assert times.calls("a") == pytest.approx([0.01] * 35)
    assert times.calls("b") == pytest.approx([0.02] * 35)


def test_seconds_of_each_contender_are_a_minimum_too(clock: Clock) -> None:
    times = _time(clock, Effort(min_rounds=1, min_seconds=1.0), a=clock.call(1 / 64), b=clock.call(1 / 32))
    assert len(times.rounds["a"]) == len(times.rounds["b"]) == 13  # of five calls each: 1.02 seconds of the shorter


def test_no_round_begins_past_the_end(clock: Clock) -> None:
    times = _time(clock, Effort(min_rounds=100, min_seconds=9.0, max_seconds=1.0), a=clock.call(0.01))
    assert len(times.rounds["a"]) == 15  # of 0.07 seconds each, two calls to settle included


def test_an_interrupted_run_keeps_its_whole_rounds(clock: Clock) -> None:
    def interrupted(call: int) -> float:
        if call == 7 * 3 + 4:  # in the fourth round
            raise KeyboardInterrupt
        return 0.01

    times = _time(clock, Effort(), a=clock.call(interrupted), b=clock.call(0.01))
    assert times.interrupted
    assert {name: len(rounds) for name, rounds in times.rounds.items()} == {"a": 3, "b": 3}


def test_the_probe_is_timed_in_every_round_and_counts_for_nothing(clock: Clock) -> None:
    times = CaseTimes({"a": [0.01] * 3})
    done: list[int] = []
    effort = Effort(min_rounds=4, min_seconds=0.0)
    time_case({"a": clock.call(0.01)}, times, effort, probe=clock.call(2**-10), report=done.append)
    assert done == [1, 2, 3, 4]
    assert times.probe == [2**-10] * 4
    assert list(times.rounds) == ["a"]


def test_where_all_fail_nothing_is_said_of_the_rounds(clock: Clock) -> None:
    def fails(call: int) -> float:
        if call > 20:
            raise RestDeployError("out of memory")
        return 0.01

    times = CaseTimes({"a": [0.01] * 3})
    time_case({"a": clock.call(fails)}, times, Effort(), probe=clock.call(2**-10), report=lambda done: None)
    assert (times.errors, times.rounds, times.probe) == ({"a": "out of memory"}, {}, [])


def test_garbage_is_not_collected_meanwhile(clock: Clock) -> None:
    seen = []
    assert gc.isenabled()
    _time(clock, Effort(1, 0.0), a=lambda: seen.append(gc.isenabled()))
    assert not any(seen)
    assert gc.isenabled()


def test_garbage_is_collected_again_after_an_error(clock: Clock) -> None:
    def fail() -> None:
        raise ValueError("on purpose")

    with pytest.raises(ValueError, match="on purpose"):
        _time(clock, Effort(), a=fail)
    assert gc.isenabled()


@pytest.mark.parametrize(
    "asked",
    [
        {"min_rounds": 0},
        {"min_rounds": 1.5},
        {"min_seconds": -1.0},
        {"min_seconds": float("inf")},
        {"max_seconds": 0.0},
    ],
)
def test_efforts_that_cannot_be_meant(asked: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=rf"^{next(iter(asked))} is .*; accepted: a"):
        Effort(**asked)
