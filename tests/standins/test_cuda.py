"""The CUDA stand-in sees planted faults, and looks like the real module."""

from __future__ import annotations

import ctypes
import threading
from typing import Any

import numpy as np
import pytest
from cuda.bindings import runtime as real
from cuda.bindings.runtime import cudaError_t, cudaMemcpyKind, cudaMemoryType, cudaStreamCaptureMode

from tests.standins.cuda import CudaFault, FakeCuda, FakeDevice

TO_DEVICE, TO_HOST = cudaMemcpyKind.cudaMemcpyHostToDevice, cudaMemcpyKind.cudaMemcpyDeviceToHost
GLOBAL, RELAXED = cudaStreamCaptureMode.cudaStreamCaptureModeGlobal, cudaStreamCaptureMode.cudaStreamCaptureModeRelaxed
OK = cudaError_t.cudaSuccess
SIZE = 64


class Bench:
    """A stand-in with a stream, device memory and pinned memory."""

    def __init__(self, blocking: bool = False) -> None:
        self.cuda = FakeCuda((FakeDevice("one", (8, 9), 1 << 20), FakeDevice("two", (9, 0), 1 << 20)))
        self.stream = self("cudaStreamCreateWithFlags", 0 if blocking else real.cudaStreamNonBlocking)
        self.device, self.pinned = self("cudaMalloc", SIZE), self("cudaHostAlloc", SIZE, 0)
        self.host = np.ctypeslib.as_array((ctypes.c_uint8 * SIZE).from_address(self.pinned))

    def __call__(self, name: str, *args: Any) -> Any:
        """Call a function that must succeed."""
        error, *values = getattr(self.cuda.module, name)(*args)
        assert error == OK, f"{name}: {error}"
        return values[0] if values else None

    def error(self, name: str, *args: Any) -> cudaError_t:
        """Call a function that must fail."""
        error, *values = getattr(self.cuda.module, name)(*args)
        assert error != OK
        assert values in ([], [None])
        return error

    def upload(self, value: int, size: int = SIZE) -> None:
        """Queue a copy of pinned memory to the device."""
        self.host[:] = value
        self("cudaMemcpyAsync", self.device, self.pinned, size, TO_DEVICE, self.stream)

    def on_device(self) -> set[int]:
        """Bytes that the device memory holds now."""
        return set(self.cuda.array(self.device, (SIZE,), np.uint8).tolist())


@pytest.fixture
def bench() -> Bench:
    return Bench()


def test_work_runs_when_it_is_waited_for(bench: Bench) -> None:
    assert bench.on_device() == {0xFF}
    bench.upload(3)
    assert bench.on_device() == {0xFF}
    bench("cudaStreamSynchronize", bench.stream)
    assert bench.on_device() == {3}


def test_a_pinned_buffer_that_is_written_too_early_shows(bench: Bench) -> None:
    bench.upload(3)
    bench.host[:] = 9
    bench("cudaStreamSynchronize", int(bench.stream))
    assert bench.on_device() == {9}


def test_pageable_memory_is_staged_as_cuda_does(bench: Bench) -> None:
    source, back = np.full(SIZE, 5, np.uint8), np.zeros(SIZE, np.uint8)
    bench("cudaMemcpyAsync", bench.device, source.ctypes.data, SIZE, TO_DEVICE, bench.stream)
    source[:] = 6
    bench("cudaMemcpyAsync", back, bench.device, SIZE, TO_HOST, bench.stream)
    assert set(back.tolist()) == {5}


@pytest.mark.parametrize(("blocking", "seen"), [(False, 0xFF), (True, 3)])
def test_a_synchronous_copy_waits_for_blocking_streams_alone(blocking: bool, seen: int) -> None:
    bench = Bench(blocking)
    bench.upload(3)
    back = np.zeros(SIZE, np.uint8)
    bench("cudaMemcpy", back.ctypes.data, bench.device, SIZE, TO_HOST)
    assert set(back.tolist()) == {seen}


def test_another_stream_needs_an_event(bench: Bench) -> None:
    other, event = bench("cudaStreamCreateWithFlags", 1), bench("cudaEventCreateWithFlags", 0)
    bench.upload(3)
    bench("cudaStreamSynchronize", other)
    assert bench.on_device() == {0xFF}
    bench("cudaEventRecord", event, bench.stream)
    bench("cudaStreamWaitEvent", other, event, 0)
    bench("cudaMemsetAsync", bench.device, 1, 1, other)
    bench("cudaStreamSynchronize", other)
    assert bench.on_device() == {1, 3}


def test_events_tell_a_made_up_time(bench: Bench) -> None:
    start, end = bench("cudaEventCreateWithFlags", 0), bench("cudaEventCreateWithFlags", 0)
    untimed = bench("cudaEventCreateWithFlags", real.cudaEventDisableTiming)
    bench("cudaEventRecord", start, bench.stream)
    bench.upload(3)
    bench("cudaEventRecord", end, bench.stream)
    assert bench.error("cudaEventElapsedTime", start, end) == cudaError_t.cudaErrorNotReady
    bench("cudaEventSynchronize", end)
    assert bench("cudaEventElapsedTime", start, end) > 0
    assert bench.on_device() == {3}
    assert bench.error("cudaEventElapsedTime", start, untimed) == cudaError_t.cudaErrorInvalidResourceHandle


def test_out_of_bounds(bench: Bench) -> None:
    with pytest.raises(CudaFault, match=r"bytes 0 to 65 are out of bounds of the 64 bytes of device memory"):
        bench.upload(3, SIZE + 1)
    with pytest.raises(CudaFault, match="out of bounds"):
        bench.cuda.array(bench.device, (17,), np.float32)
    with pytest.raises(CudaFault, match="neither device nor pinned"):
        bench.cuda.array(np.zeros(4).ctypes.data, (4,), np.uint8)
    (ctypes.c_uint8 * (SIZE + 1)).from_address(bench.pinned)[SIZE] = 0
    with pytest.raises(CudaFault, match="wrote past the end of the 64 bytes of pinned memory"):
        bench("cudaFreeHost", bench.pinned)


def test_use_after_free_and_double_free(bench: Bench) -> None:
    bench.upload(3)
    bench("cudaFreeHost", bench.pinned)
    with pytest.raises(CudaFault, match=r"pinned memory .* used after it was freed"):
        bench("cudaStreamSynchronize", bench.stream)
    with pytest.raises(CudaFault, match="freed twice"):
        bench("cudaFreeHost", bench.pinned)
    with pytest.raises(CudaFault, match="function of the other kind"):
        bench("cudaFreeHost", bench.device)
    with pytest.raises(CudaFault, match="no allocation begins there"):
        bench("cudaFree", bench.device + 4)
    bench("cudaFree", bench.device)
    with pytest.raises(CudaFault, match="used after it was freed"):
        bench.cuda.array(bench.device, (1,), np.uint8)


def test_wrong_direction(bench: Bench) -> None:
    with pytest.raises(CudaFault, match="on the other side of what the kind of copy says"):
        bench("cudaMemcpy", bench.device, bench.pinned, SIZE, TO_HOST)


def test_what_is_left_over_is_counted(bench: Bench) -> None:
    assert bench.cuda.live() == {
        "device": 1, "pinned": 1, "streams": 1, "events": 0, "graphs": 0, "graph_execs": 0,
    }  # fmt: skip
    assert bench.cuda.bytes_live == 2 * SIZE
    for function, thing in (("cudaFree", bench.device), ("cudaFreeHost", bench.pinned)):
        bench(function, thing)
    bench("cudaStreamDestroy", bench.stream)
    assert not any(bench.cuda.live().values())
    with pytest.raises(CudaFault, match="destroyed of the streams"):
        bench("cudaStreamSynchronize", bench.stream)


def test_a_destroyed_stream_still_does_its_work(bench: Bench) -> None:
    bench.upload(3)
    bench("cudaStreamDestroy", bench.stream)
    bench("cudaDeviceSynchronize")
    assert bench.on_device() == {3}


def test_out_of_memory(bench: Bench) -> None:
    assert bench.error("cudaMalloc", 1 << 20) == cudaError_t.cudaErrorMemoryAllocation
    assert bench.cuda.module.cudaGetLastError() == (cudaError_t.cudaErrorMemoryAllocation,)
    assert bench.cuda.module.cudaGetLastError() == (OK,)


def test_planned_errors(bench: Bench) -> None:
    bench.cuda.fail_once("cudaMalloc", cudaError_t.cudaErrorUnknown)
    assert bench.error("cudaMalloc", 4) == cudaError_t.cudaErrorUnknown
    bench("cudaMalloc", 4)
    bench.cuda.fail["cudaMalloc"] = cudaError_t.cudaErrorIllegalAddress
    assert [bench.error("cudaMalloc", 4) for _ in range(2)] == [cudaError_t.cudaErrorIllegalAddress] * 2
    assert bench.cuda.calls[-1] == ("cudaMalloc", (4,), threading.get_ident())


def test_a_capture_is_replayed(bench: Bench) -> None:
    bench("cudaStreamBeginCapture", bench.stream, GLOBAL)
    bench.upload(3)
    graph = bench("cudaStreamEndCapture", bench.stream)
    launch = bench("cudaGraphInstantiate", graph, 0)
    bench("cudaGraphDestroy", graph)
    bench("cudaStreamSynchronize", bench.stream)
    assert bench.on_device() == {0xFF}
    for value in (4, 5):
        bench.host[:] = value
        bench("cudaGraphLaunch", launch, bench.stream)
        bench("cudaStreamSynchronize", bench.stream)
        assert bench.on_device() == {value}
    bench("cudaGraphExecDestroy", launch)


@pytest.mark.parametrize("call", ["cudaStreamSynchronize", "cudaMalloc", "cudaFree", "cudaDeviceSynchronize"])
def test_what_waits_for_the_gpu_spoils_a_capture(bench: Bench, call: str) -> None:
    arguments = {"cudaStreamSynchronize": (bench.stream,), "cudaMalloc": (4,), "cudaFree": (bench.device,)}
    bench("cudaStreamBeginCapture", bench.stream, GLOBAL)
    assert bench.error(call, *arguments.get(call, ())) == cudaError_t.cudaErrorStreamCaptureUnsupported
    assert bench.error("cudaStreamEndCapture", bench.stream) == cudaError_t.cudaErrorStreamCaptureInvalidated
    bench.upload(3)  # the stream works again


def test_a_relaxed_capture_and_another_thread(bench: Bench) -> None:
    bench("cudaStreamBeginCapture", bench.stream, RELAXED)
    bench("cudaMalloc", 4)
    bench("cudaStreamEndCapture", bench.stream)
    bench("cudaStreamBeginCapture", bench.stream, GLOBAL)
    errors: list[Any] = []
    thread = threading.Thread(target=lambda: errors.append(bench.error("cudaStreamEndCapture", bench.stream)))
    thread.start()
    thread.join()
    assert errors == [cudaError_t.cudaErrorStreamCaptureWrongThread]
    with pytest.raises(CudaFault, match="pageable host memory is captured"):
        bench("cudaMemcpyAsync", bench.device, np.zeros(4, np.uint8), 4, TO_DEVICE, bench.stream)


def test_each_thread_has_its_own_device(bench: Bench) -> None:
    bench("cudaSetDevice", 1)
    with pytest.raises(CudaFault, match="stream of GPU 0 is queued while GPU 1 is current"):
        bench.upload(3)
    found: list[int] = []
    thread = threading.Thread(target=lambda: found.append(bench("cudaGetDevice")))
    thread.start()
    thread.join()
    assert found == [0]
    other = bench("cudaMalloc", 4)
    assert bench("cudaPointerGetAttributes", other).device == 1
    with pytest.raises(CudaFault, match="belongs to GPU 1 and is used on GPU 0"):
        bench.cuda.array(other, (4,), np.uint8, device=0)
    assert bench.error("cudaSetDevice", 2) == cudaError_t.cudaErrorInvalidDevice


def test_pointers_and_properties(bench: Bench) -> None:
    kinds = [
        bench("cudaPointerGetAttributes", p).type for p in (bench.device, bench.pinned, bench.host[:0].ctypes.data)
    ]
    assert kinds == [cudaMemoryType.cudaMemoryTypeDevice, *[cudaMemoryType.cudaMemoryTypeHost] * 2]
    pageable = bench("cudaPointerGetAttributes", np.zeros(4).ctypes.data)
    assert pageable.type == cudaMemoryType.cudaMemoryTypeUnregistered
    found = bench("cudaGetDeviceProperties", 1)
    assert (found.name, found.major, found.minor, found.totalGlobalMem) == (b"two", 9, 0, 1 << 20)


def test_no_driver_and_no_gpu() -> None:
    none, without = FakeCuda.no_driver().module, FakeCuda.no_gpu().module
    assert none.cudaGetDeviceCount() == (cudaError_t.cudaErrorInsufficientDriver, None)
    assert none.cudaDriverGetVersion() == (OK, 0)
    assert without.cudaGetDeviceCount() == (cudaError_t.cudaErrorNoDevice, None)
    assert without.cudaGetErrorString(cudaError_t.cudaErrorNoDevice)[1] == b"no CUDA-capable device is detected"


@pytest.mark.parametrize("name", [
    "cudaGetDeviceCount", "cudaGetDevice", "cudaDeviceSynchronize", "cudaStreamCreate", "cudaMemGetInfo",
])  # fmt: skip
def test_failures_look_like_the_real_ones(name: str) -> None:
    ours = getattr(FakeCuda.no_driver().module, name)()
    theirs = getattr(real, name)()
    if theirs[0] == OK:
        pytest.skip("compares with a machine without a driver, and here is a GPU")
    assert ours[1:] == theirs[1:]


def test_names_are_the_real_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda = FakeCuda().install(monkeypatch)
    from cuda.bindings import runtime

    assert runtime is cuda.module
    assert runtime.cudaError_t is real.cudaError_t
    assert runtime.cudaStreamNonBlocking == 1
    with pytest.raises(AttributeError, match="cudaMallocFast"):
        runtime.cudaMallocFast  # noqa: B018
    with pytest.raises(NotImplementedError, match="cudaMallocManaged"):
        runtime.cudaMallocManaged(4, 1)
