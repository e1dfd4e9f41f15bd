"""TensorRT engines with their manifests, on an NVIDIA GPU that they were built for, by cuda-python alone.

One code path for TensorRT 10 and 11 and TensorRT-RTX: one execution context, one stream, memory that is reused. The
scratch memory of the context is ours, as much as the sizes in use need, so that an engine for large images costs no
more than the images that come.
"""

from __future__ import annotations

import logging
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rest_deploy.artifact.info import ArtifactInfo
from rest_deploy.artifact.manifest import EngineFile, read_engine, read_manifest
from rest_deploy.artifact.profile import InputSize, fitting, largest_batch, narrowest
from rest_deploy.errors import DeviceError, InputError, PredictorError, RestDeployError, one_line
from rest_deploy.nvidia import Cuda, CudaError, Library, TensorRTLog, find_gpu, frames_let_go, load_library
from rest_deploy.runtimes.base import GpuCall, Runtime
from rest_deploy.runtimes.cuda_arrays import DeviceArray, DeviceInput, device_input
from rest_deploy.runtimes.cuda_calls import Buffer, CallGraph, Marks
from rest_deploy.runtimes.tensorrt_open import LoadedEngine, check_gpu, check_version
from rest_deploy.specs import ImageSize, Output

_log = logging.getLogger(__name__)

_LOG_LINES = 1000  # of a session that may run for months
_CALLS_BEFORE_GRAPH = 2  # of one shape in a row; TensorRT must have run a shape once before it can be captured


class TensorRTRuntime(Runtime):
    """An engine of ours. Everything its manifest tells is checked before TensorRT is handed the plan.

    Beside NumPy arrays it takes arrays that lie on its GPU, by ``__dlpack__`` or ``__cuda_array_interface__``, and then
    gives such that lie there too.

    Raises:
        ArtifactError: Plan or manifest is missing or damaged, or of another version of the library.
        MissingPackageError: The library that built it, or cuda-python, is not installed.
        DeviceError: No driver, no GPU, or one that the engine was not built for.
    """

    _finalizer: Any = None  # until there is something to let go of

    def _load(self) -> None:
        file = read_engine(self.path)
        self.info, record = file.info, file.info.engine
        assert record is not None  # read_engine has looked
        library = load_library(record.library, "run this engine")
        check_version(record, library, self.path)
        check_gpu(record, self.info.recipe, find_gpu(self.target.index), self.path)
        self._profiles = record.profiles
        self._lock = threading.Lock()
        self._session = EngineSession(file, library, self.target.index)
        self._finalizer = weakref.finalize(self, self._session.close)  # for those who do not close it

    @classmethod
    def read_info(cls, path: Path) -> ArtifactInfo:
        """The record of an engine, out of its manifest, once the plan has been found to be the one it tells of."""
        return read_manifest(path)

    def max_batch(self, height: int, width: int) -> int | None:
        """Most images of a size that one call takes; None where no profile takes the size."""
        return largest_batch(self._profiles, height, width)

    def _takes(self, batch: int, height: int, width: int) -> bool:
        return narrowest(self._profiles, InputSize(batch, ImageSize(height, width))) is not None

    def gpu_calls(self, batch: NDArray[np.float32], count: int) -> list[GpuCall]:
        """Where the time of so many calls goes."""
        self.check(batch)
        given = self._as_input(batch)
        with self._lock:
            self.check_usable()
            return [self._session.gpu_call(given) for _ in range(count)]

    def _run(self, batch: NDArray[np.float32]) -> dict[str, NDArray[np.float32]]:
        with self._lock:
            self.check_usable()
            return self._session.run_host(batch)

    def _run_foreign(self, batch: Any) -> dict[str, Any]:
        with self._lock:
            self.check_usable()
            given = self._session.device_input(batch)
            if given is None:
                return super()._run_foreign(batch)
            self._check(given.dtype, given.shape)
            return self._session.run_device(given)

    def _leave(self) -> None:
        super()._leave()
        if self._finalizer is not None:
            self._finalizer.detach()

    def _close(self) -> None:
        with self._lock:  # not while another thread runs it
            self._finalizer()


class EngineSession:
    """A deserialised engine. Not thread-safe: its owner calls from one thread at a time.

    Args:
        file: The plan and its record.
        library: That built it.
        gpu: Number of the GPU.

    Raises:
        ArtifactError: The library refuses the plan.
        DeviceError: CUDA fails.
    """

    def __init__(self, file: EngineFile, library: Library, gpu: int) -> None:
        assert file.info.engine is not None  # read_engine has looked
        self._path, self._info, self._library, self._gpu = file.path, file.info, library, gpu
        self._profiles = file.info.engine.profiles
        self._trt, self._cuda = library.api, Cuda()
        self._log = TensorRTLog(library, keep=_LOG_LINES)
        self._shape: tuple[int, ...] | None = None  # that the context is set to
        self._profile: int | None = 0  # that the context is on; None where a switch failed half-way
        self._calls = 0  # of this shape in a row
        self._kept = False  # whether what TensorRT-RTX compiled was saved
        self._addresses: dict[str, int] | None = None
        self._graph: CallGraph | None = None  # of this shape and these addresses
        self._graphs = not library.is_rtx  # TensorRT-RTX captures them itself
        self._engine: Any = None
        self._context: Any = None
        self._stream: Any = None
        tensors = (self._info.input, *self._info.outputs)
        self._buffers = {tensor.name: Buffer.on_device(self._cuda) for tensor in tensors}
        self._staging = {tensor.name: Buffer.pinned(self._cuda) for tensor in tensors}
        self._scratch = Buffer.on_device(self._cuda, "for activations")
        with self._cuda.on_device(self._gpu):
            try:
                self._stream = self._cuda.call("cudaStreamCreateWithFlags", self._cuda.api.cudaStreamNonBlocking)
                with frames_let_go():
                    self._engine = LoadedEngine(file, library, self._log)
            except BaseException:
                self._release()
                raise
            self._context = self._engine.context

    def run_host(self, batch: NDArray[np.float32]) -> dict[str, NDArray[np.float32]]:
        """Run a contiguous batch of the host; give new arrays by name."""
        with self._cuda.on_device(self._gpu), self._reporting(batch.shape):
            self._bind(batch.shape)
            staged_in, staged_out = self._staged(batch)
            np.copyto(staged_in, batch)
            self._calls += 1
            if self._graphs and self._graph is None and self._calls > _CALLS_BEFORE_GRAPH:
                self._graph = self._captured(staged_in, staged_out)
            if self._graph is not None:
                self._graph.launch()
            else:
                self._enqueue(staged_in, staged_out)
            self._cuda.call("cudaStreamSynchronize", self._stream)
            self._keep_kernels()
            return {name: values.copy() for name, values in staged_out.items()}

    def gpu_call(self, batch: NDArray[np.float32]) -> GpuCall:
        """Where the time of a call goes: one as it is, by the host's clock, and one piece by piece, by CUDA's."""
        start = time.perf_counter()
        self.run_host(batch)
        whole = time.perf_counter() - start
        with self._cuda.on_device(self._gpu), self._reporting(batch.shape), Marks(self._cuda, self._stream, 4) as marks:
            self._bind(batch.shape)
            staged_in, staged_out = self._staged(batch)
            marks.set()
            self._copy_in(staged_in)
            marks.set()
            before = time.perf_counter()
            self._execute()
            enqueued = time.perf_counter() - before
            marks.set()
            self._copy_out(staged_out)
            marks.set()
            self._cuda.call("cudaStreamSynchronize", self._stream)
            copy_in, compute, copy_out = marks.between_ms()
        return GpuCall(whole * 1e3, compute, copy_in, copy_out, enqueued * 1e3)

    def device_input(self, value: object) -> DeviceInput | None:
        """A view of an array that lies on the GPU, which the stream waits for; None for anything else."""
        with self._cuda.on_device(self._gpu):
            return device_input(value, self._cuda, self._gpu, int(self._stream))

    def run_device(self, batch: DeviceInput) -> dict[str, DeviceArray]:
        """Run a batch that lies on the GPU; give new arrays on the GPU by name, computed when this returns."""
        with self._cuda.on_device(self._gpu), self._reporting(batch.shape):
            self._bind(batch.shape)
            outputs = {
                spec.name: DeviceArray.empty(self._cuda, self._gpu, shape, np.dtype(spec.dtype))
                for spec, shape in self._shapes(batch.shape)
            }
            addresses = {name: output.pointer for name, output in outputs.items()}
            self._set_addresses({self._info.input.name: batch.pointer, **addresses})
            self._execute()
            self._cuda.call("cudaStreamSynchronize", self._stream)
            self._keep_kernels()
            return outputs

    def _keep_kernels(self) -> None:
        """Once something has run: a process that is killed has then not compiled in vain."""
        if not self._kept:
            self._kept = True
            self._engine.save_cache()

    @contextmanager
    def _reporting(self, shape: tuple[int, ...]) -> Iterator[None]:
        """Name the artifact and the input in what goes wrong; leave nothing running, and nothing set as it was."""
        try:
            with frames_let_go():
                yield
        except InputError:
            raise
        except BaseException as exc:
            self._shape = self._addresses = None
            with suppress(CudaError):  # the first failure is the one to tell of
                self._cuda.call("cudaStreamSynchronize", self._stream)
                self._drop_graph()
            if isinstance(exc, RestDeployError):
                kind = DeviceError if isinstance(exc, DeviceError) else PredictorError
                raise kind(f"{self._path}: on input {shape}: {exc}") from exc
            raise

    def _shapes(self, given: tuple[int, ...]) -> Iterator[tuple[Output, tuple[int, ...]]]:
        """Each output, and its shape for an input of a shape."""
        sizes = self._info.network_sizes(*self._info.input_sizes(given))
        return ((spec, spec.sizes(*sizes)) for spec in self._info.outputs)

    def _bind(self, shape: tuple[int, ...]) -> None:
        """Set the context to an input shape, with the narrowest profile that fits."""
        if shape == self._shape:
            return
        size = InputSize.from_plain(self._info.input_sizes(shape))
        profile = fitting(self._profiles, size, self._path.name)
        self._drop_graph()
        self._shape, self._calls, self._graphs = None, 0, not self._library.is_rtx
        if profile != self._profile:
            switch = self._context.set_optimization_profile_async
            self._profile = None
            self._try(f"switch to profile {profile}", switch, profile, int(self._stream))
            self._cuda.call("cudaStreamSynchronize", self._stream)
            self._profile = profile
        self._try("take the input's shape", self._context.set_input_shape, self._info.input.name, shape)
        missing = self._try("infer shapes", self._context.infer_shapes)
        for spec, wanted in self._shapes(shape):
            found = tuple(self._context.get_tensor_shape(spec.name))
            if missing or found != wanted:
                raise PredictorError(f"{self._library} infers {found}, needed {wanted}; not set: {missing}")
        self._give_scratch()
        self._shape = shape

    def _give_scratch(self) -> None:
        needed = self._try("tell its memory", self._context.update_device_memory_size_for_shapes)
        if needed:
            self._scratch.ensure(needed)
            self._context.device_memory = self._scratch.pointer

    def _staged(self, batch: NDArray[Any]) -> tuple[NDArray[Any], dict[str, NDArray[Any]]]:
        """Pinned arrays for the input and the outputs, with memory on the GPU for each."""
        name, arrays = self._info.input.name, dict[str, NDArray[Any]]()
        made = ((spec.name, shape, np.dtype(spec.dtype)) for spec, shape in self._shapes(batch.shape))
        for tensor, shape, dtype in ((name, batch.shape, batch.dtype), *made):
            nbytes = int(np.prod(shape)) * dtype.itemsize
            self._staging[tensor].ensure(nbytes)
            self._buffers[tensor].ensure(nbytes)
            arrays[tensor] = self._staging[tensor].array(shape, dtype)
        self._set_addresses({tensor: buffer.pointer for tensor, buffer in self._buffers.items()})
        return arrays.pop(name), arrays

    def _set_addresses(self, addresses: dict[str, int]) -> None:
        if self._addresses == addresses:
            return
        self._addresses = None
        for name, address in addresses.items():
            self._try(f"take the address of {name}", self._context.set_tensor_address, name, address)
        self._addresses = addresses

    def _enqueue(self, staged_in: NDArray[Any], staged_out: Mapping[str, NDArray[Any]]) -> None:
        """Copy in, run, copy out, all on the stream."""
        self._copy_in(staged_in)
        self._execute()
        self._copy_out(staged_out)

    def _copy_in(self, staged: NDArray[Any]) -> None:
        kind, given = self._cuda.api.cudaMemcpyKind.cudaMemcpyHostToDevice, self._buffers[self._info.input.name].pointer
        self._cuda.call("cudaMemcpyAsync", given, staged.ctypes.data, staged.nbytes, kind, self._stream)

    def _copy_out(self, staged: Mapping[str, NDArray[Any]]) -> None:
        kind = self._cuda.api.cudaMemcpyKind.cudaMemcpyDeviceToHost
        for name, values in staged.items():
            made = self._buffers[name].pointer
            self._cuda.call("cudaMemcpyAsync", values.ctypes.data, made, values.nbytes, kind, self._stream)

    def _execute(self) -> None:
        self._try("run the network", self._context.execute_async_v3, int(self._stream))

    def _try(self, what: str, function: Callable[..., Any], *arguments: Any) -> Any:
        return self._log.attempt(what, PredictorError, function, *arguments)

    def _captured(self, staged_in: NDArray[Any], staged_out: Mapping[str, NDArray[Any]]) -> CallGraph | None:
        """A call of this shape, or None where it cannot be captured; then none is tried again for this shape."""
        try:
            return CallGraph(self._cuda, self._stream, lambda: self._enqueue(staged_in, staged_out))
        except RestDeployError as exc:
            _log.warning("%s: no CUDA graph, each call is launched by itself: %s", self._path, one_line(exc))
            self._graphs = False
            return None

    def _drop_graph(self) -> None:
        if self._graph is not None:
            graph, self._graph = self._graph, None
            graph.free()

    def close(self) -> None:
        """Save what TensorRT-RTX compiled, and let go of everything, in order, whatever fails. Called once."""
        with ExitStack() as stack:
            try:
                stack.enter_context(self._cuda.on_device(self._gpu))
            except CudaError as exc:  # nothing works any more; what memory of the host's there is can be freed
                _log.warning("%s: while closing: %s", self._path, exc)
            else:
                self._engine.save_cache()
            finally:
                self._release()

    def _release(self) -> None:
        """Whatever fails, go on: what was computed is the caller's already, and what is left can be let go of."""
        buffers = (*self._buffers.values(), self._scratch, *self._staging.values())
        for free in (self._drop_graph, self._drop_engine, *(buffer.free for buffer in buffers), self._drop_stream):
            try:
                free()
            except CudaError as exc:
                _log.warning("%s: while closing: %s", self._path, exc)

    def _drop_engine(self) -> None:
        self._context = None
        if self._engine is not None:
            engine, self._engine = self._engine, None
            engine.release()

    def _drop_stream(self) -> None:
        if self._stream is not None:
            stream, self._stream = self._stream, None
            self._cuda.call("cudaStreamDestroy", stream)
