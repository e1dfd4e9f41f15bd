"""DLPack by ctypes: what its capsules hold, how one is made, opened and taken.

Source: DLPack 1.x, ``dlpack.h`` and its "Python Specification".
"""

from __future__ import annotations

import ctypes
import weakref
from typing import Any

import numpy as np

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
