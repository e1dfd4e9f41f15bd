"""How to build an engine; checked when made, without importing TensorRT."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Annotated

from rest_deploy.artifact.profile import InputSize, Profile
from rest_deploy.errors import ConfigError
from rest_deploy.export.options import option
from rest_deploy.nvidia import HOPPER, TURING, ComputeCapability
from rest_deploy.recipes import recipe_of
from rest_deploy.specs import BATCH, ImageSize, Precision, Preprocessing
from rest_deploy.values import Whole, hold

#: Sizes of an engine for which none were asked: any that the network takes, up to here.
DEFAULT_MIN_SIZE, DEFAULT_MAX_SIZE = ImageSize(1, 1), ImageSize(640, 640)
DEFAULT_MAX_BATCH = 8
DEFAULT_OPT_SIZE = ImageSize(224, 224)
#: The same of pictures that it resizes itself.
DEFAULT_OPT_PICTURE, DEFAULT_MAX_PICTURE = ImageSize(480, 640), ImageSize(2160, 3840)

#: IBuilderConfig.builder_optimization_level, NVIDIA TensorRT documentation; TensorRT takes 6 for 5 without a word.
OPTIMIZATION_LEVELS = range(6)


class HardwareCompatibility(str, Enum):
    """GPUs other than the build's own that run an engine of TensorRT (its HardwareCompatibilityLevel)."""

    NONE = "none"
    SAME_CC = "same-cc"
    AMPERE_PLUS = "ampere+"


def _gpu_number(text: str) -> int:
    match = re.fullmatch(r"cuda(?::(\d{1,3}))?", text)
    if not match:
        raise ConfigError(
            f"device {text}: TensorRT builds on a GPU; accepted: cuda, cuda:0, cuda:1, ...; leave --device out to "
            "build with TensorRT-RTX, which needs no GPU"
        )
    return int(match[1] or 0)


@dataclass(frozen=True)
class EngineConfig:
    """How to build an engine.

    Sizes that are not given make room for those that are. ``timing_cache`` None is the user's cache folder;
    TensorRT-RTX measures nothing at build, and has no cache.

    Raises:
        ConfigError: A value that is not valid, or two that contradict each other.
    """

    min_size: ImageSize | None = option(None, "smallest input (default 1x1)", metavar="HxW")
    opt_size: ImageSize | None = option(
        None, "size to tune for (default the image size, of pictures 480x640)", metavar="HxW"
    )
    max_size: ImageSize | None = option(None, "largest input (default 640x640, of pictures 2160x3840)", metavar="HxW")
    max_batch: Annotated[int, BATCH] | None = option(None, "largest batch (default 8)", metavar="N")
    profiles: tuple[Profile, ...] = option(
        (),
        "a range of sizes, as 1x32x32:1x224x224:8x640x640; may be repeated, in place of the four above",
        flag="--profile",
        metavar="MIN:OPT:MAX",
        arguments={"action": "append"},
        read=lambda texts: tuple(Profile.parse(text) for text in texts),
    )
    targets: tuple[str, ...] = option(
        (),
        "GPUs that TensorRT-RTX builds for: sm86, sm89, sm120, ... (default Ampere and later)",
        flag="--target",
        metavar="SM[,SM]",
        arguments={"type": lambda text: tuple(part.strip() for part in text.split(","))},
        write=None,  # the line that makes an engine again names its own
    )
    gpu: Annotated[int, Whole(0, 999)] | None = option(
        None,
        "GPU that TensorRT builds on, and that runs the engine to verify it (default cuda:0)",
        flag="--device",
        metavar="cuda:N",
        arguments={"type": _gpu_number},
        write="cuda:{}".format,
    )
    workspace_mib: Annotated[int, Whole(1, 1 << 24)] | None = option(
        None, "scratch memory of a layer, at most", flag="--workspace", metavar="MIB"
    )
    optimization_level: Annotated[int, Whole(OPTIMIZATION_LEVELS[0], OPTIMIZATION_LEVELS[-1])] | None = option(
        None, "0 builds fast, 5 makes a fast engine (default 3)", metavar="0-5"
    )
    timing_cache: str | Path | None = option(
        None,
        "where TensorRT keeps what it measured (default: user's cache)",
        metavar="FILE|none",
        off="use_timing_cache",
    )
    use_timing_cache: bool = True
    tf32: bool = option(False, "allow TF32: FP32 products rounded to 10 bits")
    version_compatible: bool = option(False, "run on later versions of TensorRT too")
    hardware_compatibility: HardwareCompatibility = option(
        HardwareCompatibility.NONE,
        "run on other GPUs too: of the same compute capability, or Ampere and later (TensorRT)",
        flag="--hardware-compatible",
    )

    def __post_init__(self) -> None:
        hold(self)
        object.__setattr__(self, "targets", _targets(self.targets))
        single = (self.min_size, self.opt_size, self.max_size, self.max_batch)
        if self.profiles and any(value is not None for value in single):
            raise ConfigError("profiles were given, and a min, opt or max size or batch too; give one or the other")
        if self.timing_cache is not None and not self.use_timing_cache:
            raise ConfigError(f"timing cache {self.timing_cache} and --no-timing-cache were both given; leave one out")
        self.resolve_profiles(Preprocessing().size)  # so that sizes which contradict each other are refused here

    def resolve_profiles(self, image_size: ImageSize | None, *, resizes: bool = False) -> tuple[Profile, ...]:
        """The profiles asked for, or the default one; what was not given makes room for what was.

        Args:
            image_size: That pictures are brought to; None for none.
            resizes: Whether the engine does that itself.

        Raises:
            ConfigError: The sizes given are not in order.
        """
        if self.profiles:
            return self.profiles
        low = self.min_size or _sides(min, DEFAULT_MIN_SIZE, self.opt_size, self.max_size)
        largest, usual = (DEFAULT_MAX_SIZE, image_size or DEFAULT_OPT_SIZE)
        if resizes:
            largest, usual = DEFAULT_MAX_PICTURE, DEFAULT_OPT_PICTURE
        high = self.max_size or _sides(max, largest, self.min_size, self.opt_size, usual)
        opt = self.opt_size or _sides(min, _sides(max, usual, low), high)  # low over high is left for Profile to refuse
        batch = DEFAULT_MAX_BATCH if self.max_batch is None else self.max_batch
        return (Profile(InputSize(1, low), InputSize(1, opt), InputSize(batch, high)),)


def check_targets(targets: Sequence[str], precision: Precision) -> None:
    """Refuse compute capabilities for which TensorRT-RTX cannot build what is asked.

    Raises:
        ConfigError: Hopper, older than Turing, or older than the precision is built for.
    """
    since = ComputeCapability.parse(recipe_of(precision).rtx_since)
    for text in targets:
        target = ComputeCapability.parse(text)
        if target < TURING:
            raise ConfigError(f"target {target}: TensorRT-RTX supports Turing, sm75, and later")
        if target == HOPPER:
            raise ConfigError(
                "target sm90: TensorRT-RTX does not support Hopper; build with --format trt on that machine"
            )
        if target < since:
            raise ConfigError(
                f"target {target}: TensorRT-RTX has no {precision.value.upper()} products on "
                f"{'Turing' if target == TURING else 'it'}; use --fp16, or {since} and later"
            )


def _targets(targets: Sequence[str]) -> tuple[str, ...]:
    if isinstance(targets, str) or not all(isinstance(text, str) for text in targets):
        raise ConfigError(f"targets is {targets!r}; needed: a list of names, as ['sm86', 'sm120']")
    parsed = [ComputeCapability.parse(text) for text in targets]
    if len(set(parsed)) != len(parsed):
        raise ConfigError(f"targets {', '.join(targets)}: one is there twice")
    return tuple(str(target) for target in parsed)


def _sides(pick: Callable[[Iterable[int]], int], *sizes: ImageSize | None) -> ImageSize:
    """Smallest (``min``) or largest (``max``) height and width of the sizes that are given."""
    found = [size for size in sizes if size is not None]
    return ImageSize(pick(size.height for size in found), pick(size.width for size in found))
