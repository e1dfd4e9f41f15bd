"""How to build an engine; checked when made, without importing TensorRT."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Annotated

from rest_deploy.artifact.profile import InputSize, Profile
from rest_deploy.errors import ConfigError
from rest_deploy.nvidia import HOPPER, TURING, ComputeCapability
from rest_deploy.specs import BATCH, ImageSize, Precision, Preprocessing
from rest_deploy.values import Whole, hold

#: Sizes of an engine for which none were asked: any that the network takes, up to here.
DEFAULT_MIN_SIZE, DEFAULT_MAX_SIZE = ImageSize(1, 1), ImageSize(640, 640)
DEFAULT_MAX_BATCH = 8
DEFAULT_OPT_SIZE = ImageSize(224, 224)

#: IBuilderConfig.builder_optimization_level, NVIDIA TensorRT documentation; TensorRT takes 6 for 5 without a word.
OPTIMIZATION_LEVELS = range(6)


class HardwareCompatibility(str, Enum):
    """GPUs other than the build's own that run an engine of TensorRT (its HardwareCompatibilityLevel)."""

    NONE = "none"
    SAME_CC = "same-cc"
    AMPERE_PLUS = "ampere+"


@dataclass(frozen=True)
class EngineConfig:
    """How to build an engine.

    Args:
        profiles: Ranges of input sizes; empty for one that goes from 1x1x1 over the preprocessing's size to 8x640x640.
        min_size, opt_size, max_size, max_batch: A single range, those left None as in the default one; not beside
            ``profiles``.
        targets: Compute capabilities, as ``("sm86", "sm120")``, only of TensorRT-RTX; empty for Ampere and later.
        workspace_mib: Most scratch memory that a layer may ask for; None for the library's default.
        optimization_level: 0 (fast build) to 5 (fast engine); None for the library's default.
        timing_cache: File that keeps measured tactics; None for the user's cache folder.
        use_timing_cache: Whether to keep them at all; TensorRT-RTX measures nothing at build.
        gpu: Number of the GPU that TensorRT builds on, and that runs the engine to verify it; None for the first, where
            there is one.
        tf32: Let FP32 products be rounded to TF32's 10 bits.
        version_compatible: An engine that later versions run too; only of TensorRT.
        hardware_compatibility: GPUs that run it; only of TensorRT.

    Raises:
        ConfigError: A value that cannot be meant, or two that contradict each other.
    """

    profiles: tuple[Profile, ...] = ()
    min_size: ImageSize | None = None
    opt_size: ImageSize | None = None
    max_size: ImageSize | None = None
    max_batch: Annotated[int, BATCH] | None = None
    targets: tuple[str, ...] = ()
    workspace_mib: Annotated[int, Whole(1, 1 << 24)] | None = None
    optimization_level: Annotated[int, Whole(OPTIMIZATION_LEVELS[0], OPTIMIZATION_LEVELS[-1])] | None = None
    timing_cache: str | Path | None = None
    use_timing_cache: bool = True
    gpu: Annotated[int, Whole(0, 999)] | None = None
    tf32: bool = False
    version_compatible: bool = False
    hardware_compatibility: HardwareCompatibility = HardwareCompatibility.NONE

    def __post_init__(self) -> None:
        hold(self)
        object.__setattr__(self, "targets", _targets(self.targets))
        single = (self.min_size, self.opt_size, self.max_size, self.max_batch)
        if self.profiles and any(value is not None for value in single):
            raise ConfigError("profiles were given, and a min, opt or max size or batch too; give one or the other")
        if self.timing_cache is not None and not self.use_timing_cache:
            raise ConfigError(f"timing cache {self.timing_cache} was given, and not to use one; give one or the other")
        self.resolve_profiles(Preprocessing().size)  # so that sizes which contradict each other are refused here

    def resolve_profiles(self, image_size: ImageSize | None) -> tuple[Profile, ...]:
        """The profiles asked for, or the default one; what was not given makes room for what was.

        Args:
            image_size: That pictures are brought to; None for none.

        Raises:
            ConfigError: The sizes given are not in order.
        """
        if self.profiles:
            return self.profiles
        low = self.min_size or _smaller(DEFAULT_MIN_SIZE, self.opt_size, self.max_size)
        given = [size for size in (self.min_size, self.opt_size) if size is not None]
        high = self.max_size or _larger(DEFAULT_MAX_SIZE, *given, image_size)
        opt = self.opt_size or _between(low, image_size or DEFAULT_OPT_SIZE, high)
        batch = DEFAULT_MAX_BATCH if self.max_batch is None else self.max_batch
        return (Profile(InputSize(1, low), InputSize(1, opt), InputSize(batch, high)),)


def check_targets(targets: Sequence[str], precision: Precision) -> None:
    """Refuse compute capabilities for which TensorRT-RTX cannot build what is asked.

    Raises:
        ConfigError: Hopper, Turing in FP32, or older than Turing.
    """
    for text in targets:
        target = ComputeCapability.parse(text)
        if target < TURING:
            raise ConfigError(f"target {target}: TensorRT-RTX begins with Turing, sm75")
        if target == HOPPER:
            raise ConfigError("target sm90: TensorRT-RTX has no Hopper; build with --format trt on the Hopper machine")
        if target == TURING and precision is Precision.FP32:
            raise ConfigError("target sm75: TensorRT-RTX has no FP32 products on Turing; use --fp16, or sm80 and later")


def _targets(targets: Sequence[str]) -> tuple[str, ...]:
    if isinstance(targets, str) or not all(isinstance(text, str) for text in targets):
        raise ConfigError(f"targets is {targets!r}; needed: a list of names, as ['sm86', 'sm120']")
    parsed = [ComputeCapability.parse(text) for text in targets]
    if len(set(parsed)) != len(parsed):
        raise ConfigError(f"targets {', '.join(targets)}: one is there twice")
    return tuple(str(target) for target in parsed)


def _smaller(size: ImageSize, *others: ImageSize | None) -> ImageSize:
    """Smallest height and width of them."""
    found = [size, *(other for other in others if other is not None)]
    return ImageSize(min(s.height for s in found), min(s.width for s in found))


def _larger(size: ImageSize, *others: ImageSize | None) -> ImageSize:
    """Largest height and width of them."""
    found = [size, *(other for other in others if other is not None)]
    return ImageSize(max(s.height for s in found), max(s.width for s in found))


def _between(low: ImageSize, size: ImageSize, high: ImageSize) -> ImageSize:
    """``size``, brought within bounds; bounds that are not in order are left for Profile to refuse."""
    return _smaller(_larger(size, low), high)
