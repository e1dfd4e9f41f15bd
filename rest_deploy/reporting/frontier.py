"""The Pareto frontier of points with a cost and a gain."""

from __future__ import annotations

from collections.abc import Sequence

Point = tuple[float, float]  # cost, less is better; gain, more is better


def on_frontier(points: Sequence[Point]) -> list[bool]:
    """For each point, whether no other one is as good in both and better in one; equal points stand together."""
    return [not any(_beats(other, point) for other in points) for point in points]


def _beats(one: Point, other: Point) -> bool:
    return one[0] <= other[0] and one[1] >= other[1] and one != other
