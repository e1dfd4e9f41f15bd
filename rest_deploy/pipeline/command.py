"""A request as the arguments of ``rest-export``, for the line that rebuilds an engine."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from rest_deploy.export.formats import get_format
from rest_deploy.pipeline.request import ExportRequest
from rest_deploy.specs import Precision, Preprocessing, PreprocessingChange


def _value(flag: str) -> Callable[[Any], list[str]]:
    return lambda value: [flag, str(getattr(value, "value", value))]


def _present(flag: str, on: bool = True) -> Callable[[Any], list[str]]:
    return lambda value: [flag] if value is on else []


#: Option of a config -> its arguments. Targets are left out: the line that rebuilds names its own.
_OPTIONS: Mapping[str, Callable[[Any], list[str]]] = MappingProxyType(
    {
        "opset": _value("--opset"),
        "simplify": _present("--no-simplify", on=False),
        "profiles": lambda profiles: [word for profile in profiles for word in ("--profile", str(profile))],
        "min_size": _value("--min-size"),
        "opt_size": _value("--opt-size"),
        "max_size": _value("--max-size"),
        "max_batch": _value("--max-batch"),
        "targets": lambda _: [],
        "workspace_mib": _value("--workspace"),
        "optimization_level": _value("--optimization-level"),
        "timing_cache": _value("--timing-cache"),
        "use_timing_cache": lambda on: [] if on else ["--timing-cache", "none"],
        "gpu": lambda index: ["--device", f"cuda:{index}"],
        "tf32": _present("--tf32"),
        "version_compatible": _present("--version-compatible"),
        "hardware_compatibility": _value("--hardware-compatible"),
    }
)


def as_arguments(request: ExportRequest) -> tuple[str, ...]:
    """Arguments of ``rest-export`` that ask for the same, but for format, targets and output.

    A model given as a config has no name, and stands as its checkpoint alone, whose shapes tell its architecture.
    """
    words: list[str] = []
    if isinstance(request.model, str):
        words += ["--model", request.model]
    if request.checkpoint is not None:
        words += ["--checkpoint", str(request.checkpoint)]
    if request.precision is not Precision.FP32:
        words += ["--precision", request.precision.value]
    if request.labels is not None:
        words += ["--labels", str(request.labels)]
    if request.preprocessing is not None:
        words += _preprocessing(request.preprocessing)
    if not request.verify:
        words.append("--no-verify")
    if request.seed:
        words += ["--seed", str(request.seed)]
    for format, config in request.configs.items():
        default = get_format(format).config_class()
        for option, to_words in _OPTIONS.items():
            value = getattr(config, option, None)
            if value is not None and value != getattr(default, option, None):
                words += to_words(value)
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
    return words
