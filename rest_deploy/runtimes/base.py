"""What every runtime does, whatever runs the network: checks its input once, owns its output, closes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rest_deploy.artifact.info import ArtifactInfo
from rest_deploy.errors import InputError, RestDeployError


class Runtime(ABC):
    """A network loaded from a file: float32 (B, channels, H, W) -> float32 (B, classes).

    Calls may come from several threads at once. A subclass sets ``info``, and writes ``_run`` and ``_close``.

    Args:
        path: The artifact.
        device: ``"cpu"``, ``"cuda"`` or ``"cuda:N"``.
        threads: CPU threads for one call; None takes one for each physical core that this process may use.
    """

    info: ArtifactInfo

    def __init__(self, path: str | Path, device: str = "cpu", threads: int | None = None) -> None:
        self.path = Path(path)
        self.device = device
        self.threads = threads
        self._closed = False

    def run(self, batch: NDArray[np.float32]) -> NDArray[np.float32]:
        """Logits of a batch.

        Args:
            batch: float32 of shape (B, channels, H, W), every size at least 1, already normalised.

        Returns:
            A new float32 array of shape (B, classes), the caller's to keep.

        Raises:
            InputError: Wrong type, dtype, rank or size.
            RestDeployError: The runtime is closed, or failed.
        """
        if self._closed:
            raise RestDeployError(f"{self.path}: this predictor is closed; open the artifact again")
        return self._run(self._checked(batch))

    def _checked(self, batch: Any) -> NDArray[np.float32]:
        channels = self.info.input.shape[1]
        needed = f"needed: float32 of shape (batch, {channels}, height, width), no size of 0"
        if not isinstance(batch, np.ndarray):
            raise InputError(f"input is a {type(batch).__name__}; {needed}, as a NumPy array")
        if batch.dtype != np.float32 or batch.ndim != 4 or batch.shape[1] != channels or 0 in batch.shape:
            raise InputError(f"input of dtype {batch.dtype} and shape {batch.shape}; {needed}")
        return np.ascontiguousarray(batch)

    @abstractmethod
    def _run(self, batch: NDArray[np.float32]) -> NDArray[np.float32]:
        """Run a checked, contiguous batch; return a fresh array."""

    @abstractmethod
    def _close(self) -> None:
        """Let go of what is held. Called once."""

    @property
    def closed(self) -> bool:
        """Whether :meth:`close` was called."""
        return self._closed

    def close(self) -> None:
        """Let go of the network; may be called again without harm."""
        if not self._closed:
            self._closed = True
            self._close()

    def __enter__(self) -> Runtime:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
