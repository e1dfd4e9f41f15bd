"""Axes: where values are, and which ticks there are."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rest_deploy.reporting.plots.axis import Axis, axis, close_axis, linear_ticks, log_ticks, tick_text

FINITE = st.floats(-1e100, 1e100, allow_nan=False)


@pytest.mark.parametrize(
    ("low", "high", "most", "ticks"),
    [
        (0.0, 10.0, 5, [0, 2.5, 5, 7.5, 10]),
        (0.0, 10.0, 6, [0, 2, 4, 6, 8, 10]),
        (0.0, 0.3, 5, [0, 0.1, 0.2, 0.3]),
        (0.991, 0.999, 5, [0.992, 0.994, 0.996, 0.998]),
        (-3.0, 3.0, 5, [-2, 0, 2]),
    ],
)
def test_linear_ticks(low: float, high: float, most: int, ticks: list[float]) -> None:
    assert linear_ticks(low, high, most) == ticks


@pytest.mark.parametrize(
    ("low", "high", "most", "ticks"),
    [
        (1e-6, 1e-1, 6, [1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1]),
        (1e-6, 1e-1, 4, [1e-6, 1e-4, 1e-2]),
        (1.5, 60.0, 6, [2, 5, 10, 20, 50]),
        (1.5, 60.0, 4, [3, 10, 30]),
        (2.0, 5.0, 5, [2, 2.5, 3, 3.5, 4, 4.5, 5][::2]),
    ],
)
def test_log_ticks(low: float, high: float, most: int, ticks: list[float]) -> None:
    assert log_ticks(low, high, most) == pytest.approx(ticks)


@given(st.lists(FINITE, min_size=1, max_size=6), st.sampled_from([None, True, False]), st.booleans())
def test_every_value_has_a_place(values: list[float], log: bool | None, turned: bool) -> None:
    start, end = (300.0, 100.0) if turned else (100.0, 300.0)
    scale = axis(values, start, end, log=log)
    assert all(100 <= scale(value) <= 300 for value in values)
    assert len(scale.ticks(5)) <= 6
    assert all(100 <= scale(tick) <= 300 for tick in scale.ticks(5))


@given(st.lists(FINITE, min_size=2, max_size=6))
def test_what_is_more_is_not_nearer_to_the_start(values: list[float]) -> None:
    for scale in (axis(values, 0.0, 100.0), close_axis(values, 0.0, 100.0, least=0.01)):
        places = [scale(value) for value in sorted(values)]
        assert places == sorted(places)


def test_logarithmic_from_a_range_of_eight() -> None:
    assert axis([1.0, 8.1], 0, 100).log
    assert not axis([1.0, 7.9], 0, 100).log
    assert not axis([0.0, 9.0], 0, 100).log
    assert not axis([], 0, 100).log


def test_equal_ratios_are_equally_far_apart() -> None:
    scale = axis([1.0, 10.0, 100.0], 0, 100)
    assert scale(10) - scale(1) == pytest.approx(scale(100) - scale(10))


def test_zero_has_a_place_of_its_own_on_a_logarithmic_axis() -> None:
    scale = axis([0.0, 1e-3, 1.0], 0.0, 100.0, log=True)
    assert scale.floor
    assert scale(0.0) == 0.0
    assert scale(1e-3) > 18
    assert scale.ticks(5)[0] == 0.0


def test_shares_near_one_are_told_apart_and_none_is_over_one() -> None:
    scale = close_axis([0.99, 1.0], 200.0, 0.0, least=0.004, most=1.0)
    assert scale(0.99) - scale(1.0) > 100
    assert max(scale.ticks(5)) <= 1.0 + 1e-12


def test_small_ranges_are_not_blown_up() -> None:
    scale = close_axis([0.99, 0.99001], 0.0, 100.0, least=0.01)
    assert scale(0.99001) - scale(0.99) < 1


def test_values_past_an_end_are_put_there() -> None:
    assert Axis(1.0, 2.0, 0.0, 10.0, log=False)(5.0) == 10.0


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.0, "0"), (0.25, "0.25"), (10.0, "10"), (12500.0, "12,500"), (1e-4, "1e-4"), (2.5e-7, "2.5e-7"), (1e6, "1e6")],
)
def test_ticks_in_few_characters(value: float, text: str) -> None:
    assert tick_text(value) == text
