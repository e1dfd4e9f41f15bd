"""How the TensorRT stand-in's classes look to code: only names of the version, every call recorded, types checked.

What a class does stands in a :class:`Behaviour`. Code under test holds its face, which has the names that the version's
file lists and no others, and can be given no attributes.
"""

from __future__ import annotations

import inspect
import sys
import traceback
import warnings
import weakref
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, NamedTuple

from tests.standins.enums import Dims, Enumerator

if TYPE_CHECKING:
    from tests.standins.tensorrt import FakeTensorRT


class Call(NamedTuple):
    """A call of a method, a constructor, or the setting of a property, whose name ends in ``=``."""

    name: str
    args: tuple[Any, ...]
    kwargs: dict[str, Any]


def takes(*kinds: str) -> Callable[[Any], Any]:
    """Say what a method takes, argument by argument: ``A|B`` is either of two, a ``?`` at the end allows None."""

    def mark(function: Any) -> Any:
        function.kinds = kinds
        return function

    return mark


class Behaviour:
    """What a class of the module does.

    Args:
        owner: The stand-in.
        logger: Told of failures.
    """

    #: Name of the class in the module.
    face_name = ""
    #: Whether code makes it by calling the class.
    constructible = False
    #: Whether it could not be made, so that its constructor raises what pybind11 makes of a null pointer.
    null = False

    def __init__(self, owner: FakeTensorRT, logger: Any) -> None:
        self.owner = owner
        self.logger = logger
        self._face: Any = lambda: None

    @property
    def face(self) -> Any:
        """What code under test holds."""
        face = self._face()
        if face is None:
            face = object.__new__(getattr(self.owner.module, self.face_name))
            face._behaviour = self
            self._face = weakref.ref(face)
        return face

    def log(self, severity: str, message: str) -> None:
        """Tell the logger; as in the real module, what it raises goes to stderr alone."""
        told(lambda: self.logger.log(getattr(self.owner.module.ILogger.Severity, severity), message), "log", None)

    def fail(self, message: str, result: Any = None) -> Any:
        """Tell the logger of an error, and give the result that stands for it."""
        self.log("ERROR", message)
        return result


def told(call: Callable[[], Any], what: str, failed: Any) -> Any:
    """Call code under test as the bindings do: an exception is printed and goes no further."""
    try:
        return call()
    except BaseException:
        print(f"[ERROR] Exception caught in {what}(): {traceback.format_exc()}", file=sys.stderr)
        return failed


def make_face(owner: FakeTensorRT, behaviour: type[Behaviour], members: Iterable[str]) -> Any:
    """The class of the module for a behaviour, with the members that the version has."""
    name = behaviour.face_name

    def construct(self: Any, *args: Any, **kwargs: Any) -> None:
        if not behaviour.constructible:
            raise TypeError(f"{owner.module.__name__}.{name}: No constructor defined!")
        call = Call(name, args, kwargs)
        owner.calls.append(call)
        bound = _bind(owner, name, behaviour.__init__, args, kwargs)
        logger = next(value for value in bound if isinstance(value, owner.module.ILogger))
        made = owner.answer(call, logger, lambda: behaviour(owner, *bound))
        if made is None or made.null:
            raise TypeError("pybind11::init(): factory function returned nullptr")
        self._behaviour = made
        made._face = weakref.ref(self)
        owner.alive.add(self)

    namespace: dict[str, Any] = {"__slots__": ("__weakref__", "_behaviour"), "__init__": construct}
    for member in members:
        found = getattr(behaviour, member, None)
        label = f"{name}.{member}"
        if member == "logger":
            namespace[member] = property(lambda self: self._behaviour.logger)
        elif found is None:
            namespace[member] = _missing(label)
        elif isinstance(found, property):
            namespace[member] = _property(owner, label, found)
        else:
            namespace[member] = _method(owner, label, found)
    if "__bool__" in vars(behaviour):
        namespace["__bool__"] = lambda self: bool(self._behaviour)
    return type(name, (), namespace | {"__module__": owner.module.__name__})


def _method(owner: FakeTensorRT, label: str, function: Any) -> Any:
    def method(self: Any, *args: Any, **kwargs: Any) -> Any:
        call = Call(label, args, kwargs)
        owner.calls.append(call)
        _warn(owner, label)
        bound = _bind(owner, label, function, args, kwargs)
        return _face(owner.answer(call, self._behaviour.logger, lambda: function(self._behaviour, *bound)))

    return method


def _property(owner: FakeTensorRT, label: str, found: property) -> property:
    getter, setter = found.fget, found.fset

    def get(self: Any) -> Any:
        _warn(owner, label)
        behaviour = self._behaviour
        return _face(owner.answer(Call(label, (), {}), behaviour.logger, lambda: getter(behaviour)))  # type: ignore[misc]

    def put(self: Any, value: Any) -> None:
        call = Call(f"{label}=", (value,), {})
        owner.calls.append(call)
        (bound,) = _bind(owner, label, setter, (value,), {})
        owner.answer(call, self._behaviour.logger, lambda: setter(self._behaviour, bound))  # type: ignore[misc]

    return property(get if getter else None, put if setter else None)


def _face(result: Any) -> Any:
    return result.face if isinstance(result, Behaviour) else result


def _missing(label: str) -> property:
    """A member that the version has and the stand-in does nothing for."""

    def refuse(self: Any, value: Any = None) -> Any:
        raise NotImplementedError(f"{label} is not in the TensorRT stand-in")

    return property(refuse, refuse)


def _warn(owner: FakeTensorRT, label: str) -> None:
    if label in owner.deprecated:
        warnings.warn(f"Use {owner.deprecated[label]} instead.", DeprecationWarning, stacklevel=3)


def _bind(owner: FakeTensorRT, label: str, function: Any, args: Any, kwargs: Any) -> tuple[Any, ...]:
    """Arguments as a behaviour takes them, or the TypeError of pybind11."""
    skipped = 2 if function.__name__ == "__init__" else 1  # self, and the owner that a constructor takes
    try:
        bound = inspect.signature(function).bind(*(None,) * skipped, *args, **kwargs)
        bound.apply_defaults()
        given = bound.args[skipped:]
        kinds = getattr(function, "kinds", ())
        return tuple(_convert(owner, value, kind) for value, kind in zip(given, kinds, strict=True))
    except (TypeError, ValueError) as exc:
        raise TypeError(f"{label}(): incompatible function arguments. {exc}; invoked with: {args}, {kwargs}") from exc


def _convert(owner: FakeTensorRT, value: Any, kind: str) -> Any:
    if kind.endswith("?"):
        return None if value is None else _convert(owner, value, kind[:-1])
    convert = _CONVERSIONS.get(kind)
    if convert is not None:
        return convert(value)
    wanted = tuple(getattr(owner.module, name) for name in kind.split("|") if hasattr(owner.module, name))
    if not isinstance(value, wanted):
        raise TypeError(f"{value!r} is no {kind}")
    return getattr(value, "_behaviour", value)


def _integer(value: Any) -> int:
    if isinstance(value, (float, str, bytes, Enumerator)) or not hasattr(value, "__int__"):
        raise TypeError(f"{value!r} is no integer")
    return int(value)


def _size(value: Any) -> int:
    if _integer(value) < 0:
        raise TypeError(f"{value!r} is negative")
    return _integer(value)


def _of(wanted: type) -> Callable[[Any], Any]:
    def check(value: Any) -> Any:
        if not isinstance(value, wanted):
            raise TypeError(f"{value!r} is no {wanted.__name__}")
        return value

    return check


def _shape(value: Any) -> tuple[int, ...]:
    if isinstance(value, (str, bytes)):
        raise TypeError(f"{value!r} is no shape")
    return tuple(_integer(size) for size in value)


_CONVERSIONS: dict[str, Callable[[Any], Any]] = {
    "int": _integer,
    "size": _size,
    "str": _of(str),
    "bool": _of(bool),
    "Buffer": lambda value: bytes(memoryview(value)),
    "Dims": lambda value: Dims(_shape(value)),
}
