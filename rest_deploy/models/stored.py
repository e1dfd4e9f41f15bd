"""Tensors in a file that have not been read, and the names that a pickle of torch.save has for them."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from rest_deploy.models.pickled import MAX_ARGUMENTS, Inert, UnreadableError

MAX_RANK = 64
MAX_STORED = 1 << 62  # bytes; keeps products of sizes within what PyTorch counts in
_DTYPES = {
    "Double": torch.float64, "Float": torch.float32, "Half": torch.float16, "BFloat16": torch.bfloat16,
    "Long": torch.int64, "Int": torch.int32, "Short": torch.int16, "Char": torch.int8, "Byte": torch.uint8,
    "Bool": torch.bool, "ComplexFloat": torch.complex64, "ComplexDouble": torch.complex128,
}  # fmt: skip
_PLAIN_TYPES = ("torch.Tensor", "torch._tensor.Tensor", "torch.nn.parameter.Parameter", "torch.nn.parameter.Buffer")


@dataclass(frozen=True)
class Storage:
    """A row of numbers in a file, as the pickle names it."""

    key: str
    dtype: torch.dtype
    count: int
    start: int = 0  # of a view into another storage, in numbers

    @property
    def nbytes(self) -> int:
        return self.count * self.dtype.itemsize


@dataclass(frozen=True)
class StoredTensor:
    """A tensor that is in a file and has not been read."""

    storage: Storage
    dtype: torch.dtype
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]

    @property
    def numel(self) -> int:
        return math.prod(self.shape)

    @property
    def is_whole(self) -> bool:
        """Whether it has values, and each is in the file: strides can make terabytes of a few bytes."""
        return 0 < self.numel * self.dtype.itemsize <= self.storage.nbytes


def _whole(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= MAX_STORED:
        raise UnreadableError("damaged: a tensor in it has an impossible size")
    return value


def storage_of(pid: Any) -> Any:
    """A persistent id of torch.save: ("storage", type, key, device, count) and, before PyTorch 1.6, a view or None."""
    if isinstance(pid, tuple) and len(pid) == 4 and pid[0] == "module":  # the class of a whole module, and its source
        return pid[1]
    if not isinstance(pid, tuple) or len(pid) not in (5, 6) or pid[0] != "storage":
        raise UnreadableError("damaged: its pickle names no storage where one is needed")
    _, kind, key, _, count, *view = pid
    name = kind.name if isinstance(kind, Inert) else ""
    short = name.rsplit(".", 1)[-1].removesuffix("Storage")
    dtype = torch.uint8 if short in ("Untyped", "_Untyped") else _DTYPES.get(short)
    if not isinstance(key, (str, int)):
        raise UnreadableError("damaged: a storage in it has no key")
    if dtype is None:  # quantized, or of a device of somebody's own
        return Inert(name or "a storage", (str(key),))
    storage = Storage(str(key), dtype, _whole(count))
    if view and view[0] is not None:
        _, start, length = view[0] if isinstance(view[0], tuple) and len(view[0]) == 3 else (None, None, None)
        if _whole(start) + _whole(length) > storage.count:
            raise UnreadableError("damaged: a part of a storage reaches outside of it")
        storage = Storage(storage.key, dtype, _whole(length), _whole(start))
    return storage


def _rebuild(name: str) -> Callable[..., Any]:
    def made(*args: Any) -> Any:
        if not args or not isinstance(args[0], Storage):
            return Inert(name, args)
        return _tensor(args[0], args[0].dtype, *args[1:4])

    return made


def _rebuild_of_dtype(*args: Any) -> Any:
    """``_rebuild_tensor_v3``: over bytes, with the name of its dtype."""
    name = "torch._utils._rebuild_tensor_v3"
    dtype = getattr(torch, args[6].name.removeprefix("torch."), None) if _is_dtype(args) else None
    if not isinstance(dtype, torch.dtype) or not isinstance(args[0], Storage):
        return Inert(name, args)
    return _tensor(args[0], dtype, *args[1:4])


def _is_dtype(args: tuple[Any, ...]) -> bool:
    return len(args) > 6 and isinstance(args[6], Inert) and args[6].name.startswith("torch.") and args[6].args is None


def _tensor(storage: Storage, dtype: torch.dtype, offset: Any = None, shape: Any = None, stride: Any = None) -> Any:
    if not isinstance(shape, tuple) or not isinstance(stride, tuple) or not len(shape) == len(stride) <= MAX_RANK:
        raise UnreadableError("damaged: a tensor in it has an impossible shape")
    sizes, steps = tuple(_whole(size) for size in shape), tuple(_whole(step) for step in stride)
    return StoredTensor(storage, dtype, _whole(offset), sizes, steps)


def _first(name: str) -> Callable[..., Any]:
    """A parameter is its tensor."""
    return lambda *args: args[0] if args and isinstance(args[0], StoredTensor) else Inert(name, args)


def _typed(*args: Any) -> Any:
    """``_rebuild_from_type_v2(function, type, args, state)``: a tensor of a class, with attributes."""
    if len(args) != 4 or not all(isinstance(arg, Inert) for arg in args[:2]) or not isinstance(args[2], tuple):
        return Inert("torch._tensor._rebuild_from_type_v2", args)
    function, kind, arguments, _ = args
    maker = MAKERS.get(function.name) if function.name.startswith("torch._utils.") else None
    if kind.name not in _PLAIN_TYPES or maker is None or len(arguments) > MAX_ARGUMENTS:
        return Inert(kind.name, args)
    return maker(*arguments)


def _ordered(*args: Any) -> Any:
    """``OrderedDict()``, or of pairs."""
    if not args:
        return {}
    pairs: Any = args[0] if len(args) == 1 else None
    if isinstance(pairs, list) and all(
        isinstance(pair, (list, tuple)) and len(pair) == 2 and isinstance(pair[0], str) for pair in pairs
    ):
        return dict(pairs)
    return Inert("collections.OrderedDict", args)


def _reconstructed(*args: Any) -> Any:
    return Inert(args[0].name if args and isinstance(args[0], Inert) else "copyreg._reconstructor", args)


def _size(*args: Any) -> Any:
    sizes = args[0] if len(args) == 1 else ()
    fits = isinstance(sizes, (list, tuple)) and len(sizes) <= MAX_RANK
    return tuple(sizes) if fits else Inert("torch.Size", args)


MAKERS: dict[str, Callable[..., Any]] = {
    **{f"torch._utils.{name}": _rebuild(f"torch._utils.{name}") for name in ("_rebuild_tensor", "_rebuild_tensor_v2")},
    "torch._utils._rebuild_tensor_v3": _rebuild_of_dtype,
    **{
        f"torch._utils.{name}": _first(f"torch._utils.{name}")
        for name in ("_rebuild_parameter", "_rebuild_parameter_with_state")
    },
    "torch._tensor._rebuild_from_type_v2": _typed,
    "torch._tensor._rebuild_from_type": lambda *args: _typed(*args, None) if len(args) == 3 else _typed(*args),
    "collections.OrderedDict": _ordered,
    "collections.defaultdict": lambda *args: {},
    "copyreg._reconstructor": _reconstructed,
    "copy_reg._reconstructor": _reconstructed,
    "torch.Size": _size,
}
