"""Engines for tests: built by the stand-in of a TensorRT version, and computing what their ONNX file computes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rest_deploy.artifact.manifest import manifest_path
from rest_deploy.export.engine.config import EngineConfig
from rest_deploy.export.formats import FormatRequest, get_format
from rest_deploy.runtimes.ort import OnnxRuntime
from rest_deploy.runtimes.registry import read_info
from rest_deploy.specs import Precision
from tests.standins.cuda import FakeCuda, FakeDevice
from tests.standins.tensorrt import FakeTensorRT

RTX = "tensorrt_rtx-1.7.1.116"
GPU = FakeDevice("NVIDIA GeForce RTX 4090", (8, 9), 24 << 30)


#: What an engine depends on -> its files.
_built: dict[tuple[object, ...] | None, dict[str, bytes]] = {}


@dataclass
class Machine:
    """A machine with GPUs and one TensorRT, all stand-ins."""

    trt: FakeTensorRT
    cuda: FakeCuda

    @classmethod
    def make(cls, monkeypatch: pytest.MonkeyPatch, file: str, devices: tuple[FakeDevice, ...] = (GPU,)) -> Machine:
        """A machine of its own for one test; ``file`` is one of ``API_FILES``."""
        cuda = FakeCuda(devices).install(monkeypatch)
        return cls(FakeTensorRT(file, cuda).install(monkeypatch), cuda)

    @property
    def format(self) -> str:
        """What its library makes."""
        return "trt-rtx" if self.trt.is_rtx else "trt"

    def build(self, onnx: Path, folder: Path, config: EngineConfig | None = None) -> Path:
        """An engine with its manifest; it computes what ONNX Runtime computes with the file."""
        config = config or EngineConfig(use_timing_cache=False)
        key = self._key(onnx, config)
        if key not in _built:
            command = ("--checkpoint", "tiny.safetensors")
            request = FormatRequest(self.format, Precision.FP32, config, verify=False, command=command)
            path = get_format(self.format).check(request).make(onnx, read_info(onnx), folder).path
            if key is not None:
                _built[key] = {file.name: file.read_bytes() for file in (path, manifest_path(path))}
        else:
            for name, content in _built[key].items():
                (folder / name).write_bytes(content)
            path = folder / next(iter(_built[key]))
        reference = OnnxRuntime(onnx, "cpu")
        self.trt.network = lambda batch: reference.run(batch)["logits"]
        self.forget()
        return path

    def _key(self, onnx: Path, config: EngineConfig) -> tuple[object, ...] | None:
        """What an engine depends on; None where building it is to be seen, or to fail."""
        trt, cuda = self.trt, self.cuda
        if trt.returns or cuda.fail or config.use_timing_cache:
            return None
        told = (trt.layers_text, trt.datatype, repr(trt.datatypes), trt.stride)
        return trt.library, *told, repr(cuda.devices), cuda.absent, cuda.driver, config, onnx.name, onnx.read_bytes()

    def forget(self) -> None:
        """Forget the calls so far."""
        self.trt.calls.clear()
        self.cuda.calls.clear()

    def names(self) -> list[str]:
        """Calls of TensorRT's functions so far, by name."""
        return [call.name for call in self.trt.calls]

    def count(self, function: str) -> int:
        """How often a function of CUDA was called."""
        return sum(name == function for name, *_ in self.cuda.calls)


def images(*shape: int, seed: int = 0) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Random float32 NCHW."""
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)
