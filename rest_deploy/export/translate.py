"""Operators that are written in ONNX by us: the opaque ones of ``models/network.py``, which read every size when they
run, and GELU, whose order runtimes are particular about.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import onnx
import torch
from onnxscript import opset18

from rest_deploy.models.network import split_shape  # its import registers the operators

op: Any = opset18  # its stubs know NumPy-like values, not the graph's


def _split_heads(x: Any, num_heads: int) -> Any:
    """(B, H, W, C) -> (B, num_heads, H*W, C/num_heads)."""
    tokens = op.Reshape(x, op.Constant(value_ints=list(split_shape(num_heads, int(x.shape[3])))))
    return tokens if num_heads == 1 else op.Transpose(tokens, perm=[0, 2, 1, 3])


def _merge_heads(x: Any, like: Any) -> Any:
    """(B, heads, H*W, C/heads) -> (B, H, W, C)."""
    tokens = x if int(x.shape[1]) == 1 else op.Transpose(x, perm=[0, 2, 1, 3])
    return op.Reshape(tokens, op.Shape(like))


def _mix_heads(x: Any, weight: Any) -> Any:
    """(B, heads, N, K), (heads, heads) -> (B, heads, N, K)."""
    flat = op.Reshape(x, op.Constant(value_ints=[0, 0, -1]))
    return op.Reshape(op.MatMul(weight, flat), op.Shape(x))


def _subtract_uniform(probabilities: Any) -> Any:
    """(B, heads, N, K) -> the same, minus 1/K."""
    keys = op.Cast(op.Shape(probabilities, start=3, end=4), to=onnx.TensorProto.FLOAT)
    return op.Sub(probabilities, op.Reciprocal(keys))


def _gelu(x: Any, approximate: str = "none") -> Any:
    """Exact GELU as ``(x * (1 + erf(x / sqrt(2)))) * 0.5``, in this order and with each constant second.

    ONNX Runtime's fusion into Gelu and BiasGelu and OpenCV's into Gelu know it so. PyTorch's own translation,
    ``x * (0.5 * (1 + erf))``, the former leaves unfused, and of the latter readNetFromONNX dies with a segmentation
    fault (OpenCV 4.14.0 and 5.0.0).
    """
    if approximate != "none":
        raise ValueError(f"GELU approximated by {approximate}; only the exact one is written")
    return op.Mul(op.Mul(x, op.Add(op.Erf(op.Div(x, math.sqrt(2))), 1.0)), 0.5)


_OPERATORS = torch.ops.rest_deploy

#: Operator -> the function that writes it in ONNX, for ``torch.onnx.export``.
TRANSLATIONS: Mapping[Any, Callable[..., Any]] = {
    torch.ops.aten.gelu.default: _gelu,
    _OPERATORS.split_heads.default: _split_heads,
    _OPERATORS.merge_heads.default: _merge_heads,
    _OPERATORS.mix_heads.default: _mix_heads,
    _OPERATORS.subtract_uniform.default: _subtract_uniform,
}
