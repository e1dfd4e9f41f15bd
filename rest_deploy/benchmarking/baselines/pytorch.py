"""The network in PyTorch as its authors wrote it, eager and through torch.compile."""

from __future__ import annotations

import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from rest_deploy.benchmarking.sessions import Session
from rest_deploy.errors import RestDeployError, one_line
from rest_deploy.models.factory import load_model
from rest_deploy.models.reference import torch_threads
from rest_deploy.runtimes.devices import Device
from rest_deploy.runtimes.gpu_times import GpuCall
from rest_deploy.runtimes.pytorch import check_cuda

_RECOMPILATIONS = 256


class EagerSession(Session):
    """A checkpoint in PyTorch, in float32."""

    def __init__(self, file: Path, device: str | None, threads: int) -> None:
        target = Device.parse(device or "cpu")
        check_cuda(target)
        self._threads = torch_threads(threads)
        torch.backends.cudnn.allow_tf32 = False  # on by default; the others compute in full float32
        self._device = torch.device(str(target))
        model = load_model(None, file).model
        try:
            self._network: Any = model.to(self._device)
        except RuntimeError as exc:  # no room on the GPU
            raise RestDeployError(f"PyTorch cannot put the network on {target}: {one_line(exc)}") from exc
        self.description = f"PyTorch {torch.__version__} on {target}"

    def run(self, batch: NDArray[np.float32]) -> Any:
        """Logits of a batch."""
        try:
            with self._threads, torch.inference_mode():
                return self._network(torch.from_numpy(batch).to(self._device)).cpu().numpy()
        except Exception as exc:  # torch.compile's errors are of a dozen classes, and a compiler's absence is one
            raise RestDeployError(f"{self.description}: on input {batch.shape}: {one_line(exc)}") from exc

    def gpu_calls(self, batch: NDArray[np.float32], count: int) -> list[GpuCall]:
        """Where the time of calls on a GPU goes, by CUDA events on PyTorch's stream."""
        if self._device.type != "cuda":
            return []
        with torch.cuda.device(self._device):  # whose stream the events are of
            return [self._gpu_call(batch) for _ in range(count)]

    def _gpu_call(self, batch: NDArray[np.float32]) -> GpuCall:
        marks = [torch.cuda.Event(enable_timing=True) for _ in range(4)]
        start = time.perf_counter()
        with torch.inference_mode():
            marks[0].record()
            image = torch.from_numpy(batch).to(self._device)
            marks[1].record()
            before = time.perf_counter()
            logits = self._network(image)
            enqueued = time.perf_counter() - before
            marks[2].record()
            logits.cpu()
            marks[3].record()
        torch.cuda.synchronize(self._device)
        whole = time.perf_counter() - start
        copy_in, compute, copy_out = (a.elapsed_time(b) for a, b in pairwise(marks))
        return GpuCall(whole * 1e3, compute, copy_in, copy_out, enqueued * 1e3)

    def close(self) -> None:
        """Let go of the network."""
        self._network = None


class CompiledSession(EagerSession):
    """The same through ``torch.compile`` with its defaults: the first size by itself, others by dynamic shapes."""

    def __init__(self, file: Path, device: str | None, threads: int) -> None:
        super().__init__(file, device, threads)
        # Networks of one run share PyTorch's count of compilations, past which it would run them eagerly, unsaid.
        torch._dynamo.config.recompile_limit = _RECOMPILATIONS
        torch._dynamo.config.fail_on_recompile_limit_hit = True
        try:
            self._network = torch.compile(self._network)
        except RuntimeError as exc:  # of a Python that it does not support
            raise RestDeployError(f"torch.compile: {one_line(exc)}") from exc
        self.description = f"torch.compile of {self.description}"
