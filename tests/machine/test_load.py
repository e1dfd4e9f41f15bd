"""Shares of the processors' time, from counters with planted figures."""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from rest_deploy.machine import load
from rest_deploy.machine.load import CpuTimes, Load, Spent, between, parse_stat

#: user nice system idle iowait irq softirq steal guest guest_nice
BEFORE = """cpu  9999 9 999 9999 99 9 9 9 0 0
cpu0 1000 10 200 5000 50 5 15 20 0 0
cpu1 2000 0 0 3000 0 0 0 0 500 0
cpu10 7 7 7 7 7 7 7 7 7 7
intr 12345 0 0
ctxt 99
"""
#: A second later, in ticks of 10 ms: cpu0 40 busy, 45 idle, 15 stolen; cpu1 100 busy.
AFTER = """cpu  99999 9 999 99999 99 9 9 9 0 0
cpu0 1020 15 205 5040 55 8 22 35 0 0
cpu1 2100 0 0 3000 0 0 0 0 600 0
cpu10 700 700 700 700 700 700 700 700 700 700
"""
LINUX = pytest.mark.skipif(not Path("/proc/stat").exists(), reason="only Linux has /proc")


def _times(wall: float, own: float, text: str, processors: tuple[int, ...] = (0, 1)) -> CpuTimes:
    return CpuTimes(wall, processors, own, parse_stat(text, processors, 100), 40, 7)


def test_ticks_are_summed_over_the_processors_that_are_asked_for() -> None:
    assert parse_stat(BEFORE, {0}, 100) == Spent(12.3, 50.5, 0.2)
    assert parse_stat(BEFORE, {1}, 100) == Spent(20, 30, 0)
    assert parse_stat(BEFORE, {0, 1}, 50) == Spent(64.6, 161, 0.4)


@pytest.mark.parametrize("text", ["", "cpu  1 2 3 4 5 6 7 8\n", "cpu0 1 2 3\n", "cpu0 1 2 3 4 x 6 7 8\n", "\n\n"])
def test_a_text_without_the_processors(text: str) -> None:
    assert parse_stat(text, {0}, 100) is None


def test_shares_between_two_moments() -> None:
    """Of 200 ticks 140 are busy, 15 stolen; 1.2 s of the busy time are this process's own."""
    found = between(_times(10, 5, BEFORE), replace(_times(11, 6.2, AFTER), involuntary_switches=43, throttles=7))
    assert found.stolen == pytest.approx(0.075)
    assert found.others == pytest.approx(0.1)
    assert found.own == pytest.approx(0.6)
    assert (found.involuntary_switches, found.throttled) == (3, 0)


def test_only_the_processors_of_the_affinity_count() -> None:
    found = between(_times(10, 5, BEFORE, (1,)), _times(11, 5.25, AFTER, (1,)))
    assert (found.stolen, found.others, found.own) == (0, pytest.approx(0.75), pytest.approx(0.25))


def test_own_time_beyond_the_ticks_makes_no_negative_share() -> None:
    """The kernel counts in ticks, the process's own clock does not."""
    assert between(_times(10, 5, BEFORE, (0,)), _times(11, 5.45, AFTER, (0,))).others == 0


def test_a_counter_that_shrinks_counts_as_nothing() -> None:
    """As that of iowait may, proc(5)."""
    before, after = _times(10, 5, BEFORE), _times(11, 5, BEFORE)
    assert after.spent is not None
    shrunk = replace(
        after, spent=after.spent._replace(idle_s=after.spent.idle_s - 5, stolen_s=after.spent.stolen_s + 1)
    )
    assert between(before, shrunk).stolen == 1


def test_what_the_system_does_not_tell_is_none() -> None:
    before = CpuTimes(10, (0, 1), 5, None, None, None)
    assert between(before, replace(before, wall_s=11, own_s=6)) == Load(None, None, 0.5, None, None)


def test_no_time_at_all() -> None:
    moment = _times(10, 5, BEFORE)
    assert between(moment, moment) == Load(None, None, None, 0, 0)


def test_another_affinity_in_between_makes_the_counters_no_pair() -> None:
    found = between(_times(10, 5, BEFORE, (0, 1)), _times(11, 5, AFTER, (0,)))
    assert (found.stolen, found.others) == (None, None)


def test_throttling_is_summed_over_the_processors(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(load, "_PROCESSORS", tmp_path)
    monkeypatch.setattr(load, "affinity", lambda: (0, 3))
    assert CpuTimes.now().throttles is None
    for number, count in ((0, "4\n"), (1, "100\n"), (3, "5\n")):
        path = tmp_path / f"cpu{number}" / "thermal_throttle" / "core_throttle_count"
        path.parent.mkdir(parents=True)
        path.write_text(count)
    assert CpuTimes.now().throttles == 9


@LINUX
def test_this_process_is_seen() -> None:
    before = CpuTimes.now()
    while (after := CpuTimes.now()).own_s - before.own_s < 0.05:  # CPU time, which goes by only while this runs
        pass
    found = between(before, after)
    assert found.own is not None
    assert 0 < found.own <= 1.01
    assert before.spent is not None
    assert before.involuntary_switches is not None


def test_a_system_without_proc(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(load, "_STAT", tmp_path / "none")
    monkeypatch.setattr(load, "affinity", lambda: ())
    monkeypatch.setattr(os, "cpu_count", lambda: 3)
    monkeypatch.setitem(sys.modules, "resource", None)
    now = CpuTimes.now()
    assert (now.processors, now.spent, now.involuntary_switches) == ((0, 1, 2), None, None)
