"""A plot of lines over sizes: how a latency grows with the pixels of an image."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from rest_deploy.reporting.markup import Html, element, join
from rest_deploy.reporting.node import Node
from rest_deploy.reporting.plots.axis import Axis, axis, tick_text
from rest_deploy.reporting.plots.canvas import TEXT, WIDTH, drawing, line, words
from rest_deploy.reporting.plots.lettering import Box, text_width
from rest_deploy.reporting.plots.marker import Marker

_AREA = Box(44.0, 36.0, WIDTH - 40, 250.0)  # of the plot, in pixels
_HEIGHT = 296.0
_APART = 12.0  # of the numbers at the ends of lines


@dataclass(frozen=True)
class Stop:
    """A point of a line.

    Args:
        pixels: Of the size.
        size: In words.
        value: Where it is drawn.
        node: What it was formed from, as it stands in a record.
        tip: All that is known, shown when pointed at.
    """

    pixels: int
    size: str
    value: float
    node: Node
    tip: str


@dataclass(frozen=True)
class Line:
    """A line.

    Args:
        number: That it ends with.
        marker: Of its points.
        stops: Its points.
        dashed: Whether it is drawn so, with hollow points and without its number.
    """

    number: int
    marker: Marker
    stops: Sequence[Stop]
    dashed: bool


@dataclass(frozen=True)
class Trend:
    """Lines over sizes.

    Args:
        title: What is drawn, and its unit; drawn.
        name, described: Of the plot, for those who cannot see it.
        lines: At least one, with a point.
    """

    title: str
    name: str
    described: str
    lines: Sequence[Line]

    def draw(self) -> Html:
        """The plot as SVG."""
        stops = [stop for one in self.lines for stop in one.stops]
        across = axis([float(stop.pixels) for stop in stops], _AREA.left, _AREA.right, log=True)
        upward = axis([stop.value for stop in stops], _AREA.bottom, _AREA.top)
        sizes = {stop.pixels: stop.size for stop in stops}
        return drawing(
            self.name, self.described, _HEIGHT,
            words(self.title, 2.0, 13.0, "head"),
            _frame(sizes, across, upward),
            *(_line(one, across, upward) for one in self.lines),
            *_numbers([one for one in self.lines if not one.dashed], across, upward),
        )  # fmt: skip


def _frame(sizes: dict[int, str], across: Axis, upward: Axis) -> Html:
    marks = [line(_AREA.left, _AREA.bottom, _AREA.right, _AREA.bottom, "edge")]
    for y, text in ((upward(value), tick_text(value)) for value in upward.ticks(6)):
        marks.append(line(_AREA.left, y, _AREA.right, y, "grid"))
        marks.append(words(text, _AREA.left - 6, y + 4, "tick", "end"))
    free = 0.0
    for pixels, size in sorted(sizes.items()):
        x, half = across(pixels), text_width(size, TEXT) / 2
        marks.append(line(x, _AREA.bottom, x, _AREA.bottom + 4, "edge"))
        if x - half >= free:
            marks.append(words(size, x, _AREA.bottom + 17, "tick", "middle"))
            free = x + half + 4
    scales = "both axes logarithmic" if upward.log else "pixels logarithmic"
    return join([*marks, words(f"size in pixels; {scales}", _AREA.right, _HEIGHT - 8, "axis", "end")])


def _line(one: Line, across: Axis, upward: Axis) -> Html:
    stops = sorted(one.stops, key=lambda stop: stop.pixels)
    at = [(across(stop.pixels), upward(stop.value)) for stop in stops]
    look = "trend dashed" if one.dashed else "trend"
    drawn = [line(*start, *end, look) for start, end in pairwise(at)]
    return element("g", *drawn, *_stops(one, stops, at), class_=one.marker.colour)


def _stops(one: Line, stops: Sequence[Stop], at: Sequence[tuple[float, float]]) -> Iterator[Html]:
    for stop, (x, y) in zip(stops, at, strict=True):
        mark = one.marker.draw(x, y, 3.0 if one.dashed else 4.0, hollow=one.dashed)
        key, exact = stop.node.key, stop.node.exact
        yield element("g", element("title", stop.tip), mark, data_key=key, data_value=exact)


def _numbers(lines: Sequence[Line], across: Axis, upward: Axis) -> Iterator[Html]:
    """Number of each line at its end, moved down where it would cover another one."""
    last = [max(one.stops, key=lambda stop: stop.pixels) for one in lines]
    wanted = [upward(stop.value) for stop in last]
    for one, y in zip(lines, spread(wanted, _APART, _AREA.bottom), strict=True):
        yield words(str(one.number), _AREA.right + 6, y + 4, f"number {one.marker.colour}")


def spread(wanted: Sequence[float], apart: float, end: float) -> list[float]:
    """Heights moved as little as it takes for none to be nearer to another one than ``apart``.

    Args:
        wanted: Heights, in any order.
        apart: Distance that they must have.
        end: Past which none may be moved, as long as there is room.
    """
    order = sorted(range(len(wanted)), key=lambda number: wanted[number])
    placed = list(wanted)
    for before, after in pairwise(order):
        placed[after] = max(placed[after], placed[before] + apart)
    over = max([*placed, end]) - end
    for before, after in pairwise(reversed(order)):
        if over:
            placed[before] = min(placed[before], end)
            placed[after] = min(placed[after], placed[before] - apart)
    return placed
