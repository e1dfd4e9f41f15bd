"""Charts as SVG for a page, drawn by matplotlib: text stays text, and colours come from the stylesheet."""

from __future__ import annotations

import io
import math
import re
import textwrap
import unicodedata
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

import matplotlib.style
from markupsafe import Markup
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, MaxNLocator
from matplotlib.transforms import blended_transform_factory

from rest_deploy.report.fields import Node, deviation, visible

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_WIDTH = 5.0  # inches of 72 units, as wide as a phone; wider screens show several charts side by side
_LINE = 0.21  # inches of height for a line of text
_TINY = 1e-100  # on a logarithmic axis, smaller values are drawn at the place of 0

#: Colours for matplotlib -> those of the stylesheet, which differ between light and dark mode.
_NAMES = ("ink", "soft", "grid", "card", "bad", "c0", "c1", "c2", "c3", "c4", "c5", "c6")
_COLOUR = {name: f"#0a0b{number:02x}" for number, name in enumerate(_NAMES)}
_HEX = re.compile("#0a0b([0-9a-f]{2})")
_XLINK = "http://www.w3.org/1999/xlink"
#: Shapes for matplotlib and as text.
_SHAPES = (("o", "●"), ("s", "■"), ("^", "▲"), ("D", "◆"), ("v", "▼"), ("*", "★"), ("P", "✚"))
_STYLE = {
    "svg.fonttype": "none",
    "svg.hashsalt": "rest-deploy",
    "font.size": 11,
    "text.parse_math": False,
    "text.color": _COLOUR["ink"],
    "axes.edgecolor": _COLOUR["grid"],
    "axes.labelcolor": _COLOUR["soft"],
    "figure.titlesize": 11,
    "figure.titleweight": "bold",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.grid": True,
    "grid.color": _COLOUR["grid"],
    "xtick.color": _COLOUR["grid"],
    "ytick.color": _COLOUR["grid"],
    "xtick.labelcolor": _COLOUR["soft"],
    "ytick.labelcolor": _COLOUR["ink"],
    "legend.frameon": False,
    "legend.borderpad": 0,
    "legend.borderaxespad": 0.2,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
}


@dataclass(frozen=True)
class Look:
    """A shape and a colour: each alone identifies a point, if the other cannot be seen."""

    number: int  # from 0; after the last shape they repeat, with other colours
    hollow: bool = False

    @property
    def colour(self) -> str:
        """Name of its colour in the stylesheet."""
        return f"c{(self.number + self.number // len(_SHAPES)) % 7}"

    @property
    def glyph(self) -> str:
        """The shape as text."""
        return _SHAPES[self.number % len(_SHAPES)][1]

    def drawn(self) -> dict[str, Any]:
        """The shape, as arguments for matplotlib."""
        own = _COLOUR[self.colour]
        inside = _COLOUR["card"] if self.hollow else own
        return {"marker": _SHAPES[self.number % len(_SHAPES)][0], "ms": 7, "mfc": inside, "mec": own, "color": own}


@dataclass(frozen=True)
class ChartRow:
    """A row of a chart: one measurement."""

    label: str
    node: Node  # no point is drawn if it is null
    told: str  # text after the row
    look: Look
    low: float | None = None  # ends of a whisker; a missing end is the point
    high: float | None = None
    limit: float | None = None  # drawn as a bar
    own: float | None = None  # PyTorch's own error in float32, drawn as a diamond


@dataclass(frozen=True)
class Stop:
    """A point of a line: its place, and its number in the record."""

    x: float
    y: float
    node: Node


@dataclass(frozen=True)
class Line:
    """Points of one contender, with a line through them if there are several."""

    label: str
    look: Look
    stops: Sequence[Stop]
    dashed: bool = False


def rows(
    title: str,
    described: str,
    groups: Sequence[tuple[str, Sequence[ChartRow]]],
    base: float | None = None,
    also: Sequence[float | None] = (),
) -> Markup:
    """Points in rows on one logarithmic axis, the rows of a group under its heading.

    Args:
        title: What the axis measures, with its unit.
        described: A description for those who cannot see the chart.
        groups: Heading, which may be empty, and rows.
        base: A value to compare with, drawn as a line.
        also: Other values that the axis must include, so that several charts have the same axis.
    """
    entries: list[tuple[str, ChartRow | None]] = []
    for head, own in groups:
        entries += [(_wrapped(head, 42), None)] if head else []
        entries += [(_wrapped(row.label, 20), row) for row in own]
    heights = [text.count("\n") + 1.4 for text, _ in entries]
    known = [row for _, row in entries if row is not None]
    values = [
        base,
        *also,
        *(value for row in known for value in (row.node.number, row.low, row.high, row.limit, row.own)),
    ]
    with matplotlib.style.context([_STYLE], after_reset=True):
        figure, axes = _figure(title, (sum(heights) + 3) * _LINE)
        place = _axis(axes, "x", values, log=True)
        tips: list[Node] = []
        ticks: list[tuple[float, str]] = []
        for (text, row), height, above in zip(entries, heights, accumulate(heights), strict=True):
            y = height / 2 - above
            if row is None:
                across = blended_transform_factory(figure.transFigure, axes.transData)
                axes.text(0.004, y, text, transform=across, weight="bold", va="center").set_in_layout(False)
                continue
            ticks.append((y, text))
            _draw_row(axes, row, y, place, tips)
        axes.set_ylim(-sum(heights), 0)
        axes.set_yticks([y for y, _ in ticks], [text for _, text in ticks])
        if base is not None:
            axes.axvline(place(base), color=_COLOUR["soft"], lw=1.2, zorder=1)
        return _svg(figure, title, described, tips)


def _draw_row(axes: Axes, row: ChartRow, y: float, place: Callable[[float], float], tips: list[Node]) -> None:
    value = row.node.number
    axes.annotate(visible(row.told), (1, y), (7, 0), ("axes fraction", "data"), "offset points", va="center")
    ends = [end for end in (row.low, value, row.high) if end is not None]
    if value is not None and len(ends) > 1:
        axes.plot([place(min(ends)), place(max(ends))], [y, y], color=_COLOUR[row.look.colour], lw=1.8)
    if row.own is not None:
        axes.plot([place(row.own)], [y], "D", ms=5, mfc=_COLOUR["card"], mec=_COLOUR["soft"])
    if row.limit is not None:
        axes.plot([place(row.limit)], [y], "|", ms=12, mew=2.2, color=_COLOUR["ink"])
    if value is not None:
        axes.plot([place(value)], [y], gid=f"tip{len(tips)}", **row.look.drawn())
        tips.append(row.node)


def plane(
    title: str,
    described: str,
    lines: Sequence[Line],
    *,
    sizes: Mapping[float, str] | None = None,
    share: bool = False,
    frontier: Sequence[tuple[float, float]] = (),
    level: tuple[str, float] | None = None,
) -> Markup:
    """Points, or lines through them, over two axes, with a legend below.

    Args:
        title: What the vertical axis measures.
        described: A description for those who cannot see the chart.
        lines: The points.
        sizes: Pixels of images -> name of the size, if the horizontal axis measures sizes; else it measures time.
        share: Whether the vertical axis measures shares near 1; else it measures errors or times, logarithmically.
        frontier: The best points, from left to right.
        level: Name and value of a line to compare with.
    """
    stops = [stop for line in lines for stop in line.stops]
    heights = [stop.y for stop in stops] + ([level[1]] if level is not None else [])
    names = [_wrapped(line.label, 42) for line in lines] + ([_wrapped(level[0], 42)] if level is not None else [])
    legend = sum(name.count("\n") + 1.25 for name in names) * _LINE
    with matplotlib.style.context([_STYLE], after_reset=True):
        figure, axes = _figure(title, 2.9 + legend)
        across = _axis(axes, "x", [stop.x for stop in stops], log=sizes is not None)
        up = _axis(axes, "y", heights, log=not share, share=share)
        axes.set_xlabel("image, logarithmic in pixels" if sizes is not None else "p50, ms")
        if sizes is not None:
            _name_sizes(axes, sizes)
        elif not share:
            axes.invert_yaxis()  # so that a smaller error is higher
        tips: list[Node] = []
        for line in lines:
            at = [(across(stop.x), up(stop.y)) for stop in line.stops]
            if len(at) > 1:
                axes.plot(
                    *zip(*at, strict=True), color=_COLOUR[line.look.colour], ls="--" if line.dashed else "-", lw=1.4
                )
            for stop, (x, y) in zip(line.stops, at, strict=True):
                axes.plot([x], [y], gid=f"tip{len(tips)}", zorder=3, **line.look.drawn())
                tips.append(stop.node)
        handles = [
            Line2D([], [], label=name, ls="none", **line.look.drawn()) for line, name in zip(lines, names, strict=False)
        ]
        if level is not None:
            handles.append(axes.axhline(up(level[1]), color=_COLOUR["soft"], lw=1.2, ls=":", label=names[-1]))
        if frontier:
            _draw_frontier(axes, [(across(x), up(y)) for x, y in frontier])
        figure.legend(handles=handles, loc="outside lower left", ncols=1)
        return _svg(figure, title, described, tips)


def _draw_frontier(axes: Axes, best: Sequence[tuple[float, float]]) -> None:
    """Steps from the bottom through the best points to the right edge."""
    (left, right), (bottom, _) = axes.get_xlim(), axes.get_ylim()
    xs, ys = [best[0][0], *(x for x, _ in best), right], [bottom, *(y for _, y in best), best[-1][1]]
    axes.set_xlim(left, right)
    axes.plot(xs, ys, drawstyle="steps-post", color=_COLOUR["soft"], lw=1.3, zorder=1)


def _figure(title: str, height: float) -> tuple[Figure, Axes]:
    head = _wrapped(title, 42)
    figure = Figure((_WIDTH, height + head.count("\n") * _LINE), layout="constrained")
    figure.suptitle(head, x=0.004, ha="left")
    return figure, figure.add_subplot()


def _axis(
    axes: Axes, which: str, values: Sequence[float | None], *, log: bool, share: bool = False
) -> Callable[[float], float]:
    """Scale an axis to include all values, and mark a few.

    Returns:
        Value -> its place: on a logarithmic axis, 0 and smaller values are left of all others.
    """
    known = [value for value in values if value is not None]
    positive = [value for value in known if value > _TINY]
    ticks: dict[float, str] = {}
    floor = 0.0
    if log:
        low, high = min(positive, default=0.1), max(positive, default=1.0)
        margin = max((high / low) ** 0.05, 1.12)
        low, high = low / margin, high * margin
        if len(positive) < len(known):
            floor = low / (high / low) ** 0.12
            ticks[floor], start = "0", floor / (low / floor) ** 0.3
        else:
            start = low
        getattr(axes, f"set_{which}scale")("log")
        getattr(axes, f"set_{which}lim")(start, high)
    else:
        low, high = min(known, default=0.0), max(known, default=1.0)
        room = max(0.1 * (high - low), 0.002 if share else 0.0, 1e-6 * abs(high), _TINY)
        low, high = (low - room, high + room) if share else (min(0.0, low), high + room)
        getattr(axes, f"set_{which}lim")(low, high)
    ticks |= {value: f"{100 * value:.6g}%" if share else _tick(value) for value in _marks(low, high, log=log)}
    getattr(axes, f"set_{which}ticks")(list(ticks), list(ticks.values()))
    axes.minorticks_off()
    return lambda value: floor if log and value <= _TINY else value


def _marks(low: float, high: float, *, log: bool) -> list[float]:
    """At most six values for the marks of an axis."""
    if log and high > 3 * low:
        subs = (1.0,) if high > 100 * low else (1.0, 2.0, 5.0)
        found = LogLocator(subs=subs, numticks=5 if len(subs) == 1 else 9).tick_values(low, high)
    else:
        found = MaxNLocator(4, steps=[1, 2, 2.5, 5, 10]).tick_values(low, high)
    inside = [float(value) for value in found if low <= value <= high]
    return inside[:: -(-len(inside) // 6) or 1]


def _tick(value: float) -> str:
    return f"{value:,.6g}" if value == 0 or 0.01 <= abs(value) < 1e5 else deviation(value).replace(".0e", "e")


def _name_sizes(axes: Axes, sizes: Mapping[float, str]) -> None:
    """Mark sizes of images by their names, without names that would overlap."""
    start, end = (math.log(limit) for limit in axes.get_xlim())
    kept: list[float] = []
    for pixels in sorted(sizes):
        if not kept or math.log(pixels / kept[-1]) > 0.2 * (end - start):
            kept.append(pixels)
    axes.set_xticks(kept, [sizes[pixels] for pixels in kept])


def _wrapped(text: str, width: int) -> str:
    """A text in lines, without cutting it; wide characters count as two."""
    text = visible(text)
    wide = any(unicodedata.east_asian_width(character) in "WF" for character in text)
    return "\n".join(textwrap.wrap(text, width // 2 if wide else width)) or text


def _svg(figure: Figure, title: str, described: str, tips: Sequence[Node]) -> Markup:
    """A figure as an element of a page: without ids, scripts and fonts, each point with its number."""
    content = io.StringIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about letters that matplotlib's font lacks; the page uses other fonts
        figure.savefig(content, format="svg", metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))
    root = ElementTree.fromstring(content.getvalue())  # noqa: S314  # written by matplotlib
    for one in root.iter():
        one.tag, one.text = one.tag.rpartition("}")[2], (one.text or "").strip()
        one.tail = None
    shapes = {one.get("id"): one for one in root.iter("path")}
    for parent in list(root.iter()):
        for child in [child for child in parent if child.tag in ("defs", "metadata")]:
            parent.remove(child)
    for one in root.iter():
        _plain(one, shapes, tips)
    box = " ".join(f"{float(value):g}" for value in root.attrib["viewBox"].split())
    root.attrib = {"viewBox": box, "class": "chart", "role": "img", "aria-label": visible(title)}
    for place, (tag, text) in enumerate((("title", title), ("desc", described))):
        made = ElementTree.Element(tag)
        made.text = visible(text)
        root.insert(place, made)
    return Markup(ElementTree.tostring(root, encoding="unicode"))  # noqa: S704  # text in it is escaped


def _plain(one: ElementTree.Element, shapes: Mapping[str | None, ElementTree.Element], tips: Sequence[Node]) -> None:
    """An element as the page has it."""
    own, style = one.attrib, one.attrib.pop("style", "")
    name = own.pop("id", "")
    own.pop("clip-path", None)
    if one.tag == "use":  # a marker, drawn in place, so that charts of a page share no ids
        shape = shapes[own[f"{{{_XLINK}}}href"].removeprefix("#")]
        place = f"translate({float(own['x']):.2f} {float(own['y']):.2f})"
        one.tag, one.attrib = "path", {"d": shape.attrib["d"], "transform": place}
        style = f"{shape.get('style', '')}; {style}"
    if one.tag == "text":
        anchor, weight = re.search(r"text-anchor: (\w+)", style), re.search(r"\b(?:bold|700)\b", style)
        colour = re.search(r"fill: (#\w+)", style)
        parts = (anchor and anchor[0], weight and "font-weight: 650", colour and colour[0])
        style = "; ".join(filter(None, parts))
        if own.get("transform", "").startswith("rotate(-0 "):
            del own["transform"]
    if "d" in one.attrib:
        one.attrib["d"] = re.sub(
            r"-?\d+\.\d{2,}", lambda number: f"{float(number[0]):.2f}", " ".join(one.attrib["d"].split())
        )
    if style:
        one.attrib["style"] = _HEX.sub(lambda found: f"var(--{_NAMES[int(found[1], 16)]})", style)
    if name.startswith("tip"):
        node = tips[int(name[3:])]
        made = ElementTree.Element("title")
        made.text = visible(node.tip)
        one.insert(0, made)
