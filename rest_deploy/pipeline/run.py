"""Asking for an export: the public function, and those that take a whole request."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

from rest_deploy.errors import ConfigError
from rest_deploy.models.config import ResTConfig
from rest_deploy.pipeline.making import Making, Progress
from rest_deploy.pipeline.request import ExportRequest
from rest_deploy.pipeline.result import ExportResult
from rest_deploy.specs import Precision


def export(
    model: str | ResTConfig | None,
    output: str | Path | None = None,
    *,
    checkpoint: str | Path | None = None,
    format: str = "onnx",
    precision: str | Precision = "fp32",
    **options: Any,
) -> Path:
    """Make a verified artifact.

    Args:
        model: A name of :func:`list_models`, a config, or None to read the architecture off the checkpoint.
        output: File to write; None names it after the model, in the current folder.
        checkpoint: ``.pth``, ``.pt`` or ``.safetensors``; without one the weights are random, and the artifact says so.
        format: ``"onnx"``, ``"trt"`` or ``"trt-rtx"``.
        precision: ``"fp32"``, ``"fp16"`` or ``"int8"``.
        **options: The other fields of :class:`ExportRequest`, and those of the configs: ``opset`` and ``simplify``
            of ``OnnxConfig``; ``max_size``, ``targets``, ... of ``EngineConfig``; ``calibration``, ``half_io``, ... of
            ``PrecisionConfig``.

    Returns:
        Path of the artifact, which exists only if it agrees with the PyTorch model (unless ``verify=False``). An engine
        that no GPU here can run is proved by the ONNX file it was built from and by the layers that were built; its
        record says so.

    Raises:
        ConfigError: Something that cannot be meant.
        CheckpointError: The checkpoint cannot be read or does not fit.
        ExportError: The artifact could not be made; :class:`VerificationError` where it disagreed.
    """
    own = {name: options.pop(name) for name in _REQUEST_FIELDS & set(options)}
    request = ExportRequest(model, output, checkpoint, format, Precision.parse(precision), options=options, **own)
    return run_export(request).path


_REQUEST_FIELDS = {f.name for f in fields(ExportRequest) if f.init} - {"options"}


def run_export(request: ExportRequest, report: Progress | None = None) -> ExportResult:
    """Make the one artifact that was asked for, and tell what was made.

    Raises:
        ConfigError: Several formats were asked for.
    """
    if len(request.formats) != 1:
        raise ConfigError(f"format {request.format}: one format a call makes one artifact; run_exports makes several")
    return run_exports(request, report)[0]


def run_exports(request: ExportRequest, report: Progress | None = None) -> tuple[ExportResult, ...]:
    """Make what was asked, as :func:`export`, in the order of the formats.

    Args:
        request: What.
        report: Called as long steps go on.
    """
    return Making(request, report).make()
