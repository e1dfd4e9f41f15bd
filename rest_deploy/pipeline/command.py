"""A request as the arguments of ``rest-export``, for the line that rebuilds an engine."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from types import MappingProxyType
from typing import Any

from rest_deploy.export.formats import flag_of
from rest_deploy.models.config import ResTConfig
from rest_deploy.pipeline.request import ExportRequest
from rest_deploy.specs import Precision, Preprocessing, PreprocessingChange, Resize


def _value(flag: str, value: Any) -> list[str]:
    return [flag, str(getattr(value, "value", value))]


def _one(value: object) -> list[object] | None:
    return None if value is None else [value]


_SWITCHES = ("simplify", "tf32", "version_compatible", "half_io", "reduced_range", "compare_speed")

#: Option of a config -> its arguments, where they are not just its flag and its value. Targets are left out: the line
#: that rebuilds names its own.
_OPTIONS: Mapping[str, Callable[[str, Any], list[str]]] = MappingProxyType(
    {
        **dict.fromkeys(_SWITCHES, lambda flag, _: [flag]),
        "profiles": lambda flag, profiles: [word for profile in profiles for word in (flag, str(profile))],
        "calibration_sizes": lambda flag, sizes: [flag, *(str(size) for size in sizes)],
        "targets": lambda flag, _: [],
        "use_timing_cache": lambda flag, _: [flag, "none"],
        "gpu": lambda flag, index: [flag, f"cuda:{index}"],
    }
)


def as_arguments(request: ExportRequest) -> tuple[str, ...] | None:
    """Arguments of ``rest-export`` that ask for the same, but for format, targets and output; None where none can.

    A model given as a config has no name, and stands as its checkpoint, whose shapes tell its architecture, and its
    heads. What neither tells has no flag.
    """
    config, heads = request.model, request.num_heads
    if not isinstance(config, str) and request.checkpoint is None:
        return None
    if not isinstance(request.labels, (str, Path, type(None))):
        return None
    if isinstance(config, ResTConfig):
        if (config.qk_scale, config.norm_eps) != (ResTConfig.qk_scale, ResTConfig.norm_eps):
            return None
        heads = config.num_heads
    given: dict[str, Sequence[object] | None] = {
        "--model": [config] if isinstance(config, str) else None,
        "--checkpoint": _one(request.checkpoint),
        "--weights-key": _one(request.weights_key),
        "--key-prefix": _one(request.key_prefix),
        "--num-heads": heads,
        "--precision": [request.precision.value] if request.precision is not Precision.FP32 else None,
        "--labels": _one(request.labels),
        "--activation": _one(request.activation and request.activation.value),
        "--strict": [] if request.strict else None,
        "--no-verify": [] if not request.verify else None,
        "--seed": [request.seed] if request.seed else None,
    }
    words = [str(word) for flag, values in given.items() if values is not None for word in (flag, *values)]
    if request.preprocessing is not None:
        words += _preprocessing(request.preprocessing)
    for config in request.configs.values():
        default = type(config)()
        for option in (field.name for field in fields(config)):
            value = getattr(config, option)
            if value != getattr(default, option):
                words += _OPTIONS.get(option, _value)(flag_of(option), value)
    return tuple(words)


def _preprocessing(steps: Preprocessing | PreprocessingChange) -> list[str]:
    words = []
    if steps.resize is not None:
        words += ["--transform", steps.resize.value]
    if steps.size is not None:
        words += ["--image-size", str(steps.size)]
    for flag, values in (("--mean", steps.mean), ("--std", steps.std)):
        if values is not None:
            words += [flag, *(str(value) for value in values)]
    if steps.crop_ratio is not None and steps.resize in (Resize.CROP, None):
        words += ["--crop-ratio", str(steps.crop_ratio)]
    if steps.interpolation is not None and steps.resize is not Resize.NATIVE:
        words += ["--interpolation", steps.interpolation.value]
    if steps.alpha is not None:
        words += ["--alpha", steps.alpha.value]
    return words
