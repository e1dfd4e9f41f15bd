"""What all figures share: the drawing with its name for those who cannot see it, text, lines, ticks."""

from __future__ import annotations

from rest_deploy.reporting.markup import Html, element
from rest_deploy.reporting.plots.axis import Axis, tick_text
from rest_deploy.reporting.plots.lettering import text_width

#: Every figure is as wide as a phone, so that text is as large as on the page; wider screens show several beside
#: each other.
WIDTH = 360.0
TEXT = 11.0  # height of characters, as in the stylesheet


def drawing(title: str, described: str, height: float, *content: str) -> Html:
    """An inline SVG."""
    return element(
        "svg", element("title", title), element("desc", described), *content,
        class_="plot", role="img", aria_label=title, viewBox=f"0 0 {WIDTH:.0f} {height:.0f}",
    )  # fmt: skip


def words(text: str, x: float, y: float, look: str = "", anchor: str | None = None) -> Html:
    """Text whose baseline is at a point."""
    return element("text", text, x=x, y=y, class_=look or None, text_anchor=anchor)


def line(x1: float, y1: float, x2: float, y2: float, look: str) -> Html:
    """A straight line."""
    return element("line", x1=x1, y1=y1, x2=x2, y2=y2, class_=look)


def column_ticks(scale: Axis, most: int) -> list[tuple[float, str]]:
    """Ticks of an axis as positions and texts, without those whose texts would meet the one before."""
    kept: list[tuple[float, str]] = []
    for value in scale.ticks(most):
        x, text = scale(value), tick_text(value)
        if not kept or abs(x - kept[-1][0]) > (text_width(text, TEXT) + text_width(kept[-1][1], TEXT)) / 2 + 3:
            kept.append((x, text))
    return kept
