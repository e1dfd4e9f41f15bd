"""A stand-in for ``cuda.bindings.runtime``: GPUs made of host memory, whose streams run only when they are waited for.

What on a GPU would be a race or a crash is seen at once: memory that was not waited for holds old data, and use after
free, copies out of bounds and work on another GPU's stream raise :class:`CudaFault`. Names, enums, structs and handles
are the real module's; it is installed without a GPU too.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from cuda.bindings import runtime as real
from cuda.bindings.runtime import cudaError_t

import tests.standins.cuda_streams  # noqa: F401  registers its functions
from tests.standins.cuda_functions import FUNCTIONS, Device
from tests.standins.memory import DEVICE, HOST, CudaFault, Memory
from tests.standins.streams import Event, Graph, Refused, Stream, Ticket

__all__ = ["CudaFault", "FakeCuda", "FakeDevice", "Refused"]

FakeDevice = Device
RTX_4090 = FakeDevice("NVIDIA GeForce RTX 4090", (8, 9), 24 << 30)
_NAME = "cuda.bindings.runtime"


class FakeCuda:
    """A machine's GPUs.

    Args:
        devices: Its GPUs, by number.
        absent: What every function that needs a GPU gives back; None where there is one.
        driver: Version of CUDA that the driver is of; 0 is no driver.

    Attributes:
        module: Stands for ``cuda.bindings.runtime``.
        calls: Every call: function, arguments, thread.
        fail: Function -> error that it gives back each time.
    """

    def __init__(
        self, devices: Sequence[Device] = (RTX_4090,), absent: cudaError_t | None = None, driver: int = 13000
    ) -> None:
        self.devices = tuple(devices)
        self.absent = absent
        self.driver = driver
        self.module: Any = _Module(self)
        self.calls: list[tuple[str, tuple[Any, ...], int]] = []
        self.fail: dict[str, cudaError_t] = {}
        self.memory = Memory()
        self.tables: dict[str, dict[int, Any]] = {"streams": {}, "events": {}, "graphs": {}, "graph_execs": {}}
        self.null_streams = [Stream(number, blocking=True) for number in range(len(self.devices))]
        self.orphans: list[Stream] = []  # destroyed with work left in them
        self._fail_once: dict[str, list[cudaError_t]] = {}
        self._next_handle = 0x1000
        self._gone: set[int] = set()
        self._thread = threading.local()
        self._lock = threading.RLock()

    @classmethod
    def no_driver(cls) -> FakeCuda:
        """A machine without an NVIDIA driver."""
        return cls((), cudaError_t.cudaErrorInsufficientDriver, driver=0)

    @classmethod
    def old_driver(cls, driver: int = 12020) -> FakeCuda:
        """A machine whose driver is older than the runtime."""
        return cls((), cudaError_t.cudaErrorInsufficientDriver, driver)

    @classmethod
    def no_gpu(cls) -> FakeCuda:
        """A machine with a driver that finds no GPU."""
        return cls((), cudaError_t.cudaErrorNoDevice)

    def install(self, monkeypatch: pytest.MonkeyPatch) -> FakeCuda:
        """Let a test import it as ``cuda.bindings.runtime``, by every way of importing."""
        import cuda.bindings

        monkeypatch.setitem(sys.modules, _NAME, self.module)
        monkeypatch.setattr(cuda.bindings, "runtime", self.module)
        monkeypatch.setattr("rest_deploy.nvidia.gpu_count", lambda: self.shown)  # which asks the driver itself
        return self

    @property
    def shown(self) -> int | None:
        """GPUs that the driver shows; an old one has a GPU behind it, and one that fails does not say."""
        if self.driver == 0 or self.absent is cudaError_t.cudaErrorNoDevice:
            return 0
        if self.absent in (None, cudaError_t.cudaErrorInsufficientDriver):
            return max(1, len(self.devices))
        return None

    # What tests ask.

    def fail_once(self, function: str, error: cudaError_t) -> None:
        """Let the next call of a function give back an error; asked several times, so many calls in order."""
        self._fail_once.setdefault(function, []).append(error)

    def live(self) -> dict[str, int]:
        """How many of each kind of resource have not been given back."""
        memory = {"device": len(self.memory.live(DEVICE)), "pinned": len(self.memory.live(HOST))}
        return memory | {kind: len(table) for kind, table in self.tables.items()}

    @property
    def bytes_live(self) -> int:
        """Bytes of device and pinned memory that have not been freed."""
        return sum(block.size for kind in (DEVICE, HOST) for block in self.memory.live(kind))

    # What the TensorRT stand-in asks.

    def queue(self, stream: Any, work: Callable[[], None]) -> Ticket | None:
        """Queue work on a stream; its place, or None where the stream is being captured.

        Raises:
            CudaFault: The stream is of another GPU than the thread's.
            Refused: Its capture has become invalid.
        """
        with self._lock:
            return self.submit(self.stream(stream), work)

    def array(
        self, address: int, shape: Sequence[int], dtype: Any, device: int | None = None, what: str = "engine"
    ) -> np.ndarray:
        """View of device or pinned memory as an array, or fault: not that much memory there, or of another GPU."""
        dtype = np.dtype(dtype)
        size = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
        found = self.memory.view(address, size, what)
        block = self.memory.find(address)
        if device is not None and block is not None and block.kind == DEVICE and block.device != device:
            raise CudaFault(f"{what}: {block} belongs to GPU {block.device} and is used on GPU {device}")
        return found.view(dtype).reshape(tuple(shape))

    # What the functions share.

    def call(self, name: str, *args: Any, **kwargs: Any) -> tuple[Any, ...]:
        """Call a function as the real module does: a tuple of its error and what it gives, None where it fails."""
        function = FUNCTIONS[name]
        with self._lock:
            self.calls.append((name, args + tuple(kwargs.values()), threading.get_ident()))
            error = self._planned_error(name, function.needs_gpu)
            given: tuple[Any, ...] = (None,) * function.outputs
            if error is None:
                try:
                    value = function.run(self, *args, **kwargs)
                    given = () if function.outputs == 0 else value if function.outputs > 1 else (value,)
                except Refused as exc:
                    error = exc.error
            if error is not None and not name.endswith("LastError"):
                self._thread.last_error = error
            return (error if error is not None else cudaError_t.cudaSuccess, *given)

    def _planned_error(self, name: str, needs_gpu: bool) -> cudaError_t | None:
        planned = self._fail_once.get(name)
        if planned:
            return planned.pop(0)
        return self.fail.get(name, self.absent if needs_gpu else None)

    @property
    def device(self) -> int:
        """The calling thread's GPU; 0 in a thread that never chose."""
        return getattr(self._thread, "device", 0)

    @device.setter
    def device(self, number: int) -> None:
        self._thread.device = number

    def take_last_error(self, reset: bool) -> cudaError_t:
        """The calling thread's last error."""
        error = getattr(self._thread, "last_error", cudaError_t.cudaSuccess)
        if reset:
            self._thread.last_error = cudaError_t.cudaSuccess
        return error

    def new_handle(self, kind: str, handle_type: Any, thing: Any) -> Any:
        """Keep a thing and give its handle, of the real module's type."""
        self._next_handle += 0x10
        self.tables[kind][self._next_handle] = thing
        return handle_type(self._next_handle)

    def thing(self, kind: str, handle: Any) -> Any:
        """What a handle stands for, or fault: destroyed, or never made."""
        number = int(handle or 0)
        if number in self.tables[kind]:
            return self.tables[kind][number]
        raise CudaFault(f"{number:#x} is {'destroyed' if number in self._gone else 'none'} of the {kind}")

    def destroy(self, kind: str, handle: Any) -> Any:
        """Forget what a handle stands for, and give it back."""
        thing = self.thing(kind, handle)
        del self.tables[kind][int(handle)]
        self._gone.add(int(handle))
        return thing

    def stream(self, handle: Any) -> Stream:
        """The stream of a handle; None and 0 to 2 are the null stream of the thread's GPU."""
        number = 0 if handle is None else int(handle)
        if number in (0, int(real.cudaStreamLegacy), int(real.cudaStreamPerThread)):
            return self.null_streams[self.device]  # the per-thread one too: a program uses one of the two
        return self.thing("streams", number)

    def streams_of(self, device: int) -> list[Stream]:
        """All streams of a GPU, those destroyed with work left in them too."""
        streams = [*self.null_streams, *self.tables["streams"].values(), *self.orphans]
        return [stream for stream in streams if stream.device == device]

    def submit(self, stream: Stream, work: Callable[[], None]) -> Ticket | None:
        """Queue work, or record it where the stream is being captured."""
        if stream.device != self.device:
            raise CudaFault(f"work for a stream of GPU {stream.device} is queued while GPU {self.device} is current")
        if stream.capture is not None:
            if stream.capture.invalid:
                raise Refused(cudaError_t.cudaErrorStreamCaptureInvalidated)
            stream.capture.graph.work.append(work)
            return None
        self.order(stream)
        return stream.submit(work)

    def order(self, stream: Stream) -> None:
        """Let work on a null stream wait for the blocking streams, and theirs for it, as CUDA's legacy rule is."""
        null = self.null_streams[stream.device]
        others = [s for s in self.streams_of(stream.device) if s.blocking] if stream is null else [null]
        for other in others:
            ticket = other.here()
            if stream.blocking and other is not stream and not ticket.done:
                stream.submit(ticket.wait)

    def invalidate(self, stream: Stream) -> None:
        """Spoil a capture."""
        if stream.capture is not None:
            stream.capture.invalid = True

    def event(self, handle: Any) -> Event:
        """The event of a handle."""
        return self.thing("events", handle)

    def graph(self, kind: str, handle: Any) -> Graph:
        """The graph or executable graph of a handle."""
        return self.thing(kind, handle)


class _Module(ModuleType):
    """The real module's names; its functions are the stand-in's, or raise NotImplementedError."""

    def __init__(self, cuda: FakeCuda) -> None:
        super().__init__(_NAME, real.__doc__)
        self.__spec__ = ModuleSpec(_NAME, None)
        self._cuda = cuda

    def __getattr__(self, name: str) -> Any:
        found = getattr(real, name)  # AttributeError where the real module has no such name
        if isinstance(found, type) or not callable(found):
            return found
        if name not in FUNCTIONS:
            return _not_implemented(name)
        return lambda *args, **kwargs: self._cuda.call(name, *args, **kwargs)


def _not_implemented(name: str) -> Callable[..., Any]:
    def function(*args: Any, **kwargs: Any) -> Any:
        raise NotImplementedError(f"{name} is not in the CUDA stand-in")

    return function
