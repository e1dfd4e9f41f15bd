"""INT8 for TensorRT: pairs of QuantizeLinear and DequantizeLinear around products with constant weights.

Symmetric (zero point 0), activations with one scale a tensor, weights with one an output channel, biases as they are.
Products of two activations, as in attention, are left alone. Scales are float32, whatever the rest of the graph is in.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from rest_deploy.errors import ExportError
from rest_deploy.export.precision.plan import PrecisionPlan
from rest_deploy.export.precision.weights import Product, products, quantize_weight, rebuilt

#: Operator -> axis of the output channels of its weight.
OPERATORS = {"Conv": 0, "MatMul": 1, "Gemm": 1}
_LARGEST = 127
#: Below, a scale is no normal float16, to which a runtime may take it.
_LEAST_RANGE = _LARGEST * 2.0**-14


def quantized_inputs(model: onnx.ModelProto, plan: PrecisionPlan) -> tuple[str, ...]:
    """Names of the activations that need a range, each once, in the order of the graph."""
    return tuple(dict.fromkeys(product.node.input[0] for product in products(model, plan, OPERATORS)))


def to_qdq(model: onnx.ModelProto, plan: PrecisionPlan, ranges: Mapping[str, float]) -> onnx.ModelProto:
    """Quantize the products of INT8 parts.

    Args:
        model: FP32, weights not turned when it runs (:func:`fold_transposes`), every node named by its module.
        plan: Which parts.
        ranges: Activation -> the absolute value that becomes 127; larger ones are clipped to it.

    Returns:
        A new graph of the same function but for rounding, its weights INT8.

    Raises:
        ExportError: A node belongs to no part, or an activation has no range.
    """
    quantized = onnx.ModelProto()
    quantized.CopyFrom(model)
    chosen = {product.node.output[0]: product for product in products(quantized, plan, OPERATORS)}
    rewrite = _Rewrite(ranges)
    for node in quantized.graph.node:
        copy = onnx.NodeProto.FromString(node.SerializeToString())
        if node.output[0] in chosen:
            copy.input[0] = rewrite.activation(node)
            copy.input[1] = rewrite.weight(chosen[node.output[0]])
        rewrite.nodes.append(copy)
    return rebuilt(quantized, rewrite.nodes, rewrite.initializers.values())


class _Rewrite:
    """Nodes and initializers of the new graph; each activation and weight is quantized once."""

    def __init__(self, ranges: Mapping[str, float]) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: dict[str, onnx.TensorProto] = {}
        self._ranges = ranges
        self._done: set[str] = set()

    def activation(self, node: onnx.NodeProto) -> str:
        """The input of a product, to INT8 and back."""
        x = node.input[0]
        if x not in self._done:
            if x not in self._ranges:
                raise ExportError(f"activation {x} has no range; calibrate it")
            self._done.add(x)
            scale = np.float32(max(self._ranges[x], _LEAST_RANGE) / _LARGEST)
            self._store(f"{x}/scale", np.asarray(scale))
            self._store(f"{x}/zero", np.asarray(0, np.int8))
            arguments = [f"{x}/scale", f"{x}/zero"]
            self._pair("QuantizeLinear", node, [x, *arguments], f"{x}/int8")
            self._pair("DequantizeLinear", node, [f"{x}/int8", *arguments], f"{x}/dequantized")
        return f"{x}/dequantized"

    def weight(self, product: Product) -> str:
        """The weight of a product, stored in INT8."""
        weight = f"{product.node.input[1]}/by axis {product.axis}"
        key = f"{weight}/dequantized"
        if weight not in self._done:
            self._done.add(weight)
            integers, scale = quantize_weight(product.weight, product.axis, _LARGEST)
            self._store(f"{weight}/int8", integers)
            self._store(f"{weight}/scale", scale)
            self._store(f"{weight}/zero", np.zeros(len(scale), np.int8))
            inputs = [f"{weight}/{suffix}" for suffix in ("int8", "scale", "zero")]
            self._pair("DequantizeLinear", product.node, inputs, key, axis=product.axis)
        return key

    def _pair(self, operator: str, node: onnx.NodeProto, inputs: list[str], output: str, **attributes: Any) -> None:
        self.nodes.append(helper.make_node(operator, inputs, [output], f"{node.name}:{output}", **attributes))

    def _store(self, name: str, values: np.ndarray) -> None:
        self.initializers[name] = numpy_helper.from_array(values, name)
