"""Arrays on a GPU that are given out, by DLPack or by the CUDA array interface, without a copy.

Sources: DLPack's "Python Specification"; Numba, "CUDA Array Interface (Version 3)".
"""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rest_deploy.errors import InputError
from rest_deploy.nvidia import Cuda
from rest_deploy.runtimes.dlpack import CUDA, DTYPES, DTYPES_ACCEPTED, make_capsule, open_capsule


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
