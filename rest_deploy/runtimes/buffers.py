"""Memory that a runtime keeps from call to call: on the GPU, and pinned on the host. It grows, and never shrinks."""

from __future__ import annotations

import ctypes
import weakref
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rest_deploy.errors import DeviceError
from rest_deploy.nvidia import OUT_OF_MEMORY, Cuda, CudaError

_HOST_ALLOC_DEFAULT = 0  # cudaHostAllocDefault


class Buffer:
    """Memory of one kind.

    Nothing may still be using it on the GPU when it grows or is freed.

    Args:
        cuda: The CUDA runtime.
        allocate, free: Its functions: size in bytes -> address, and address.
        flags: Further arguments of ``allocate``.
        where: It is, in words.
    """

    def __init__(self, cuda: Cuda, allocate: str, free: str, *flags: int, where: str) -> None:
        self._cuda, self._allocate, self._free, self._flags = cuda, allocate, free, flags
        self._where = where
        self._finalizer: Any = None
        self.pointer = 0
        self.nbytes = 0

    @classmethod
    def on_device(cls, cuda: Cuda) -> Buffer:
        """On the current GPU."""
        return cls(cuda, "cudaMalloc", "cudaFree", where="on the GPU")

    @classmethod
    def pinned(cls, cuda: Cuda) -> Buffer:
        """On the host, locked in memory, so that copies need not wait for the host."""
        return cls(cuda, "cudaHostAlloc", "cudaFreeHost", _HOST_ALLOC_DEFAULT, where="in pinned host memory")

    def ensure(self, nbytes: int) -> bool:
        """Have at least so many bytes; whether the address changed.

        Raises:
            DeviceError: There is not that much memory; the buffer is empty then.
        """
        if nbytes <= self.nbytes:
            return False
        self.free()
        try:
            self.pointer = int(self._cuda.call(self._allocate, nbytes, *self._flags))
        except CudaError as exc:
            if exc.code != OUT_OF_MEMORY:
                raise
            raise DeviceError(
                f"no room for {nbytes / 2**20:.0f} MiB {self._where}; run fewer or smaller images, or free memory"
            ) from exc
        self.nbytes = nbytes
        self._finalizer = weakref.finalize(self, self._cuda.call, self._free, self.pointer)
        self._finalizer.atexit = False  # CUDA may be gone by then, and the memory with it
        return True

    def free(self) -> None:
        """Give the memory back; may be called again without harm."""
        finalizer, self._finalizer, self.pointer, self.nbytes = self._finalizer, None, 0, 0
        if finalizer is not None:
            finalizer()

    def array(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
        """Its first bytes as an array; of pinned memory only. It is valid until the buffer grows or is freed."""
        count = int(np.prod(shape))
        raw: Any = (ctypes.c_uint8 * (count * dtype.itemsize)).from_address(self.pointer)
        return np.frombuffer(raw, dtype, count).reshape(shape)
