"""What a run is called by what happened meanwhile."""

from __future__ import annotations

from dataclasses import replace

import pytest

from rest_deploy.benchmarking.conditions import Conditions, per_round
from rest_deploy.machine.load import Load

QUIET = Load(own=0.9, others=0.01, stolen=0.0, involuntary_switches=3, throttled=0)
STEADY = (0.010,) * 30


def test_a_quiet_run_has_no_flags() -> None:
    conditions = Conditions(QUIET, STEADY)
    assert conditions.flags == []
    assert (conditions.spread, conditions.drift) == (0.0, 1.0)


@pytest.mark.parametrize(
    ("load", "pulse", "words"),
    [
        (replace(QUIET, others=0.2), STEADY, "noisy: other processes used 20%"),
        (replace(QUIET, stolen=0.05), STEADY, "noisy: the hypervisor took 5%"),
        (replace(QUIET, throttled=4), STEADY, "throttled: the CPU says that it got too hot 4 times"),
        (QUIET, (0.010, 0.013) * 15, "noisy: a fixed matrix product took"),
        (QUIET, (0.010,) * 20 + (0.0112,) * 10, "throttled or loaded: the machine was 12% slower at the end"),
    ],
)
def test_each_flag(load: Load, pulse: tuple[float, ...], words: str) -> None:
    (flag,) = Conditions(load, pulse).flags
    assert words in flag


def test_what_the_system_does_not_tell_is_no_flag() -> None:
    unknown = Load(own=None, others=None, stolen=None, involuntary_switches=None, throttled=None)
    assert Conditions(unknown, ()).flags == []
    assert Conditions(unknown, (0.01,)).to_dict()["probe_spread"] is None


def test_of_a_round_the_median_counts() -> None:
    assert per_round([[1.0, 9.0, 2.0], [4.0]]) == (2.0, 4.0)
