"""Values that stand where nobody expects them, as JSON text, and every place of a record that they can stand at."""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import onnx

from rest_deploy.artifact.onnx_file import sealed

#: Name -> JSON text. Some are none: what a parser makes of them is its own affair.
ODD: Mapping[str, str] = {
    "null": "null",
    "true": "true",
    "false": "false",
    "0": "0",
    "1": "1",
    "-1": "-1",
    "2**31": str(2**31),
    "2**63": str(2**63),
    "2**64": str(2**64),
    "400 digits": "9" * 400,
    "5000 digits": "9" * 5000,
    "0.5": "0.5",
    "1.0": "1.0",
    "-0.0": "-0.0",
    "NaN": "NaN",
    "Infinity": "Infinity",
    "-Infinity": "-Infinity",
    "1e308": "1e308",
    "1e999": "1e999",
    "empty": '""',
    "x": '"x"',
    "O": '"O"',
    "float64": '"float64"',
    "float16": '"float16"',
    "sigmoid": '"sigmoid"',
    "a megabyte": json.dumps("a" * (1 << 20)),
    "a NUL": json.dumps("\0"),
    "half a character": r'"\ud800"',
    "a path": '"../../etc/passwd"',
    "an escape": json.dumps("\x1b[31m"),
    "a date": '"2024-02-30T25:00:00Z"',
    "a number as text": json.dumps("9" * 40),
    "format fields": '"{0.__class__} %s %n"',
    "[]": "[]",
    "[[]]": "[[[[]]]]",
    "{}": "{}",
    "{x}": '{"x": {"x": [null]}}',
    "a name twice": '{"x": 1, "x": 2}',
    "5000 deep": "[" * 5000 + "]" * 5000,
    "100,000 zeros": "[" + "0," * 99_999 + "0]",
    "another type's object": '{"name": "image", "dtype": "float32", "shape": [1, 3, 8, 8]}',
}

Place = tuple[str | int, ...]


def places(values: Any, place: Place = ()) -> Iterator[Place]:
    """Every leaf and every container of plain values, the whole among them."""
    yield place
    inner = values.items() if isinstance(values, dict) else enumerate(values) if isinstance(values, list) else ()
    for key, value in inner:
        yield from places(value, (*place, key))


@functools.lru_cache(maxsize=4)
def _around(text: str, place: Place) -> tuple[str, str]:
    """What stands before a place of JSON, and behind it."""
    if not place:
        return "", ""
    made = json.loads(text)
    inner = made
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = mark = "the odd value stands here"
    before, _, behind = json.dumps(made).partition(json.dumps(mark))
    return before, behind


def with_odd(text: str, place: Place, odd: str) -> str:
    """JSON text with other text at a place."""
    return odd.join(_around(text, place))


def bare_graph(source: Path) -> bytes:
    """An ONNX file without its metadata."""
    model = onnx.load(source)
    del model.metadata_props[:]
    return model.SerializeToString()


def sealed_with(graph: bytes, target: Path, text: str) -> Path:
    """A graph with any text as its record, sealed."""
    target.write_bytes(sealed(graph, text))
    return target
