"""What a value may be, declared once beside its name; fields of records, Python arguments and flags are checked by it.

A field declares it in its type: ``batch: Annotated[int, Whole(1, 1024)]``. :func:`read` makes a dataclass from JSON,
:func:`plain` writes it, :func:`hold` checks one that was made in Python, and :func:`number` reads a flag's text.
msgspec does not serve here: it ignores unknown names, does not say where in a mapping a value is, accepts anything for
Any, and does not check flags and arguments.
"""

from __future__ import annotations

import contextlib
import functools
import json
import math
import numbers
import operator
import re
import types
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, is_dataclass
from enum import Enum
from reprlib import Repr
from typing import Annotated, Any, NoReturn, Protocol, TypeVar

from rest_deploy.errors import ConfigError, counted, listed

_T = TypeVar("_T")
_Reader = Callable[[Any], Any]


class _Short(Repr):
    """What was given, for a message: always one short line."""

    def __init__(self) -> None:
        super().__init__()
        self.maxlevel, self.maxstring, self.maxother = 2, 60, 60

    def repr_instance(self, x: Any, level: int) -> str:
        return " ".join(super().repr_instance(x, level).split())

    def repr_int(self, x: int, level: int) -> str:  # level: as Repr calls it
        return str(x) if x.bit_length() <= 128 else "a number of many digits"


shown = _Short().repr


class NotAccepted(ConfigError):
    """A value that is not accepted; each level above adds its name to the place."""

    def __init__(self, words: str, *place: str | int) -> None:
        super().__init__(words)
        self.words, self.place = words, place

    def within(self, name: str | int) -> NotAccepted:
        """The same, seen from one level up."""
        return NotAccepted(self.words, name, *self.place)

    def __str__(self) -> str:
        plain = (isinstance(part, str) and len(part) <= 60 and part.isidentifier() for part in self.place)
        parts = (
            f".{part}" if is_plain else f"[{shown(part)}]" for part, is_plain in zip(self.place, plain, strict=True)
        )
        return f"{''.join(parts).removeprefix('.')} {self.words}".lstrip()


class Rule(Protocol):
    """What a value must be; its text follows "accepted: "."""

    def __call__(self, value: Any) -> Any:
        """The value as it is used.

        Raises:
            NotAccepted: It is not accepted.
        """


def _refuse(value: Any, accepted: object) -> NoReturn:
    raise NotAccepted(f"is {shown(value)}; accepted: {accepted}")


@dataclass(frozen=True, eq=False, repr=False)
class Whole:
    """A whole number within bounds, not a bool and not a float."""

    low: int
    high: int

    def __call__(self, value: Any) -> int:
        if type(value).__name__ in ("bool", "bool_"):  # Python's, NumPy 2's; NumPy 1's, which counts as an index
            _refuse(value, self)
        if type(value) is not int:  # as NumPy's
            try:
                value = operator.index(value)
            except TypeError:
                _refuse(value, self)
        if not self.low <= value <= self.high:
            _refuse(value, self)
        return int(value)

    def __str__(self) -> str:
        return f"a whole number from {self.low:,} to {self.high:,}"


@dataclass(frozen=True, eq=False, repr=False)
class Real:
    """A finite number within bounds, not a bool; ``over`` excludes ``low`` itself."""

    low: float = -1e300
    high: float = 1e300
    over: bool = False

    def __call__(self, value: Any) -> float:
        found = value if type(value) is float else math.nan
        if type(value) is not float and isinstance(value, numbers.Real) and not isinstance(value, bool):
            with contextlib.suppress(OverflowError):  # more digits than a float has
                found = float(value)
        if not self.low <= found <= self.high or (self.over and found == self.low):
            _refuse(value, self)
        return found

    def __str__(self) -> str:
        return f"a number {'over' if self.over else 'from'} {self.low:g} to {self.high:g}"


@dataclass(frozen=True, eq=False, repr=False)
class Text:
    """Text that can be written as UTF-8.

    Args:
        most: Largest number of characters.
        pattern: Regular expression that the whole text must match; empty for none.
        words: The pattern in words, for a message.
    """

    most: int = 10_000
    pattern: str = ""
    words: str = ""

    def __call__(self, value: Any) -> str:
        if not isinstance(value, str) or len(value) > self.most:
            _refuse(value, self)
        if not value.isascii() and any("\ud800" <= character <= "\udfff" for character in value):
            _refuse(value, self)  # half a character, which cannot be written to a file or terminal
        if self.pattern and not re.fullmatch(self.pattern, value):
            _refuse(value, self)
        return value

    def __str__(self) -> str:
        return self.words or f"text of at most {self.most:,} characters"


class OneOf:
    """One of some texts."""

    def __init__(self, *texts: str) -> None:
        self.texts = texts

    def __call__(self, value: Any) -> str:
        if not isinstance(value, str) or value not in self.texts:
            _refuse(value, self)
        return value

    def __str__(self) -> str:
        return ", ".join(self.texts)


@dataclass(frozen=True, eq=False, repr=False)
class Many:
    """How many values a list or object may have."""

    least: int = 0
    most: int = 1 << 20

    def check(self, value: Any) -> None:
        """Refuse too many and too few."""
        if not self.least <= len(value) <= self.most:
            most = f"{self.least:,} to {self.most:,}" if self.least < self.most else f"{self.most:,}"
            raise NotAccepted(f"has {counted(len(value), 'value')}; accepted: {most}")


@dataclass(frozen=True, eq=False, repr=False)
class Is:
    """A value with another type in Python, such as a mapping with the layout of a ``TypedDict``."""

    kind: Any

    def __call__(self, value: Any) -> Any:
        return reader(self.kind)(value)


class _Absent:
    """Marks a field that may be missing from JSON: its default is used then. An empty value is not written."""


ABSENT = _Absent()

#: SHA-256 as 64 hexadecimal digits.
Sha256 = Annotated[str, Text(64, "[0-9a-f]{64}", "a SHA-256: 64 digits of 0-9 and a-f")]
#: A value of JSON without parts.
Scalar = None | bool | int | float | str

_WHOLE, _REAL, _TEXT, _KEY, _MANY = Whole(-(1 << 63), (1 << 63) - 1), Real(), Text(), Text(1000), Many()


def read(kind: type[_T], value: Any) -> _T:
    """Make a value of a type from plain values, as in JSON, and check each against its declaration.

    Raises:
        ConfigError: A value is not accepted; the message says where, what was got and what is accepted.
    """
    made: _T = reader(kind)(value)
    return made


def plain(value: Any) -> Any:
    """The inverse of :func:`read`: plain values for JSON."""
    if hasattr(type(value), "from_plain"):
        return list(value.to_plain())
    if is_dataclass(value) and not isinstance(value, type):
        return {name: plain(own) for name, own in _written(value)}
    if isinstance(value, Mapping):
        return {name: plain(own) for name, own in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(own) for own in value]
    return value.value if isinstance(value, Enum) else value


def _written(value: Any) -> typing.Iterator[tuple[str, Any]]:
    kind: Any = type(value)
    absent = _fields_of(kind).absent
    for field in fields(value):
        own = getattr(value, field.name)
        if field.name not in absent or not (own is None or own == {}):
            yield field.name, own


def hold(value: Any) -> None:
    """Check the fields of a frozen dataclass against their declarations, from its ``__post_init__``.

    Lists and arrays become tuples, NumPy numbers become Python numbers, texts become members of their enum. Fields
    without a declaration are not checked.

    Raises:
        ConfigError: A field does not match its declaration.
    """
    kind: Any = type(value)
    for name, take in _fields_of(kind).held.items():
        own = getattr(value, name)
        try:
            taken = take(own.tolist() if hasattr(own, "tolist") else own)
        except NotAccepted as exc:
            raise exc.within(name) from None
        if taken is not own:
            object.__setattr__(value, name, taken)


def check(rule: Any, value: Any, name: str) -> Any:
    """Check one argument against a rule, or against a type that declares one.

    Raises:
        ConfigError: It is not accepted.
    """
    try:
        return reader(rule)(value)
    except NotAccepted as exc:
        raise exc.within(name) from None


def rule_of(kind: type, name: str) -> Any:
    """What a field of a dataclass declares."""
    return typing.get_type_hints(kind, include_extras=True)[name]


def number(text: str, rule: Any) -> Any:
    """Read a typed number.

    Raises:
        ConfigError: It is not a number, or the rule does not accept it.
    """
    for kind in (int, float):
        try:
            given = kind(text) if len(text) <= 400 else text
        except ValueError:
            continue
        return reader(rule)(given)
    return reader(rule)(text)


def load_json(text: str) -> Any:
    """Parse JSON; refuse names that stand twice in an object, and NaN.

    Raises:
        ValueError: It is not such JSON; the message is one line.
    """
    try:
        return json.loads(text, parse_constant=_no_constant, object_pairs_hook=distinct)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object. If a name stands twice, some readers take the first and others the last.

    Raises:
        ValueError: A name stands twice.
    """
    made: dict[str, Any] = {}
    for name, value in pairs:
        if name in made:
            raise ValueError(f"the name {shown(name)} stands twice in an object")
        made[name] = value
    return made


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON number")


def reader(kind: Any) -> _Reader:
    """A function that reads a plain value as a type, or refuses it."""
    return _cached_reader(kind)


@functools.cache
def _cached_reader(kind: Any) -> _Reader:
    found = _reader_or_none(kind)
    if found is None:
        raise TypeError(f"{kind} has no declaration")
    return found


_PLAIN: Mapping[Any, _Reader] = {int: _WHOLE, float: _REAL, str: _TEXT}


def _reader_or_none(kind: Any) -> _Reader | None:  # noqa: PLR0911
    origin, parts = typing.get_origin(kind), typing.get_args(kind)
    if origin is Annotated:
        return _annotated(parts[0], [rule for rule in parts[1:] if rule is not ABSENT])
    if kind in _PLAIN:
        return _PLAIN[kind]
    if kind is bool:
        return _flag
    if kind in (None, types.NoneType):
        return _null
    if callable(kind) and not isinstance(kind, type) and origin is None:
        return kind  # it is a rule
    if origin in (typing.Union, types.UnionType):
        return _one_of_kinds(parts)
    if origin is tuple or origin is list:
        return _listed(origin, parts, _MANY)
    if origin is not None and issubclass(origin, Mapping):
        return _mapping(parts[1], _MANY)
    if typing.is_typeddict(kind):
        return functools.partial(_take_object, kind)
    if isinstance(kind, type) and issubclass(kind, Enum):
        return functools.partial(_member, kind)
    return functools.partial(_take_object, kind) if is_dataclass(kind) else None


def _annotated(kind: Any, rules: list[Any]) -> _Reader | None:
    if not rules:
        return _reader_or_none(kind)
    (rule,) = rules
    if isinstance(rule, Many):
        origin, parts = typing.get_origin(kind), typing.get_args(kind)
        return _listed(origin, parts, rule) if origin in (tuple, list) else _mapping(parts[1], rule)
    taken: _Reader = rule
    return taken


def _flag(value: Any) -> bool:
    if not isinstance(value, bool):
        _refuse(value, "true or false")
    return value


def _null(value: Any) -> None:
    if value is not None:
        _refuse(value, "null")


def _member(kind: type[Enum], value: Any) -> Enum:
    try:
        return kind(value)
    except (ValueError, TypeError):
        _refuse(value, ", ".join(str(member.value) for member in kind))


def _one_of_kinds(kinds: tuple[Any, ...]) -> _Reader | None:
    takes = [_reader_or_none(kind) for kind in kinds if kind is not types.NoneType]
    if any(take is None for take in takes):
        return None
    optional = types.NoneType in kinds

    def take_one(value: Any) -> Any:
        if value is None and optional:
            return None
        words = []
        for take in takes:
            assert take is not None
            try:
                return take(value)
            except NotAccepted as exc:
                if len(takes) == 1:
                    raise
                words.append(exc.words.partition("accepted: ")[2])
        _refuse(value, ", or ".join(filter(None, words)))

    return take_one


def _listed(origin: Any, parts: tuple[Any, ...], many: Many) -> _Reader | None:
    any_length = origin is list or (len(parts) == 2 and parts[1] is Ellipsis)
    takes = [_reader_or_none(part) for part in (parts[:1] if any_length else parts)]
    if any(take is None for take in takes):
        return None
    if not any_length:
        many = Many(len(takes), len(takes))

    def take_all(value: Any) -> Any:
        if not isinstance(value, (list, tuple)):
            _refuse(value, "a list or tuple" if any_length else f"a list or tuple of {len(takes)}")
        many.check(value)
        made: list[Any] = []
        try:
            for take, own in zip(takes * len(value) if any_length else takes, value, strict=True):
                made.append(take(own))  # type: ignore[misc]  # none is None
        except NotAccepted as exc:
            raise exc.within(len(made)) from None
        return origin(made)

    return take_all


def _mapping(part: Any, many: Many) -> _Reader | None:
    take = _reader_or_none(part)
    return None if take is None else functools.partial(_take_mapping, take, many)


def _take_mapping(take: _Reader, many: Many, value: Any) -> dict[str, Any]:
    _check_object(value)
    many.check(value)
    made = {}
    for name, own in value.items():
        try:
            made[_KEY(name)] = take(own)
        except NotAccepted as exc:
            raise exc.within(name if isinstance(name, str) else shown(name)) from None
    return made


def _check_object(value: Any) -> None:
    if not isinstance(value, Mapping):
        _refuse(value, "an object")


def _take_named(takes: Mapping[str, _Reader], needed: frozenset[str], value: Any) -> dict[str, Any]:
    """The values of an object with known names."""
    _check_object(value)
    unknown = [name if isinstance(name, str) else shown(name) for name in value if name not in takes]
    if unknown:
        raise NotAccepted(f"is unknown; accepted: {listed(list(takes))}; a later version may know it", unknown[0])
    made = {}
    for name, take in takes.items():
        if name not in value:
            if name in needed:
                raise NotAccepted("is missing", name)
            continue
        try:
            made[name] = take(value[name])
        except NotAccepted as exc:
            raise exc.within(name) from None
    return made


def _take_object(kind: Any, value: Any) -> Any:
    return _object_reader(kind)(value)


@functools.cache  # and not before it is needed: most records have no engine, and its fields take milliseconds
def _object_reader(kind: Any) -> _Reader:
    return _typed_dict(kind) if typing.is_typeddict(kind) else _dataclass(kind)


def _typed_dict(kind: Any) -> _Reader:
    takes = {name: reader(own) for name, own in typing.get_type_hints(kind, include_extras=True).items()}
    return functools.partial(_take_named, takes, frozenset(kind.__required_keys__))


@dataclass(frozen=True, eq=False, repr=False)
class _Fields:
    """What a dataclass declares: types of its fields, readers of those that say something, and which may be missing."""

    hints: Mapping[str, Any]
    held: Mapping[str, _Reader]
    absent: frozenset[str]


@functools.cache
def _fields_of(kind: type) -> _Fields:
    hints = typing.get_type_hints(kind, include_extras=True)
    own = {field.name: hints[field.name] for field in fields(kind)}
    absent = frozenset(name for name, hint in own.items() if ABSENT in getattr(hint, "__metadata__", ()))
    takes = {field.name: _reader_or_none(own[field.name]) for field in fields(kind) if field.init}
    return _Fields(own, {name: take for name, take in takes.items() if take is not None}, absent)


def _dataclass(kind: Any) -> _Reader:
    """Reads an object with its fields, or the other form that ``from_plain`` accepts.

    A field with ``init=False`` follows from other fields. It is written for readers of the JSON, and must agree.
    """
    if hasattr(kind, "from_plain"):
        take_plain = reader(kind.PLAIN)
        return lambda value: value if isinstance(value, kind) else _made(kind.from_plain, take_plain(value))
    told = _fields_of(kind)
    takes = {field.name: reader(told.hints[field.name]) for field in fields(kind)}
    given = frozenset(field.name for field in fields(kind) if field.init)
    needed = given - told.absent

    def take(value: Any) -> Any:
        if isinstance(value, kind):
            return value
        values = _take_named(takes, needed, value)
        made = _made(lambda: kind(**{name: own for name, own in values.items() if name in given}))
        for name, own in values.items():
            if name not in given and own != getattr(made, name):
                raise NotAccepted(
                    f"is {shown(own)}; accepted: {plain(getattr(made, name))}, which follows from the other fields",
                    name,
                )
        return made

    return take


def _made(make: Callable[..., _T], *given: Any) -> _T:
    try:
        return make(*given)
    except NotAccepted:
        raise
    except ConfigError as exc:  # each value is accepted alone, but not with the others
        raise NotAccepted(f"is not accepted: {exc}") from exc
