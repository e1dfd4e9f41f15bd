"""An open network that is timed: an artifact as Predictor runs it, or a baseline as its library runs it.

Each session imports its library itself: torch takes seconds to import, and may not be installed.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from itertools import pairwise
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rest_deploy.artifact.address import Place
from rest_deploy.environment import installed_version
from rest_deploy.errors import DeviceError, RestDeployError, one_line
from rest_deploy.runtimes.base import GpuCall
from rest_deploy.runtimes.openvino import compile_network
from rest_deploy.runtimes.ort import open_session
from rest_deploy.runtimes.registry import open_runtime, row_for
from rest_deploy.specs import Device

_RECOMPILATIONS = 256


class Session(ABC):
    """A network that is ready to run; a context manager.

    Attributes:
        run: float32 (B, channels, H, W) on the host -> logits (B, classes) on the host; raises RestDeployError.
        description: What runs it, in words.
        facts: As of :class:`~rest_deploy.runtimes.base.Runtime`.
    """

    run: Callable[[NDArray[np.float32]], Any]
    description: str
    facts: Mapping[str, Any] = MappingProxyType({})

    def gpu_calls(self, batch: NDArray[np.float32], count: int) -> list[GpuCall]:
        """Parts of the time of calls on a GPU; empty without a GPU, or if the runtime does not measure them."""
        return []

    @abstractmethod
    def close(self) -> None:
        """Release the network."""

    def __enter__(self) -> Session:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class PicturesSession(Session):
    """In a run on pictures, a session whose file takes arrays or resized pictures; it makes these from the pictures.

    Args:
        of: The session.
        inputs_of: uint8 (B, height, width, 3) -> what it takes.
    """

    def __init__(self, of: Session, inputs_of: Callable[[NDArray[Any]], NDArray[Any]]) -> None:
        self._of, self._inputs_of = of, inputs_of
        self.description, self.facts = of.description, of.facts
        self.run = lambda pictures: of.run(inputs_of(pictures))

    def gpu_calls(self, batch: NDArray[Any], count: int) -> list[GpuCall]:
        """Without the time that it takes to make inputs from pictures."""
        return self._of.gpu_calls(self._inputs_of(batch), count)

    def close(self) -> None:
        self._of.close()


class ArtifactSession(Session):
    """An artifact in its runtime, with the checks of every ``Predictor`` call.

    Args:
        path: A file, or an address, that ``Predictor`` opens.
        device: Its device; None for the runtime's default.
        threads: CPU threads for one call; None for one per usable core.
    """

    def __init__(self, path: Place, device: str | None, threads: int | None) -> None:
        self._runtime = open_runtime(path, device, threads)
        self.facts = self._runtime.facts
        self.run = self._runtime.run  # without a call in between, which would be timed too
        row = row_for(path, self._runtime.device)
        versions = (installed_version(name) for names in row.packages.values() for name in names)
        where = "" if row.schemes else f"on {self._runtime.device}"
        told = (row.title, next(filter(None, versions), None), where)
        self.description = " ".join(filter(None, told))
        if self._runtime.note:  # such as that it is a cache that answers
            self.description += f"; {self._runtime.note}"

    def gpu_calls(self, batch: NDArray[np.float32], count: int) -> list[GpuCall]:
        return self._runtime.gpu_calls(batch, count)

    def close(self) -> None:
        self._runtime.close()


class PlainOnnxSession(Session):
    """Any ONNX file; on a GPU, ONNX Runtime may run parts of it on the CPU."""

    def __init__(self, file: Path, device: str | None, threads: int) -> None:
        import onnxruntime

        target = Device.parse(device or "cpu")
        self._session = open_session(file.read_bytes(), file, target, threads, strict=False)
        self._name = self._session.get_inputs()[0].name
        self.description = f"ONNX Runtime {onnxruntime.__version__} on {target}"

    def run(self, batch: NDArray[np.float32]) -> Any:
        try:
            return self._session.run(None, {self._name: batch})[0]
        except Exception as exc:  # ONNX Runtime's errors share no public base class
            raise RestDeployError(f"{self.description}: on input {batch.shape}: {one_line(exc)}") from exc

    def close(self) -> None:
        del self._session


class OpenVinoSession(Session):
    """Any ONNX file in OpenVINO on the CPU, as ``device="openvino"`` computes ours."""

    def __init__(self, file: Path, device: str | None, threads: int) -> None:
        import openvino

        if Device.parse(device or "cpu").kind not in ("cpu", "openvino"):
            raise DeviceError(f"device {device}: the baseline openvino runs only on the CPU; use device cpu")
        self.description = f"OpenVINO {openvino.__version__.partition('-')[0]} on cpu"
        try:
            compiled = compile_network(file, Device("openvino", name="CPU"), threads)
            self._request: Any = compiled.create_infer_request()
        except RuntimeError as exc:
            raise RestDeployError(f"{self.description}: cannot load {file.name}: {one_line(exc)}") from exc

    def run(self, batch: NDArray[np.float32]) -> Any:
        try:
            return self._request.infer({0: batch}, share_inputs=True)[0]
        except RuntimeError as exc:
            raise RestDeployError(f"{self.description}: on input {batch.shape}: {one_line(exc)}") from exc

    def close(self) -> None:
        self._request = None


class EagerSession(Session):
    """A checkpoint in PyTorch, in float32."""

    def __init__(self, file: Path, device: str | None, threads: int) -> None:
        import torch

        from rest_deploy.models.factory import load_model
        from rest_deploy.models.reference import torch_threads
        from rest_deploy.runtimes.pytorch import check_cuda

        target = Device.parse(device or "cpu")
        check_cuda(target)
        self._threads = torch_threads(threads)
        torch.backends.cudnn.allow_tf32 = False  # on by default; the other contenders compute in full float32
        self._torch, self._device = torch, torch.device(str(target))
        model = load_model(None, file).model
        try:
            self._network: Any = model.to(self._device)
        except RuntimeError as exc:  # no memory on the GPU
            raise RestDeployError(f"PyTorch cannot move the network to {target}: {one_line(exc)}") from exc
        self.description = f"PyTorch {torch.__version__} on {target}"

    def run(self, batch: NDArray[np.float32]) -> Any:
        try:
            with self._threads, self._torch.inference_mode():
                return self._network(self._torch.from_numpy(batch).to(self._device)).cpu().numpy()
        except Exception as exc:  # torch.compile has a dozen error classes, one for a missing compiler
            raise RestDeployError(f"{self.description}: on input {batch.shape}: {one_line(exc)}") from exc

    def gpu_calls(self, batch: NDArray[np.float32], count: int) -> list[GpuCall]:
        """Parts of the time of calls on a GPU, by CUDA events on PyTorch's stream."""
        if self._device.type != "cuda":
            return []
        with self._torch.cuda.device(self._device):  # the events belong to its stream
            return [self._gpu_call(batch) for _ in range(count)]

    def _gpu_call(self, batch: NDArray[np.float32]) -> GpuCall:
        marks = [self._torch.cuda.Event(enable_timing=True) for _ in range(4)]
        start = time.perf_counter()
        with self._torch.inference_mode():
            marks[0].record()
            image = self._torch.from_numpy(batch).to(self._device)
            marks[1].record()
            before = time.perf_counter()
            logits = self._network(image)
            enqueued = time.perf_counter() - before
            marks[2].record()
            logits.cpu()
            marks[3].record()
        self._torch.cuda.synchronize(self._device)
        whole = time.perf_counter() - start
        copy_in, compute, copy_out = (a.elapsed_time(b) for a, b in pairwise(marks))
        return GpuCall(whole * 1e3, compute, copy_in, copy_out, enqueued * 1e3)

    def close(self) -> None:
        self._network = None


class CompiledSession(EagerSession):
    """The same through ``torch.compile`` with its defaults: the first size by itself, others by dynamic shapes."""

    def __init__(self, file: Path, device: str | None, threads: int) -> None:
        super().__init__(file, device, threads)
        torch = self._torch
        # Networks of one run share PyTorch's limit of compilations, after which it silently runs them eagerly.
        torch._dynamo.config.recompile_limit = _RECOMPILATIONS
        torch._dynamo.config.fail_on_recompile_limit_hit = True
        try:
            self._network = torch.compile(self._network)
        except RuntimeError as exc:  # this Python is not supported
            raise RestDeployError(f"torch.compile: {one_line(exc)}") from exc
        self.description = f"torch.compile of {self.description}"
