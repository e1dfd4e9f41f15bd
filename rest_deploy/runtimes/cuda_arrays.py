"""Arrays on a GPU that are given out and taken, by DLPack or by the CUDA array interface, without a copy.

Sources: DLPack 1.x, ``dlpack.h`` and its "Python Specification"; Numba, "CUDA Array Interface (Version 3)".
"""

from __future__ import annotations

import ctypes
import operator
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from rest_deploy.errors import InputError, one_line
from rest_deploy.nvidia import Cuda

_T = TypeVar("_T")

# DLDeviceType in dlpack.h. Pinned memory (3) counts as the host's: NumPy and torch treat it as a CPU array.
CUDA, CUDA_MANAGED, HOST = 2, 13, (1, 3)
#: The newest DLPack that is understood here.
DLPACK_VERSION = (1, 0)
#: CUDA's legacy default stream is handle 0 or 1; both protocols forbid 0 and write 1.
LEGACY_STREAM = 1
#: (DLDataTypeCode, bits) -> dtype, for all that NumPy has too.
DTYPES: dict[tuple[int, int], np.dtype[Any]] = {
    (code, 8 * size): np.dtype(f"{kind}{size}")
    for code, kind, sizes in ((0, "i", (1, 2, 4, 8)), (1, "u", (1, 2, 4, 8)), (2, "f", (2, 4, 8)), (6, "b", (1,)))
    for size in sizes
}
DTYPES_ACCEPTED = "accepted: bool, integers, float16, float32, float64; convert it"
#: cudaMemoryType -> DLDeviceType: what lies on a GPU, and what moves there by itself.
_MEMORY = {2: CUDA, 3: CUDA_MANAGED}
_INTERFACE = "__cuda_array_interface__"


# Given out.


class DeviceArray:
    """A C-contiguous array in the memory of a GPU; whoever holds it, or a view of it, keeps the memory alive.

    Hand it to torch, CuPy, JAX or Numba by ``from_dlpack`` or ``__cuda_array_interface__``, without a copy.
    Whoever fills it synchronises first, so that it tells no stream to wait for.

    Args:
        cuda: The CUDA runtime.
        device_index: The GPU that holds it.
        shape: Its sizes.
        dtype: A boolean, integer or floating dtype of NumPy.
        pointer: Memory from ``cudaMalloc``, which the array frees at its end. :meth:`empty` takes it itself.
    """

    def __init__(self, cuda: Cuda, device_index: int, shape: Sequence[int], dtype: np.dtype[Any], pointer: int) -> None:
        self.shape = tuple(shape)
        self.dtype = dtype
        self.nbytes = prod(self.shape) * dtype.itemsize
        self.device_index = device_index
        self.pointer = pointer
        self._cuda = cuda
        # When the process ends, the driver takes its memory back; CUDA may be gone by then, so it is not asked.
        weakref.finalize(self, _free, cuda, device_index, pointer).atexit = False

    @classmethod
    def empty(cls, cuda: Cuda, device_index: int, shape: Sequence[int], dtype: np.dtype[Any]) -> DeviceArray:
        """An array of undefined values; makes its GPU the current one of this thread.

        Raises:
            InputError: A size below 1, no size at all, or a dtype that DLPack and NumPy do not share.
            CudaError: The GPU does not give the memory.
        """
        if not shape or min(shape) < 1:
            raise InputError(f"shape {tuple(shape)}; accepted: one size or more, each at least 1")
        if dtype not in DTYPES.values():
            raise InputError(f"dtype {dtype}; {DTYPES_ACCEPTED}")
        cuda.call("cudaSetDevice", device_index)
        pointer = int(cuda.call("cudaMalloc", prod(shape) * dtype.itemsize))
        return cls(cuda, device_index, shape, dtype, pointer)

    def numpy(self) -> NDArray[Any]:
        """A copy in the host's memory; makes the array's GPU the current one of this thread.

        Raises:
            CudaError: The copy failed.
        """
        host: NDArray[Any] = np.empty(self.shape, self.dtype)
        to_host = self._cuda.api.cudaMemcpyKind.cudaMemcpyDeviceToHost
        self._cuda.call("cudaSetDevice", self.device_index)
        self._cuda.call("cudaMemcpy", host.ctypes.data, self.pointer, self.nbytes, to_host)
        return host

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        """The array as the CUDA array interface, version 3, tells it."""
        data = {"shape": self.shape, "typestr": self.dtype.str, "data": (self.pointer, False)}
        return {**data, "strides": None, "stream": None, "version": 3}

    def __dlpack_device__(self) -> tuple[int, int]:
        """DLPack's device type and the number of the GPU."""
        return CUDA, self.device_index

    def __dlpack__(
        self,
        *,
        stream: int | None = None,
        max_version: tuple[int, int] | None = None,
        dl_device: tuple[int, int] | None = None,
        copy: bool | None = None,
    ) -> Any:
        """A DLPack capsule of this memory, versioned if ``max_version`` is (1, 0) or more; see the array API standard.

        Raises:
            BufferError: A copy or another device is asked for.
        """
        if copy or (dl_device is not None and tuple(dl_device) != self.__dlpack_device__()):
            raise BufferError(f"{self!r} is given only as it is; copy it after from_dlpack")
        # NumPy makes the capsule, as of host memory that it never reads, and the device is put right afterwards.
        # Its destructor and deleter are C. Ones by ctypes lose the error that is being raised as a capsule dies.
        capsule = make_capsule(np.asarray(_AsHost(self)), None, max_version)
        tensor = open_capsule(capsule)[0].tensor
        tensor.device_type, tensor.device_id = self.__dlpack_device__()
        return capsule

    def __repr__(self) -> str:
        return f"DeviceArray(shape={self.shape}, dtype={self.dtype}, device=cuda:{self.device_index})"


class _AsHost:
    """Tells NumPy of device memory as if it were the host's, and keeps it alive. NumPy must not read it."""

    def __init__(self, array: DeviceArray) -> None:
        self.array = array
        interface = {"shape": array.shape, "typestr": array.dtype.str, "data": (array.pointer, False)}
        self.__array_interface__ = {**interface, "version": 3}


def _free(cuda: Cuda, device_index: int, pointer: int) -> None:
    """Free memory; the thread, which may be any that collects garbage, keeps its current GPU."""
    with cuda.on_device(device_index):
        cuda.call("cudaFree", pointer)


# Taken in.


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


# DLPack's capsules, by ctypes: what they hold, how one is made, opened and taken.


class Tensor(ctypes.Structure):
    """``DLTensor``, with DLDevice and DLDataType written out."""

    _fields_ = (
        ("data", ctypes.c_void_p),
        ("device_type", ctypes.c_int32),
        ("device_id", ctypes.c_int32),
        ("ndim", ctypes.c_int32),
        ("code", ctypes.c_uint8),
        ("bits", ctypes.c_uint8),
        ("lanes", ctypes.c_uint16),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("byte_offset", ctypes.c_uint64),
    )


class Managed(ctypes.Structure):
    """``DLManagedTensor``."""

    _fields_ = (("tensor", Tensor), ("context", ctypes.c_void_p), ("deleter", ctypes.c_void_p))


class ManagedVersioned(ctypes.Structure):
    """``DLManagedTensorVersioned``."""

    _fields_ = (
        ("major", ctypes.c_uint32),
        ("minor", ctypes.c_uint32),
        ("context", ctypes.c_void_p),
        ("deleter", ctypes.c_void_p),
        ("flags", ctypes.c_uint64),
        ("tensor", Tensor),
    )


#: Name of a capsule -> what it points to, and its name once somebody took it.
_CAPSULES: dict[bytes, tuple[type[Managed | ManagedVersioned], bytes]] = {
    b"dltensor_versioned": (ManagedVersioned, b"used_dltensor_versioned"),
    b"dltensor": (Managed, b"used_dltensor"),
}


def _python_api(name: str, result: Any, *arguments: Any) -> Any:
    """A function of Python's C API. argtypes set on ctypes.pythonapi itself would reach every other user of it."""
    return ctypes.PYFUNCTYPE(result, *arguments)((name, ctypes.pythonapi))


_capsule_is = _python_api("PyCapsule_IsValid", ctypes.c_int, ctypes.py_object, ctypes.c_char_p)
_capsule_pointer = _python_api("PyCapsule_GetPointer", ctypes.c_void_p, ctypes.py_object, ctypes.c_char_p)
#: Says that a capsule is taken.
rename_capsule = _python_api("PyCapsule_SetName", ctypes.c_int, ctypes.py_object, ctypes.c_char_p)
_DELETER = ctypes.PYFUNCTYPE(None, ctypes.c_void_p)


def make_capsule(producer: Any, stream: int | None, max_version: tuple[int, int] | None) -> Any:
    """A producer's capsule, of the newest kind that it and we understand."""
    try:
        return producer.__dlpack__(stream=stream, max_version=max_version)
    except TypeError:  # a producer from before DLPack 1.0, NumPy before 2.1 among them
        return producer.__dlpack__(stream=stream)


def open_capsule(capsule: Any) -> tuple[Managed | ManagedVersioned, bytes]:
    """What a capsule that nobody took yet points to, and the name that says it is taken."""
    for name, (struct, used) in _CAPSULES.items():
        if _capsule_is(capsule, name):
            return struct.from_address(_capsule_pointer(capsule, name)), used
    raise ValueError(f"{type(capsule).__name__} is no DLPack capsule, or was taken before")


class Loan:
    """A tensor taken out of a DLPack capsule; calls its deleter, once, when it goes."""

    def __init__(self, managed: Managed | ManagedVersioned) -> None:
        if managed.deleter:  # not called when the process ends: the producer may be gone by then
            weakref.finalize(self, _DELETER(managed.deleter), ctypes.addressof(managed)).atexit = False
