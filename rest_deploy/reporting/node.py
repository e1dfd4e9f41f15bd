"""A value of a record together with the path at which it stands, so that the page can say where a number is from."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Node:
    """A value of a record. What is not there is a node of None, and so is all beneath it.

    Args:
        value: Of JSON.
        key: Its path, as in ``benchmark.cases[0].rounds``.
    """

    value: Any
    key: str

    def __getitem__(self, name: str) -> Node:
        """The value of a name in an object."""
        value = self.value.get(name) if isinstance(self.value, Mapping) else None
        return Node(value, f"{self.key}.{name}" if name.isidentifier() else f"{self.key}[{json.dumps(name)}]")

    def __iter__(self) -> Iterator[Node]:
        """The values of an array; none of anything else."""
        values = self.value if isinstance(self.value, Sequence) and not isinstance(self.value, str) else ()
        return (Node(value, f"{self.key}[{number}]") for number, value in enumerate(values))

    def entries(self) -> list[tuple[str, Node]]:
        """Names and values of an object."""
        return [(name, self[name]) for name in self.value] if isinstance(self.value, Mapping) else []

    @property
    def there(self) -> bool:
        """Whether there is a value."""
        return self.value is not None

    @property
    def text(self) -> str:
        """The value as text; empty where there is none."""
        return "" if self.value is None else str(self.value)

    @property
    def exact(self) -> str:
        """A number as JSON has it, so that nothing of it is lost; NumPy's own types included."""
        return repr(float(self.value)) if isinstance(self.value, float) else str(int(self.value))

    @property
    def number(self) -> float | None:
        """The value where it is a number."""
        return None if isinstance(self.value, bool) or not isinstance(self.value, int | float) else float(self.value)
