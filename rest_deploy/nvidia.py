"""What building and running engines share: CUDA's runtime and its GPUs, TensorRT and its log."""

from __future__ import annotations

import ctypes
import importlib
import importlib.util
import logging
import re
import sys
import threading
import traceback
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

from rest_deploy.artifact.engine import LIBRARIES
from rest_deploy.errors import ConfigError, DeviceError, MissingPackageError, RestDeployError, one_line

_log = logging.getLogger(__name__)

# CUDA's runtime, by cuda-python.

_SUCCESS = 0
#: cudaError_t, CUDA Runtime API, section "Data types used by CUDA Runtime".
NO_DRIVER, NO_GPU, OUT_OF_MEMORY = 35, 100, 2


class CudaError(DeviceError):
    """A call of the CUDA runtime failed; ``code`` is its ``cudaError_t``."""

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.code = code


class Cuda:
    """The CUDA runtime.

    Raises:
        MissingPackageError: cuda-python is not installed.
        DeviceError: It is installed but does not load.
    """

    def __init__(self) -> None:
        try:
            self.api: Any = importlib.import_module("cuda.bindings.runtime")
        except ModuleNotFoundError as exc:
            raise MissingPackageError("cuda-bindings", "use an NVIDIA GPU", "trt") from exc
        except (ImportError, RuntimeError) as exc:
            raise DeviceError(f"cuda-bindings is installed but does not load: {one_line(exc)}") from exc

    def call(self, function: str, *arguments: Any) -> Any:
        """Call a function of the CUDA runtime by its C name, and return its values without the error code.

        Raises:
            CudaError: It failed; the message contains CUDA's own message.
        """
        code, *values = getattr(self.api, function)(*arguments)
        if int(code) != _SUCCESS:
            _, said = self.api.cudaGetErrorString(code)
            words = said.decode() if isinstance(said, bytes) else str(said)
            raise CudaError(f"{function} failed: {words} ({code.name})", int(code))
        if not values:
            return None
        return values[0] if len(values) == 1 else tuple(values)

    @contextmanager
    def on_device(self, index: int) -> Iterator[None]:
        """Make a GPU the current one of this thread during a block; CUDA keeps one for each thread."""
        before = self.call("cudaGetDevice")
        if before != index:
            self.call("cudaSetDevice", index)
        try:
            yield
        finally:
            if before != index:
                self.call("cudaSetDevice", before)


# GPUs.


@dataclass(frozen=True, order=True)
class ComputeCapability:
    """Generation of a GPU in CUDA's numbering, such as 8.9; written ``sm89``."""

    major: int
    minor: int

    @classmethod
    def parse(cls, text: str) -> ComputeCapability:
        """Read ``"sm89"`` (or ``"SM89"``, ``"8.9"``); the last digit is the minor number.

        Raises:
            ConfigError: Anything else.
        """
        match = re.fullmatch(r"(?:sm_?)?(\d{1,2}?)\.?(\d)", text.strip().lower())
        if not match:
            raise ConfigError(f"compute capability {text!r}; accepted: sm86, sm89, sm120, ...")
        return cls(int(match[1]), int(match[2]))

    def __str__(self) -> str:
        return f"sm{self.major}{self.minor}"


AMPERE = ComputeCapability(8, 0)
TURING = ComputeCapability(7, 5)
HOPPER = ComputeCapability(9, 0)


@dataclass(frozen=True)
class Gpu:
    """A GPU of this machine."""

    index: int  # CUDA's
    name: str  # the driver's
    compute_capability: ComputeCapability
    memory_bytes: int

    def __str__(self) -> str:
        return f"{self.name} ({self.compute_capability})"


#: What is told where :func:`gpu_count` is 0.
NONE_SHOWN = (
    "no NVIDIA GPU is here, or no driver that shows it; check nvidia-smi and CUDA_VISIBLE_DEVICES, or use device cpu"
)


class NoGpuError(DeviceError):
    """There is no GPU, or no driver that shows one."""


def find_gpu(index: int) -> Gpu:
    """The GPU with a number.

    Raises:
        MissingPackageError: cuda-python is not installed.
        NoGpuError: There is no driver, it is too old, or it finds no GPU.
        DeviceError: There are GPUs, but not this one.
    """
    cuda = Cuda()
    try:
        count = cuda.call("cudaGetDeviceCount")
    except CudaError as exc:
        raise NoGpuError(f"device cuda:{index}: {_why_none(cuda, exc)}") from exc
    if not 0 <= index < count:
        raise DeviceError(f"device cuda:{index}: GPUs here: {count}; accepted: cuda:0 to cuda:{count - 1}")
    properties = cuda.call("cudaGetDeviceProperties", index)
    name = properties.name.decode() if isinstance(properties.name, bytes) else str(properties.name)
    capability = ComputeCapability(int(properties.major), int(properties.minor))
    return Gpu(index, name, capability, int(properties.totalGlobalMem))


def gpu_count() -> int | None:
    """GPUs that CUDA's driver shows, 0 without a driver; None where it fails and so cannot say. It takes no package."""
    try:
        driver = ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
    except OSError:
        return 0
    count = ctypes.c_int()
    code = driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(count))
    if code in (_SUCCESS, NO_GPU):  # which have the same numbers in the driver's CUresult
        return count.value if code == _SUCCESS else 0
    return None


def free_bytes(index: int) -> int | None:
    """Bytes of memory that are free on a GPU at this moment; None if CUDA does not say.

    Asking starts CUDA on the GPU, which takes some hundred MiB of it.
    """
    try:
        cuda = Cuda()
        with cuda.on_device(index):
            return int(cuda.call("cudaMemGetInfo")[0])
    except (DeviceError, MissingPackageError):
        return None


def _why_none(cuda: Cuda, error: CudaError) -> str:
    driver = cuda.call("cudaDriverGetVersion")
    if driver == 0:
        return "there is no NVIDIA driver here; install one, or use device cpu with an .onnx file"
    if error.code == NO_DRIVER:
        runtime = cuda.call("cudaRuntimeGetVersion")
        return (
            f"the NVIDIA driver supports CUDA {cuda_version(driver)}, "
            f"cuda-bindings needs CUDA {cuda_version(runtime)}; update the driver, "
            f"or pip install 'cuda-bindings<{min(driver // 1000 + 1, runtime // 1000)}'"
        )
    if error.code == NO_GPU:
        return "the NVIDIA driver finds no GPU; check nvidia-smi and CUDA_VISIBLE_DEVICES"
    return str(error)


def cuda_version(number: int) -> str:
    """CUDA writes 12.6 as 12060."""
    return f"{number // 1000}.{number % 1000 // 10}"


# TensorRT: itself, or TensorRT for RTX, which builds engines without a GPU.


@dataclass(frozen=True)
class Library:
    """An imported TensorRT."""

    name: str  # a key of LIBRARIES
    api: Any  # the module
    version: str

    @property
    def is_rtx(self) -> bool:
        """TensorRT for RTX: it builds for named targets, and compiles kernels where the engine runs."""
        return self.name == "trt-rtx"

    def __str__(self) -> str:
        return f"{LIBRARIES[self.name].title} {self.version}"


def is_installed(name: str) -> bool:
    """Whether a library of :data:`LIBRARIES` is installed, without importing it."""
    return any(_found(module) for module in LIBRARIES[name].modules)


def _found(module: str) -> bool:
    """Whether a module is installed; a plain folder of that name on the path does not count."""
    spec = importlib.util.find_spec(module)
    return spec is not None and (spec.origin is not None or spec.submodule_search_locations is None)


def load_library(name: str, purpose: str) -> Library:
    """Import a library of :data:`LIBRARIES`.

    Args:
        name: Its key.
        purpose: What it is for, as it reads after "is needed to".

    Raises:
        MissingPackageError: It is not installed.
        DeviceError: It is installed but does not load.
    """
    row = LIBRARIES[name]
    for module in row.modules:
        if not _found(module):
            continue
        try:
            api = importlib.import_module(module)
        except (ImportError, OSError, RuntimeError) as exc:  # its shared libraries
            raise DeviceError(f"{row.package} is installed but does not load: {one_line(exc)}") from exc
        return Library(name, api, str(api.__version__))
    raise MissingPackageError(row.package, purpose, row.extra)


# TensorRT's calls report failure by None, False or -1, and only its logger gets the reason. The log is kept, so that an
# error can have the reason.

_FAILURES = frozenset({"ERROR", "INTERNAL_ERROR"})
_LEVELS = {"WARNING": logging.WARNING, "INFO": logging.INFO, "VERBOSE": logging.DEBUG}

#: How TensorRT's messages, CUDA's and ours tell that memory ran out.
_NO_MEMORY = re.compile(
    r"OutOfMemory|out of memory|insufficient memory|memory \(\d+ bytes\) could not be allocated|insufficient workspace|"
    r"INSUFFICIENT_GPU_MEMORY",
    re.IGNORECASE,
)
#: Logged for every object that is released on a machine without a GPU; never the reason for a failure.
_SPURIOUS = re.compile(r"^.*catchCudaError.*cudaError (?:35|100)\b.*$", re.MULTILINE)
#: A warning if a second object in the process has its own logger, which still works.
_ANOTHER_LOGGER = re.compile(r"^The logger passed into create\w+ differs")
#: Lines that the ONNX parser puts around a message; its own errors say the same better.
_FRAME = re.compile(r"^ModelImporter\.cpp:\d+: (?:---|While parsing)")


def readable(message: str) -> str:
    """A message as one line, without the CUDA noise of a machine without a GPU."""
    return " ".join(_SPURIOUS.sub("", message).split())


def ran_out_of_memory(message: str) -> bool:
    """Whether an error of TensorRT or CUDA says that memory ran out."""
    return _NO_MEMORY.search(message) is not None


class _Record(NamedTuple):
    number: int
    severity: str
    message: str


class TensorRTLog:
    """Messages of one TensorRT object and of the objects that it makes, in order.

    Args:
        library: The library; ``logger`` is the logger for its calls.
        keep: Number of latest messages to keep; None for all.
    """

    def __init__(self, library: Library, keep: int | None = None) -> None:
        self.library = library
        self._records: deque[_Record] = deque(maxlen=keep)
        self._count = 0
        self._lock = threading.Lock()
        self.logger = _logger_class(library.api)(self._take)

    def _take(self, severity: str, message: str) -> None:
        with self._lock:  # TensorRT logs from several threads
            self._records.append(_Record(self._count, severity, message))
            self._count += 1
        if severity not in _FAILURES:
            _log.log(_LEVELS.get(severity, logging.DEBUG), "%s: %s", self.library, message)

    def mark(self) -> int:
        """A place in the log, for :meth:`reasons`."""
        with self._lock:
            return self._count

    def _since(self, start: int) -> list[_Record]:
        with self._lock:
            return [record for record in self._records if record.number >= start]

    def messages(self, start: int = 0) -> list[str]:
        """All messages after a place, of every severity."""
        return [record.message for record in self._since(start)]

    def reasons(self, start: int = 0) -> str:
        """The errors after a place, as one line, without the CUDA noise of a machine without a GPU."""
        failures = [record.message for record in self._since(start) if record.severity in _FAILURES]
        told = [readable(message) for message in failures if not _FRAME.search(message)]
        return "; ".join(dict.fromkeys(filter(None, told))) or f"{self.library} gave no reason"

    def warnings(self) -> tuple[str, ...]:
        """The warnings, each once."""
        told = [" ".join(record.message.split()) for record in self._since(0) if record.severity == "WARNING"]
        return tuple(dict.fromkeys(line for line in told if not _ANOTHER_LOGGER.search(line)))

    def attempt(self, what: str, error: type[RestDeployError], function: Callable[..., Any], *arguments: Any) -> Any:
        """Call a function of TensorRT and return its value; raise if it is None, False or -1, or if the call raises.

        The bindings raise TypeError if a constructor returns a null pointer, and RuntimeError for some failures.

        Args:
            what: The task, as it reads after "could not".
            error: What to raise.
            function, arguments: The call.

        Raises:
            RestDeployError: Of the class ``error``, with the reasons from the log.
        """
        start = self.mark()
        try:
            value = function(*arguments)
        except (TypeError, RuntimeError) as exc:
            raise error(f"{self.library} could not {what}: {self.reasons(start)} ({one_line(exc)})") from exc
        if value is None or value is False or (type(value) is int and value == -1):
            raise error(f"{self.library} could not {what}: {self.reasons(start)}")
        return value


@contextmanager
def frames_let_go() -> Iterator[None]:
    """If the block fails, release TensorRT's objects in its ended frames at once.

    Otherwise the exception keeps them. If it is part of a cycle (any exception kept in a variable is), they live until
    Python's collector runs. It may run while TensorRT logs and holds a lock, which the destructor of an object needs
    too: the process then hangs for good (seen with TensorRT-RTX 1.7.1).
    """
    try:
        yield
    except BaseException as exc:
        failed: BaseException | None = exc
        while failed is not None:
            traceback.clear_frames(failed.__traceback__)
            failed = failed.__cause__ or failed.__context__
        raise


def _logger_class(trt: Any) -> Any:
    base: Any = trt.ILogger

    class Logger(base):  # known only when the library is loaded
        def __init__(self, take: Any) -> None:
            base.__init__(self)
            self._take = take

        def log(self, severity: Any, message: str) -> None:
            self._take(severity.name, message)

    return Logger
