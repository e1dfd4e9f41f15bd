"""ONNX file -> engine: build it, prove its precision, and tell what was made."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from rest_deploy.artifact.engine import EngineRecord
from rest_deploy.artifact.info import ArtifactInfo
from rest_deploy.artifact.onnx_file import read_checked
from rest_deploy.export.engine.builder import build
from rest_deploy.export.engine.config import EngineConfig
from rest_deploy.export.engine.layers import histogram
from rest_deploy.export.engine.progress import Progress
from rest_deploy.export.engine.proof import prove
from rest_deploy.export.engine.site import BuildSite
from rest_deploy.export.precision.rounding import fp32_nodes
from rest_deploy.specs import Precision


def export(
    source: Path,
    info: ArtifactInfo,
    target: Path,
    *,
    site: BuildSite,
    config: EngineConfig,
    command: Sequence[str] | None = (),
    report: Progress | None = None,
) -> tuple[ArtifactInfo, tuple[str, ...]]:
    """Write an ONNX file as an engine. Its manifest is not written: that is done when the engine has been verified.

    Args:
        source: ONNX file.
        info: Its record.
        target: Plan to write.
        site: With what, and for which GPU.
        config: How.
        command: Arguments of rest-export that make it again, without format, target and output; None where none
            can.
        report: Called as the build goes on.

    Returns:
        The engine's record, not yet verified, and the library's warnings.

    Raises:
        ExportError: It could not be built, or was not built in the precision of ``info``.
        OSError: The plan cannot be written.
    """
    onnx = bytes(read_checked(source).content)
    built = build(onnx, source, info, site, config, report=report)
    kept = () if info.precision is Precision.FP32 else fp32_nodes(onnx)
    prove(built.layers, info.precision, kept)
    target.write_bytes(built.plan)
    record = EngineRecord(
        library=site.library.name,
        version=site.library.version,
        targets=site.targets,
        gpu=site.gpu.name if site.gpu is not None else None,
        profiles=built.profiles,
        plan_sha256=hashlib.sha256(built.plan).hexdigest(),
        plan_bytes=len(built.plan),
        source_sha256=hashlib.sha256(onnx).hexdigest(),
        source_verification=info.verification,
        layers=histogram(built.layers),
        activation_bytes=built.activation_bytes,
        options=built.options,
        why=site.why,
        command=None if command is None else tuple(command),
        version_compatible=config.version_compatible,
        hardware_compatibility=config.hardware_compatibility.value,
    )
    versions = {**info.versions, site.library.api.__name__: site.library.version}
    made = replace(info, format=site.library.name, verification=None, versions=versions, extra={}, engine=record)
    return made, built.warnings
