"""Memory of the GPU that an engine is built on: what it has no room for is refused before the build, or explained."""

from __future__ import annotations

import math
from collections.abc import Sequence

from rest_deploy.artifact.info import ArtifactInfo
from rest_deploy.artifact.profile import InputSize, Profile
from rest_deploy.errors import DeviceError, ExportError
from rest_deploy.models.family import engine_bytes, pixels_within
from rest_deploy.nvidia import Gpu, free_bytes
from rest_deploy.specs import ImageSize

_MIB = 2**20
_SMALLER = "give smaller sizes by --profile, or by --max-size and --max-batch"


def most_activations(info: ArtifactInfo, profiles: Sequence[Profile]) -> tuple[int, InputSize]:
    """Bytes for activations of an engine with these profiles, as estimated, and the input size that takes most.

    Args:
        info: Record of the ONNX file that it is built from.
        profiles: Of the engine.
    """
    return max(((engine_bytes(info, profile.max), profile.max) for profile in profiles), key=lambda most: most[0])


def check_room(info: ArtifactInfo, profiles: Sequence[Profile], gpu: Gpu, weights: int = 0) -> None:
    """Refuse an engine that the GPU does not have the memory for, by the estimate.

    Args:
        info: Record of the ONNX file that it is built from.
        profiles: Of the engine.
        gpu: That it is built on, and for.
        weights: Bytes of the file's weights, as far as they are known.

    Raises:
        DeviceError: It does not have it.
    """
    activations, size = most_activations(info, profiles)
    if activations + weights <= gpu.memory_bytes:
        return
    needs = f"about {activations / _MIB:,.0f} MiB for activations (estimated)"
    if weights:
        needs += f" and {weights / _MIB:,.0f} MiB for weights"
    raise DeviceError(
        f"device cuda:{gpu.index}: an engine for {size} takes {needs}, and {gpu} has {gpu.memory_bytes / _MIB:,.0f} "
        f"MiB; {_what_fits(info, size, gpu.memory_bytes - weights)}; {_SMALLER}"
    )


def explained(
    error: ExportError, info: ArtifactInfo, profiles: Sequence[Profile], gpu: Gpu | None
) -> ExportError | DeviceError:
    """The error of a build that ran out of memory, with the memory that its engine takes.

    Args:
        error: Of the build.
        info: Record of the ONNX file that it was built from.
        profiles: Of the engine.
        gpu: That it was built on; None if it was built without one.
    """
    activations, size = most_activations(info, profiles)
    told = f"{error}; at {size} the engine takes about {activations / _MIB:,.0f} MiB for activations (estimated), "
    told += "and its build more, because it tries kernels"
    if gpu is None:
        return ExportError(f"{told}; {_SMALLER}")
    told += f"; {gpu} has {gpu.memory_bytes / _MIB:,.0f} MiB"
    free = free_bytes(gpu.index)
    if free is not None:
        told += f", and {free / _MIB:,.0f} MiB are free now"
    if free is not None and activations > free:
        told += f"; {_what_fits(info, size, free)}"
    return DeviceError(f"{told}; run less on this GPU at a time, give a smaller --workspace, or {_SMALLER}")


def engine_side(info: ArtifactInfo, batch: int, limit_bytes: int) -> int:
    """Side of the largest square images of which an engine takes a batch within so many bytes for activations, as
    estimated; 0 where not even images of one pixel fit.

    Args:
        info: Record of the ONNX file that it is built from.
        batch: Images of a call.
        limit_bytes: How many.
    """

    def activations(_: int, height: int, width: int) -> int:
        return engine_bytes(info, InputSize(batch, ImageSize(height, width)))

    return math.isqrt(pixels_within(limit_bytes, activations))


def _what_fits(info: ArtifactInfo, size: InputSize, limit_bytes: int) -> str:
    """The largest square of which a batch fits, in words."""
    side = engine_side(info, size.batch, limit_bytes)
    return f"at batch {size.batch} at most about {side}x{side} fits" if side else f"no size fits at batch {size.batch}"
