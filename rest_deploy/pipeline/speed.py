"""Is the narrower artifact faster here? Timed against FP32, in turns."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rest_deploy.artifact.info import ArtifactInfo
from rest_deploy.artifact.profile import InputSize
from rest_deploy.errors import DeviceError, MissingPackageError, VerificationError
from rest_deploy.export.precision.config import PrecisionConfig
from rest_deploy.nvidia import find_gpu
from rest_deploy.runtimes.registry import open_runtime
from rest_deploy.specs import ImageSize, Int8Target, Precision
from rest_deploy.timing import time_paired

#: Rounds that are timed: as many as fit into these seconds, within bounds.
_SECONDS, _ROUNDS = 6.0, (9, 60)
#: Below, a speedup is none that the noise of a timing of seconds could tell from 1.
_LEAST_SPEEDUP = 1.03
#: Of the image where artifacts take images at their own size.
_SIZE = ImageSize(224, 224)


@dataclass(frozen=True)
class Speed:
    """A comparison.

    Args:
        device: Where.
        size: Batch x height x width of a call.
        fp32_ms, ms: Medians, in milliseconds.
        speedup: Median of each round's FP32 time over the other.
        low, high: Quartiles of it.
        rounds: How many.
    """

    device: str
    size: str
    fp32_ms: float
    ms: float
    speedup: float
    low: float
    high: float
    rounds: int

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)

    @property
    def faster(self) -> bool:
        """Whether it is, beyond noise: in three rounds of four, and by more than a timing of seconds can be wrong."""
        return self.speedup >= _LEAST_SPEEDUP and self.low > 1

    def __str__(self) -> str:
        return (
            f"{self.speedup:.2f} times FP32's speed on {self.device} at {self.size}, the median ratio of {self.rounds} "
            f"rounds (middle half {self.low:.2f} to {self.high:.2f}; median times {self.ms:.1f} ms against "
            f"{self.fp32_ms:.1f} ms)"
        )


def compare_speed(fp32: Path, narrowed: Path, device: str, case: InputSize) -> Speed:
    """Time two artifacts of one network.

    Args:
        fp32, narrowed: Files.
        device: Where both run.
        case: Batch and size of a call.
    """
    with open_runtime(fp32, device) as wide, open_runtime(narrowed, device) as narrow:
        shape = case.shape(int(wide.info.input.shape[1]))
        images = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
        return time_speed({"fp32": lambda: wide.run(images), "narrowed": lambda: narrow.run(images)}, device, case)


def time_speed(contenders: Mapping[str, Callable[[], object]], device: str, case: InputSize) -> Speed:
    """Time ``"fp32"`` and ``"narrowed"`` in turns, each called untimed before every timed call, to fill its caches."""
    once = time_paired(contenders, "narrowed", rounds=2)
    least, most = _ROUNDS
    rounds = min(most, max(least, math.ceil(_SECONDS / 2 / sum(timing.median for timing in once.values()))))
    timings = time_paired(contenders, "narrowed", rounds=rounds, settle=1)
    fp32 = timings["fp32"]  # its ratios are to the narrowed one's time: speedups
    low, high = fp32.spread
    return Speed(device, str(case), fp32.median * 1e3, timings["narrowed"].median * 1e3, fp32.ratio, low, high, rounds)


def check_onnx_speed(
    config: PrecisionConfig, fp32: Path, narrowed: Path, info: ArtifactInfo, *, required: bool
) -> tuple[Speed | None, tuple[str, ...]]:
    """Time a narrowed ONNX file against FP32, where this machine is one that it is made for.

    Args:
        config: Whether, and what is required.
        fp32, narrowed: The files.
        info: Record of the second.
        required: Whether the speedup that may be asked for is meant of this file, and not of an engine made from it.

    Returns:
        The figures, or None where it is not timed, and what the user should know.

    Raises:
        VerificationError: A speedup is required, and is not there or cannot be measured.
    """
    least = config.require_speedup if required else None
    target = info.precision_plan.int8_target if info.precision_plan is not None else None
    if not config.compare_speed:  # and then none is required
        return None, ()
    if target is Int8Target.TRT:
        require_speedup(None, least, "Q/DQ pairs are for TensorRT, which builds an engine from them")
        return None, ()
    device = "cpu" if target is Int8Target.CPU else _device()
    try:
        speed = compare_speed(fp32, narrowed, device, InputSize(1, info.image_size or _SIZE))
    except DeviceError as exc:  # a CUDA provider that is listed and does not start
        require_speedup(None, least, str(exc))
        return None, (f"not timed against FP32: {exc}",)
    require_speedup(speed, least, "")
    return speed, advice(speed, info.precision)


def advice(speed: Speed, precision: Precision) -> tuple[str, ...]:
    """What to use instead of an artifact that is not faster; nothing where it is."""
    if speed.faster:
        return ()
    if precision is Precision.FP16 and speed.device == "cpu":
        instead = "FP16 is for GPUs; on this CPU use --precision fp32, or --int8"
    elif precision is Precision.INT8 and speed.device != "cpu":
        instead = "on this GPU use --fp16"
    else:
        instead = "here use --precision fp32"
    return (f"not faster than FP32 beyond noise: {speed}; {instead}",)


def _device() -> str:
    """Where ONNX Runtime runs here: on the GPU if it can."""
    import onnxruntime

    return "cuda" if "CUDAExecutionProvider" in onnxruntime.get_available_providers() and _has_gpu() else "cpu"


def _has_gpu() -> bool:
    """Whether CUDA finds one."""
    try:
        find_gpu(0)
    except (DeviceError, MissingPackageError):
        return False
    return True


def require_speedup(speed: Speed | None, least: float | None, why_not: str) -> None:
    """Raise where a speedup was asked for and is not there.

    Raises:
        VerificationError: It is not there, or cannot be measured here.
    """
    if least is None:
        return
    if speed is None:
        raise VerificationError(f"a speedup of {least} is required, and cannot be measured: {why_not}")
    if speed.speedup < least:
        raise VerificationError(f"a speedup of {least} is required; measured: {speed}")
