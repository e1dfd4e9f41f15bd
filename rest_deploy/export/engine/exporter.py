"""Formats ``trt`` and ``trt-rtx``: ONNX file -> engine, its precision proved, its manifest beside it."""

from __future__ import annotations

import hashlib
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

from rest_deploy.artifact.engine import EngineRecord
from rest_deploy.artifact.engine_files import replacing_engine
from rest_deploy.artifact.info import ArtifactInfo
from rest_deploy.artifact.manifest import manifest_path, write_manifest
from rest_deploy.artifact.onnx_file import read_checked
from rest_deploy.artifact.profile import InputSize, Profile
from rest_deploy.errors import ConfigError, DeviceError, ExportError, MissingPackageError
from rest_deploy.export.engine.builder import Built, build
from rest_deploy.export.engine.choice import LibraryChoice, choose_library
from rest_deploy.export.engine.config import EngineConfig
from rest_deploy.export.engine.layers import histogram, prove
from rest_deploy.export.engine.memory import check_room, explained, most_activations
from rest_deploy.export.formats import Exporter, FormatRequest, Made, Trial
from rest_deploy.models.family import family_named, operators_of
from rest_deploy.nvidia import find_gpu, ran_out_of_memory

_MIB = 2**20


def check(request: FormatRequest) -> Exporter:
    """Find what builds the engine here.

    Raises:
        ConfigError: The library does not have what is asked for.
        MissingPackageError: No library is installed.
        DeviceError: There is no GPU that it needs.
    """
    return EngineExporter(request, choose_library(request.format, request.config, request.precision))


@dataclass(frozen=True)
class EngineExporter(Exporter):
    """Builds one engine.

    Args:
        choice: With which library, and for which GPUs.
    """

    choice: LibraryChoice

    step: ClassVar[str] = "build"
    float64: ClassVar[bool] = False

    @property
    def _config(self) -> EngineConfig:
        config: EngineConfig = self.request.config
        return config

    @property
    def _gpu(self) -> int:
        return self._config.gpu or 0

    def _profiles(self, info: ArtifactInfo) -> tuple[Profile, ...]:
        return self._config.resolve_profiles(info.image_size, resizes=info.resizes)

    def check(self, info: ArtifactInfo) -> None:
        """An engine must take the images that its own preprocessing gives, and fit on its GPU."""
        self._check_room(info)
        if info.resizes and self._config.tf32:
            raise ConfigError(
                "--tf32 rounds products to 10 bits, and pictures are resized by products of 15; leave it out, or give "
                "--input uint8"
            )
        steps, profiles = info.preprocessing, self._profiles(info)
        if steps is None or (size := steps.size) is None or info.resizes:
            return
        if not any(profile.holds(InputSize(profile.min.batch, size)) for profile in profiles):
            raise ConfigError(
                f"images come as {size} ({steps.resize.value}), and no profile holds that: "
                f"{', '.join(map(str, profiles))}; give another --image-size, or other sizes of the engine"
            )

    def _check_room(self, info: ArtifactInfo, weights: int = 0) -> None:
        """The GPU that an engine is built on must have the memory for it."""
        if self.choice.gpu is not None:
            check_room(info, self._profiles(info), self.choice.gpu, weights)

    def files(self, output: Path) -> tuple[Path, ...]:
        return output, manifest_path(output)

    def plan(self, info: ArtifactInfo) -> dict[str, str]:
        choice, profiles = self.choice, self._profiles(info)
        most, _ = most_activations(info, profiles)
        return {
            "input": f"{info.takes}, sizes as in the profiles",
            "library": f"{choice.library} ({choice.why})",
            "target": ", ".join(choice.targets) + (f" ({choice.gpu.name})" if choice.gpu else ""),
            "profiles": ", ".join(map(str, profiles)) + " (batch x height x width, min:opt:max)",
            "memory": f"about {most / _MIB:.0f} MiB for activations at the largest size (estimated)",
        }

    def make(self, source: Path, info: ArtifactInfo, folder: Path) -> Made:
        """Build the engine, prove its precision by the layers in the build's log, and write it beside its manifest."""
        import onnx

        from rest_deploy.export.blockwise import whole
        from rest_deploy.export.precision.half import fp32_nodes

        choice, config = self.choice, self._config
        content = bytes(read_checked(source, operators_of).content)
        network = whole(onnx.load_model_from_string(content)).SerializeToString()
        built = self._build(network, source, info)
        prove(built.layers, info.precision, fp32_nodes(network))
        record = EngineRecord(
            library=choice.library.name,
            version=choice.library.version,
            targets=choice.targets,
            gpu=choice.gpu.name if choice.gpu is not None else None,
            profiles=built.profiles,
            plan_sha256=hashlib.sha256(built.plan).hexdigest(),
            plan_bytes=len(built.plan),
            source_sha256=hashlib.sha256(content).hexdigest(),
            source_verification=info.verification,
            layers=histogram(built.layers, family_named(info.family).block_name),
            activation_bytes=built.activation_bytes,
            options=built.options,
            why=choice.why,
            command=self.request.command,
            version_compatible=config.version_compatible,
            hardware_compatibility=config.hardware_compatibility.value,
            not_run=(_why_not_run(choice.targets, self._gpu) or None) if self.request.verify else None,
        )
        versions = {**info.versions, choice.library.api.__name__: choice.library.version}
        made = replace(info, format=choice.library.name, verification=None, versions=versions, extra={}, engine=record)
        with replacing_engine(folder / f"{source.stem}.engine") as (plan, manifest):
            plan.write_bytes(built.plan)
            write_manifest(manifest, made)
        why = (f"built with {choice.library}: {choice.why}",) if choice.unexpected else ()
        return Made(folder / f"{source.stem}.engine", made, (*built.warnings, *why))

    def _build(self, network: bytes, source: Path, info: ArtifactInfo) -> Built:
        """Build the engine, unless the GPU has no room for it."""
        self._check_room(info, len(network))
        try:
            return build(network, source, info, self.choice, self._config, report=self.request.report)
        except ExportError as exc:
            if not ran_out_of_memory(str(exc)):
                raise
            raise explained(exc, info, self._profiles(info), self.choice.gpu) from exc

    def trial(self, info: ArtifactInfo) -> Trial:
        assert info.engine is not None  # it is the record of what was made
        profiles, why = info.engine.profiles, _why_not_run(info.engine.targets, self._gpu)
        return Trial(None if why else f"cuda:{self._gpu}", why, profiles, profiles[0].opt)

    def place(self, made: Made, output: Path) -> tuple[str, ...]:
        with replacing_engine(output) as (plan, manifest):
            shutil.copyfile(made.path, plan)
            write_manifest(manifest, made.info)
        return ()


def _why_not_run(targets: tuple[str, ...], number: int) -> str:
    """Why an engine cannot be run here; empty where it can."""
    try:
        gpu = find_gpu(number)
    except (DeviceError, MissingPackageError) as exc:
        return str(exc)
    if str(gpu.compute_capability) in targets:
        return ""
    return f"the GPU here, {gpu}, is not one of its targets {', '.join(targets)}"
