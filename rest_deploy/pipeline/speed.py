"""Is the file in lower precision faster here? Timed against FP32, in turns."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rest_deploy.artifact.info import ArtifactInfo
from rest_deploy.artifact.precision import speed_text, speed_verdict
from rest_deploy.artifact.profile import InputSize
from rest_deploy.errors import DeviceError, VerificationError
from rest_deploy.export.formats import Trial
from rest_deploy.export.precision.config import PrecisionConfig
from rest_deploy.recipes import Recipe
from rest_deploy.runtimes.registry import open_runtime
from rest_deploy.specs import InputKind
from rest_deploy.timing import time_paired

#: Rounds that are timed: as many as fit into these seconds, within bounds.
_SECONDS, _ROUNDS = 6.0, (9, 60)


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
        """Whether it is, beyond noise."""
        return speed_verdict(self.to_dict()) == "faster"

    def __str__(self) -> str:
        return speed_text(self.to_dict())


def compare_speed(fp32: Path, lower: Path, device: str, case: InputSize) -> Speed:
    """Time two artifacts of one network.

    Args:
        fp32, lower: Files.
        device: Where both run.
        case: Batch and size of a call.
    """
    with open_runtime(fp32, device) as wide, open_runtime(lower, device) as low:
        shape, rng = wide.info.input_shape(*case.sizes), np.random.default_rng(0)
        pictures = wide.info.input_kind is not InputKind.FLOAT
        images = rng.integers(0, 256, shape, np.uint8) if pictures else rng.standard_normal(shape).astype(np.float32)
        return time_speed({"fp32": lambda: wide.run(images), "lower": lambda: low.run(images)}, device, case)


def time_speed(contenders: Mapping[str, Callable[[], object]], device: str, case: InputSize) -> Speed:
    """Time ``"fp32"`` and ``"lower"`` in turns, each called untimed before every timed call, to fill its caches."""
    once = time_paired(contenders, "lower", rounds=2)
    least, most = _ROUNDS
    rounds = min(most, max(least, math.ceil(_SECONDS / 2 / sum(timing.median for timing in once.values()))))
    timings = time_paired(contenders, "lower", rounds=rounds, settle=1)
    fp32 = timings["fp32"]  # its ratios are to the other's time: speedups
    low, high = fp32.spread
    return Speed(device, str(case), fp32.median * 1e3, timings["lower"].median * 1e3, fp32.ratio, low, high, rounds)


def measure_speed(
    config: PrecisionConfig,
    info: ArtifactInfo,
    path: Path,
    in_fp32: Callable[[], Path],
    trial_of: Callable[[ArtifactInfo], Trial],
    *,
    required: bool,
) -> tuple[Speed | None, tuple[str, ...]]:
    """Time a file in lower precision against FP32, where this machine can run both.

    Args:
        config: Whether, and what is required.
        info: Record of the file.
        path: The file.
        in_fp32: Makes the same file in FP32.
        trial_of: Says where it can be run.
        required: Whether the speedup that may be asked for is asked of this file, and not of one made from it.

    Returns:
        The figures, or None where it is not timed, and what the user should know.

    Raises:
        VerificationError: A speedup is required, and is not there or cannot be measured.
    """
    if not config.compare_speed:  # and then none is required
        return None, ()
    least, trial = config.require_speedup if required else None, trial_of(info)
    if trial.device is None:
        require_speedup(None, least, trial.why_not)
        return None, ()
    try:
        speed = compare_speed(in_fp32(), path, trial.device, trial.size)
    except DeviceError as exc:  # a CUDA provider that is listed and does not start
        require_speedup(None, least, str(exc))
        return None, (f"not timed against FP32: {exc}",)
    require_speedup(speed, least, "")
    return speed, advice(speed, info.recipe)


def advice(speed: Speed, recipe: Recipe) -> tuple[str, ...]:
    """What to use instead of an artifact that is not faster; nothing where it is."""
    if speed.faster:
        return ()
    instead = recipe.instead.get(speed.device.partition(":")[0], "here use --precision fp32")
    return (f"not faster than FP32: {speed}; {instead}",)


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
