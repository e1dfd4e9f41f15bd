"""Enums and shapes of the TensorRT stand-in, as pybind11 makes them: no literals fit, and a Dims is no tuple."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

#: Values that NVIDIA documents, because they are shifted into bits; by the library's first version numbers.
_CREATION_FLAGS = {
    "10": {"EXPLICIT_BATCH": 0, "STRONGLY_TYPED": 1, "PREFER_AOT_PYTHON_PLUGINS": 2, "PREFER_JIT_PYTHON_PLUGINS": 3},
    "11": {"STRONGLY_TYPED": 0, "PREFER_AOT_PYTHON_PLUGINS": 1, "PREFER_JIT_PYTHON_PLUGINS": 2},
    "1": {"STRONGLY_TYPED": 0},
}
#: In order of their values, which code may compare.
SEVERITIES = ("INTERNAL_ERROR", "ERROR", "WARNING", "INFO", "VERBOSE")


class Enumerator:
    """A member of an enum: equal and ordered among its own kind alone, an int only through ``int()``."""

    __members__: Mapping[str, Any] = {}

    def __init__(self, value: int) -> None:
        self.value = value

    @property
    def name(self) -> str:
        """Its name; ``???`` for a value that the enum does not have."""
        return next((name for name, member in type(self).__members__.items() if member.value == self.value), "???")

    def __int__(self) -> int:
        return self.value

    __index__ = __int__
    __hash__ = __int__

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and other.value == self.value  # type: ignore[attr-defined]

    def __lt__(self, other: object) -> bool:
        return self.value < self._same(other)

    def __le__(self, other: object) -> bool:
        return self.value <= self._same(other)

    def __gt__(self, other: object) -> bool:
        return self.value > self._same(other)

    def __ge__(self, other: object) -> bool:
        return self.value >= self._same(other)

    def _same(self, other: object) -> int:
        if type(other) is not type(self):
            raise TypeError("Expected an enumeration of matching type!")
        return other.value  # type: ignore[attr-defined]

    def __str__(self) -> str:
        return f"{type(self).__name__}.{self.name}"

    def __repr__(self) -> str:
        return f"<{self}: {self.value}>"


_DIAGNOSTICS = (
    "VERSION_MISMATCH",
    "UNSUPPORTED_CC",
    "OLD_CUDA_DRIVER",
    "OLD_CUDA_RUNTIME",
    "INSUFFICIENT_GPU_MEMORY",
    "MALFORMED_ENGINE",
    "CUDA_ERROR",
)


def make_enum(name: str, members: Iterable[str], version: str) -> Any:
    """An enum whose values are other ones in every version, except where NVIDIA documents them."""
    members = tuple(members)
    made = type(name, (Enumerator,), {"__module__": "tensorrt"})
    if name == "NetworkDefinitionCreationFlag":
        fixed = _CREATION_FLAGS[version.split(".", maxsplit=1)[0]]
        values = [fixed[member] for member in members]
    elif name == "EngineInvalidityDiagnostics":  # bits that are or-ed together, as in TensorRT-RTX 1.7
        values = [1 << _DIAGNOSTICS.index(member) for member in members]
    else:
        count = len(members)
        values = random.Random(f"{name} of {version}").sample(range(count + 3, 5 * count + 40), count)
    made.__members__ = {member: made(value) for member, value in zip(members, values, strict=True)}
    for member, value in made.__members__.items():
        setattr(made, member, value)
    return made


def make_severity(version: str) -> Any:
    """``ILogger.Severity``, whose values keep their order."""
    made = make_enum("Severity", SEVERITIES, version)
    for member, value in zip(SEVERITIES, sorted(m.value for m in made.__members__.values()), strict=True):
        made.__members__[member].value = value
    return made


class Dims:
    """A shape; None is the invalid one, of length -1, that TensorRT gives for a tensor it does not know."""

    MAX_DIMS = 8
    __hash__ = None  # type: ignore[assignment]

    def __init__(self, shape: Sequence[int] | None = ()) -> None:
        self._sizes = None if shape is None else tuple(int(size) for size in shape)

    def __len__(self) -> int:
        return -1 if self._sizes is None else len(self._sizes)  # Python makes a ValueError of -1

    def __getitem__(self, index: Any) -> Any:
        return (self._sizes or ())[index]

    def __iter__(self) -> Iterator[int]:
        return iter(self._sizes or ())

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, (list, tuple)):
            raise TypeError("__eq__(): incompatible function arguments")
        return self._sizes == tuple(other)

    def __repr__(self) -> str:
        return repr(self._sizes or ())
