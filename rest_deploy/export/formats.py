"""The formats that can be exported: rows of suffix, where the exporter lives, and what it can make."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from rest_deploy.errors import ConfigError
from rest_deploy.specs import Precision


@dataclass(frozen=True)
class Format:
    """A row.

    Args:
        suffix: Of its files.
        module: Holds ``export(deploy, target, config)``.
        precisions: What it can make.
        packages: Import names that it needs -> the extra of rest-deploy that installs them.
    """

    suffix: str
    module: str
    precisions: tuple[Precision, ...]
    packages: Mapping[str, str]


FORMATS: Mapping[str, Format] = MappingProxyType(
    {
        "onnx": Format(
            suffix=".onnx",
            module="rest_deploy.export.onnx_exporter",
            precisions=(Precision.FP32,),
            packages=MappingProxyType(
                {
                    "torch": "export",
                    "safetensors": "export",
                    "onnx": "export",
                    "onnxscript": "export",
                    "onnxsim": "export",
                    "onnxruntime": "cpu",
                }
            ),
        ),
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
