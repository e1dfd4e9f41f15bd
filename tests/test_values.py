"""Ranges and types that are declared beside a name: what they take, what they refuse and what is said of it."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Annotated, Any, TypedDict

import numpy as np
import pytest

from rest_deploy.errors import ConfigError
from rest_deploy.specs import SEED, THREADS, ImageSize
from rest_deploy.values import (
    ABSENT,
    Is,
    Many,
    OneOf,
    Real,
    Scalar,
    Sha256,
    Text,
    Whole,
    check,
    hold,
    load_json,
    number,
    plain,
    read,
    rule_of,
    shown,
)


class Colour(str, Enum):
    RED = "red"
    BLUE = "blue"


class Figures(TypedDict):
    count: Annotated[int, Whole(0, 9)]


@dataclass(frozen=True)
class Inner:
    rows: Annotated[tuple[Annotated[float, Real(-1, 1)], ...], Many(1, 3)]
    size: ImageSize | None = None
    area: int | None = field(init=False, compare=False)

    def __post_init__(self) -> None:
        hold(self)
        object.__setattr__(self, "area", self.size and self.size.height * self.size.width)
        if sum(self.rows) > 1:
            raise ConfigError(f"rows {self.rows} are over 1 together")


@dataclass(frozen=True)
class Outer:
    name: Annotated[str, Text(5)]
    kind: Annotated[str, OneOf("a", "b")]
    colour: Colour
    inner: tuple[Inner, ...]
    counts: Mapping[str, Annotated[int, Whole(0, 9)]]
    figures: Annotated[Mapping[str, Any], Is(Figures)] | None
    side: Annotated[int, Whole(1, 9)] | Annotated[str, Text(3)]
    flag: bool = False
    more: Annotated[Mapping[str, Scalar], Many(0, 2), ABSENT] = field(default_factory=dict)


GOOD: dict[str, Any] = {
    "name": "x",
    "kind": "a",
    "colour": "red",
    "inner": [{"rows": [0.5, -1], "size": [3, 4], "area": 12}, {"rows": [1.0], "size": None, "area": None}],
    "counts": {"n": 3},
    "figures": {"count": 2},
    "side": 4,
    "flag": True,
}


def test_what_is_read_is_written_again() -> None:
    made = read(Outer, GOOD)
    assert made.colour is Colour.RED
    assert made.inner[0].size == ImageSize(3, 4)
    assert made.inner[0].rows == (0.5, -1.0)
    assert json.dumps(plain(made)) == json.dumps(
        {**GOOD, "inner": [{**GOOD["inner"][0], "rows": [0.5, -1.0]}, GOOD["inner"][1]]}
    )
    assert read(Outer, plain(made)) == made
    assert read(Outer, {**GOOD, "more": {"a": None, "b": 1.5}}).more == {"a": None, "b": 1.5}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"name": 3}, r"^name is 3; accepted: text of at most 5 characters"),
        ({"name": "123456"}, r"^name is '123456'"),
        ({"name": "\ud800"}, r"^name is '\\ud800'"),
        ({"kind": "c"}, r"^kind is 'c'; accepted: a, b"),
        ({"kind": []}, r"^kind is \[\]"),
        ({"colour": "green"}, r"^colour is 'green'; accepted: red, blue"),
        ({"colour": {}}, r"^colour is \{\}"),
        ({"inner": {}}, r"^inner is \{\}; accepted: a list or tuple"),
        ({"inner": [{"rows": []}]}, r"^inner\[0\]\.size is missing|^inner\[0\]\.rows has 0 values; accepted: 1 to 3"),
        ({"inner": [{"rows": [2], "size": None}]}, r"^inner\[0\]\.rows\[0\] is 2; accepted: a number from -1 to 1"),
        ({"inner": [{"rows": [True], "size": None}]}, r"^inner\[0\]\.rows\[0\] is True"),
        ({"inner": [{"rows": [1, 1], "size": None}]}, r"^inner\[0\] .*: rows .* are over 1"),
        ({"inner": [{"rows": [1], "size": [0, 4]}]}, r"^inner\[0\]\.size\[0\] is 0; accepted: a whole number from 1"),
        ({"inner": [{"rows": [1], "size": [4]}]}, r"^inner\[0\]\.size has 1 value; accepted: 2$"),
        ({"inner": [{"rows": [1], "size": [2, 2], "area": 5}]}, r"^inner\[0\]\.area is 5; accepted: 4"),
        ({"counts": {"n": 10}}, r"^counts\.n is 10; accepted: a whole number from 0 to 9"),
        ({"counts": {"a b\x1b": 10}}, r"^counts\['a b\\x1b'\] is 10"),
        ({"figures": {}}, r"^figures\.count is missing"),
        ({"figures": {"count": 1, "other": 2}}, r"^figures\.other is unknown; accepted: count"),
        ({"side": 10}, r"^side is 10; accepted: a whole number from 1 to 9, or text of at most 3 characters"),
        ({"side": None}, r"^side is None"),
        ({"flag": 1}, r"^flag is 1; accepted: true or false"),
        ({"more": {"a": []}}, r"^more\.a is \[\]"),
        ({"more": {"a": math.nan}}, r"^more\.a is nan"),
        ({"more": {"a": 1, "b": 2, "c": 3}}, r"^more has 3 values; accepted: 0 to 2"),
        ({"unheard": 1}, r"^unheard is unknown; accepted: name, kind"),
    ],
)
def test_what_is_not_as_declared_is_told_with_its_place(change: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        read(Outer, {**GOOD, **change})


@pytest.mark.parametrize(
    "value", [True, False, 1.0, "1", None, b"1", [1], np.True_, np.float32(1), math.nan, 0, 1025, 10**400]
)
def test_no_whole_number_in_range(value: object) -> None:
    with pytest.raises(ConfigError, match=r"^threads is .*; accepted: a whole number from 1 to 1,024$"):
        check(THREADS, value, "threads")


@pytest.mark.parametrize("value", [1, 1024, np.int8(3), np.uint64(7), np.array(5)])
def test_whole_numbers(value: Any) -> None:
    taken = check(THREADS, value, "threads")
    assert type(taken) is int
    assert taken == value


@pytest.mark.parametrize(
    "value", [True, "1", None, 1j, math.nan, math.inf, -math.inf, 10**400, -0.1, 1.1, [0.5], np.True_]
)
def test_no_number_in_range(value: object) -> None:
    with pytest.raises(ConfigError, match=r"^share is .*; accepted: a number from 0 to 1$"):
        check(Real(0, 1), value, "share")


@pytest.mark.parametrize("value", [0, 1, 0.5, -0.0, np.float32(0.25), np.int64(1)])
def test_numbers(value: Any) -> None:
    taken = check(Real(0, 1), value, "share")
    assert type(taken) is float
    assert taken == value


def test_a_bound_may_be_left_out() -> None:
    with pytest.raises(ConfigError, match="accepted: a number over 0 to 1"):
        check(Real(0, 1, over=True), 0.0, "share")


@pytest.mark.parametrize("text", ["0" * 63, "0" * 65, "G" * 64, "0" * 63 + "\n", "A" * 64])
def test_no_sha_256(text: str) -> None:
    with pytest.raises(ConfigError, match="accepted: a SHA-256"):
        read(Sha256, text)  # type: ignore[arg-type]


@pytest.mark.parametrize(("text", "value"), [("5", 5), (" 5 ", 5), ("1024", 1024)])
def test_numbers_as_somebody_types_them(text: str, value: int) -> None:
    assert number(text, THREADS) == value


@pytest.mark.parametrize("text", ["", "five", "1.0", "1e2", "0x10", "nan", "9" * 400, "9" * 5000, "1,000", "0", "-1"])
def test_text_that_is_no_number_of_threads(text: str) -> None:
    with pytest.raises(ConfigError, match="accepted: a whole number from 1 to 1,024"):
        number(text, THREADS)


def test_a_flag_reads_what_a_field_declares() -> None:
    assert number("9", rule_of(Outer, "side")) == 9
    with pytest.raises(ConfigError, match="is 10; accepted: a whole number from 1 to 9"):
        number("10", rule_of(Outer, "side"))


def test_seeds_are_those_of_torch() -> None:
    assert check(SEED, 2**64 - 1, "seed") == 2**64 - 1
    with pytest.raises(ConfigError, match="seed is 18446744073709551616"):
        check(SEED, 2**64, "seed")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"a": 1, "a": 2}', "'a' stands twice"),
        ('{"x": [{"a": 1, "b": 2, "a": 1}]}', "'a' stands twice"),
        ("NaN", "NaN is not"),
        ('{"a": -Infinity}', "-Infinity is not"),
        ("9" * 5000, "digits"),
        ("[" * 100_000, "nested too deeply"),
        ('{"a": ' * 100_000, "nested too deeply"),
        ("{", "line 1"),
    ],
    ids=lambda value: value[:20],
)
def test_json_that_readers_differ_on_is_none(text: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        load_json(text)


def test_whatever_it_is_it_is_shown_short_and_on_one_line() -> None:
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]
    for value in (
        deep,
        "x" * 10_000,
        "a\nb\x1b",
        10**5000,
        {"k" * 500: deep},
        list(range(9999)),
        np.zeros(9999),
        math.nan,
    ):
        assert len(shown(value)) < 400
        assert "\n" not in shown(value)
    while deep:  # from the outside in, as letting it go at once recurses
        deep = deep.pop()


def test_held_fields_become_what_they_are_declared_as() -> None:
    made = Inner([np.float32(0.5)], (3, np.int64(4)))  # type: ignore[arg-type]
    assert made.rows == (0.5,)
    assert made.size == ImageSize(3, 4)
    with pytest.raises(ConfigError, match=r"^rows\[1\] is 'x'"):
        Inner((0.5, "x"))  # type: ignore[arg-type]


def test_of_many_names_one_that_stands_twice_is_found() -> None:
    """In one pass: asking for each name how often it stands took half a minute for 400 kB."""
    names = [f'"{number}":0' for number in range(300_000)]
    with pytest.raises(ValueError, match="'299999' stands twice"):
        load_json("{" + ",".join([*names, names[-1]]) + "}")


def test_what_was_given_is_told_on_one_line_and_as_it_was() -> None:
    with pytest.raises(ConfigError, match=r"^threads is False; accepted: a whole number"):
        check(THREADS, False, "threads")
    with pytest.raises(ConfigError) as refused:
        check(THREADS, np.eye(3), "threads")
    assert "\n" not in str(refused.value)
