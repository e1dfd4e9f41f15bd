"""Options of dataclasses, declared once beside their field: type, default, help, accepted values.

Flags of rest-export (``cli/export.py``) and the line that makes an artifact again are derived from here; the type of a
field says what it accepts (``values.py``).
"""

from __future__ import annotations

import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from enum import Enum
from types import MappingProxyType, NoneType
from typing import Annotated, Any

_KEY = "option"


@dataclass(frozen=True)
class Option:
    """How a field is written on a command line.

    Args:
        help: Its help; empty where another module adds the flag.
        flag: Its flag; empty for ``--`` and the name of the field.
        metavar: What stands for its value in the help.
        arguments: Of argparse's ``add_argument``, beside what the type says.
        read: Takes what argparse has read where the request is made, so that what it refuses is no wrong usage.
        write: Value -> its text; None leaves it out of the line.
        separator: Between several values in one word; empty where each is a word.
        off: Name of the switch that the text ``none`` turns off.
    """

    help: str
    flag: str = ""
    metavar: str | None = None
    arguments: Mapping[str, Any] = field(default_factory=dict)
    read: Callable[[Any], Any] | None = None
    write: Callable[[Any], str] | None = str
    separator: str = ""
    off: str = ""


def option(default: Any, help: str = "", **declared: Any) -> Any:
    """A field of a dataclass that is an option; arguments as of :class:`Option`."""
    return field(default=default, metadata={_KEY: Option(help, **declared)})


@dataclass(frozen=True)
class Declared:
    """An option with what its field says: name, default, and its type without None."""

    name: str
    default: Any
    kind: Any
    option: Option

    @property
    def flag(self) -> str:
        """As it is spelled."""
        return self.option.flag or f"--{self.name.replace('_', '-')}"

    def words(self, value: Any) -> list[str]:
        """A value as words of a command line."""
        if self.option.write is None:
            return []
        if self.kind is bool:
            return [self.flag]
        texts = [self._text(each) for each in (value if isinstance(value, tuple) else (value,))]
        if self.option.separator:
            return [self.flag, self.option.separator.join(texts)]
        if self.option.arguments.get("action") == "append":
            return [word for text in texts for word in (self.flag, text)]
        return [self.flag, *texts]

    def _text(self, value: Any) -> str:
        assert self.option.write is not None  # looked at before
        return str(value.value) if isinstance(value, Enum) else self.option.write(value)


def declared(kind: type) -> Mapping[str, Declared]:
    """Options of a dataclass, in order."""
    hints = typing.get_type_hints(kind, include_extras=True)
    found = {}
    for own in fields(kind):
        if _KEY in own.metadata:
            parts = [part for part in typing.get_args(hints[own.name]) if part is not NoneType]
            optional = typing.get_origin(hints[own.name]) not in (Annotated, tuple, None) and len(parts) == 1
            found[own.name] = Declared(
                own.name, own.default, parts[0] if optional else hints[own.name], own.metadata[_KEY]
            )
    return MappingProxyType(found)


def command_line(config: Any) -> list[str]:
    """The words that ask for the options of a config which are not at their default."""
    words = []
    for name, own in declared(type(config)).items():
        if own.option.off and not getattr(config, own.option.off):
            words += [own.flag, "none"]
        elif getattr(config, name) != own.default:
            words += own.words(getattr(config, name))
    return words
