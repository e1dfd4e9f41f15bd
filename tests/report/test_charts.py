"""The charts: points are where their values are, text stays text, and nothing is cut off."""

from __future__ import annotations

import re
from itertools import pairwise
from xml.etree import ElementTree

import pytest

from rest_deploy.report.charts import ChartRow, Line, Look, Stop, plane, rows
from rest_deploy.report.fields import SHAPES, Node

_SHAPE = SHAPES["rest-bench"]["machine"]["gflops"]  # type: ignore[index]  # of a number


def _node(value: float | None) -> Node:
    return Node(value, "benchmark.x", _SHAPE)


def _row(value: float | None, label: str = "name", **more: float) -> ChartRow:
    return ChartRow(label, _node(value), "told", Look(0), **more)


def _points(svg: str) -> list[tuple[float, float]]:
    """Where the points are that stand for a number, in the order in which they were drawn."""
    found = []
    for one in ElementTree.fromstring(svg).iter():
        if one.find("title") is not None and one.tag != "svg":
            (marker,) = (own for own in one.iter("path") if "transform" in own.attrib)
            x, y = re.findall(r"-?[\d.]+", marker.attrib["transform"])
            found.append((float(x), float(y)))
    return found


def _texts(svg: str) -> list[str]:
    return [one.text or "" for one in ElementTree.fromstring(svg).iter("text")]


def test_looks_differ_in_shape_and_in_colour() -> None:
    looks = [Look(number) for number in range(49)]
    assert len({look.glyph for look in looks[:7]}) == len({look.colour for look in looks[:7]}) == 7
    assert len({(look.glyph, look.colour) for look in looks}) == 49


def test_rows_are_at_their_values_on_one_axis() -> None:
    svg = rows("ms", "described", [("a", [_row(1.0), _row(10.0)]), ("b", [_row(100.0), _row(1.0), _row(0.0)])])
    (one, ten, hundred, again, zero), ys = zip(*_points(svg), strict=True)
    assert hundred - ten == pytest.approx(ten - one, abs=0.1)
    assert again == one
    assert zero < one - 5
    assert list(ys) == sorted(ys)
    assert _texts(svg).count("told") == 5


def test_a_row_without_a_value_has_no_point() -> None:
    svg = rows("ms", "described", [("", [_row(None)])])
    assert _points(svg) == []
    assert "told" in _texts(svg)


def test_whiskers_limits_and_float32s_own() -> None:
    plain, full = (
        rows("ms", "described", [("", [_row(2.0, **more)])])
        for more in ({}, {"low": 1.0, "high": 3.0, "limit": 4.0, "own": 0.5})
    )
    marks = [one for one in ElementTree.fromstring(full).iter("path") if "transform" in one.attrib]
    own, limit, point = (
        float(re.findall(r"-?[\d.]+", one.attrib["transform"])[0])
        for one in marks
        if "--grid" not in one.attrib["style"]
    )
    assert own < point < limit
    assert full.count("--c0") > plain.count("--c0")


def _line(*at: tuple[float, float], **more: bool) -> Line:
    return Line("name", Look(0, hollow=more.get("hollow", False)), [Stop(x, y, _node(x)) for x, y in at])


def test_better_is_higher_and_slower_is_further_right() -> None:
    best, level = [(1.0, 0.5), (2.0, 0.7)], ("PyTorch's own", 0.9)
    lines = [_line((1.0, 0.5)), _line((2.0, 0.7)), _line((3.0, 0.6), hollow=True)]
    svg = plane("title", "described", lines, share=True, frontier=best, level=level)
    (x1, y1), (x2, y2), (x3, y3) = _points(svg)
    assert x1 < x2 < x3
    assert y2 < y3 < y1
    assert _texts(svg).count("name") == 3
    assert "PyTorch's own" in _texts(svg)
    assert svg.count("--card") == 2, "the hollow point, there and in the legend"
    (steps,) = (one.attrib["d"] for one in ElementTree.fromstring(svg).iter("path") if one.attrib["d"].count("L") >= 4
                and one.attrib["style"].startswith("fill: none; stroke: var(--soft)"))  # fmt: skip
    corners = [tuple(map(float, pair)) for pair in re.findall(r"([\d.]+) ([\d.]+)", steps)]
    assert all(one[0] == other[0] or one[1] == other[1] for one, other in pairwise(corners))
    for wanted in ((x1, y1), (x2, y1), (x2, y2)):
        assert any(corner == pytest.approx(wanted, abs=0.02) for corner in corners)


def test_a_smaller_error_is_higher() -> None:
    (x1, y1), (x2, y2) = _points(plane("title", "described", [_line((1.0, 1e-3)), _line((2.0, 1e-6))]))
    assert x1 < x2
    assert y2 < y1


def test_lines_rise_with_their_values() -> None:
    sizes = {float(n * n): f"{n}x{n}" for n in (100, 200, 400)}
    svg = plane("title", "described", [_line(*((x, x) for x in sizes))], sizes=sizes)
    (x1, y1), (x2, y2), (x3, y3) = _points(svg)
    assert x2 - x1 == pytest.approx(x3 - x2, abs=0.1)
    assert y1 - y2 == pytest.approx(y2 - y3, abs=0.1)
    assert y3 < y1
    assert [text for text in _texts(svg) if re.fullmatch(r"\d+x\d+", text)] == ["100x100", "200x200", "400x400"]


@pytest.mark.parametrize("label", ["x" * 300, "a word " * 60, "模型" * 80, "$a_b$ <b> & #0a0b01"])
def test_no_label_is_cut(label: str) -> None:
    for svg in (
        rows(label, "described", [(label, [_row(1.0, label)])]),
        plane(label, "described", [Line(label, Look(0), [Stop(1.0, 1.0, _node(1.0))])]),
    ):
        assert "".join(_texts(svg)).replace(" ", "").count(label.replace(" ", "")) >= 2


def test_the_same_numbers_give_the_same_chart() -> None:
    drawn = {rows("ms", "described", [("a", [_row(1.0), _row(3.0, high=4.0)])]) for _ in range(2)}
    assert len(drawn) == 1
    assert not re.search(r"\b(?:19|20)\d\d-|matplotlib|<defs|\bid=|#0a0b", drawn.pop())
