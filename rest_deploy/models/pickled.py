"""A pickle read as data: nothing in it is imported, nothing is called.

PyTorch's files are pickles, and a pickle is a program. This is a machine for it that has a value for each constant and
container, a few functions of ours for names that the reader knows (a tensor, an ``OrderedDict``), and for every other
class or function one inert object that keeps what the file says of it. Training scripts put settings, paths, NumPy
numbers and classes of their own beside the weights; here they are read, and do nothing.

What a machine could be made to spend is bounded: the operations of a pickle, the length of numbers, and the keys of a
mapping, which are hashed.
"""

from __future__ import annotations

import pickletools
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from rest_deploy.errors import one_line

#: Of one pickle. A training checkpoint of rest_large with its moving average and its optimizer has 0.3 million.
MAX_OPERATIONS = 3_000_000
#: Of a name that the reader knows; ten are enough for every tensor.
MAX_ARGUMENTS = 10
_MAX_NAME = 1000  # characters of the name of a class or a function
_MAX_MESSAGE = 4000  # characters; a line that converts a file has its path in it
_MAX_INTEGER = 64  # bytes
_MAX_KEY = 16  # entries of a tuple that is a key
_MAX_LINE = 1 << 16  # bytes of a name or a number in the text protocol

#: Modules that no checkpoint needs anything of, whatever is asked of them.
_ATTACK_MODULES = frozenset(
    "os posix nt subprocess sys runpy importlib ctypes _ctypes pty socket _socket shutil pickle _pickle marshal "  # noqa: SIM905
    "commands popen2 webbrowser pip pdb bdb timeit cffi _posixsubprocess multiprocessing.util".split()
)
#: Inside of another module's name these too lead to the module itself: torch.serialization.os.system.
_ATTACK_INSIDE = frozenset(
    "os posix nt subprocess sys importlib ctypes pickle marshal builtins __builtins__".split()  # noqa: SIM905
)
_BUILTINS = frozenset({"builtins", "__builtin__", "__builtins__"})
_ATTACK_BUILTINS = frozenset(
    "eval exec execfile compile __import__ open file input raw_input breakpoint globals locals help exit quit".split()  # noqa: SIM905
)
_ATTACK_NAMES = frozenset(
    {
        "torch.load",
        "torch.jit.load",
        "torch.hub.load",
        "torch.serialization.load",
        "torch.ops.load_library",
        "numpy.load",
        "joblib.load",
        "code.interact",
        "code.InteractiveInterpreter",
        "code.InteractiveConsole",
        "numpy.testing._private.utils.runstring",
        "io.open",
        "_io.open",
        "_io.FileIO",
        "_io.open_code",
    }
)


class UnreadableError(Exception):
    """Why a file is not read, in one line that does not grow with the file; whoever opened it adds its path."""

    def __init__(self, message: str) -> None:
        line = " ".join(message.splitlines())
        super().__init__(line if len(line) <= _MAX_MESSAGE else f"{line[:_MAX_MESSAGE]} ...")


class Inert:
    """A class, a function or an object of one, as a file says it, without it.

    Args:
        name: Full name of the class or function.
        args: What it would have been called with; None for the class or function itself.

    Attributes:
        state: What the object would have been given as its attributes.
        pairs: Entries, where it is a kind of mapping.
        values: Entries, where it is a kind of list or set.
    """

    __slots__ = ("_merged", "args", "name", "pairs", "state", "values")

    def __init__(self, name: str, args: tuple[Any, ...] | None = None) -> None:
        self.name = name
        self.args = args
        self.state: Any = None
        self.pairs: list[tuple[Any, Any]] = []
        self.values: list[Any] = []
        self._merged: tuple[Any, dict[Any, Any]] | None = None  # a state in two parts, and both in one

    def __repr__(self) -> str:
        return f"<inert {self.name}>"

    @property
    def attributes(self) -> dict[Any, Any]:
        """What the object would have in its ``__dict__``; empty where that cannot be told."""
        state = self.state
        if isinstance(state, tuple) and len(state) == 2:  # with __slots__
            if self._merged is None or self._merged[0] is not state:
                parts = [part for part in state if isinstance(part, dict)]
                self._merged = state, {key: value for part in parts for key, value in part.items()}
            return self._merged[1]
        return state if isinstance(state, dict) else {}


class Source(Protocol):
    """Bytes that a pickle is read from; ``read`` and ``readline`` never give more than there are."""

    def read(self, count: int = ..., /) -> bytes: ...

    def readline(self, limit: int = ..., /) -> bytes: ...


class _Lines:
    """A source whose lines have a limit, as pickletools asks for whole ones."""

    def __init__(self, source: Source) -> None:
        self.read, self._source = source.read, source

    def readline(self) -> bytes:
        return self._source.readline(_MAX_LINE)


#: What a known name makes of its arguments.
Makers = Mapping[str, Callable[..., Any]]


def read_pickle(source: Source, makers: Makers, persistent: Callable[[Any], Any] | None = None) -> Any:
    """Read one pickle, and leave the source behind it.

    Args:
        source: Where it begins.
        makers: What known names give for their arguments; every other name gives an :class:`Inert`.
        persistent: What an object that stands elsewhere gives; None where there is none.

    Raises:
        UnreadableError: It is not a whole pickle, names what only an attack needs, or asks for what no checkpoint has.
    """
    machine = _Machine(makers, persistent)
    try:
        for count, (code, argument, _) in enumerate(pickletools.genops(_Lines(source))):  # type: ignore[arg-type]
            if count == MAX_OPERATIONS:
                raise UnreadableError(f"its pickle has more than {MAX_OPERATIONS:,} operations")
            if code.name == "STOP":
                return machine.pop()
            machine.run(code.name, argument)
    except (ValueError, IndexError, KeyError, TypeError, OverflowError, UnicodeError) as exc:
        raise UnreadableError(f"damaged or truncated: its pickle cannot be read ({one_line(exc)})") from exc
    raise UnreadableError("truncated: its pickle has no end")


def check_name(name: str) -> None:
    """Refuse a name that only an attack needs, in whatever place it stands.

    Raises:
        UnreadableError: It is one.
    """
    parts = name.split(".")
    bad = (
        name in _ATTACK_NAMES
        or any(".".join(parts[:end]) in _ATTACK_MODULES for end in range(1, min(len(parts), 3)))
        or any(part in _ATTACK_INSIDE for part in parts[1:-1])
        or (parts[-2:-1] and parts[-2] in _BUILTINS and parts[-1] in _ATTACK_BUILTINS)
        or (parts[0] in _BUILTINS and any(part in _ATTACK_BUILTINS for part in parts[1:]))
    )
    if bad:
        raise UnreadableError(
            f"refused: it names {name}, which no weights need and which runs commands or code when such a file is "
            "unpickled; nothing ran. Ask whoever made it for the bare weights: "
            'torch.save(model.state_dict(), "weights.pth")'
        )


_MARKED = {"APPENDS", "SETITEMS", "ADDITEMS", "TUPLE", "LIST", "DICT", "FROZENSET", "OBJ", "INST", "POP_MARK"}
_NEW: dict[str, Callable[[], Any]] = {
    "NONE": lambda: None, "NEWTRUE": lambda: True, "NEWFALSE": lambda: False,
    "EMPTY_TUPLE": tuple, "EMPTY_LIST": list, "EMPTY_DICT": dict, "EMPTY_SET": lambda: Inert("builtins.set", ()),
}  # fmt: skip
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
_VALUES = frozenset(
    "INT BININT BININT1 BININT2 LONG LONG1 LONG4 FLOAT BINFLOAT STRING BINSTRING SHORT_BINSTRING UNICODE "  # noqa: SIM905
    "BINUNICODE SHORT_BINUNICODE BINUNICODE8 BINBYTES SHORT_BINBYTES BINBYTES8 BYTEARRAY8".split()
)
_PUTS = frozenset({"PUT", "BINPUT", "LONG_BINPUT"})
_GETS = frozenset({"GET", "BINGET", "LONG_BINGET"})


class _Machine:
    """The stack, the stacks below its marks, and the memo, which is a mapping as its numbers are anything."""

    def __init__(self, makers: Makers, persistent: Callable[[Any], Any] | None) -> None:
        self._makers, self._persistent = makers, persistent
        self._stack: list[Any] = []
        self._below: list[list[Any]] = []
        self._memo: dict[int, Any] = {}
        self._names: dict[str, Inert] = {}
        self._handed = 0  # entries of what was handed to the makers, which may copy them

    def pop(self) -> Any:
        return self._stack.pop()

    def run(self, name: str, argument: Any) -> None:
        push = self._stack.append
        if name in _PUTS:
            self._memo[int(argument)] = self._stack[-1]
        elif name in _GETS:
            push(self._memo[int(argument)])
        elif name in _VALUES:
            if isinstance(argument, int) and argument.bit_length() > 8 * _MAX_INTEGER:
                raise UnreadableError(f"its pickle has a number of {argument.bit_length()} bits")
            push(argument)
        elif name in _NEW:
            push(_NEW[name]())
        elif name in _TUPLES:
            self._gather(_TUPLES[name])
        elif name == "MARK":
            self._below.append(self._stack)
            self._stack = []
        elif name in _MARKED:
            items, self._stack = self._stack, self._below.pop()
            getattr(self, f"_{name.lower()}")(items, argument)
        elif name == "MEMOIZE":
            self._memo[len(self._memo)] = self._stack[-1]
        elif name in ("PROTO", "FRAME"):
            pass
        else:
            method = getattr(self, f"_{name.lower()}", None)
            if method is None:
                raise UnreadableError(f"its pickle has the operation {name}, which torch.save does not write")
            method(argument)

    # Containers

    def _gather(self, count: int) -> None:
        if len(self._stack) < count:
            raise IndexError(f"a tuple of {count} without its entries")
        self._stack[-count:] = [tuple(self._stack[-count:])]

    def _tuple(self, items: list[Any], _: None) -> None:
        self._stack.append(tuple(items))

    def _list(self, items: list[Any], _: None) -> None:
        self._stack.append(items)

    def _dict(self, items: list[Any], _: None) -> None:
        self._stack.append({})
        self._setitems(items, None)

    def _frozenset(self, items: list[Any], _: None) -> None:
        made = Inert("builtins.frozenset", ())
        made.values = items
        self._stack.append(made)

    def _append(self, _: None) -> None:
        self._appends([self._stack.pop()], None)

    def _appends(self, items: list[Any], _: None) -> None:
        target = self._stack[-1]
        if not isinstance(target, (list, Inert)):
            raise TypeError(f"entries for a {type(target).__name__}")
        (target if isinstance(target, list) else target.values).extend(items)

    _additems = _appends

    def _setitem(self, _: None) -> None:
        value, key = self._stack.pop(), self._stack.pop()
        self._setitems([key, value], None)

    def _setitems(self, items: list[Any], _: None) -> None:
        target = self._stack[-1]
        if len(items) % 2:
            raise ValueError("a key without a value")
        pairs = zip(items[::2], items[1::2], strict=True)
        if isinstance(target, Inert):
            target.pairs.extend(pairs)
        elif isinstance(target, dict):
            for key, value in pairs:
                _check_key(key)
                target[key] = value
        else:
            raise TypeError(f"items for a {type(target).__name__}")

    # The stack

    def _pop(self, _: None) -> None:
        if self._stack:
            self._stack.pop()
        else:  # a mark
            self._stack = self._below.pop()

    def _pop_mark(self, _items: list[Any], _: None) -> None:
        pass

    def _dup(self, _: None) -> None:
        self._stack.append(self._stack[-1])

    # Classes, functions, objects

    def _global(self, argument: str) -> None:
        self._stack.append(self._named(argument.replace(" ", ".", 1)))

    def _stack_global(self, _: None) -> None:
        name, module = self._stack.pop(), self._stack.pop()
        if not (isinstance(name, str) and isinstance(module, str)):
            raise TypeError("a name that is no text")
        self._stack.append(self._named(f"{module}.{name}"))

    def _named(self, name: str) -> Inert:
        if name not in self._names:
            if len(name) > _MAX_NAME:
                raise UnreadableError(f"it names a class of {len(name):,} characters; at most {_MAX_NAME:,} are read")
            check_name(name)
            self._names[name] = Inert(name)
        return self._names[name]

    def _make(self, what: Any, args: Any) -> Any:
        if not isinstance(what, Inert) or not isinstance(args, tuple):
            raise TypeError(f"a {type(what).__name__} that is called")
        if what.args is not None:  # the result of a call, called
            return Inert(what.name if what.name.endswith("(...)") else f"{what.name}(...)", args)
        maker = self._makers.get(what.name)
        if maker is None or len(args) > MAX_ARGUMENTS:
            return Inert(what.name, args)
        self._handed += sum(len(arg) for arg in args if isinstance(arg, (list, tuple)))
        if self._handed > MAX_OPERATIONS:
            raise UnreadableError(f"its pickle makes objects of more than {MAX_OPERATIONS:,} entries")
        return maker(*args)

    def _reduce(self, _: None) -> None:
        args, what = self._stack.pop(), self._stack.pop()
        self._stack.append(self._make(what, args))

    _newobj = _reduce

    def _newobj_ex(self, _: None) -> None:
        named, args, what = self._stack.pop(), self._stack.pop(), self._stack.pop()
        if not isinstance(what, Inert) or not isinstance(args, tuple) or not isinstance(named, dict):
            raise TypeError(f"a {type(what).__name__} that is called")
        made = Inert(what.name, args)
        made.state = named
        self._stack.append(made)

    def _obj(self, items: list[Any], _: None) -> None:
        self._stack.append(self._make(items[0], tuple(items[1:])))

    def _inst(self, items: list[Any], argument: str) -> None:
        self._stack.append(self._make(self._named(argument.replace(" ", ".", 1)), tuple(items)))

    def _build(self, _: None) -> None:
        state, target = self._stack.pop(), self._stack[-1]
        if isinstance(target, Inert):
            target.state = state  # an OrderedDict has attributes too; none of them counts

    def _binpersid(self, _: None) -> None:
        if self._persistent is None:
            raise UnreadableError("its pickle asks for an object from elsewhere, where torch.save has none")
        self._stack.append(self._persistent(self._stack.pop()))


def _check_key(key: Any) -> None:
    """Only what is hashed at once may be a key: a tuple of tuples that share their parts takes forever."""
    if isinstance(key, tuple):
        if len(key) <= _MAX_KEY and not any(isinstance(entry, tuple) for entry in key):
            for entry in key:
                _check_key(entry)
            return
    elif (
        key is None or isinstance(key, (str, bytes, float, Inert)) or (isinstance(key, int) and key.bit_length() <= 64)
    ):
        return
    raise UnreadableError(f"its pickle has a {type(key).__name__} as a key that is too large or has no hash")
