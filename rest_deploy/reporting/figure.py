"""Plots beside each other, with the words under them that say how to read them."""

from __future__ import annotations

from collections.abc import Sequence

from rest_deploy.reporting.markup import Html, element, join

_SAMPLES = {
    "point": ("circle", {"cx": 8, "cy": 7, "r": 4.2, "class_": "mark"}),
    "hollow": ("circle", {"cx": 8, "cy": 7, "r": 4.2, "class_": "mark hollow"}),
    "limit": ("line", {"x1": 8, "y1": 1, "x2": 8, "y2": 13, "class_": "limit"}),
    "own": ("polygon", {"points": "4,7 8,3 12,7 8,11", "class_": "own"}),
    "whisker": ("path", {"d": "M1 7H14M14 3.5V10.5", "class_": "whisker"}),
    "dashed": ("path", {"d": "M0 7H16", "class_": "trend dashed"}),
    "frontier": ("path", {"d": "M1 12V5H15", "class_": "frontier"}),
}


def panels(plots: Sequence[str], words: str, keys: Sequence[tuple[str, str]] = (), *, look: str = "") -> Html:
    """Plots in a grid.

    Args:
        plots: As SVG.
        words: How to read them.
        keys: A mark of the stylesheet, and what it stands for.
        look: ``beside``: where three plots are beside each other, the words are under the first, which is low.
    """
    look = look or ("full" if len(plots) % 3 == 0 else "")
    legend = (element("span", _sample(mark), Html(" "), meaning, class_="legend") for mark, meaning in keys)
    caption = element("figcaption", join(legend, " "), element("span", words, class_="words"))
    return element("figure", *plots, caption, class_=look or None)


def _sample(mark: str) -> Html:
    name, attributes = _SAMPLES[mark]
    drawn = element(name, **attributes)  # type: ignore[arg-type]
    return element("svg", drawn, class_="key c0", viewBox="0 0 16 14", aria_hidden="true")
