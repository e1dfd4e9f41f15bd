"""The Pareto frontier, on planted points."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rest_deploy.reporting.frontier import Point, on_frontier

POINTS = st.lists(st.tuples(st.integers(0, 9).map(float), st.integers(0, 9).map(float)), max_size=12)


@pytest.mark.parametrize(
    ("points", "on"),
    [
        ([], []),
        ([(5, 5)], [True]),
        ([(1, 1), (2, 2), (3, 3)], [True, True, True]),
        ([(1, 3), (2, 2), (3, 1)], [True, False, False]),
        ([(1, 1), (1, 2)], [False, True]),
        ([(1, 1), (2, 1)], [True, False]),
        ([(1, 1), (1, 1)], [True, True]),
        ([(1, 1), (5, 9), (4, 9), (6, 9.5), (3, 0.5)], [True, False, True, True, False]),
    ],
)
def test_planted_points(points: list[Point], on: list[bool]) -> None:
    assert on_frontier(points) == on


@given(POINTS)
def test_what_is_off_it_is_beaten_by_something_on_it(points: list[Point]) -> None:
    on = on_frontier(points)
    best = [point for point, own in zip(points, on, strict=True) if own]
    for point, own in zip(points, on, strict=True):
        beaten = any(x <= point[0] and y >= point[1] and (x, y) != point for x, y in best)
        assert beaten is not own
