"""The plots: that points are where their values are, and no number covers another."""

from __future__ import annotations

import itertools
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rest_deploy.reporting.node import Node
from rest_deploy.reporting.plots.axis import axis
from rest_deploy.reporting.plots.marker import COLOURS, Marker
from rest_deploy.reporting.plots.row import LEFT, Row
from rest_deploy.reporting.plots.row_plot import Group, RowPlot
from rest_deploy.reporting.plots.scatter import Point, Scatter, Vertical
from rest_deploy.reporting.plots.trend import Line, Stop, Trend, spread
from tests.reporting.pages import read


def _row(value: float | None, **more: float) -> Row:
    return Row("name", Node(value, "benchmark.x"), "told", "tip", Marker(0), **more)


def _circles(html: str) -> list[tuple[float, float]]:
    return [(float(own["cx"]), float(own["cy"])) for own in read(html).all("circle")]


def test_markers_differ_in_shape_and_in_colour() -> None:
    markers = [Marker(number) for number in range(COLOURS)]
    assert len({marker.draw(0, 0, 5) for marker in markers}) == COLOURS
    assert len({marker.colour for marker in markers}) == COLOURS
    assert len({(marker.draw(0, 0, 5), marker.colour) for marker in map(Marker, range(49))}) == 49


def test_rows_are_at_their_values() -> None:
    html = RowPlot("ms", "name", "described", [Group("", [_row(1.0), _row(2.0), _row(4.0)])], log=False).draw()
    (first, _), (second, _), (third, _) = _circles(html)
    assert third - LEFT == pytest.approx(2 * (second - LEFT), abs=0.1)
    assert second - LEFT == pytest.approx(2 * (first - LEFT), abs=0.1)


def test_rows_of_one_plot_share_an_axis_and_own_axes_do_not() -> None:
    groups = [Group("a", [_row(1.0)]), Group("b", [_row(4.0)])]
    shared = _circles(RowPlot("ms", "name", "described", groups).draw())
    own = _circles(RowPlot("ms", "name", "described", groups, own_axes=True).draw())
    assert shared[0][0] < shared[1][0]
    assert own[0][0] == own[1][0]


def test_a_row_without_a_value_has_no_point() -> None:
    html = RowPlot("ms", "name", "described", [Group("a", [_row(None)])]).draw()
    assert _circles(html) == []
    assert "told" in read(html).text


def test_whiskers_limits_and_yardsticks() -> None:
    html = RowPlot("ms", "name", "described", [Group("a", [_row(2.0, low=1.0, high=3.0, limit=4.0, own=0.5)])]).draw()
    page = read(html)
    ((x, _),) = _circles(html)
    whisker = page.all("line", class_="whisker")[0]
    assert float(whisker["x1"]) < x < float(whisker["x2"])
    assert float(page.all("line", class_="limit")[0]["x1"]) > float(whisker["x2"])
    assert page.all("polygon", class_="own")


def _scatter(*points: tuple[float, float, bool]) -> str:
    made = [
        Point(number, "name", Node(x, "benchmark.x"), y, "tip", Marker(0), frontier)
        for number, (x, y, frontier) in enumerate(points)
    ]
    values = [y for _, y, _ in points]
    upright = Vertical("y", lambda bottom, top: axis(values, bottom, top, log=False), lambda all_: [""] * len(all_))
    return Scatter("title", "described", made, upright).draw()


def test_better_is_higher_and_slower_is_further_right() -> None:
    html = _scatter((1.0, 1.0, True), (2.0, 3.0, True), (3.0, 2.0, False))
    (x1, y1), (x2, y2), (x3, y3) = _circles(html)
    assert x1 < x2 < x3
    assert y2 < y3 < y1


def test_the_frontier_goes_in_steps_through_its_points() -> None:
    html = _scatter((1.0, 1.0, True), (2.0, 3.0, True), (3.0, 2.0, False))
    (x1, y1), (x2, y2), _ = _circles(html)
    corners = [tuple(map(float, pair.split(","))) for pair in read(html).all("polyline")[0]["points"].split()]
    assert corners[1:4] == [
        pytest.approx((x1, y1), abs=0.1),
        pytest.approx((x2, y1), abs=0.1),
        pytest.approx((x2, y2), abs=0.1),
    ]
    assert all(one[0] == other[0] or one[1] == other[1] for one, other in itertools.pairwise(corners))


def test_points_off_the_frontier_are_hollow() -> None:
    looks = [own["class"] for own in read(_scatter((1.0, 1.0, True), (3.0, 0.5, False))).all("circle")]
    assert looks == ["mark", "mark hollow"]


def test_lines_rise_with_their_values() -> None:
    stops = [Stop(n * n, f"{n}×{n}", float(n), Node(float(n), "benchmark.x"), "tip") for n in (100, 200, 400)]
    html = Trend("title", "name", "described", [Line(1, Marker(0), stops, dashed=False)]).draw()
    (x1, y1), (x2, y2), (x3, y3) = _circles(html)
    assert x1 < x2 < x3
    assert y1 > y2 > y3
    assert x2 - x1 == pytest.approx(x3 - x2, abs=0.1)
    assert re.findall(r"\d+×\d+", read(html).text) == ["100×100", "200×200", "400×400"]


@given(st.lists(st.floats(0, 100), max_size=9))
def test_numbers_are_spread_in_their_order(wanted: list[float]) -> None:
    placed = spread(wanted, 10.0, 100.0)
    order = sorted(range(len(wanted)), key=lambda number: wanted[number])
    assert all(placed[after] - placed[before] > 9.99 for before, after in itertools.pairwise(order))
    assert all(height <= 100.01 for height in placed)


def test_numbers_with_room_stay() -> None:
    assert spread([50.0, 10.0, 30.0], 12.0, 100.0) == [50.0, 10.0, 30.0]
