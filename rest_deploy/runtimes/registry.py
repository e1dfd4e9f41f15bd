"""Which runtime opens which file: rows of suffix, where the class lives, and the extra that brings its package."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from rest_deploy.errors import ArtifactError, MissingPackageError
from rest_deploy.runtimes.base import Runtime


@dataclass(frozen=True)
class RuntimeRow:
    """Module and class of a runtime, the package it imports, and the extra that installs it."""

    module: str
    name: str
    package: str
    extra: str


_ORT = RuntimeRow("rest_deploy.runtimes.ort", "OnnxRuntime", "onnxruntime", "cpu")
_PYTORCH = RuntimeRow("rest_deploy.runtimes.pytorch", "PyTorchRuntime", "torch", "export")

RUNTIMES: Mapping[str, RuntimeRow] = MappingProxyType(
    {".onnx": _ORT, ".pth": _PYTORCH, ".pt": _PYTORCH, ".safetensors": _PYTORCH}
)


def open_runtime(path: str | Path, device: str = "cpu", threads: int | None = None) -> Runtime:
    """Open an artifact with the runtime of its suffix.

    Raises:
        ArtifactError: Unknown suffix, or the file is missing, damaged or not ours.
        MissingPackageError: The runtime's package is not installed.
        DeviceError: The device is not there.
    """
    suffix = Path(path).suffix.lower()
    if suffix not in RUNTIMES:
        raise ArtifactError(f"{path}: unknown kind of artifact; accepted: {', '.join(RUNTIMES)}")
    row = RUNTIMES[suffix]
    try:
        module = importlib.import_module(row.module)
    except ModuleNotFoundError as exc:
        if exc.name is not None and exc.name.split(".")[0] == "rest_deploy":
            raise
        raise MissingPackageError(exc.name or row.package, f"open {suffix} files", row.extra) from exc
    runtime: type[Runtime] = getattr(module, row.name)
    return runtime(path, device=device, threads=threads)
