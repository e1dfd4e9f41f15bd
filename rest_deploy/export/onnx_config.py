"""How to write an ONNX file; checked when made, without importing torch or onnx."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from rest_deploy.specs import DEFAULT_OPSET, OPSETS
from rest_deploy.values import Whole, hold


@dataclass(frozen=True)
class OnnxConfig:
    """How to write the file.

    Args:
        opset: ONNX operator set, 18 to 21.
        simplify: Run onnxsim, and keep its result where it holds.

    Raises:
        ConfigError: An opset out of range.
    """

    opset: Annotated[int, Whole(OPSETS[0], OPSETS[-1])] = DEFAULT_OPSET
    simplify: bool = True

    def __post_init__(self) -> None:
        hold(self)
