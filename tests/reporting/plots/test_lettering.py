"""Text in figures: cut to a width, and placed where it covers nothing."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rest_deploy.reporting.plots.lettering import Box, fitted, place, text_width

BOUNDS = Box(0, 0, 360, 240)
PLACES = st.lists(st.tuples(st.floats(10, 350), st.floats(10, 230)), min_size=1, max_size=12)


def test_a_text_that_fits_is_left_alone() -> None:
    assert fitted("rest_small.onnx", 200, 11) == "rest_small.onnx"


def test_names_keep_both_ends() -> None:
    assert fitted("rest_small_int8_dynamic.onnx", 100, 11) == "rest_sm…c.onnx"
    assert text_width(fitted("x" * 500, 100, 11), 11) <= 100


def test_wide_characters_are_wide() -> None:
    assert text_width("模型", 10) == 2 * text_width("ab", 10)


@pytest.mark.parametrize(
    ("other", "meets"), [(Box(5, 5, 15, 15), True), (Box(10, 0, 20, 10), False), (Box(0, 11, 9, 12), False)]
)
def test_boxes_that_share_an_area(other: Box, meets: bool) -> None:
    assert Box(0, 0, 10, 10).meets(other) is meets
    assert other.meets(Box(0, 0, 10, 10)) is meets


@given(PLACES)
def test_no_label_covers_another_or_a_point(at: list[tuple[float, float]]) -> None:
    texts = [[f"{number} rest_small_fp16.onnx", str(number)] for number in range(len(at))]
    labels = place(texts, at, BOUNDS, 11)
    assert all(label.box.inside(BOUNDS) for label in labels)
    assert not any(one.box.meets(other.box) for one, other in itertools.combinations(labels, 2))
    points = [Box(x - 5, y - 5, x + 5, y + 5) for x, y in at]
    assert not any(label.box.meets(point) for label in labels for point in points)


def test_a_lone_label_is_right_of_its_point() -> None:
    (label,) = place([["1 onnx"]], [(100, 100)], BOUNDS, 11)
    assert (label.text, label.anchor, label.x) == ("1 onnx", "start", 110)


def test_where_a_name_has_no_room_its_number_stands() -> None:
    labels = place([["a name that is wide", "7"]], [(20, 20)], Box(0, 0, 60, 40), 11)
    assert [label.text for label in labels] == ["7"]


def test_where_nothing_has_room_nothing_stands() -> None:
    assert place([["7"]], [(5, 5)], Box(0, 0, 10, 10), 11) == []


def test_labels_keep_clear_of_obstacles() -> None:
    (label,) = place([["1 onnx"]], [(100, 100)], BOUNDS, 11, [Box(100, 99, 360, 101)])
    assert not label.box.meets(Box(100, 99, 360, 101))
