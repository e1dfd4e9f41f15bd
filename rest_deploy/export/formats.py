"""The formats that can be exported: rows of suffix, what they are made from, their config, and what they can make."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from types import MappingProxyType
from typing import Any

from rest_deploy.errors import ConfigError
from rest_deploy.export.precision.config import PrecisionConfig
from rest_deploy.specs import Precision


@dataclass(frozen=True)
class Format:
    """A row.

    Args:
        suffix: Of its files.
        source: Format that it is made from; None for the deploy form itself.
        module: Holds ``export``.
        config: Module and class of its config, importable without anything heavy.
        precisions: What it can make.
        packages: Import names that it needs -> the extra of rest-deploy that installs them.
    """

    suffix: str
    source: str | None
    module: str
    config: tuple[str, str]
    precisions: tuple[Precision, ...]
    packages: Mapping[str, str]

    @property
    def config_class(self) -> Any:
        """Class of its config, a frozen dataclass."""
        module, name = self.config
        return getattr(importlib.import_module(module), name)


_EXPORT = MappingProxyType(
    {
        "torch": "export",
        "safetensors": "export",
        "onnx": "export",
        "onnxscript": "export",
        "onnxsim": "export",
        "onnxruntime": "cpu",
    }
)
_ENGINE = Format(
    suffix=".engine",
    source="onnx",
    module="rest_deploy.export.engine.exporter",
    config=("rest_deploy.export.engine.config", "EngineConfig"),
    precisions=tuple(Precision),
    packages=_EXPORT,  # which TensorRT there is, and whether it will do, is found out by choose_site
)

FORMATS: Mapping[str, Format] = MappingProxyType(
    {
        "onnx": Format(
            suffix=".onnx",
            source=None,
            module="rest_deploy.export.onnx_exporter",
            config=("rest_deploy.export.onnx_config", "OnnxConfig"),
            precisions=tuple(Precision),
            packages=_EXPORT,
        ),
        "trt": _ENGINE,
        "trt-rtx": _ENGINE,
    }
)


#: Key of the config of FP16 and INT8 among those of the formats.
PRECISION = "precision"

#: Options that rest-export spells in another way than by their name.
_FLAGS: Mapping[str, str] = MappingProxyType(
    {
        "simplify": "--no-simplify",
        "profiles": "--profile",
        "targets": "--target",
        "workspace_mib": "--workspace",
        "use_timing_cache": "--timing-cache",
        "gpu": "--device",
        "hardware_compatibility": "--hardware-compatible",
        "compare_speed": "--no-speed",
    }
)


def get_format(name: str) -> Format:
    """Row of a format.

    Raises:
        ConfigError: No such format.
    """
    if name not in FORMATS:
        raise ConfigError(f"unknown format {name!r}; accepted: {', '.join(FORMATS)}")
    return FORMATS[name]


def parse_formats(text: str) -> tuple[str, ...]:
    """Read ``"onnx,trt"``: formats, each once, no two of one suffix.

    Raises:
        ConfigError: Anything else.
    """
    names = tuple(name.strip() for name in text.split(","))
    suffixes = [get_format(name).suffix for name in names]
    for suffix in suffixes:
        same = [name for name, other in zip(names, suffixes, strict=True) if other == suffix]
        if len(same) > 1:
            raise ConfigError(f"formats {text}: {' and '.join(same)} write the same {suffix} file; give one of them")
    return names


def _unknown_option(option: str, formats: Sequence[str], known: Mapping[str, set[str]]) -> str:
    """Whose option it is, or which there are."""
    named = flag_of(option)
    owners = [name for name, row in FORMATS.items() if option in {field.name for field in fields(row.config_class)}]
    if owners:
        return f"{named} is an option of {', '.join(owners)}, not of {', '.join(formats)}; leave it out"
    has = "; ".join(f"{step} has {', '.join(sorted(names))}" for step, names in known.items())
    return f"format {','.join(formats)} has no option {option}; {has}"


def flag_of(option: str) -> str:
    """The option as rest-export spells it."""
    return _FLAGS.get(option, f"--{option.replace('_', '-')}")


def make_configs(formats: Sequence[str], options: Mapping[str, Any]) -> dict[str, Any]:
    """Configs of formats and of what they are made from, by format, and that of the precision, with their options.

    Raises:
        ConfigError: An option that none of them has, or a value that cannot be meant.
    """
    chain: dict[str, Any] = {PRECISION: PrecisionConfig}
    for name in formats:
        for step in (get_format(name).source, name):
            if step is not None:
                chain.setdefault(step, get_format(step).config_class)
    known = {step: {field.name for field in fields(made)} for step, made in chain.items()}
    for option in options:
        if not any(option in names for names in known.values()):
            raise ConfigError(_unknown_option(option, formats, known))
    return {
        step: made(**{option: value for option, value in options.items() if option in known[step]})
        for step, made in chain.items()
    }
