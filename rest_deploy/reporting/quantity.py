"""Numbers for people, each with a copy for machines: its exact value, and its path in the record."""

from __future__ import annotations

import math
from collections.abc import Callable

from rest_deploy.reporting.markup import Html, element
from rest_deploy.reporting.node import Node

Form = Callable[[float], str]


def plain(value: float) -> str:
    """Three significant digits."""
    if value == 0:
        return "0"
    return _digits(value, 3) if 1e-3 <= abs(value) < 1e7 else _power(value)


def deviation(value: float) -> str:
    """Two significant digits, as in ``0.12``; with the power of ten where that is shorter, as in ``1.2e-3``."""
    if value == 0:
        return "0"
    return _digits(value, 2) if 0.01 <= abs(value) < 1000 else _power(value)


def exact(value: float) -> str:
    """A number that somebody chose, as it was chosen."""
    return f"{value:.9g}"


def count(value: float) -> str:
    """A whole number."""
    return f"{value:,.0f}" if abs(value) < 1e12 else _power(value)


def percent(value: float) -> str:
    """A share, in percent."""
    return f"{value:.2%}" if abs(value) < 100 else f"{_power(100 * value)}%"


def rate(value: float) -> str:
    """A share that is near enough in whole percent."""
    return f"{value:.1%}" if abs(value) < 100 else f"{_power(100 * value)}%"


def cosine(value: float) -> str:
    """A cosine, of which the nines tell."""
    return f"{value:.7f}" if abs(value) < 1e3 else _power(value)


def mebibytes(value: float) -> str:
    """Bytes, in MiB."""
    return plain(value / 2**20)


def number(node: Node, form: Form = plain, absent: str = "—") -> Html:
    """A number of a record in an element ``data``; what stands for it where it is null."""
    if node.number is None:
        return element("span", absent, class_="none")
    return element("data", form(node.number), value=node.exact, data_key=node.key)


def case_label(case: Node) -> Html:
    """Height, width and batch of a case."""
    height, width, batch = (number(case[name], exact) for name in ("height", "width", "batch"))
    return element("span", height, "×", width, ", batch ", batch, class_="case")


def interval(low: Node, high: Node) -> Html:
    """From one number to another one; one dash where there is neither."""
    if low.number is None and high.number is None:
        return number(low)
    return element("span", number(low), "–", number(high), class_="case")


def case_text(case: Node) -> str:
    """The same as plain text, for figures."""
    return f"{case['height'].text}×{case['width'].text}, batch {case['batch'].text}"


def _digits(value: float, significant: int) -> str:
    rounded = float(f"{value:.{significant - 1}e}")
    return f"{value:,.{max(0, significant - 1 - math.floor(math.log10(abs(rounded))))}f}"


def _power(value: float) -> str:
    mantissa, _, power = f"{value:.1e}".partition("e")
    return f"{mantissa}e{int(power)}"
