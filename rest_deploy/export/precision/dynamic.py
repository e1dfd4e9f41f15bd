"""INT8 for CPUs: weights in INT8, activations quantized as they come, products of integers.

Ranges of activations are measured in every call, so no calibration is needed. ONNX Runtime fuses the pattern written
here into its own integer kernels (DynamicQuantizeMatMul and MatMulIntegerToFloat); every operator is of the ONNX
standard.
Convolutions stay FP32: quantized as they come they are slower (docs/precision.md).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from rest_deploy.errors import ExportError
from rest_deploy.export.precision.plan import PrecisionPlan
from rest_deploy.export.precision.weights import (
    Product,
    attribute,
    fold_transposes,
    products,
    quantize_weight,
    rebuilt,
)

_OPERATORS = {"MatMul": 1, "Gemm": 1}

#: Largest integer of a weight. CPUs that add two 8-bit products in 16 bits (vpmaddubsw, on x86 without VNNI) hold
#: 2 * 255 * 64 = 32640 at most of the 32767 there are.
FULL_RANGE, REDUCED_RANGE = 127, 64


def to_dynamic_int8(model: onnx.ModelProto, plan: PrecisionPlan, *, reduced_range: bool) -> onnx.ModelProto:
    """Compute products with constant weights in integers.

    Args:
        model: FP32, every node named by its module.
        plan: Its MatMul and Gemm in INT8 parts are quantized.
        reduced_range: Weights of 7 bits, for CPUs whose 16-bit sums saturate.

    Returns:
        A new graph of the same function but for rounding.

    Raises:
        ExportError: A node belongs to no part.
    """
    quantized = fold_transposes(model)
    chosen = {product.node.output[0]: product for product in products(quantized, plan, _OPERATORS)}
    rewrite = _Rewrite(REDUCED_RANGE if reduced_range else FULL_RANGE)
    for node in quantized.graph.node:
        if node.output[0] in chosen:
            rewrite.product(chosen[node.output[0]])
        else:
            rewrite.nodes.append(node)
    return rebuilt(quantized, rewrite.nodes, rewrite.initializers)


class _Rewrite:
    """Nodes and initializers of the new graph."""

    def __init__(self, largest: int) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[onnx.TensorProto] = []
        self._largest = largest
        self._quantized: set[str] = set()

    def product(self, product: Product) -> None:
        """Add a product: quantize, multiply integers, scale, add the bias."""
        node, x = product.node, product.node.input[0]
        self._quantize(x, node.name)
        weight = self._weight(product)
        y, out = node.output[0], node.output[0]
        bias = node.input[2] if len(node.input) > 2 else ""
        if bias:
            _require_plain(node)
            y = f"{out}/product"
        self._add("MatMulInteger", node, [f"{x}/int8", f"{weight}/int8", f"{x}/zero", f"{weight}/zero"], f"{out}/int32")
        self._add("Cast", node, [f"{out}/int32"], f"{out}/float", to=TensorProto.FLOAT)
        self._add("Mul", node, [f"{x}/scale", f"{weight}/scale"], f"{out}/scale")
        self._add("Mul", node, [f"{out}/float", f"{out}/scale"], y)
        if bias:
            self._add("Add", node, [y, bias], out)

    def _quantize(self, x: str, name: str) -> None:
        if x not in self._quantized:
            self._quantized.add(x)
            outputs = [f"{x}/int8", f"{x}/scale", f"{x}/zero"]
            self.nodes.append(helper.make_node("DynamicQuantizeLinear", [x], outputs, f"{name}:quantize"))

    def _weight(self, product: Product) -> str:
        """Store a weight of shape (inputs, outputs) in INT8; what its names begin with."""
        weight = f"{product.node.input[1]}/by axis {product.axis}"
        if weight not in self._quantized:
            self._quantized.add(weight)
            integers, scale = quantize_weight(product.weight, product.axis, self._largest)
            integers = integers if product.axis == 1 else np.ascontiguousarray(integers.T)
            for suffix, array in (("int8", integers), ("scale", scale), ("zero", np.zeros(len(scale), np.int8))):
                self.initializers.append(numpy_helper.from_array(array, f"{weight}/{suffix}"))
        return weight

    def _add(self, operator: str, node: onnx.NodeProto, inputs: list[str], output: str, **attributes: Any) -> None:
        name = f"{node.name}:{output.rpartition('/')[2]}:{operator}"
        self.nodes.append(helper.make_node(operator, inputs, [output], name, **attributes))


def _require_plain(gemm: onnx.NodeProto) -> None:
    """Only ``x W + b`` can be written in integers here."""
    if attribute(gemm, "alpha", 1.0) != 1.0 or attribute(gemm, "beta", 1.0) != 1.0 or attribute(gemm, "transA", 0):
        raise ExportError(f"node {gemm.name} is no plain product with a bias; export with --no-simplify")
