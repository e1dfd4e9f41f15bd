"""A row of a plot."""

from __future__ import annotations

from dataclasses import dataclass

from rest_deploy.reporting.markup import Html, element
from rest_deploy.reporting.node import Node
from rest_deploy.reporting.plots.axis import Axis
from rest_deploy.reporting.plots.canvas import TEXT, WIDTH, line, words
from rest_deploy.reporting.plots.lettering import fitted
from rest_deploy.reporting.plots.marker import Marker

LEFT, RIGHT, ROW = 120.0, 84.0, 17.0  # widths of names and of values, height of a row, in pixels


@dataclass(frozen=True)
class Row:
    """One thing measured.

    Args:
        label: Its name.
        value: Where its point is, as it stands in a record; none is drawn where it is null.
        told: The value in words, behind the plot.
        tip: All that is known, shown when pointed at.
        marker: Of its point.
        low, high: Ends of its whisker; without one of them it ends at the point.
        limit: That it must not pass, drawn as a bar.
        own: What the yardstick loses itself, drawn as a diamond.
        hollow: Whether the point is drawn so.
    """

    label: str
    value: Node
    told: str
    tip: str
    marker: Marker
    low: float | None = None
    high: float | None = None
    limit: float | None = None
    own: float | None = None
    hollow: bool = False

    @property
    def values(self) -> list[float]:
        """All values that need a place on the axis."""
        known = (self.value.number, self.low, self.high, self.limit, self.own)
        return [value for value in known if value is not None]

    def draw(self, scale: Axis, y: float) -> Html:
        """The row at a height."""
        value, end = self.value.number, WIDTH - RIGHT
        parts = [
            element("title", self.tip),
            element("rect", x=0.0, y=y - ROW / 2, width=WIDTH, height=ROW, class_="area"),
            line(LEFT, y, end, y, "track"),
            *self._references(scale, y),
            words(fitted(self.label, LEFT - 10, TEXT), LEFT - 10, y + 4, anchor="end"),
            words(fitted(self.told, RIGHT - 8, TEXT), end + 8, y + 4, "told"),
        ]
        if value is None:
            return element("g", *parts, class_="row")
        parts += [*self._whisker(value, scale, y), self.marker.draw(scale(value), y, 4.0, hollow=self.hollow)]
        look, node = f"row {self.marker.colour}", self.value
        return element("g", *parts, class_=look, data_key=node.key, data_value=node.exact)

    def _whisker(self, value: float, scale: Axis, y: float) -> list[Html]:
        ends = [scale(end) for end in (self.low, self.high) if end is not None]
        if not ends:
            return []
        reached = [*ends, scale(value)]
        caps = [line(x, y - 4, x, y + 4, "whisker") for x in ends]
        return [line(min(reached), y, max(reached), y, "whisker"), *caps]

    def _references(self, scale: Axis, y: float) -> list[Html]:
        marks = []
        if self.limit is not None:
            marks.append(line(scale(self.limit), y - 6, scale(self.limit), y + 6, "limit"))
        if self.own is not None:
            x = scale(self.own)
            diamond = f"{x - 4:.1f},{y:.1f} {x:.1f},{y - 4:.1f} {x + 4:.1f},{y:.1f} {x:.1f},{y + 4:.1f}"
            marks.append(element("polygon", points=diamond, class_="own"))
        return marks
