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
from dataclasses import fields, is_dataclass
from enum import Enum
from reprlib import Repr
from typing import Annotated, Any, NoReturn, TypeVar

from rest_deploy.errors import ConfigError, counted, listed

_T = TypeVar("_T")
#: Gives a value as it is used, or raises :class:`NotAccepted`. The text of a rule follows "accepted: ".
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


def _refuse(value: Any, accepted: object) -> NoReturn:
    raise NotAccepted(f"is {shown(value)}; accepted: {accepted}")


class Whole:
    """A whole number within bounds, not a bool and not a float."""

    def __init__(self, low: int, high: int) -> None:
        self.low, self.high = low, high

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


class Real:
    """A finite number within bounds, not a bool; ``over`` excludes ``low`` itself."""

    def __init__(self, low: float = -1e300, high: float = 1e300, over: bool = False) -> None:
        self.low, self.high, self.over = low, high, over

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


class Text:
    """Text that can be written as UTF-8.

    Args:
        most: Largest number of characters.
        pattern: Regular expression that the whole text must match; empty for none.
        words: The pattern in words, for a message.
    """

    def __init__(self, most: int = 10_000, pattern: str = "", words: str = "") -> None:
        self.most, self.pattern, self.words = most, pattern, words

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


class Many:
    """How many values a list or object may have."""

    def __init__(self, least: int = 0, most: int = 1 << 20) -> None:
        self.least, self.most = least, most

    def check(self, value: Any) -> None:
        """Refuse too many and too few."""
        if not self.least <= len(value) <= self.most:
            most = f"{self.least:,} to {self.most:,}" if self.least < self.most else f"{self.most:,}"
            raise NotAccepted(f"has {counted(len(value), 'value')}; accepted: {most}")


class Is:
    """A value with another type in Python, such as a mapping with the layout of a ``TypedDict``."""

    def __init__(self, kind: Any) -> None:
        self.kind = kind

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
    made: _T = reader(kind)(value)  # type: ignore[arg-type]  # a type is hashable
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
    for field in fields(value):
        own = getattr(value, field.name)
        if field.name not in _absent(kind) or not (own is None or own == {}):
            yield field.name, own


def hold(value: Any) -> None:
    """Check the fields of a frozen dataclass against their declarations, from its ``__post_init__``.

    Lists and arrays become tuples, NumPy numbers become Python numbers, texts become members of their enum. Fields
    without a declaration are not checked.

    Raises:
        ConfigError: A field does not match its declaration.
    """
    kind: Any = type(value)
    for name, take in _held(kind).items():
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
    return _hints(kind)[name]


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


class _Undeclared(TypeError):
    """A type that says nothing of its values."""


_PLAIN: Mapping[Any, _Reader] = {int: _WHOLE, float: _REAL, str: _TEXT}


@functools.cache
def reader(kind: Any) -> _Reader:  # noqa: PLR0911
    """A function that reads a plain value as a type, or refuses it.

    Python takes ``int | float`` and ``float | int`` for equal, so the first of them would be read for both: here no two
    declarations differ in their order alone.
    """
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
        rule: _Reader = kind
        return rule
    if origin in (typing.Union, types.UnionType):
        return _one_of_kinds(parts)
    if origin is tuple or origin is list:
        return _listed(origin, parts, _MANY)
    if origin is not None and issubclass(origin, Mapping):
        return functools.partial(_take_mapping, reader(parts[1]), _MANY)
    if isinstance(kind, type) and issubclass(kind, Enum):
        return functools.partial(_member, kind)
    if typing.is_typeddict(kind) or is_dataclass(kind):
        return functools.partial(_take_object, kind)
    raise _Undeclared(f"{kind} has no declaration")


def _annotated(kind: Any, rules: list[Any]) -> _Reader:
    if not rules:
        return reader(kind)
    (rule,) = rules
    if not isinstance(rule, Many):
        return reader(rule)
    origin, parts = typing.get_origin(kind), typing.get_args(kind)
    if origin in (tuple, list):
        return _listed(origin, parts, rule)
    return functools.partial(_take_mapping, reader(parts[1]), rule)


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


def _one_of_kinds(kinds: tuple[Any, ...]) -> _Reader:
    takes = [reader(kind) for kind in kinds if kind is not types.NoneType]
    optional = types.NoneType in kinds

    def take_one(value: Any) -> Any:
        if value is None and optional:
            return None
        words = []
        for take in takes:
            try:
                return take(value)
            except NotAccepted as exc:
                if len(takes) == 1:
                    raise
                words.append(exc.words.partition("accepted: ")[2])
        _refuse(value, ", or ".join(filter(None, words)))

    return take_one


def _listed(origin: Any, parts: tuple[Any, ...], many: Many) -> _Reader:
    any_length = origin is list or (len(parts) == 2 and parts[1] is Ellipsis)
    takes = [reader(part) for part in (parts[:1] if any_length else parts)]
    if not any_length:
        many = Many(len(takes), len(takes))

    def take_all(value: Any) -> Any:
        if not isinstance(value, (list, tuple)):
            _refuse(value, "a list or tuple" if any_length else f"a list or tuple of {len(takes)}")
        many.check(value)
        made: list[Any] = []
        try:
            for take, own in zip(takes * len(value) if any_length else takes, value, strict=True):
                made.append(take(own))
        except NotAccepted as exc:
            raise exc.within(len(made)) from None
        return origin(made)

    return take_all


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
    takes = {name: reader(own) for name, own in _hints(kind).items()}
    return functools.partial(_take_named, takes, frozenset(kind.__required_keys__))


@functools.cache
def _hints(kind: type) -> Mapping[str, Any]:
    """Types that the fields of a dataclass or a ``TypedDict`` declare."""
    return typing.get_type_hints(kind, include_extras=True)


@functools.cache
def _held(kind: type) -> Mapping[str, _Reader]:
    """Readers of the fields of a dataclass that declare something and are given to it."""
    found = {}
    for field in fields(kind):
        if field.init:
            with contextlib.suppress(_Undeclared):
                found[field.name] = reader(_hints(kind)[field.name])
    return found


@functools.cache
def _absent(kind: type) -> frozenset[str]:
    """Fields of a dataclass that may be missing."""
    return frozenset(name for name, hint in _hints(kind).items() if ABSENT in getattr(hint, "__metadata__", ()))


def _dataclass(kind: Any) -> _Reader:
    """Reads an object with its fields, or the other form that ``from_plain`` accepts.

    A field with ``init=False`` follows from other fields. It is written for readers of the JSON, and must agree.
    """
    if hasattr(kind, "from_plain"):
        take_plain = reader(kind.PLAIN)
        return lambda value: value if isinstance(value, kind) else _made(kind.from_plain, take_plain(value))
    takes = {field.name: reader(_hints(kind)[field.name]) for field in fields(kind)}
    given = frozenset(field.name for field in fields(kind) if field.init)
    needed = given - _absent(kind)

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
