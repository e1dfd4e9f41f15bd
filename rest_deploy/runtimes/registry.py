"""Which runtime opens which file: rows of suffix, where the class lives, and the extra that brings its package."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType, ModuleType

from rest_deploy.artifact.info import ArtifactInfo
from rest_deploy.errors import ArtifactError, ConfigError, MissingPackageError
from rest_deploy.models.config import ResTConfig
from rest_deploy.runtimes.base import Runtime


@dataclass(frozen=True)
class RuntimeRow:
    """Module (with ``read_info``) and class of a runtime, the package it imports, the extra that installs it, and the
    formats that records of its files may tell of.
    """

    module: str
    name: str
    package: str
    extra: str
    formats: tuple[str, ...]


_ORT = RuntimeRow("rest_deploy.runtimes.ort", "OnnxRuntime", "onnxruntime", "cpu", ("onnx",))
_PYTORCH = RuntimeRow("rest_deploy.runtimes.pytorch", "PyTorchRuntime", "torch", "export", ("pytorch",))
_TRT = RuntimeRow("rest_deploy.runtimes.trt", "TensorRTRuntime", "tensorrt", "trt", ("trt", "trt-rtx"))

RUNTIMES: Mapping[str, RuntimeRow] = MappingProxyType(
    {".onnx": _ORT, ".engine": _TRT, **dict.fromkeys((".pth", ".pt", ".safetensors"), _PYTORCH)}
)
#: A ZIP archive as torch.save makes it, and a bare pickle: checkpoints have any suffix, as ``checkpoint.pth.tar``.
_PICKLES = (b"PK\x03\x04", b"\x80")
#: Other suffixes that checkpoints have; what such a file is, its reader says.
_CHECKPOINTS = frozenset([".ckpt", ".tar", ".pkl"])


def is_checkpoint(path: str | Path) -> bool:
    """Whether a file is one that PyTorch opens."""
    return _row(path) is _PYTORCH


def open_runtime(
    path: str | Path, device: str | None = None, threads: int | None = None, allow_spinning: bool = True
) -> Runtime:
    """Open an artifact with the runtime of its suffix or its content.

    Args:
        path: The artifact.
        device: Where it runs; None for the runtime's default.
        threads: CPU threads for one call; None for :func:`~rest_deploy.machine.usable_cores`.
        allow_spinning: False makes calls a little slower and, where they are rare, far cheaper: ONNX Runtime's threads
            then sleep between two calls.

    Raises:
        ConfigError: Spinning is to be off for another artifact than an .onnx file.
        ArtifactError: Unknown suffix, or the file is missing, damaged or not ours.
        MissingPackageError: The runtime's package is not installed.
        DeviceError: The device is not there.
    """
    kind: type[Runtime] = getattr(_module_for(path), _row_for(path).name)
    runtime = kind(path, device=device, threads=threads, allow_spinning=allow_spinning)
    try:
        _check_record(runtime.info, path)
    except ArtifactError:
        runtime.close()
        raise
    return runtime


def read_info(path: str | Path) -> ArtifactInfo:
    """What an artifact says of itself, without loading its network where that can be had.

    Raises:
        ArtifactError: Unknown suffix, or the file is missing, damaged or not ours.
        MissingPackageError: The package that reads it is not installed.
    """
    info: ArtifactInfo = _module_for(path).read_info(Path(path))
    _check_record(info, path)
    return info


def _check_record(info: ArtifactInfo, path: str | Path) -> None:
    """What a record says by itself may be well, and not fit the file or any network."""
    formats = _row_for(path).formats
    if info.format not in formats:
        raise ArtifactError(f"{path}: its record says format {info.format}; accepted: {', '.join(formats)}")
    try:
        ResTConfig.from_dict(info.config)
    except ConfigError as exc:
        raise ArtifactError(f"{path}: metadata cannot be read: config: {exc}; export it again") from exc


def _row_for(path: str | Path) -> RuntimeRow:
    row = _row(path)
    if row is None:
        raise ArtifactError(
            f"{path}: unknown kind of artifact; accepted: {', '.join(RUNTIMES)}, and PyTorch checkpoints of any name"
        )
    return row


def _row(path: str | Path) -> RuntimeRow | None:
    path = Path(path)
    known = _PYTORCH if path.suffix.lower() in _CHECKPOINTS else RUNTIMES.get(path.suffix.lower())
    if known is not None or not path.is_file():
        return known
    try:
        with path.open("rb") as file:
            head = file.read(9)
    except OSError as exc:
        raise ArtifactError(f"{path}: cannot be read: {exc.strerror}") from exc
    safetensors = head[5:9] == b"\0\0\0{"  # the end of the length of a header under 1 TiB, and its beginning
    return _PYTORCH if safetensors or head.startswith(_PICKLES) else None


def _module_for(path: str | Path) -> ModuleType:
    row = _row_for(path)
    try:
        return importlib.import_module(row.module)
    except ModuleNotFoundError as exc:
        if exc.name is not None and exc.name.split(".")[0] == "rest_deploy":
            raise
        package = (exc.name or row.package).partition(".")[0]
        raise MissingPackageError(package, f"open {Path(path).suffix} files", row.extra) from exc
