"""Paired timing, on a clock that the test sets."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from rest_deploy import timing


def test_ratios_are_formed_within_a_round(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that slows down tenfold half-way changes the times, not the ratio."""
    now, calls = [0.0], []
    monkeypatch.setattr(timing.time, "perf_counter", lambda: now[0])

    def contender(name: str, seconds: float) -> Callable[[], None]:
        def run() -> None:
            calls.append(name)
            now[0] += seconds * (10 if len(calls) > 12 else 1)

        return run

    timings = timing.time_paired(
        {"slow": contender("slow", 1.1), "base": contender("base", 1.0)}, "base", rounds=9, warmup=2
    )
    assert [sorted(calls[i : i + 2]) for i in range(0, len(calls), 2)] == [["base", "slow"]] * 11
    assert len(timings["slow"].seconds) == 9
    assert timings["slow"].ratio == pytest.approx(1.1)
    assert timings["slow"].spread == pytest.approx((1.1, 1.1))
    assert max(timings["base"].seconds) == pytest.approx(10 * min(timings["base"].seconds))


def test_settling_calls_are_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    now, calls = [0.0], [0]
    monkeypatch.setattr(timing.time, "perf_counter", lambda: now[0])

    def run() -> None:
        calls[0] += 1
        now[0] += 5.0 if calls[0] % 3 else 1.0

    timings = timing.time_paired({"only": run}, "only", rounds=4, warmup=0, settle=2)
    assert timings["only"].seconds == (1.0,) * 4


def test_every_order_is_followed_by_its_reverse() -> None:
    calls: list[str] = []
    contenders: dict[str, Callable[[], object]] = {n: (lambda n=n: calls.append(n)) for n in "abcd"}  # type: ignore[misc]
    turns = timing.take_turns(contenders, dict.fromkeys(contenders, timing.Burst(0, 1)))
    orders = []
    for _ in range(40):
        next(turns)
        orders.append(calls[-4:])
    assert all(later == earlier[::-1] for earlier, later in zip(orders[::2], orders[1::2], strict=True))
    assert len({tuple(order) for order in orders}) > 10
    assert all(sorted(order) == list("abcd") for order in orders)


def test_a_contender_begins_when_the_process_has_come_to_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    """Threads of the one before still compute for a while; the looks at them are of planted processor time."""
    events: list[str] = []
    busy = [0]

    def process_time() -> float:
        return timing_now[0]

    def sleep(seconds: float) -> None:
        events.append("look")
        if busy[0]:
            busy[0] -= 1
            timing_now[0] += seconds

    def run() -> None:
        events.append("run")
        busy[0] = 3  # it spins for three looks

    timing_now = [0.0]
    monkeypatch.setattr(timing.time, "process_time", process_time)
    monkeypatch.setattr(timing.time, "sleep", sleep)
    next(timing.take_turns({"a": run, "b": run}, dict.fromkeys("ab", timing.Burst(0, 1))))
    assert events == ["look", "run", "look", "look", "look", "look", "run"]


def test_a_process_that_never_rests_is_waited_for_half_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []
    monkeypatch.setattr(timing.time, "process_time", lambda: sum(slept))
    monkeypatch.setattr(timing.time, "sleep", slept.append)
    timing.until_idle()
    assert sum(slept) == pytest.approx(0.5)


def test_a_burst_has_untimed_calls_before_its_timed_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    now, calls = [0.0], [0]
    monkeypatch.setattr(timing.time, "perf_counter", lambda: now[0])

    def run() -> None:
        calls[0] += 1
        now[0] += 7.0 if (calls[0] - 1) % 5 < 2 else 1.0

    turns = timing.take_turns({"only": run}, {"only": timing.Burst(2, 3)})
    assert [next(turns) for _ in range(3)] == [{"only": [1.0, 1.0, 1.0]}] * 3
