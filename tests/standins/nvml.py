"""A stand-in for ``pynvml`` (nvidia-ml-py), NVIDIA's management library, on GPUs that answer as a test says."""

from __future__ import annotations

import sys
import threading
from collections.abc import Collection, Mapping, Sequence
from types import ModuleType, SimpleNamespace
from typing import Any

import pynvml as real
import pytest

#: An H100 as it answers; a value that is an error of NVML is raised. Of two arguments the second is in the name.
H100: Mapping[str, Any] = {
    "nvmlDeviceGetName": "NVIDIA H100 80GB HBM3",
    "nvmlDeviceGetMemoryInfo": SimpleNamespace(total=85_520_809_984, free=0, used=0),
    "nvmlDeviceGetCudaComputeCapability": (9, 0),
    f"nvmlDeviceGetClockInfo {real.NVML_CLOCK_SM}": 1980,
    f"nvmlDeviceGetMaxClockInfo {real.NVML_CLOCK_SM}": 1980,
    f"nvmlDeviceGetClockInfo {real.NVML_CLOCK_MEM}": 2619,
    f"nvmlDeviceGetTemperatureV {real.NVML_TEMPERATURE_GPU}": 40,
    "nvmlDeviceGetPowerUsage": 80_520,
    "nvmlDeviceGetCurrentClocksEventReasons": 1,
}


class FakeNvml(ModuleType):
    """NVML with some GPUs. It has no name that the real module has not.

    Args:
        gpus: Answers of each, as :data:`H100`; an error in the place of them is raised for the handle of the GPU.
        errors: Function -> error that it raises, whatever the GPU.
        unknown: Functions that this nvidia-ml-py does not have.
    """

    def __init__(
        self,
        gpus: Sequence[Mapping[str, Any] | BaseException] = (H100,),
        errors: Mapping[str, BaseException] | None = None,
        unknown: Collection[str] = (),
    ) -> None:
        super().__init__("pynvml")
        self.gpus, self.errors, self.unknown = gpus, errors or {}, unknown
        self.starts = 0
        self.answers = threading.Event()  # a driver that hangs answers once this is set
        self.answers.set()

    def install(self, monkeypatch: pytest.MonkeyPatch) -> FakeNvml:
        """Let a test import it."""
        monkeypatch.setitem(sys.modules, "pynvml", self)
        return self

    def __getattr__(self, name: str) -> Any:
        if name in self.unknown or not hasattr(real, name):
            raise AttributeError(name)
        if not name.startswith("nvml"):
            return getattr(real, name)  # its errors and constants
        return lambda *arguments: self._call(name, *arguments)

    def _call(self, name: str, *arguments: Any) -> Any:
        self.answers.wait()
        if name in self.errors:
            raise self.errors[name]
        if name == "nvmlInit":
            self.starts += 1
            return None
        assert self.starts, "NVML was not started"
        if name == "nvmlShutdown":
            self.starts -= 1
            return None
        if name == "nvmlSystemGetDriverVersion":
            return "580.82.07"
        if name == "nvmlDeviceGetCount":
            return len(self.gpus)
        gpu, *others = arguments
        if name == "nvmlDeviceGetHandleByIndex":
            return _answer(self.gpus[gpu], gpu)
        return _answer(self.gpus[gpu][" ".join(map(str, (name, *others)))])  # type: ignore[index]


def _answer(value: Any, otherwise: Any = None) -> Any:
    if isinstance(value, BaseException):
        raise value
    return value if otherwise is None else otherwise
