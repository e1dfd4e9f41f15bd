"""What every runtime does, whatever runs the network: checks its input once, owns its output, closes."""

from __future__ import annotations

import ctypes
import functools
import os
import threading
import weakref
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType, TracebackType
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from rest_deploy.artifact.address import Place, located
from rest_deploy.artifact.info import ArtifactInfo
from rest_deploy.errors import ConfigError, InputError, PredictorError
from rest_deploy.runtimes.memory import call_bytes
from rest_deploy.specs import Device

if TYPE_CHECKING:
    from rest_deploy.models.reference import BlockRun

_SIZES_KNOWN = 256


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


class Runtime(ABC):
    """A network loaded from a file: float32 (B, channels, H, W) -> float32 outputs by name, each of B rows.

    Calls may come from several threads at once. A subclass writes ``read_info``, ``_load``, ``_run`` and ``_close``; of
    the rest what differs from here. Its row is in :mod:`rest_deploy.runtimes.registry`.

    In a process that is forked later it says so when it is called. Threads are not inherited, nor is a GPU: a call
    would wait for ever, and so would whatever lets go of what is held.

    Args:
        path: The artifact.
        device: Such as ``"cpu"`` or ``"cuda:1"``, of a kind that its row has.
        threads: CPU threads for one call; None takes one for each physical core that this process may use, at most its
            cgroup's quota.
        allow_spinning: Whether threads may wait for the next call by spinning.

    Raises:
        ConfigError: Spinning is to be off, and this runtime cannot turn it off.
    """

    info: ArtifactInfo
    #: ``server``, its name and version, and ``sha256`` of the file, as a server says; empty for a file that is here.
    facts: Mapping[str, Any] = MappingProxyType({})
    #: Format by which the memory of a call is predicted; empty for that of its record.
    memory: ClassVar[str] = ""
    #: What to do where ``allow_spinning=False`` cannot be had; None where it can.
    spinning_advice: ClassVar[str | None] = "leave allow_spinning out"

    def __init__(
        self,
        path: str | Place,
        device: str,
        threads: int | None = None,
        allow_spinning: bool = True,
    ) -> None:
        self.path: Any = located(path)  # a Path, of a server's model an Address
        if not allow_spinning and self.spinning_advice is not None:
            raise ConfigError(f"{path}: it cannot turn spinning off; {self.spinning_advice}, or use an .onnx file")
        self.device, self.target = device, Device.parse(device)
        self.threads, self.allow_spinning = threads, allow_spinning
        #: What its user should know of where it runs; empty where that is what was meant.
        self.note = ""
        self._closed = self._forked = False
        self._closing = threading.Lock()
        _open.add(self)
        self._load()
        needed = functools.partial(call_bytes, self.info, format=self.memory)
        self._call_bytes = functools.lru_cache(_SIZES_KNOWN)(needed)  # asked for at every call

    @classmethod
    @abstractmethod
    def read_info(cls, path: Any) -> ArtifactInfo:
        """The record of a file (a Path) or of a server's model (an Address), without loading its network if possible.

        Raises:
            ArtifactError: The file is missing, damaged or not ours.
        """

    @classmethod  # noqa: B027  # that its module was imported may be all there is to try
    def probe(cls, device: Device) -> None:
        """Compute something small on a device, for rest-doctor.

        Raises:
            RestDeployError: It does not run there; says what is missing.
        """

    def run(self, batch: Any) -> dict[str, Any]:
        """The outputs for a batch.

        A file that takes pictures (``info.input_kind``) is given uint8 of shape (B, height, width, 3) instead.

        An image with a value that is not finite, or beyond ``largest_input``, has no answer: integers would make finite
        values of it, and take the scale of its neighbours from it. Its row of each output is NaN, and the others are
        those of a batch without it. An array on a GPU is not looked at, as that would take a copy: there such an image
        may have finite, wrong outputs, above all in INT8, whose scales are fixed in an engine and cut it off.

        Args:
            batch: float32, or what the network itself takes, of shape (B, channels, H, W), every size at least 1,
                already normalised; a NumPy array, or of an engine one on its GPU, of the network's own dtype.

        Returns:
            Output's name -> a new float32 array of shape (B, classes), or of a map (B, channels, H / stride, W /
            stride), the caller's to keep; where the batch was, and on a GPU of the network's own dtype.

        Raises:
            InputError: Wrong type, dtype, rank or size.
            PredictorError: The runtime is closed, or failed.
        """
        if not isinstance(batch, np.ndarray):
            self.check_usable()
            return self._run_foreign(batch)
        self.check(batch)
        batch = np.asarray(batch)  # a masked array hides values that the network would see
        sizes = self.info.input_sizes(batch.shape)
        if self._holds(batch) or not self._takes(*sizes):  # which is refused, whatever is in it
            return self._outputs(batch)
        shapes = {spec.name: spec.sizes(*sizes) for spec in self.info.outputs}
        outputs = {name: np.full(shape, np.nan, np.float32) for name, shape in shapes.items()}
        held = [row for row, image in enumerate(batch) if self._holds(image)]
        if held:
            run = held if self._takes(len(held), *sizes[1:]) else held + held[:1] * (len(batch) - len(held))
            for name, values in self._outputs(batch[run]).items():
                outputs[name][held] = values[: len(held)]
        return outputs

    @property
    def largest_input(self) -> float:
        """Largest absolute value of an input that its precision holds."""
        return self.info.recipe.largest_input

    def _holds(self, values: NDArray[Any]) -> bool:
        """Whether all values are finite and within ``largest_input``."""
        if values.dtype == np.uint8:
            return True
        if values.dtype == np.float16:  # ordering halves takes NumPy a hundred times as long as looking at their bits
            return bool((values.view(np.uint16) & 0x7FFF).max() < 0x7C00)
        low, high = float(values.min()), float(values.max())  # NaN, where one is among them; NumPy warns of none
        return -self.largest_input <= low and high <= self.largest_input

    def _outputs(self, batch: NDArray[Any]) -> dict[str, NDArray[np.float32]]:
        outputs = self._run(self._as_input(batch))
        sizes = self.info.network_sizes(*self.info.input_sizes(batch.shape))
        for spec in self.info.outputs:
            values = outputs[spec.name]
            if values.shape != (wanted := spec.sizes(*sizes)):
                raise PredictorError(
                    f"{self.path}: {spec.name} is of shape {values.shape}, and by its record {wanted}; export it again"
                )
            outputs[spec.name] = values.astype(np.float32, copy=False)
        return outputs

    def check(self, batch: NDArray[Any]) -> None:
        """Refuse a batch that :meth:`run` would.

        Raises:
            InputError: Wrong dtype, rank or size.
            PredictorError: The runtime is closed.
        """
        self.check_usable()
        self._check(batch.dtype, batch.shape, *self._besides)

    def call_bytes(self, count: int, height: int, width: int) -> int:
        """Bytes of memory that a call with an input of these sizes takes; 0 on a GPU, where that cannot be told."""
        return self._call_bytes(count, height, width) if self.target.in_memory else 0

    def gpu_calls(self, batch: NDArray[np.float32], count: int) -> list[GpuCall]:
        """Where the time of so many calls on a GPU goes; empty where there is no GPU, or the runtime cannot tell.

        Args:
            batch: As of :meth:`run`, on the host.
            count: How many.
        """
        return []

    def blocks(self) -> BlockRun:
        """What each of its blocks gives, on the CPU.

        Raises:
            ConfigError: They cannot be seen.
        """
        raise ConfigError(
            f"{self.path}: the blocks of such a file cannot be looked into; give the .onnx file it is made from"
        )

    def check_usable(self) -> None:
        """Refuse a call after a fork, or after another thread closed it; runtimes ask again once it is their turn."""
        if self._forked:
            raise PredictorError(
                f"{self.path}: it was opened before this process was forked, and its threads are not here; open it in "
                "each process, or start processes by spawn"
            )
        if self._closed:
            raise PredictorError(f"{self.path}: this predictor is closed; open the artifact again")

    def max_batch(self, height: int, width: int) -> int | None:
        """Most images of a size that one call takes; None where there is no bound."""
        return None

    @property
    def _besides(self) -> tuple[np.dtype[Any], ...]:
        """Dtypes of arrays on the host that are taken beside the file's own."""
        return () if self.info.input.dtype == "uint8" else (np.dtype(np.float32),)

    def _as_input(self, batch: NDArray[Any]) -> NDArray[Any]:
        return np.ascontiguousarray(batch, self.info.input.dtype)  # what goes in as float32 may be float16 inside

    def _takes(self, batch: int, height: int, width: int) -> bool:
        """Whether it takes a batch of so many images of a size."""
        return True

    def _check(self, dtype: np.dtype[Any], shape: tuple[int, ...], *others: np.dtype[Any]) -> None:
        """Refuse a dtype that is neither the network's nor one of others, a rank or a size that it does not take."""
        if (
            dtype not in (self.info.input.dtype, *others)
            or len(shape) != 4
            or shape != self.info.input_shape(*self.info.input_sizes(shape))
            or 0 in shape
        ):
            raise InputError(f"input of dtype {dtype} and shape {shape}; {self._needed()}")

    def _needed(self) -> str:
        own = self.info.input.dtype
        if own == "uint8":
            return "needed: uint8 of shape (batch, height, width, 3) in RGB, no size of 0"
        dtypes = "float32" if own == "float32" else f"float32, on a GPU {own},"
        return f"needed: {dtypes} of shape (batch, {self.info.channels}, height, width), no size of 0"

    def _run_foreign(self, batch: Any) -> dict[str, Any]:
        """Run what is no NumPy array, for runtimes that can."""
        raise InputError(f"input is a {type(batch).__name__}; {self._needed()}, as a NumPy array")

    @abstractmethod
    def _load(self) -> None:
        """Load the network on ``target``, and set ``info``."""

    @abstractmethod
    def _run(self, batch: NDArray[np.float32]) -> dict[str, NDArray[np.float32]]:
        """Run a checked, contiguous batch; return the record's outputs, by name, as fresh arrays."""

    @abstractmethod
    def _close(self) -> None:
        """Let go of what is held. Called once."""

    def _leave(self) -> None:
        """Called in a forked child: nothing that is held is to be let go of there. It may be half made."""
        self._forked = True
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(self))  # or the end of the child would do it

    @property
    def unusable(self) -> bool:
        """Whether every call is refused: it was closed, or opened before this process was forked."""
        return self._closed or self._forked

    @property
    def closed(self) -> bool:
        """Whether :meth:`close` was called."""
        return self._closed

    def close(self) -> None:
        """Let go of the network; may be called again without harm."""
        if self._forked:
            self._closed = True
            return
        with self._closing:
            if not self._closed:
                self._closed = True
                self._close()

    def __enter__(self) -> Runtime:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


#: All that may be open when the process is forked.
_open: weakref.WeakSet[Runtime] = weakref.WeakSet()


def _leave_all() -> None:
    for runtime in list(_open):
        runtime._leave()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_leave_all)
