"""What the calls of an engine need of CUDA: memory that stays, a call as a graph, moments on a stream."""

from __future__ import annotations

import ctypes
import weakref
from collections.abc import Callable
from contextlib import ExitStack
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rest_deploy.errors import DeviceError
from rest_deploy.nvidia import OUT_OF_MEMORY, Cuda, CudaError

_HOST_ALLOC_DEFAULT = 0  # cudaHostAllocDefault
_MALLOC = "cudaMalloc"
_MIB = 2**20


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
    def on_device(cls, cuda: Cuda, use: str = "") -> Buffer:
        """On the current GPU; a message adds ``use``, such as ``"for activations"``."""
        return cls(cuda, _MALLOC, "cudaFree", where=f"{use} on the GPU".strip())

    @classmethod
    def pinned(cls, cuda: Cuda) -> Buffer:
        """On the host, locked in memory, so that copies need not wait for the host."""
        return cls(cuda, "cudaHostAlloc", "cudaFreeHost", _HOST_ALLOC_DEFAULT, where="in pinned host memory")

    def ensure(self, nbytes: int) -> None:
        """Have at least so many bytes.

        Raises:
            DeviceError: There is not that much memory; the buffer is empty then.
        """
        if nbytes <= self.nbytes:
            return
        self.free()
        try:
            self.pointer = int(self._cuda.call(self._allocate, nbytes, *self._flags))
        except CudaError as exc:
            if exc.code != OUT_OF_MEMORY:
                raise
            raise DeviceError(
                f"no room for {-(-nbytes // _MIB):,} MiB {self._where}{self._left()}; run fewer or smaller images, or "
                "free memory"
            ) from exc
        self.nbytes = nbytes
        self._finalizer = weakref.finalize(self, self._cuda.call, self._free, self.pointer)
        self._finalizer.atexit = False  # CUDA may be gone by then, and the memory with it

    def _left(self) -> str:
        """How much is free, in words; empty if CUDA does not say."""
        if self._allocate != _MALLOC:
            return ""
        try:
            free, _ = self._cuda.call("cudaMemGetInfo")
        except CudaError:
            return ""
        return f", which has {free // _MIB:,} MiB free"

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


class CallGraph:
    """What a function puts on a stream. A graph holds shapes and addresses: it ends with either.

    Args:
        cuda: Whose current GPU is that of the stream.
        stream: That is recorded, and launched on.
        enqueue: Puts the call on the stream and waits for nothing.

    Raises:
        RestDeployError: The call cannot be captured; the stream is as it was.
    """

    def __init__(self, cuda: Cuda, stream: Any, enqueue: Callable[[], None]) -> None:
        self._cuda, self._stream = cuda, stream
        # Relaxed, as Python may collect garbage at any moment, and what it frees may be memory on the GPU.
        cuda.call("cudaStreamBeginCapture", stream, cuda.api.cudaStreamCaptureMode.cudaStreamCaptureModeRelaxed)
        graph = None
        try:
            try:
                enqueue()
            finally:  # a stream that is left capturing takes nothing else
                graph = cuda.call("cudaStreamEndCapture", stream)
            self._executable = cuda.call("cudaGraphInstantiate", graph, 0)
        finally:
            if graph is not None:
                cuda.call("cudaGraphDestroy", graph)

    def launch(self) -> None:
        """Put the call on the stream."""
        self._cuda.call("cudaGraphLaunch", self._executable, self._stream)

    def free(self) -> None:
        """Let go of it. Called once."""
        self._cuda.call("cudaGraphExecDestroy", self._executable)


class Marks:
    """Moments in a stream of work on a GPU, by CUDA events; a context manager.

    Args:
        cuda: The CUDA runtime, whose current GPU is the stream's.
        stream: In which the work is.
        count: How many moments there will be.
    """

    def __init__(self, cuda: Cuda, stream: Any, count: int) -> None:
        self._cuda, self._stream, self._count = cuda, stream, count
        self._events: list[Any] = []
        self._stack = ExitStack()

    def __enter__(self) -> Marks:
        with ExitStack() as stack:
            for _ in range(self._count):
                event = self._cuda.call("cudaEventCreateWithFlags", self._cuda.api.cudaEventDefault)
                stack.callback(self._cuda.call, "cudaEventDestroy", event)
                self._events.append(event)
            self._stack = stack.pop_all()
        self._next = iter(self._events)
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def set(self) -> None:
        """Mark the moment at which the stream gets here."""
        self._cuda.call("cudaEventRecord", next(self._next), self._stream)

    def between_ms(self) -> list[float]:
        """Milliseconds between one moment and the next; the stream must have passed them all."""
        return [float(self._cuda.call("cudaEventElapsedTime", one, two)) for one, two in pairwise(self._events)]
