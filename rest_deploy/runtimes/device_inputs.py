"""A caller's array on a GPU, taken as input without a copy, by DLPack or by the CUDA array interface.

Sources: DLPack's "Python Specification"; Numba, "CUDA Array Interface (Version 3)".
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

from rest_deploy.errors import InputError, one_line
from rest_deploy.nvidia import Cuda
from rest_deploy.runtimes.dlpack import (
    CUDA,
    CUDA_MANAGED,
    DLPACK_VERSION,
    DTYPES,
    DTYPES_ACCEPTED,
    HOST,
    LEGACY_STREAM,
    Loan,
    ManagedVersioned,
    make_capsule,
    open_capsule,
    rename_capsule,
)

_T = TypeVar("_T")

#: cudaMemoryType -> DLDeviceType: what lies on a GPU, and what moves there by itself.
_MEMORY = {2: CUDA, 3: CUDA_MANAGED}
_INTERFACE = "__cuda_array_interface__"


@dataclass(frozen=True)
class DeviceInput:
    """A caller's C-contiguous array on a GPU, to be read in place.

    Args:
        pointer: Address of its first element.
        shape: Its sizes, each at least 1.
        dtype: Its dtype.
        owner: Keeps the memory alive; hold it until the work that reads the memory is done.
    """

    pointer: int
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    owner: object


def device_input(value: object, cuda: Cuda, device_index: int, stream: int) -> DeviceInput | None:
    """A view of an array that lies on a GPU, or None for what does not: a NumPy array, a CPU tensor, a list.

    Makes ``device_index`` the current GPU of this thread; torch gives its capsules only so.

    Args:
        value: Anything. On a GPU are objects with ``__dlpack__`` (torch, CuPy, JAX), which is preferred
            as it tells the device, or with ``__cuda_array_interface__`` (Numba).
        cuda: The CUDA runtime.
        device_index: The GPU that will read it.
        stream: Handle of the stream that will read it. It is made to wait for what the producer has
            under way (DLPack), or this thread waits for it (the interface).

    Raises:
        InputError: It is on another device, not C-contiguous, empty, masked, of a dtype that NumPy does not
            have, or its producer does not give it.
        CudaError: CUDA failed.
    """
    if hasattr(value, "__dlpack__") and hasattr(value, "__dlpack_device__"):
        kind, number = _ask(value, "__dlpack_device__", lambda: _device(value))
        if kind in HOST:
            return None
        _check_device(value, kind, number, device_index)
        cuda.call("cudaSetDevice", device_index)
        return _by_dlpack(value, device_index, stream)
    interface = _ask(value, _INTERFACE, lambda: getattr(value, _INTERFACE, None))
    if interface is None:
        return None
    cuda.call("cudaSetDevice", device_index)
    return _by_interface(value, interface, cuda, device_index)


def _by_dlpack(value: object, device_index: int, stream: int) -> DeviceInput:
    capsule = _ask(value, "__dlpack__", lambda: make_capsule(value, stream or LEGACY_STREAM, DLPACK_VERSION))
    # Checked before it is taken: a capsule that nobody took calls the deleter itself.
    managed, used = _ask(value, "__dlpack__", lambda: open_capsule(capsule))
    if isinstance(managed, ManagedVersioned) and managed.major != DLPACK_VERSION[0]:
        raise _refusal(value, f"of DLPack {managed.major}.{managed.minor}", "accepted: DLPack 0 and 1")
    tensor = managed.tensor
    _check_device(value, tensor.device_type, tensor.device_id, device_index)
    dtype = DTYPES.get((tensor.code, tensor.bits)) if tensor.lanes == 1 else None
    if dtype is None:
        name = "bfloat16" if tensor.code == 4 else f"DLPack ({tensor.code}, {tensor.bits}, {tensor.lanes})"
        raise _refusal(value, f"of dtype {name}", DTYPES_ACCEPTED)
    shape = tuple(tensor.shape[: tensor.ndim])
    strides = [step * dtype.itemsize for step in tensor.strides[: tensor.ndim]] if tensor.strides else None
    pointer = (tensor.data or 0) + tensor.byte_offset
    _check_layout(value, pointer, shape, strides, dtype)
    rename_capsule(capsule, used)  # before the loan: stopped in between, it leaks, and is not freed twice
    return DeviceInput(pointer, shape, dtype, Loan(managed))


def _by_interface(value: object, interface: Any, cuda: Cuda, device_index: int) -> DeviceInput:
    pointer, shape, strides, dtype, stream = _ask(value, _INTERFACE, lambda: _fields(interface))
    if interface.get("mask") is not None:
        raise _refusal(value, "with a mask", "accepted: arrays without one; fill it in")
    if dtype not in DTYPES.values():
        raise _refusal(value, f"of dtype {dtype.str}", DTYPES_ACCEPTED)
    _check_layout(value, pointer, shape, strides, dtype)
    memory = cuda.call("cudaPointerGetAttributes", pointer)
    kind = _MEMORY.get(int(memory.type))
    if kind is None:
        raise _refusal(
            value, f"at {pointer:#x}, which is no memory of a GPU", f"accepted: arrays on cuda:{device_index}"
        )
    _check_device(value, kind, memory.device, device_index)
    if stream is not None:
        cuda.call("cudaStreamSynchronize", stream)
    return DeviceInput(pointer, shape, dtype, (value, interface))


def _device(value: Any) -> tuple[int, int]:
    kind, number = value.__dlpack_device__()
    return int(kind), int(number)


def _fields(interface: Any) -> tuple[int, tuple[int, ...], list[int] | None, np.dtype[Any], int | None]:
    """Address, shape, strides in bytes, dtype and stream out of a CUDA array interface."""
    if interface["version"] not in (2, 3):
        raise ValueError(f"version {interface['version']}; accepted: 2 and 3")
    stream, strides = interface.get("stream"), interface.get("strides")
    if stream is not None and operator.index(stream) == 0:
        raise ValueError("stream 0, which the interface forbids; the default streams are 1 and 2")
    shape = tuple(operator.index(size) for size in interface["shape"])
    steps = None if strides is None else [operator.index(step) for step in strides]
    if steps is not None and len(steps) != len(shape):
        raise ValueError(f"{len(steps)} strides for {len(shape)} sizes")
    return operator.index(interface["data"][0]), shape, steps, np.dtype(interface["typestr"]), stream


def _ask(value: object, name: str, question: Callable[[], _T]) -> _T:
    """What a foreign object answers; whatever it raises is the reason why it cannot be read."""
    try:
        return question()
    except Exception as exc:
        told = f"{type(exc).__name__}: {one_line(exc)}"
        raise _refusal(value, f"whose {name} fails ({told})", "accepted: arrays that give their memory") from exc


def _check_device(value: object, kind: int, number: int, device_index: int) -> None:
    # Managed memory is on every GPU, and DLPack gives it the number 0.
    if kind == CUDA_MANAGED or (kind, number) == (CUDA, device_index):
        return
    where = f"cuda:{number}" if kind == CUDA else f"DLPack's device type {kind}"
    raise _refusal(value, f"on {where}", f"accepted: arrays on cuda:{device_index}; copy it there")


def _check_layout(
    value: object, pointer: int, shape: tuple[int, ...], strides: list[int] | None, dtype: np.dtype[Any]
) -> None:
    if pointer == 0 or min(shape, default=1) < 1:
        raise _refusal(value, f"of shape {shape} without memory", "accepted: sizes of at least 1")
    step = dtype.itemsize
    for size, stride in zip(reversed(shape), reversed(strides or ()), strict=False):
        if size != 1 and stride != step:
            raise _refusal(value, f"of shape {shape}, not C-contiguous", "accepted: C order; make it contiguous")
        step *= size


def _refusal(value: object, what: str, remedy: str) -> InputError:
    return InputError(f"input is a {type(value).__name__} {what}; {remedy}")
