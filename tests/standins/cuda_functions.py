"""Functions of the CUDA stand-in, by the names of the CUDA runtime: devices, versions, memory.

Each gives what the real one gives beside its error code, and raises :class:`Refused` for an error code.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from cuda.bindings import runtime as real
from cuda.bindings.runtime import cudaError_t, cudaStreamCaptureMode

from tests.standins.memory import DEVICE, HOST, CudaFault
from tests.standins.streams import Capture, Refused

if TYPE_CHECKING:
    from tests.standins.cuda import FakeCuda

UNSUPPORTED = cudaError_t.cudaErrorStreamCaptureUnsupported


class Device(NamedTuple):
    """A GPU: its name, compute capability and bytes of memory."""

    name: str
    compute_capability: tuple[int, int]
    memory_bytes: int


class Function(NamedTuple):
    """A function, how many values it gives beside its error code, and whether it fails where there is no GPU."""

    run: Callable[..., Any]
    outputs: int
    needs_gpu: bool


FUNCTIONS: dict[str, Function] = {}


def function(outputs: int = 0, needs_gpu: bool = True) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Register a function of the CUDA runtime."""

    def register(run: Callable[..., Any]) -> Callable[..., Any]:
        FUNCTIONS[run.__name__] = Function(run, outputs, needs_gpu)
        return run

    return register


def _address(pointer: Any) -> int:
    """An address as the real module takes it: None, a number, or something with a buffer."""
    if pointer is None:
        return 0
    if hasattr(pointer, "__int__") and not isinstance(pointer, np.ndarray):
        return int(pointer)
    return int(np.frombuffer(pointer, np.uint8).ctypes.data)


def _size(value: Any) -> int:
    if not hasattr(value, "__index__"):
        raise TypeError("an integer is required")
    if value < 0:
        raise OverflowError("can't convert negative value to size_t")
    return int(value)


def _captures(cuda: FakeCuda) -> list[Capture]:
    return [stream.capture for stream in cuda.tables["streams"].values() if stream.capture is not None]


def _refuse_in_capture(cuda: FakeCuda) -> None:
    """What may wait for the GPU is refused while a stream is captured, and spoils the capture."""
    for capture in _captures(cuda):
        mine = capture.thread == threading.get_ident()
        relaxed = capture.mode == cudaStreamCaptureMode.cudaStreamCaptureModeRelaxed
        if not relaxed and (mine or capture.mode == cudaStreamCaptureMode.cudaStreamCaptureModeGlobal):
            capture.invalid = True
            raise Refused(UNSUPPORTED)


def _finish_device(cuda: FakeCuda, device: int) -> None:
    for stream in cuda.streams_of(device):
        stream.here().wait()


# Devices and versions.


@function(1)
def cudaGetDeviceCount(cuda: FakeCuda) -> int:
    return len(cuda.devices)


@function(1)
def cudaGetDeviceProperties(cuda: FakeCuda, device: int) -> Any:
    if not 0 <= device < len(cuda.devices):
        raise Refused(cudaError_t.cudaErrorInvalidDevice)
    found = cuda.devices[device]
    properties = real.cudaDeviceProp()
    properties.name = found.name.encode().ljust(256, b"\0")  # a char[256]
    properties.major, properties.minor = found.compute_capability
    properties.totalGlobalMem = found.memory_bytes
    return properties


@function()
def cudaSetDevice(cuda: FakeCuda, device: int) -> None:
    if not 0 <= device < len(cuda.devices):
        raise Refused(cudaError_t.cudaErrorInvalidDevice)
    cuda.device = device


@function(1)
def cudaGetDevice(cuda: FakeCuda) -> int:
    return cuda.device


@function(1, needs_gpu=False)
def cudaDriverGetVersion(cuda: FakeCuda) -> int:
    return cuda.driver


@function(1, needs_gpu=False)
def cudaRuntimeGetVersion(cuda: FakeCuda) -> int:
    return int(real.CUDART_VERSION)


@function(1, needs_gpu=False)
def cudaGetErrorString(cuda: FakeCuda, error: Any) -> bytes:
    return real.cudaGetErrorString(error)[1]


@function(1, needs_gpu=False)
def cudaGetErrorName(cuda: FakeCuda, error: Any) -> bytes:
    return real.cudaGetErrorName(error)[1]


def _last_error(cuda: FakeCuda, reset: bool) -> None:
    error = cuda.take_last_error(reset)
    if error != cudaError_t.cudaSuccess:
        raise Refused(error)


@function(needs_gpu=False)
def cudaPeekAtLastError(cuda: FakeCuda) -> None:
    _last_error(cuda, reset=False)


@function(needs_gpu=False)
def cudaGetLastError(cuda: FakeCuda) -> None:
    _last_error(cuda, reset=True)


# Memory.


def _allocate(cuda: FakeCuda, kind: Any, size: Any) -> int:
    size = _size(size)
    _refuse_in_capture(cuda)
    if size == 0:
        return 0
    if kind == DEVICE:
        used = sum(block.size for block in cuda.memory.live(DEVICE, cuda.device))
        if used + size > cuda.devices[cuda.device].memory_bytes:
            raise Refused(cudaError_t.cudaErrorMemoryAllocation)
    return cuda.memory.allocate(kind, cuda.device, size)


@function(1)
def cudaMalloc(cuda: FakeCuda, size: int) -> int:
    return _allocate(cuda, DEVICE, size)


@function(1)
def cudaHostAlloc(cuda: FakeCuda, size: int, flags: int) -> int:
    return _allocate(cuda, HOST, size)


@function(1)
def cudaMallocHost(cuda: FakeCuda, size: int) -> int:
    return _allocate(cuda, HOST, size)


@function()
def cudaFree(cuda: FakeCuda, devPtr: Any) -> None:
    _refuse_in_capture(cuda)
    address = _address(devPtr)
    block = cuda.memory.find(address)
    if block is not None and block.live and block.kind == DEVICE:
        _finish_device(cuda, block.device)  # cudaFree waits for the GPU
    if address:
        cuda.memory.free(DEVICE, address)


@function()
def cudaFreeHost(cuda: FakeCuda, ptr: Any) -> None:
    _refuse_in_capture(cuda)
    if _address(ptr):
        cuda.memory.free(HOST, _address(ptr))


@function(2)
def cudaMemGetInfo(cuda: FakeCuda) -> tuple[int, int]:
    total = cuda.devices[cuda.device].memory_bytes
    return total - sum(block.size for block in cuda.memory.live(DEVICE, cuda.device)), total


@function(1)
def cudaPointerGetAttributes(cuda: FakeCuda, ptr: Any) -> Any:
    block = cuda.memory.find(_address(ptr))
    attributes = real.cudaPointerAttributes()
    known = block is not None and block.live and _address(ptr) < block.address + block.size
    attributes.type = block.kind if known else real.cudaMemoryType.cudaMemoryTypeUnregistered
    attributes.device = block.device if known else int(real.cudaInvalidDeviceId)
    return attributes


@function()
def cudaMemcpy(cuda: FakeCuda, dst: Any, src: Any, count: int, kind: Any) -> None:
    _refuse_in_capture(cuda)
    target, source = cuda.memory.ends(_address(dst), _address(src), _size(count), kind)
    null = cuda.null_streams[cuda.device]
    cuda.order(null)  # waits for blocking streams, not for non-blocking ones
    null.here().wait()
    target[:] = source


@function()
def cudaMemcpyAsync(cuda: FakeCuda, dst: Any, src: Any, count: int, kind: Any, stream: Any) -> None:  # noqa: PLR0917
    to, of, count, queue = _address(dst), _address(src), _size(count), cuda.stream(stream)
    _, source = cuda.memory.ends(to, of, count, kind)  # faults where the call stands
    pageable = [address for address in (to, of) if cuda.memory.is_pageable(address)]
    if pageable and queue.capture is not None:
        raise CudaFault("a copy from or to pageable host memory is captured; its address would be used at every launch")
    staged = source.copy() if of in pageable else None  # CUDA too has read pageable memory when the call is back

    def copy() -> None:
        target, source = cuda.memory.ends(to, of, count, kind)
        target[:] = source if staged is None else staged

    ticket = cuda.submit(queue, copy)
    if to in pageable and ticket is not None:
        ticket.wait()  # and has written it


@function()
def cudaMemset(cuda: FakeCuda, devPtr: Any, value: int, count: int) -> None:
    cudaMemsetAsync(cuda, devPtr, value, count, None)
    cuda.null_streams[cuda.device].here().wait()


@function()
def cudaMemsetAsync(cuda: FakeCuda, devPtr: Any, value: int, count: int, stream: Any) -> None:
    address, count = _address(devPtr), _size(count)
    cuda.memory.view(address, count, "target of a memset")

    def fill() -> None:
        cuda.memory.view(address, count, "target of a memset")[:] = value & 0xFF

    cuda.submit(cuda.stream(stream), fill)
