"""The record of what a measurement was made on."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest

from rest_deploy.machine import cpu, environment, memory, quota
from rest_deploy.machine.environment import describe_environment, speed_variables

KEYS = [
    "created", "command", "os", "python", "cpu", "logical_cpus", "physical_cores", "affinity", "cpu_quota",
    "memory_mib", "clocks_mhz", "governor", "gpus", "gpus_note", "packages", "variables",
]  # fmt: skip


def _numbers(value: Any) -> list[float]:
    if isinstance(value, dict):
        return [number for inner in value.values() for number in _numbers(inner)]
    if isinstance(value, list):
        return [number for inner in value for number in _numbers(inner)]
    return [value] if isinstance(value, (int, float)) else []


def test_the_record_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = {"name": "a GPU", "driver": "1.2"}
    monkeypatch.setattr(environment, "query_gpus", lambda: ([gpu], None))
    told = describe_environment("rest-bench a.onnx")
    assert list(told) == KEYS
    assert json.loads(json.dumps(told)) == told
    assert all(map(math.isfinite, _numbers(told)))
    age = datetime.now(timezone.utc) - datetime.fromisoformat(told["created"])
    assert 0 <= age.total_seconds() < 60
    assert told["command"] == "rest-bench a.onnx"
    assert (told["gpus"], told["gpus_note"]) == ([gpu], None)
    assert told["python"] == ".".join(map(str, sys.version_info[:3]))
    assert {"numpy", "pillow", "rest-deploy"} <= set(told["packages"])
    assert None not in told["packages"].values()


def test_a_system_that_tells_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """As macOS and Windows, where there is no /proc and no affinity."""
    for module, name in ((cpu, "_CPUINFO"), (cpu, "_PROCESSORS"), (quota, "_CGROUPS"), (memory, "_STATUS")):
        monkeypatch.setattr(module, name, tmp_path / "none")
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.delattr(os, "sysconf")
    monkeypatch.setenv("PATH", str(tmp_path))
    told = describe_environment()
    assert (told["command"], told["affinity"], told["cpu_quota"], told["memory_mib"]) == (None, [], None, None)
    assert (told["clocks_mhz"], told["governor"], told["gpus"]) == ([], None, [])
    assert told["gpus_note"] == "nvidia-smi is not on the PATH"


def test_variables_that_change_the_speed() -> None:
    found = speed_variables(
        {
            "OMP_NUM_THREADS": "2", "KMP_AFFINITY": "x" * 300, "GOMP_CPU_AFFINITY": "0-3", "ORT_X": "", "HOME": "/root",
            "PYTORCH_CUDA_ALLOC_CONF": "a\udcff", "TORCHINDUCTOR_MAX_AUTOTUNE": "1", "CUDA_VISIBLE_DEVICES": "",
            "MY_OMP_NUM_THREADS": "1", "OMP_NUM_THREADS_X": "1", "NVIDIA_TF32_OVERRIDE": "0", "TORCH_HOME": "/x",
        }
    )  # fmt: skip
    assert found == {
        "CUDA_VISIBLE_DEVICES": "", "GOMP_CPU_AFFINITY": "0-3", "KMP_AFFINITY": "x" * 200, "NVIDIA_TF32_OVERRIDE": "0",
        "OMP_NUM_THREADS": "2", "ORT_X": "", "PYTORCH_CUDA_ALLOC_CONF": "a\\udcff", "TORCHINDUCTOR_MAX_AUTOTUNE": "1",
    }  # fmt: skip
    assert list(found) == sorted(found)


def test_nothing_that_it_tells_of_is_imported() -> None:
    code = (
        "import sys; from rest_deploy.machine.environment import describe_environment; before = set(sys.modules); "
        "describe_environment(); print([m for m in ('numpy', 'torch', 'onnxruntime', 'PIL') if m in sys.modules], "
        "'importlib.metadata' in before)"
    )
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[] False"
