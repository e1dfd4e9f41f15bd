"""Where the time of a call on a GPU goes, by CUDA's own clock."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from rest_deploy.nvidia import Cuda


@dataclass(frozen=True)
class GpuCall:
    """One call, in milliseconds.

    Args:
        host_to_host_ms: From an array of the host to one of the host, by the host's clock.
        compute_ms: The network alone, by CUDA events.
        copy_in_ms, copy_out_ms: The copies to the GPU and back, by CUDA events.
        enqueue_ms: That the host was busy handing the network's work to the GPU.
    """

    host_to_host_ms: float
    compute_ms: float
    copy_in_ms: float
    copy_out_ms: float
    enqueue_ms: float


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


def gpu_medians(calls: Sequence[GpuCall]) -> dict[str, Any]:
    """Median of each figure, and the number of calls, as plain values for JSON."""
    names = list(GpuCall.__dataclass_fields__)
    return {name: statistics.median(getattr(call, name) for call in calls) for name in names} | {"calls": len(calls)}
