"""A contender that is open: artifacts as Predictor runs them, and baselines as plainly as their library lets them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rest_deploy.environment import installed_version
from rest_deploy.runtimes.gpu_times import GpuCall
from rest_deploy.runtimes.registry import open_runtime


class Session(ABC):
    """A network that is ready to run: float32 (B, channels, H, W) of the host -> (B, classes) of the host.

    Attributes:
        description: What runs it, in words.
    """

    description = ""

    @abstractmethod
    def run(self, batch: NDArray[np.float32]) -> Any:
        """Logits of a batch.

        Raises:
            RestDeployError: The library fails.
        """

    def gpu_calls(self, batch: NDArray[np.float32], count: int) -> list[GpuCall]:
        """Where the time of calls on a GPU goes; empty where there is none, or it does not tell."""
        return []

    @abstractmethod
    def close(self) -> None:
        """Let go of the network."""

    def __enter__(self) -> Session:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class ArtifactSession(Session):
    """An artifact in its runtime, with the checks that every call of ``Predictor`` makes.

    Args:
        path: What ``Predictor`` opens.
        device: Where; None for the runtime's default.
        threads: CPU threads for one call; None takes one for each usable core.
    """

    def __init__(self, path: Path, device: str | None, threads: int | None) -> None:
        self._runtime = open_runtime(path, device, threads)
        self.run = self._runtime.run  # type: ignore[method-assign]  # without a call in between, which would be timed
        self.description = _description(self._runtime.info.format, self._runtime.device)

    def run(self, batch: NDArray[np.float32]) -> Any:
        """Logits of a batch."""
        return self._runtime.run(batch)

    def gpu_calls(self, batch: NDArray[np.float32], count: int) -> list[GpuCall]:
        """Where the time of calls on a GPU goes."""
        return self._runtime.gpu_calls(batch, count)

    def close(self) -> None:
        """Let go of the network."""
        self._runtime.close()


#: Format of an artifact -> what runs it, and the distributions that may bring it.
_RUNNERS = {
    "onnx": ("ONNX Runtime", ("onnxruntime", "onnxruntime-gpu")),
    "pytorch": ("PyTorch", ("torch",)),
    "trt": ("TensorRT", ("tensorrt",)),
    "trt-rtx": ("TensorRT-RTX", ("tensorrt-rtx-cu13-libs",)),
}


def _description(format: str, device: str) -> str:
    title, packages = _RUNNERS.get(format, (format, ()))
    versions = (installed_version(package) for package in packages)
    return " ".join(filter(None, (title, next(filter(None, versions), None), f"on {device}")))
