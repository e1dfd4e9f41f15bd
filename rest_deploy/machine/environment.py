"""What a measurement was made on, as the records of rest-verify and rest-bench keep it."""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Mapping
from datetime import datetime, timezone
from typing import Any

from rest_deploy.machine.cpu import affinity, clocks_mhz, describe_cpu, governor, physical_cores
from rest_deploy.machine.memory import total_mib
from rest_deploy.machine.nvidia_smi import query_gpus
from rest_deploy.machine.packages import installed_version
from rest_deploy.machine.quota import cpu_quota

#: Distributions whose version bears on what is measured.
_PACKAGES = (
    *("rest-deploy", "numpy", "pillow", "torch", "onnx", "onnxruntime", "onnxruntime-gpu", "onnxsim", "onnxscript"),
    *("openvino", "tensorrt", "tensorrt-rtx-cu13-libs", "cuda-bindings", "safetensors"),
)
#: Environment variables that change how fast something runs.
_VARIABLE = re.compile(
    r"OMP_NUM_THREADS|MKL_NUM_THREADS|OPENBLAS_NUM_THREADS|OPENBLAS_CORETYPE|CUDA_VISIBLE_DEVICES|CUDA_LAUNCH_BLOCKING"
    r"|NVIDIA_TF32_OVERRIDE|(?:KMP|GOMP|ORT|TORCHINDUCTOR|PYTORCH)_.*"
)
_LONGEST = 200


def describe_environment(command: str | None = None) -> dict[str, Any]:
    """The machine, its packages and its settings, as plain values for JSON; what the system does not tell is None.

    Nothing that it tells of is imported. nvidia-smi is asked where there is one, which takes up to 10 seconds.

    Args:
        command: The command line that measures.

    Returns:
        The object "environment" of a record: clocks in MHz, memory in MiB, ``affinity`` as numbers of processors,
        ``cpu_quota`` in cores, ``gpus`` as :func:`rest_deploy.machine.nvidia_smi.query_gpus` gives them, and why there
        are none as ``gpus_note``.
    """
    gpus, gpus_note = query_gpus()
    return {
        "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "command": command,
        "os": platform.platform(),
        "python": platform.python_version(),
        "cpu": describe_cpu(),
        "logical_cpus": os.cpu_count(),
        "physical_cores": physical_cores(),
        "affinity": list(affinity()),
        "cpu_quota": cpu_quota(),
        "memory_mib": total_mib(),
        "clocks_mhz": clocks_mhz(),
        "governor": governor(),
        "gpus": gpus,
        "gpus_note": gpus_note,
        "packages": {name: version for name in _PACKAGES if (version := installed_version(name)) is not None},
        "variables": speed_variables(os.environ),
    }


def speed_variables(variables: Mapping[str, str]) -> dict[str, str]:
    """Those that change how fast something runs, in order of their names, each cut at 200 characters."""
    chosen = sorted(name for name in variables if _VARIABLE.fullmatch(name))
    # bytes that are no UTF-8 come as lone surrogates, which no JSON file can hold
    return {name: variables[name][:_LONGEST].encode("utf-8", "backslashreplace").decode() for name in chosen}
