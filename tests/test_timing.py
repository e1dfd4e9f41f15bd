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
    assert calls[:6] == ["base", "slow", "slow", "base", "base", "slow"]
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
