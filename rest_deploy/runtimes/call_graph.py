"""A call as a CUDA graph: its launches recorded once, and sent as one from then on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from rest_deploy.nvidia import Cuda


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
