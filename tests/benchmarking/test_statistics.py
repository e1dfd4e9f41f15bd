"""Percentiles, intervals and verdicts, by hand and by their own coverage."""

from __future__ import annotations

import numpy as np
import pytest

from rest_deploy.benchmarking.statistics import (
    LEAST_DIFFERENCE,
    Ratio,
    Verdict,
    median_interval,
    paired_ratio,
    percentile,
)


def test_percentiles() -> None:
    values = [float(v) for v in range(1, 102)]
    assert [percentile(values, share) for share in (0.5, 0.9, 0.99)] == pytest.approx([51.0, 91.0, 100.0])
    assert percentile([3.0], 0.5) == 3.0


@pytest.mark.parametrize(("share", "needed"), [(0.5, 1), (0.9, 10), (0.99, 100)])
def test_a_percentile_that_too_few_values_reach_is_none(share: float, needed: int) -> None:
    assert percentile([1.0] * (needed - 1), share) is None
    assert percentile([1.0] * needed, share) == 1.0


@pytest.mark.parametrize(
    ("n", "confidence", "rank"),  # tables of the sign test: the largest k with P(Binomial(n, 1/2) < k) <= (1 - c) / 2
    [
        (5, 0.95, 0),
        (6, 0.95, 1),
        (10, 0.95, 2),
        (20, 0.95, 6),
        (7, 0.99, 0),
        (8, 0.99, 1),
        (15, 0.99, 3),
        (20, 0.99, 4),
        (2000, 0.99, 942),  # of a long run
    ],
)
def test_intervals_are_those_of_the_sign_test(n: int, confidence: float, rank: int) -> None:
    values = [float(v) for v in np.random.default_rng(0).permutation(n) + 1]
    interval = median_interval(values, confidence)
    assert interval == ((float(rank), float(n + 1 - rank)) if rank else None)


def test_intervals_hold_the_median_as_often_as_they_say() -> None:
    rng = np.random.default_rng(1)
    held = 0
    for _ in range(2000):
        interval = median_interval(list(rng.lognormal(0.0, 0.3, 15)), 0.95)
        assert interval is not None
        held += interval[0] <= 1.0 <= interval[1]
    assert 0.95 <= held / 2000 <= 0.995  # discrete: with 15 values the interval at hand holds it in 96.5%


def _ratio(low: float | None, high: float | None) -> Ratio:
    return Ratio("other", 1.0, low, high, 0.99, 20)


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [
        (1.05, 1.2, Verdict.SLOWER),
        (0.8, 0.9, Verdict.FASTER),
        (0.98, 1.3, Verdict.SAME),
        (1.001, 1.3, Verdict.SAME),  # beyond noise, and not beyond what two copies of one file may differ by
        (1 + LEAST_DIFFERENCE, 1.3, Verdict.SAME),
        (0.9, 1 / (1 + LEAST_DIFFERENCE), Verdict.SAME),
        (None, None, Verdict.UNKNOWN),
    ],
)
def test_verdicts(low: float | None, high: float | None, verdict: Verdict) -> None:
    assert _ratio(low, high).verdict is verdict


def test_ratios_are_formed_within_rounds() -> None:
    """A machine that slows down tenfold half-way changes the times, not the ratio."""
    pace = [1.0] * 10 + [10.0] * 10
    slow, base = ([[factor * p, 50.0 * p, factor * p] for p in pace] for factor in (1.1, 1.0))
    ratio = paired_ratio(slow, base, "base")
    assert ratio.median == pytest.approx(1.1)
    assert (ratio.low, ratio.high) == (pytest.approx(1.1), pytest.approx(1.1))
    assert ratio.verdict is Verdict.SLOWER
    assert ratio.rounds == 20


def test_rounds_that_were_disturbed_do_not_move_the_ratio() -> None:
    own = [[1.1]] * 17 + [[50.0]] * 3
    assert paired_ratio(own, [[1.0]] * 20, "base").median == pytest.approx(1.1)


def test_two_rounds_are_too_few() -> None:
    ratio = paired_ratio([[5.0], [5.0]], [[1.0], [1.0]], "base")
    assert (ratio.median, ratio.low, ratio.high, ratio.verdict) == (5.0, None, None, Verdict.UNKNOWN)


def test_copies_of_one_network_are_never_called_different() -> None:
    """By the noise of a shared machine: 10% from call to call, bursts that slow some rounds down threefold."""
    rng = np.random.default_rng(2)
    for _ in range(200):
        burst = np.where(rng.random(20) < 0.2, 3.0, 1.0)
        one, two = ([list(rng.lognormal(0.0, 0.1, 3) * pace) for pace in burst] for _ in range(2))
        assert paired_ratio(one, two, "copy").verdict is Verdict.SAME


def test_a_copy_slowed_by_a_tenth_is_called_slower() -> None:
    rng = np.random.default_rng(3)
    verdicts = []
    for _ in range(200):
        burst = np.where(rng.random(20) < 0.2, 3.0, 1.0)
        one, two = ([list(f * rng.lognormal(0.0, 0.03, 3) * pace) for pace in burst] for f in (1.1, 1.0))
        verdicts.append(paired_ratio(one, two, "copy").verdict)
    assert verdicts.count(Verdict.SLOWER) == 200
