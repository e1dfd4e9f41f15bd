"""The network as exported plainly, in OpenVINO."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import openvino
from numpy.typing import NDArray

from rest_deploy.benchmarking.sessions import Session
from rest_deploy.errors import DeviceError, RestDeployError, one_line
from rest_deploy.runtimes.devices import Device


class OpenVinoSession(Session):
    """An ONNX file in OpenVINO on the CPU, in float32: left to itself it takes bfloat16 where the CPU has it."""

    def __init__(self, file: Path, device: str | None, threads: int) -> None:
        if Device.parse(device or "cpu").kind != "cpu":
            raise DeviceError(f"the baseline openvino runs on the CPU; it cannot be measured on {device}")
        settings: dict[str, Any] = {
            "INFERENCE_PRECISION_HINT": "f32",
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_NUM_THREADS": threads,
        }
        self.description = f"OpenVINO {openvino.__version__.partition('-')[0]} on cpu"
        try:
            self._request: Any = openvino.Core().compile_model(file, "CPU", settings).create_infer_request()
        except RuntimeError as exc:
            raise RestDeployError(f"{self.description}: cannot load {file.name}: {one_line(exc)}") from exc

    def run(self, batch: NDArray[np.float32]) -> Any:
        """Logits of a batch."""
        try:
            return self._request.infer({0: batch}, share_inputs=True)[0]
        except RuntimeError as exc:
            raise RestDeployError(f"{self.description}: on input {batch.shape}: {one_line(exc)}") from exc

    def close(self) -> None:
        """Let go of the network."""
        self._request = None
