"""Machines for tests of rest-doctor: what is installed and what it finds are planted."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from importlib.machinery import ModuleSpec
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

from rest_deploy.artifact.engine import LIBRARIES
from rest_deploy.doctor import Report, checks, examine
from rest_deploy.doctor.records import ABILITIES
from rest_deploy.export import web_format
from rest_deploy.runtimes import ort
from tests.standins.cuda import FakeCuda, FakeDevice
from tests.standins.tensorrt import FakeTensorRT

TRT, RTX = "tensorrt-10.9.0.34", "tensorrt_rtx-1.7.1.116"
RTX_4090 = FakeDevice("NVIDIA GeForce RTX 4090", (8, 9), 24 << 30)
NO_DRIVER = "there is no NVIDIA driver here; install one, or use device cpu with an .onnx file"
CPU_EP, CUDA_EP = "CPUExecutionProvider", "CUDAExecutionProvider"

#: Versions of a machine that exports: what pyproject.toml's extras export and cpu bring.
EXPORTING = {
    "numpy": "2.4.6", "pillow": "13.0.0", "torch": "2.13.0", "onnx": "1.23.2", "onnxscript": "0.7.2",
    "onnxsim": "0.8.1", "safetensors": "0.8.0", "onnxruntime": "1.32.0",
}  # fmt: skip

#: As the metadata of rest-deploy has them, whatever version of it is installed where the tests run.
REQUIREMENTS = (
    ("numpy", "1.26", ""), ("pillow", "10.1", ""), ("torch", "2.9", "export"), ("onnx", "1.17", "export"),
    ("onnxscript", "0.5.3", "export"), ("onnxsim", "0.7", "export"), ("safetensors", "0.4.3", "export"),
    ("onnxruntime", "1.18", "cpu"), ("onnxruntime-gpu", "1.18", "gpu"), ("tensorrt", "10.0.1", "trt"),
    ("cuda-bindings", "12.6", "trt"), ("tensorrt-rtx-cu13-libs", "1.7", "trt-rtx"),
    ("tensorrt-rtx-cu13-bindings", "1.7", "trt-rtx"), ("cuda-bindings", "13", "trt-rtx"), ("psutil", "6", "bench"),
    ("nvidia-ml-py", "12.560.30", "bench"),
)  # fmt: skip


def install(monkeypatch: pytest.MonkeyPatch, **versions: str) -> dict[str, str]:
    """Let these distributions (``_`` for ``-``) be the installed ones; the dict may be changed afterwards."""
    known = {name.replace("_", "-"): version for name, version in versions.items()}
    monkeypatch.setattr(checks, "installed_version", known.get)
    monkeypatch.setattr(checks, "requirements", lambda: REQUIREMENTS)
    return known


def hide(monkeypatch: pytest.MonkeyPatch, *modules: str) -> None:
    """Let modules not be there."""
    for name in modules:
        monkeypatch.setitem(sys.modules, name, None)


def fake_module(monkeypatch: pytest.MonkeyPatch, name: str, **attributes: Any) -> ModuleType:
    """Let a module be there that has these attributes and no more."""
    module = ModuleType(name)
    module.__spec__ = ModuleSpec(name, None)
    vars(module).update(attributes)
    monkeypatch.setitem(sys.modules, name, module)
    return module


@dataclass
class FakeOnnxRuntime:
    """ONNX Runtime, as far as rest-doctor asks of it.

    Args:
        listed: Providers that it says it has.
        starts: Those of them that start.
        log: What it writes to stderr, past Python, when one does not start.
        raises: What making a session on a GPU raises.
        stray: Operators that it leaves on the CPU.
        tells: Whether it tells which provider runs what.
        factor: What it multiplies its products by.
        saturates: Whether sums of 8-bit products do.
    """

    listed: Sequence[str] = (CPU_EP,)
    starts: Sequence[str] = (CPU_EP, CUDA_EP)
    log: str = ""
    raises: Exception | None = None
    stray: Sequence[str] = ()
    tells: bool = True
    factor: float = 1
    saturates: bool = False
    asked: list[tuple[Any, dict[str, str]]] = field(default_factory=list)

    def install(self, monkeypatch: pytest.MonkeyPatch) -> FakeOnnxRuntime:
        """Let a test import it."""
        fake_module(
            monkeypatch, "onnxruntime", __version__="1.32.0", __file__="onnxruntime/__init__.py",
            SessionOptions=_Options, InferenceSession=self._session, get_available_providers=lambda: list(self.listed),
        )  # fmt: skip
        return self

    def _session(self, graph: bytes, options: Any, providers: Any, enable_fallback: int = 1) -> Any:
        wanted = [name if isinstance(name, str) else name[0] for name in providers]
        self.asked.append((providers, options.entries))
        if self.raises is not None and wanted == [CUDA_EP]:
            raise self.raises
        active = [name for name in wanted if name in self.starts]
        if active != wanted:
            os.write(2, self.log.encode())
        session = SimpleNamespace(
            run=self._run, get_providers=lambda: [*active, *([CPU_EP] if CPU_EP not in active else [])],
            disable_fallback=lambda: None,
        )  # fmt: skip
        if self.tells:
            nodes = [SimpleNamespace(op_type=name, name="") for name in self.stray]
            session.get_provider_graph_assignment_info = lambda: [
                SimpleNamespace(ep_name=CPU_EP, get_nodes=lambda: nodes)
            ]
        return session

    def _run(self, _: Any, feed: dict[str, np.ndarray]) -> list[np.ndarray]:
        if "x" in feed:
            return [feed["x"] * feed["w"] * np.float32(self.factor)]
        return [feed["a"].astype(int) @ feed["b"].astype(int) - self.saturates]


class _Options:
    log_severity_level = 0
    intra_op_num_threads = 0

    def __init__(self) -> None:
        self.entries: dict[str, str] = {}

    def add_session_config_entry(self, key: str, value: str) -> None:
        self.entries[key] = value


def forget_sums() -> Iterator[None]:
    """For a fixture: let the CPU be asked anew, before and after."""
    ort.sums_saturate.cache_clear()
    yield
    ort.sums_saturate.cache_clear()


def broken_module(monkeypatch: pytest.MonkeyPatch, folder: Any, name: str, statement: str) -> None:
    """Let a module be there that fails when it is imported."""
    monkeypatch.delitem(sys.modules, name, raising=False)
    (folder / f"{name}.py").write_text(statement)
    monkeypatch.syspath_prepend(folder)


def torch_with_gpu(monkeypatch: pytest.MonkeyPatch, ones: Callable[..., Any] | None = None) -> None:
    """Let the installed PyTorch see a GPU; ``ones`` makes its arrays, by default on the CPU."""
    import torch

    plain = torch.ones
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch, "ones", ones or (lambda count, device: plain(count)))


#: What describe_environment gives on a machine without NVIDIA's driver.
ENVIRONMENT = {
    "created": "2026-11-24T07:10:03+00:00", "command": None, "os": "Linux-6.1", "python": "3.11.7",
    "cpu": "Some CPU (avx2)", "logical_cpus": 4, "physical_cores": 2, "affinity": [0, 1, 2, 3], "cpu_quota": 1.5,
    "memory_mib": 24000, "clocks_mhz": [], "governor": None, "gpus": [], "gpus_note": "NVML does not start: no library",
    "packages": {"rest-deploy": "0.1.0"}, "variables": {"OMP_NUM_THREADS": "2"},
}  # fmt: skip


class Machine:
    """A machine on which everything is planted but the packages that exporting needs, which are the real ones.

    Args:
        monkeypatch: Of the test.
        files: Versions of TensorRT that are installed, of ``API_FILES``.
        cuda: Its GPUs; one RTX 4090 where it is not given.
        onnxruntime: None where it is not installed.
        others: Versions of further distributions, ``_`` for ``-``; None for one that is not installed.
    """

    def __init__(
        self, monkeypatch: pytest.MonkeyPatch, *files: str, cuda: FakeCuda | None = None,
        onnxruntime: FakeOnnxRuntime | None = None, **others: str | None,
    ) -> None:  # fmt: skip
        hide(
            monkeypatch,
            "openvino",
            "onnxruntime_ep_webgpu",
            "onnxruntime_ep_nv_tensorrt_rtx",
            *(module for row in LIBRARIES.values() for module in row.modules),
        )
        versions = EXPORTING | {"cuda-bindings": "13.5.0"} | {n.replace("_", "-"): v for n, v in others.items()}
        self.versions = install(monkeypatch, **{name: v for name, v in versions.items() if v is not None})
        monkeypatch.setattr(web_format, "find_package", lambda _: None)  # of npm: it is there
        self.environment = dict(ENVIRONMENT)
        monkeypatch.setattr("rest_deploy.doctor.artifacts.describe_environment", lambda _: self.environment)
        self.cuda = (cuda or FakeCuda((RTX_4090,))).install(monkeypatch)
        for file in files:
            fake = FakeTensorRT(file, self.cuda)
            monkeypatch.setitem(sys.modules, fake.module.__name__, fake.module)
        if onnxruntime is None:
            hide(monkeypatch, "onnxruntime")
            self.versions.pop("onnxruntime", None)
        else:
            onnxruntime.install(monkeypatch)

    def look(self) -> Report:
        """What rest-doctor finds."""
        return examine()


def table(report: Report) -> dict[str, str]:
    """Key of each kind of artifact -> its answers: export, CPU, GPU."""
    return {
        artifact.key: " ".join(artifact.abilities[name].possible.value for name in ABILITIES)
        for artifact in report.artifacts
    }


def steps(report: Report, key: str, ability: str) -> tuple[str, ...]:
    """What is missing for something."""
    (artifact,) = (artifact for artifact in report.artifacts if artifact.key == key)
    return artifact.abilities[ability].steps


def note(report: Report, key: str, ability: str) -> str:
    """What is to be known of something."""
    (artifact,) = (artifact for artifact in report.artifacts if artifact.key == key)
    return artifact.abilities[ability].note
