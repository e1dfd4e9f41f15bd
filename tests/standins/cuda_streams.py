"""Functions of the CUDA stand-in, by the names of the CUDA runtime: streams, events, graphs."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

from cuda.bindings import runtime as real
from cuda.bindings.runtime import cudaError_t, cudaStreamCaptureMode

from tests.standins.cuda_functions import UNSUPPORTED, function
from tests.standins.memory import CudaFault
from tests.standins.streams import Capture, Event, Graph, Refused, Stream

if TYPE_CHECKING:
    from tests.standins.cuda import FakeCuda


# Streams.


@function(1)
def cudaStreamCreate(cuda: FakeCuda) -> Any:
    return cudaStreamCreateWithFlags(cuda, real.cudaStreamDefault)


@function(1)
def cudaStreamCreateWithFlags(cuda: FakeCuda, flags: int) -> Any:
    stream = Stream(cuda.device, blocking=not flags & real.cudaStreamNonBlocking)
    return cuda.new_handle("streams", real.cudaStream_t, stream)


@function()
def cudaStreamDestroy(cuda: FakeCuda, stream: Any) -> None:
    found = cuda.stream(stream)
    if found in cuda.null_streams:
        raise Refused(cudaError_t.cudaErrorInvalidResourceHandle)
    cuda.destroy("streams", stream)
    if not found.here().done:
        cuda.orphans.append(found)  # CUDA finishes its work later


def _wait(cuda: FakeCuda, streams: list[Stream]) -> None:
    for stream in streams:
        if stream.capture is not None:
            cuda.invalidate(stream)
            raise Refused(UNSUPPORTED)
    for stream in streams:
        if stream in cuda.null_streams:
            cuda.order(stream)
        stream.here().wait()


@function()
def cudaStreamSynchronize(cuda: FakeCuda, stream: Any) -> None:
    _wait(cuda, [cuda.stream(stream)])


@function()
def cudaDeviceSynchronize(cuda: FakeCuda) -> None:
    _wait(cuda, cuda.streams_of(cuda.device))


@function()
def cudaStreamWaitEvent(cuda: FakeCuda, stream: Any, event: Any, flags: int) -> None:
    found = cuda.event(event)
    if found.captured:
        raise NotImplementedError("a capture over several streams is not in the stand-in")
    if found.ticket is not None:
        cuda.submit(cuda.stream(stream), found.ticket.wait)


# Events.


@function(1)
def cudaEventCreate(cuda: FakeCuda) -> Any:
    return cudaEventCreateWithFlags(cuda, real.cudaEventDefault)


@function(1)
def cudaEventCreateWithFlags(cuda: FakeCuda, flags: int) -> Any:
    return cuda.new_handle("events", real.cudaEvent_t, Event(timed=not flags & real.cudaEventDisableTiming))


@function()
def cudaEventRecord(cuda: FakeCuda, event: Any, stream: Any) -> None:
    found, queue = cuda.event(event), cuda.stream(stream)
    if queue.device != cuda.device:
        raise CudaFault(f"an event is recorded on GPU {queue.device} while GPU {cuda.device} is current")
    found.captured = queue.capture is not None
    if not found.captured:
        cuda.order(queue)
        found.record(queue)


@function()
def cudaEventSynchronize(cuda: FakeCuda, event: Any) -> None:
    found = cuda.event(event)
    if found.captured:
        raise Refused(cudaError_t.cudaErrorCapturedEvent)
    if found.ticket is not None:
        found.ticket.wait()


@function(1)
def cudaEventElapsedTime(cuda: FakeCuda, start: Any, end: Any) -> float:
    first, last = cuda.event(start), cuda.event(end)
    if not (first.timed and last.timed and first.ticket and last.ticket):
        raise Refused(cudaError_t.cudaErrorInvalidResourceHandle)
    if first.time_ms is None or last.time_ms is None:
        raise Refused(cudaError_t.cudaErrorNotReady)
    return last.time_ms - first.time_ms


@function()
def cudaEventDestroy(cuda: FakeCuda, event: Any) -> None:
    cuda.destroy("events", event)


# Graphs.


@function()
def cudaStreamBeginCapture(cuda: FakeCuda, stream: Any, mode: Any) -> None:
    found = cuda.stream(stream)
    if found in cuda.null_streams:
        raise Refused(UNSUPPORTED)
    if found.capture is not None:
        raise Refused(cudaError_t.cudaErrorIllegalState)
    found.capture = Capture(Graph(), threading.get_ident(), mode)


@function(1)
def cudaStreamEndCapture(cuda: FakeCuda, stream: Any) -> Any:
    found = cuda.stream(stream)
    capture = found.capture
    if capture is None:
        raise Refused(cudaError_t.cudaErrorIllegalState)
    relaxed = capture.mode == cudaStreamCaptureMode.cudaStreamCaptureModeRelaxed
    if not relaxed and capture.thread != threading.get_ident():
        raise Refused(cudaError_t.cudaErrorStreamCaptureWrongThread)
    found.capture = None
    if capture.invalid:
        raise Refused(cudaError_t.cudaErrorStreamCaptureInvalidated)
    return cuda.new_handle("graphs", real.cudaGraph_t, capture.graph)


@function(1)
def cudaGraphInstantiate(cuda: FakeCuda, graph: Any, flags: int) -> Any:
    copy = Graph(list(cuda.graph("graphs", graph).work))
    return cuda.new_handle("graph_execs", real.cudaGraphExec_t, copy)


@function()
def cudaGraphLaunch(cuda: FakeCuda, graphExec: Any, stream: Any) -> None:
    for work in cuda.graph("graph_execs", graphExec).work:
        cuda.submit(cuda.stream(stream), work)


@function()
def cudaGraphExecDestroy(cuda: FakeCuda, graphExec: Any) -> None:
    cuda.destroy("graph_execs", graphExec)


@function()
def cudaGraphDestroy(cuda: FakeCuda, graph: Any) -> None:
    cuda.destroy("graphs", graph)
