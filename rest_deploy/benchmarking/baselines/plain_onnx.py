"""The network as exported plainly, in ONNX Runtime."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rest_deploy.benchmarking.sessions import Session
from rest_deploy.errors import RestDeployError, one_line
from rest_deploy.runtimes.devices import Device
from rest_deploy.runtimes.ort import open_session


class PlainOnnxSession(Session):
    """An ONNX file that need not be ours; on a GPU parts of it may run on the CPU, as ONNX Runtime places them."""

    def __init__(self, file: Path, device: str | None, threads: int) -> None:
        import onnxruntime

        target = Device.parse(device or "cpu")
        self._session = open_session(file.read_bytes(), file, target, threads, strict=False)
        self._name = self._session.get_inputs()[0].name
        self.description = f"ONNX Runtime {onnxruntime.__version__} on {target}"

    def run(self, batch: NDArray[np.float32]) -> Any:
        """Logits of a batch."""
        try:
            return self._session.run(None, {self._name: batch})[0]
        except Exception as exc:  # ONNX Runtime's errors share no public base class
            raise RestDeployError(f"{self.description}: on input {batch.shape}: {one_line(exc)}") from exc

    def close(self) -> None:
        """Let go of the network."""
        del self._session
