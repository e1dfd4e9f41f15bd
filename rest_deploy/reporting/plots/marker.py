"""What a contender looks like in every figure: a shape and a colour, so that one tells it where the other fails."""

from __future__ import annotations

import math
from dataclasses import dataclass

from rest_deploy.reporting.markup import Html, element

COLOURS = 7  # classes c0 to c6 of the stylesheet
_CORNERS = (0, 4, 3, 4, 3, 5, 6)  # of each shape; 0 is a circle
_TURN = (0.0, 45.0, -90.0, 0.0, 90.0, -90.0, 0.0)  # of its first corner, in degrees
_GROWTH = (1.0, 1.2, 1.3, 1.25, 1.3, 1.15, 1.15)  # so that all look equally large


@dataclass(frozen=True)
class Marker:
    """A shape and a colour.

    Args:
        number: Counted from 0; past the last shape they begin again, with other colours.
    """

    number: int

    @property
    def colour(self) -> str:
        """Class of the stylesheet."""
        return f"c{(self.number + self.number // len(_CORNERS)) % COLOURS}"

    def draw(self, x: float, y: float, radius: float, *, hollow: bool = False) -> Html:
        """The shape around a point."""
        shape, look = self.number % len(_CORNERS), "mark hollow" if hollow else "mark"
        if _CORNERS[shape] == 0:
            return element("circle", cx=x, cy=y, r=radius, class_=look)
        return element("polygon", points=_polygon(shape, x, y, radius), class_=look)

    def key(self) -> Html:
        """The marker for use in text."""
        drawn = self.draw(7.0, 7.0, 4.4)
        return element("svg", drawn, class_=f"key {self.colour}", viewBox="0 0 14 14", aria_hidden="true")


def _polygon(shape: int, x: float, y: float, radius: float) -> str:
    corners, size = _CORNERS[shape], radius * _GROWTH[shape]
    angles = [math.radians(_TURN[shape] + 360 * number / corners) for number in range(corners)]
    return " ".join(f"{x + size * math.cos(angle):.1f},{y + size * math.sin(angle):.1f}" for angle in angles)
