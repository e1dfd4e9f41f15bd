"""How to write an ONNX file; checked when made, without importing torch or onnx."""

from __future__ import annotations

from dataclasses import dataclass

from rest_deploy.errors import ConfigError
from rest_deploy.specs import DEFAULT_OPSET, OPSETS


@dataclass(frozen=True)
class OnnxConfig:
    """How to write the file.

    Args:
        opset: ONNX operator set, 18 to 21.
        simplify: Run onnxsim, and keep its result where it holds.

    Raises:
        ConfigError: An opset out of range.
    """

    opset: int = DEFAULT_OPSET
    simplify: bool = True

    def __post_init__(self) -> None:
        if self.opset not in OPSETS:
            raise ConfigError(f"opset {self.opset}; accepted: {OPSETS[0]} to {OPSETS[-1]}")
