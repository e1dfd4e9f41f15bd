"""A scatter plot of cost against gain, with the step line of its Pareto frontier."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from rest_deploy.reporting.markup import Html, element, join
from rest_deploy.reporting.node import Node
from rest_deploy.reporting.plots.axis import Axis, axis
from rest_deploy.reporting.plots.canvas import TEXT, WIDTH, column_ticks, drawing, line, words
from rest_deploy.reporting.plots.lettering import Box, fitted, place
from rest_deploy.reporting.plots.marker import Marker

_AREA = Box(54.0, 44.0, WIDTH - 10, 236.0)  # of the plot, in pixels
_HEIGHT = 282.0
_ROOM = 56.0  # right of the last point, for its label
_LABEL = 150.0  # widest label, in pixels


@dataclass(frozen=True)
class Point:
    """A thing with a cost and a gain.

    Args:
        number, name: As listed beside the plot.
        x: Its cost, as it stands in a record.
        y: Where it is on the vertical axis.
        tip: All that is known, shown when pointed at.
        marker: What it looks like.
        frontier: Whether it is on the frontier.
    """

    number: int
    name: str
    x: Node
    y: float
    tip: str
    marker: Marker
    frontier: bool


@dataclass(frozen=True)
class Vertical:
    """The vertical axis, which all plots of a report share.

    Args:
        title: What it shows.
        scale: Position in the plot -> axis from its bottom to its top; given both.
        told: Ticks in words.
    """

    title: str
    scale: Callable[[float, float], Axis]
    told: Callable[[Sequence[float]], list[str]]


@dataclass(frozen=True)
class Scatter:
    """A plot.

    Args:
        title, described: Of the plot; the title is drawn, both are read out.
        points: At least one.
        vertical: The vertical axis.
    """

    title: str
    described: str
    points: Sequence[Point]
    vertical: Vertical

    def draw(self) -> Html:
        """The plot as SVG."""
        across = axis([point.x.number for point in self.points], _AREA.left, _AREA.right - _ROOM)
        upward = self.vertical.scale(_AREA.bottom, _AREA.top)
        ordered = sorted(self.points, key=lambda point: not point.frontier)
        at = [(across(point.x.number or 0.0), upward(point.y)) for point in ordered]
        corners = _corners([where for where, point in zip(at, ordered, strict=True) if point.frontier])
        return drawing(
            self.title, self.described, _HEIGHT,
            words(self.title, 2.0, 13.0, "head"),
            words(self.vertical.title, 2.0, 31.0, "axis"),
            self._frame(across, upward),
            _frontier(corners),
            *(_point(point, where) for point, where in zip(ordered, at, strict=True)),
            *_labels(ordered, at, corners),
        )  # fmt: skip

    def _frame(self, across: Axis, upward: Axis) -> Html:
        marks = [line(_AREA.left, _AREA.bottom, _AREA.right, _AREA.bottom, "edge")]
        ticks = upward.ticks(5)
        for y, text in zip(map(upward, ticks), self.vertical.told(ticks), strict=True):
            marks.append(line(_AREA.left, y, _AREA.right, y, "grid"))
            marks.append(words(text, _AREA.left - 6, y + 4, "tick", "end"))
        for x, text in column_ticks(across, 6):
            marks.append(line(x, _AREA.bottom, x, _AREA.bottom + 4, "edge"))
            marks.append(words(text, x, _AREA.bottom + 17, "tick", "middle"))
        title = f"median latency (p50), ms{', logarithmic' if across.log else ''}; less is better"
        marks.append(words(title, _AREA.right, _HEIGHT - 8, "axis", "end"))
        return join(marks)


def _corners(at: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Of the frontier: up to its first point, level until the next one gives more, up to it, and so on."""
    ordered = sorted(set(at))
    ends = [x for x, _ in ordered[1:]] + [_AREA.right]
    starts = [(ordered[0][0], _AREA.bottom)] if ordered else []
    return starts + [corner for (x, y), end in zip(ordered, ends, strict=True) for corner in ((x, y), (end, y))]


def _frontier(corners: Sequence[tuple[float, float]]) -> Html:
    return element("polyline", points=" ".join(f"{x:.1f},{y:.1f}" for x, y in corners), class_="frontier")


def _point(point: Point, where: tuple[float, float]) -> Html:
    drawn = point.marker.draw(*where, 5.5, hollow=not point.frontier)
    key, exact = point.x.key, point.x.exact
    return element("g", element("title", point.tip), drawn, class_=point.marker.colour, data_key=key, data_value=exact)


def _labels(
    points: Sequence[Point], at: Sequence[tuple[float, float]], corners: Sequence[tuple[float, float]]
) -> list[Html]:
    """Number and name beside each point; its number alone where there is no room; else it is in the list only."""
    bounds = Box(_AREA.left + 1, _AREA.top - 8, _AREA.right + 8, _AREA.bottom - 1)
    names = [(fitted(f"{point.number} {point.name}", _LABEL, TEXT), str(point.number)) for point in points]
    lines = [Box(min(a, c) - 1, min(b, d) - 1, max(a, c) + 1, max(b, d) + 1) for (a, b), (c, d) in pairwise(corners)]
    labels = place(names, at, bounds, TEXT, lines)
    return [words(label.text, label.x, label.box.bottom - 3, "name", label.anchor) for label in labels]
