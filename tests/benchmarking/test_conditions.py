"""What a run is called by what happened meanwhile."""

from __future__ import annotations

import pytest

from rest_deploy.benchmarking.conditions import Conditions, per_round
from rest_deploy.environment import Load

QUIET = Load(others=0.01, stolen=0.0, throttled=0)
STEADY = (0.010,) * 30


def test_a_quiet_run_has_no_flags() -> None:
    conditions = Conditions(QUIET, STEADY)
    assert conditions.flags == []
    assert (conditions.spread, conditions.drift) == (0.0, 1.0)


@pytest.mark.parametrize(
    ("load", "pulse", "words"),
    [
        (QUIET._replace(others=0.2), STEADY, "noisy: other processes used 20%"),
        (QUIET._replace(stolen=0.05), STEADY, "noisy: the hypervisor took 5%"),
        (QUIET._replace(throttled=4), STEADY, "throttled: the CPU says that it got too hot 4 times"),
        (QUIET, (0.010, 0.013) * 15, "noisy: a fixed matrix product took"),
        (QUIET, (0.010,) * 20 + (0.0112,) * 10, "throttled or loaded: the machine was 12% slower at the end"),
    ],
)
def test_each_flag(load: Load, pulse: tuple[float, ...], words: str) -> None:
    (flag,) = Conditions(load, pulse).flags
    assert words in flag


def test_what_the_system_does_not_tell_is_no_flag() -> None:
    unknown = Load(others=None, stolen=None, throttled=None)
    assert Conditions(unknown, ()).flags == []
    assert Conditions(unknown, (0.01,)).to_dict()["probe_spread"] is None


def test_of_a_round_the_median_counts() -> None:
    assert per_round([[1.0, 9.0, 2.0], [4.0]]) == (2.0, 4.0)
