"""What builds an engine: which TensorRT, on which GPU or for which targets, and why."""

from __future__ import annotations

from dataclasses import dataclass, replace

from rest_deploy.errors import ConfigError, DeviceError, MissingPackageError, install
from rest_deploy.export.engine.config import EngineConfig, HardwareCompatibility, check_targets
from rest_deploy.nvidia import (
    AMPERE,
    ComputeCapability,
    Gpu,
    Library,
    NoGpuError,
    find_gpu,
    is_installed,
    load_library,
)
from rest_deploy.recipes import recipe_of
from rest_deploy.specs import Precision

_PURPOSE = "build engines"
_ENUM_PREFIX = "SM"


@dataclass(frozen=True)
class LibraryChoice:
    """A choice.

    Args:
        library: TensorRT or TensorRT-RTX.
        gpu: That TensorRT builds on; None for TensorRT-RTX.
        targets: Compute capabilities that may run the engine, such as ``("sm86", "sm89")``.
        why: Reason of the choice, in words.
        unexpected: Whether TensorRT is installed, and could not be used.
    """

    library: Library
    gpu: Gpu | None
    targets: tuple[str, ...]
    why: str
    unexpected: bool = False


def choose_library(format: str, config: EngineConfig, precision: Precision) -> LibraryChoice:
    """Find what builds an engine here.

    Args:
        format: ``"trt"``, which takes TensorRT where it is installed beside a GPU, else TensorRT-RTX; or ``"trt-rtx"``.
        config: How to build.
        precision: In which.

    Raises:
        ConfigError: The library does not have what the config asks for, or a target cannot do it.
        MissingPackageError: Neither library is installed.
        DeviceError: Only TensorRT is installed, and there is no GPU; the GPU asked for is not there; or only
            TensorRT-RTX is installed, the GPU here is none that it has, and no targets were named.
    """
    if format == "trt-rtx":
        return _rtx(config, precision, "asked for")
    gpu, why_none = _gpu(config)
    if not is_installed("trt"):
        if not is_installed("trt-rtx"):
            raise MissingPackageError("tensorrt-rtx-cu13-bindings or tensorrt", _PURPOSE, "trt-rtx")
        return _in_place_of_tensorrt(config, precision, gpu)
    if gpu is not None:
        return _on_gpu(config, gpu)
    if not is_installed("trt-rtx"):
        raise DeviceError(f"TensorRT builds only on a GPU, and {why_none}; to build without one: {install('trt-rtx')}")
    return replace(_rtx(config, precision, f"TensorRT builds only on a GPU, and {why_none}"), unexpected=True)


def _gpu(config: EngineConfig) -> tuple[Gpu | None, str]:
    """The GPU to build on, or None and why there is none; one that was asked for must be there."""
    try:
        return find_gpu(config.gpu or 0), ""
    except (NoGpuError, MissingPackageError) as exc:
        if config.gpu is not None or (isinstance(exc, MissingPackageError) and is_installed("trt")):
            raise  # a GPU was asked for, or may be there: what is missing is the package that finds it
        return None, str(exc)


def _in_place_of_tensorrt(config: EngineConfig, precision: Precision, gpu: Gpu | None) -> LibraryChoice:
    choice = _rtx(config, precision, "TensorRT is not installed")
    if gpu is not None and not config.targets and str(gpu.compute_capability) not in choice.targets:
        since = ComputeCapability.parse(recipe_of(precision).rtx_since)
        if since <= gpu.compute_capability < AMPERE:  # can be built for, and is no default
            raise DeviceError(f"{choice.library} builds for the GPU here, {gpu}, only if it is named: --target sm75")
        raise DeviceError(
            f"{choice.library} builds no {precision.value} engines for the GPU here, {gpu}, and TensorRT is not "
            f"installed; {install('trt')}, or build for other GPUs with --format trt-rtx"
        )
    return choice


def _on_gpu(config: EngineConfig, gpu: Gpu) -> LibraryChoice:
    if config.targets:
        raise ConfigError(
            f"target {', '.join(config.targets)}: TensorRT builds for the GPU it runs on, here {gpu}; "
            "leave --target out, or build with --format trt-rtx"
        )
    library = load_library("trt", _PURPOSE)
    return LibraryChoice(library, gpu, (str(gpu.compute_capability),), f"it is installed, and {gpu} is there")


def _rtx(config: EngineConfig, precision: Precision, why: str) -> LibraryChoice:
    library = load_library("trt-rtx", _PURPOSE)
    if config.version_compatible or config.hardware_compatibility is not HardwareCompatibility.NONE:
        raise ConfigError(
            f"{library} has no version-compatible or hardware-compatible engines; name the GPUs by --target "
            "sm86,sm89,..., or build with TensorRT on a GPU"
        )
    if config.timing_cache is not None:
        raise ConfigError(f"timing cache {config.timing_cache}: {library} times nothing at build; leave it out")
    known = _known_targets(library)
    targets = config.targets or tuple(str(target) for target in known if target >= AMPERE)
    check_targets(targets, precision)
    strange = [target for target in targets if ComputeCapability.parse(target) not in known]
    if strange:
        raise ConfigError(f"target {', '.join(strange)}: {library} has {', '.join(str(target) for target in known)}")
    return LibraryChoice(library, None, targets, why)


def _known_targets(library: Library) -> list[ComputeCapability]:
    names = library.api.ComputeCapability.__members__
    return sorted(ComputeCapability.parse(name) for name in names if name.startswith(_ENUM_PREFIX))
