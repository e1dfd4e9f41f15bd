"""A plot of one row for each thing measured: its name, a point with a whisker and reference marks, its value."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from rest_deploy.reporting.markup import Html, join
from rest_deploy.reporting.plots.axis import Axis, axis
from rest_deploy.reporting.plots.canvas import TEXT, WIDTH, column_ticks, drawing, line, words
from rest_deploy.reporting.plots.lettering import fitted
from rest_deploy.reporting.plots.row import LEFT, RIGHT, ROW, Row

_END = WIDTH - RIGHT
_TOP, _HEAD, _TICKS, _GAP = 22.0, 20.0, 15.0, 5.0  # in pixels
_TALL = 420.0  # from which a shared axis has its ticks at the bottom too


@dataclass(frozen=True)
class Group:
    """Rows under one heading, or under none."""

    title: str
    rows: Sequence[Row]


@dataclass(frozen=True)
class RowPlot:
    """Rows on one axis, or each group on its own.

    Args:
        title: What the axis shows, and its unit; drawn.
        name, described: Of the plot, for those who cannot see it.
        groups: The rows.
        log: Whether the axis is logarithmic; None: as its values ask.
        base: Value of a line through all rows.
        also: More values that must have a place, so that several plots have one axis.
        own_axes: Whether each group has an axis of its own, so that small differences show in each.
    """

    title: str
    name: str
    described: str
    groups: Sequence[Group]
    log: bool | None = None
    base: float | None = None
    also: Sequence[float] = field(default=())
    own_axes: bool = False

    def draw(self) -> Html:
        """The plot as SVG."""
        shared = None if self.own_axes else self._axis(self.groups)
        y, parts = _TOP, [words(fitted(self.title, WIDTH - 4, TEXT), 2.0, 13.0, "head")]
        if shared is not None:
            parts.append(_ticks(shared, y + 11))
            y += _TICKS
        for group in self.groups:
            drawn, y = self._group(group, shared, y)
            parts.append(drawn)
        if shared is not None and y > _TALL:
            parts.append(_ticks(shared, y + 11))
            y += _TICKS
        return drawing(self.name, self.described, y + 2, *parts)

    def _axis(self, groups: Sequence[Group]) -> Axis:
        known = [value for group in groups for row in group.rows for value in row.values]
        based = [] if self.base is None else [self.base]
        return axis([*known, *based, *self.also], LEFT, _END, log=self.log)

    def _group(self, group: Group, shared: Axis | None, y: float) -> tuple[Html, float]:
        """A group that begins at a height, and where it ends."""
        parts = []
        if group.title:
            parts += [words(fitted(group.title, WIDTH - 4, TEXT), 2.0, y + 14, "head")]
            parts += [line(0.0, y + _HEAD - 1, WIDTH, y + _HEAD - 1, "rule")]
            y += _HEAD
        scale = shared or self._axis([group])
        if shared is None:
            parts.append(_ticks(scale, y + 11))
            y += _TICKS
        end = y + ROW * len(group.rows)
        return join([*parts, *self._lines(scale, y, end), *_rows(group.rows, scale, y)]), end + _GAP

    def _lines(self, scale: Axis, top: float, bottom: float) -> Iterator[Html]:
        for x, _ in column_ticks(scale, 4):
            yield line(x, top, x, bottom, "grid")
        if self.base is not None:
            yield line(scale(self.base), top, scale(self.base), bottom, "base")


def _rows(rows: Sequence[Row], scale: Axis, y: float) -> Iterator[Html]:
    return (row.draw(scale, y + ROW * (number + 0.5)) for number, row in enumerate(rows))


def _ticks(scale: Axis, y: float) -> Html:
    title = [words("log axis", 2.0, y, "tick")] * scale.log
    return join([*title, *(words(text, x, y, "tick", "middle") for x, text in column_ticks(scale, 4))])
