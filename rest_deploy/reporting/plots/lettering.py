"""Text in figures: how wide it is, cut to a width, and placed where it covers nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rest_deploy.reporting.markup import visible

#: Width of a character over its height. Sans-serif fonts average 0.5 to 0.6; too wide is safer than too narrow.
_ASPECT = 0.62
_LINE = 1.15  # height of a line over the height of its characters


@dataclass(frozen=True)
class Box:
    """A rectangle in pixels, y downwards."""

    left: float
    top: float
    right: float
    bottom: float

    def meets(self, other: Box) -> bool:
        """Whether the two share an area."""
        across = self.left < other.right and other.left < self.right
        return across and self.top < other.bottom and other.top < self.bottom

    def inside(self, other: Box) -> bool:
        """Whether it lies in another one."""
        across = other.left <= self.left and self.right <= other.right
        return across and other.top <= self.top and self.bottom <= other.bottom


def text_width(text: str, size: float) -> float:
    """Width of a text whose characters are ``size`` pixels high, rather too wide than too narrow."""
    return _ASPECT * size * sum(2 if ord(character) > 0x2E80 else 1 for character in text)


def fitted(text: str, width: float, size: float) -> str:
    """A text as it is seen, its middle cut out where it is wider than ``width`` pixels: names differ at their ends."""
    seen = visible(text)
    kept = min(len(seen), int(width / (_ASPECT * size)))
    short = seen
    while text_width(short, size) > width and kept > 2:
        kept -= 1
        short = f"{seen[: (kept + 1) // 2]}…{seen[-(kept // 2) :]}"
    return short


@dataclass(frozen=True)
class Label:
    """A text at its place.

    Args:
        text: As it is drawn.
        box: That it fits into.
        anchor: Which of its sides is next to its point: ``start``, ``middle`` or ``end``.
    """

    text: str
    box: Box
    anchor: str

    @property
    def x(self) -> float:
        """Where its anchor is."""
        middle = (self.box.left + self.box.right) / 2
        return {"start": self.box.left, "middle": middle, "end": self.box.right}[self.anchor]


def place(
    texts: Sequence[Sequence[str]],
    at: Sequence[tuple[float, float]],
    bounds: Box,
    size: float,
    obstacles: Sequence[Box] = (),
) -> list[Label]:
    """A label beside each point, where it meets no point and no other label; none where there is no such place.

    Args:
        texts: For each point, what it may be called, the best first; the points that matter most first.
        at: The points.
        bounds: That no label may leave.
        size: Height of the characters in pixels.
        obstacles: What labels must not meet besides.
    """
    taken = [*obstacles, *(Box(x - 7, y - 7, x + 7, y + 7) for x, y in at)]
    labels: list[Label] = []
    for names, (x, y) in zip(texts, at, strict=True):
        options = (label for name in names for label in _around(name, x, y, size))
        free = (label for label in options if label.box.inside(bounds) and not any(map(label.box.meets, taken)))
        found = next(free, None)
        if found is not None:
            labels.append(found)
            taken.append(found.box)
    return labels


def _around(text: str, x: float, y: float, size: float) -> list[Label]:
    """Right and left of a point, above and below it, each also shifted, near ones first."""
    width, height = text_width(text, size), _LINE * size
    beside = [(lift, side) for lift in (-height / 2, -height, 0.0) for side in ("start", "end")]
    over = [(lift, shift) for lift in (-9.0 - height, 9.0) for shift in ("middle", "start", "end")]
    left = {"start": x + 10, "end": x - 10 - width}
    shifted = {"middle": x - width / 2, "start": x - 6, "end": x + 6 - width}
    corners = [(left[side], y + lift, side) for lift, side in beside]
    corners += [(shifted[shift], y + lift, shift) for lift, shift in over]
    return [Label(text, Box(near, top, near + width, top + height), anchor) for near, top, anchor in corners]
