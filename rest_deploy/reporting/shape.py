"""What a JSON value must look like, as data, and the check of a value against it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rest_deploy.errors import ArtifactError

_LARGEST = 1e100  # far past float32; sums and squares of such numbers are still finite
_SHOWN = 60  # characters of a value in an error


@dataclass(frozen=True)
class Leaf:
    """A value without parts.

    Args:
        accepted: In words.
        accepts: Whether a value is one.
    """

    accepted: str
    accepts: Callable[[Any], bool]


@dataclass(frozen=True)
class Each:
    """An object with any names, and values of one shape."""

    shape: Shape


@dataclass(frozen=True)
class Maybe:
    """A shape, or null."""

    shape: Shape


#: An object is a mapping of names to shapes, an array is a tuple of the one shape of its values.
Shape = Leaf | Each | Maybe | Mapping[str, Any] | tuple[Any]


def _is_number(value: Any) -> bool:
    is_one = isinstance(value, int | float) and not isinstance(value, bool)
    return is_one and abs(value) <= _LARGEST  # of NaN this is False


TEXT = Leaf("text", lambda value: isinstance(value, str))
FLAG = Leaf("true or false", lambda value: isinstance(value, bool))
NUMBER = Leaf("a finite number or null", lambda value: value is None or _is_number(value))
COUNT = Leaf("a whole number from 0 up", lambda value: isinstance(value, int) and _is_number(value) and value >= 0)


def check_shape(value: Any, shape: Shape, key: str) -> None:
    """Make sure that a value has a shape; a missing name counts as null, names that are not asked for are let be.

    Raises:
        ArtifactError: It has not; names where, what is there and what is accepted.
    """
    if isinstance(shape, Maybe):
        if value is not None:
            check_shape(value, shape.shape, key)
    elif isinstance(shape, Leaf):
        _require(shape.accepts(value), value, shape.accepted, key)
    elif isinstance(shape, tuple):
        _require(isinstance(value, Sequence) and not isinstance(value, str), value, "an array", key)
        for number, one in enumerate(value):
            check_shape(one, shape[0], f"{key}[{number}]")
    else:
        _require(isinstance(value, Mapping) and all(isinstance(name, str) for name in value), value, "an object", key)
        shapes = dict.fromkeys(value, shape.shape) if isinstance(shape, Each) else shape
        for name, one in shapes.items():
            check_shape(value.get(name), one, f"{key}.{name}")


def shown(value: Any) -> str:
    """A value for an error: on one line, and short."""
    text = repr(value) if not isinstance(value, Mapping | Sequence) or isinstance(value, str) else type(value).__name__
    return "null" if value is None else text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."


def _require(good: bool, value: Any, accepted: str, key: str) -> None:
    if not good:
        raise ArtifactError(f"{key} is {shown(value)}, accepted: {accepted}; make the record again")
