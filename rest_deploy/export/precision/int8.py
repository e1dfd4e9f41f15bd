"""INT8: products with constant weights quantized, for TensorRT by Q/DQ pairs, for CPUs in integers.

For TensorRT: pairs of QuantizeLinear and DequantizeLinear around Conv, Gemm and MatMul, symmetric (zero point 0),
activations with one scale a tensor, weights with one an output channel, biases as they are. Products of two
activations, as in attention, are left alone. Scales are float32, whatever the rest of the graph is in.

For CPUs: ranges of activations are measured in every call, so no calibration is needed. ONNX Runtime fuses the pattern
written here into its own integer kernels (DynamicQuantizeMatMul and MatMulIntegerToFloat); every operator is of the
ONNX standard. Convolutions stay FP32: quantized at each call they are slower (docs/precision.md).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from rest_deploy.errors import ExportError
from rest_deploy.export.precision.half import to_half
from rest_deploy.export.precision.plan import Convert, ConvertInput, PrecisionPlan
from rest_deploy.specs import Precision

#: Operator -> axis of the output channels of its weight.
_PAIRED = {"Conv": 0, "MatMul": 1, "Gemm": 1}
_IN_INTEGERS = {"MatMul": 1, "Gemm": 1}
#: Largest integer of a weight. CPUs that add two 8-bit products in 16 bits (vpmaddubsw, on x86 without VNNI) hold
#: 2 * 255 * 64 = 32640 at most of the 32767 there are.
_FULL_RANGE, _REDUCED_RANGE = 127, 64
#: Below, a scale is no normal float16, to which a runtime may take it.
_LEAST_RANGE = _FULL_RANGE * 2.0**-14
#: Below, a channel's weights are taken for zeros; its scale would be no normal float32.
_TINY = 1e-30


def convert_for_tensorrt(source: ConvertInput) -> Convert:
    """The recipe of INT8 for TensorRT: Q/DQ pairs, the rest in half. Ranges are taken once for all plans."""
    ranges = source.ranges(quantized_inputs(source.graph, source.plan))
    return lambda plan: to_half(to_qdq(source.graph, plan, ranges), plan)


def convert_for_cpu(source: ConvertInput) -> Convert:
    """The recipe of INT8 for CPUs."""
    return lambda plan: to_dynamic_int8(source.graph, plan, reduced_range=source.reduced_range)


# Products with constant weights.


@dataclass(frozen=True)
class _Product:
    """A Conv, Gemm or MatMul whose second input is a constant weight, float32, as the node takes it; ``axis`` of the
    weight is that of the output channels.
    """

    node: onnx.NodeProto
    weight: NDArray[np.float32]
    axis: int


def _products(model: onnx.ModelProto, plan: PrecisionPlan, operators: Mapping[str, int]) -> dict[str, _Product]:
    """Products of the parts that a plan puts in INT8, by their output, in the order of the graph."""
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    found = {}
    for node in model.graph.node:
        if node.op_type not in operators or node.input[1] not in constants:
            continue
        if plan.of(node.name) is Precision.INT8:
            axis = operators[node.op_type]
            if node.op_type == "Gemm" and _attribute(node, "transB", 0):
                axis = 1 - axis
            found[node.output[0]] = _Product(node, numpy_helper.to_array(constants[node.input[1]]), axis)
    return found


def quantized_inputs(model: onnx.ModelProto, plan: PrecisionPlan) -> tuple[str, ...]:
    """Names of the activations that need a range for Q/DQ pairs, each once, in the order of the graph."""
    return tuple(dict.fromkeys(product.node.input[0] for product in _products(model, plan, _PAIRED).values()))


def quantize_weight(
    weight: NDArray[np.float32], axis: int, largest: int
) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Round a weight to INT8, symmetrically, with a scale for each output channel.

    Args:
        weight: Of any rank.
        axis: Of the output channels.
        largest: Integer that the largest weight of a channel becomes, 127 or less.

    Returns:
        The integers, of the weight's shape, and the scale of each channel.
    """
    others = tuple(i for i in range(weight.ndim) if i != axis)
    most = np.abs(weight.astype(np.float64)).max(axis=others)
    scale = np.where(most > _TINY, most, 1.0) / largest
    shape = [1] * weight.ndim
    shape[axis] = -1
    integers = np.clip(np.rint(weight / scale.reshape(shape)), -largest, largest)
    return integers.astype(np.int8), scale.astype(np.float32)


# The graphs.


def to_qdq(model: onnx.ModelProto, plan: PrecisionPlan, ranges: Mapping[str, float]) -> onnx.ModelProto:
    """Quantize the products of INT8 parts by Q/DQ pairs.

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
    chosen = _products(quantized, plan, _PAIRED)
    rewrite = _Pairs(ranges)
    for node in quantized.graph.node:
        copy = onnx.NodeProto.FromString(node.SerializeToString())
        if node.output[0] in chosen:
            copy.input[0] = rewrite.activation(node)
            copy.input[1] = rewrite.weight(chosen[node.output[0]])
        rewrite.nodes.append(copy)
    return _rebuilt(quantized, rewrite.nodes, rewrite.initializers)


def to_dynamic_int8(model: onnx.ModelProto, plan: PrecisionPlan, *, reduced_range: bool) -> onnx.ModelProto:
    """Compute the MatMul and Gemm of INT8 parts in integers.

    Args:
        model: FP32, every node named by its module.
        plan: Which parts.
        reduced_range: Weights of 7 bits, for CPUs whose 16-bit sums saturate.

    Returns:
        A new graph of the same function but for rounding.

    Raises:
        ExportError: A node belongs to no part.
    """
    quantized = fold_transposes(model)
    chosen = _products(quantized, plan, _IN_INTEGERS)
    rewrite = _Integers(_REDUCED_RANGE if reduced_range else _FULL_RANGE)
    for node in quantized.graph.node:
        if node.output[0] in chosen:
            rewrite.product(chosen[node.output[0]])
        else:
            rewrite.nodes.append(node)
    return _rebuilt(quantized, rewrite.nodes, rewrite.initializers)


class _Rewrite:
    """Nodes and initializers of a new graph; each activation and weight is quantized once."""

    def __init__(self, largest: int) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[onnx.TensorProto] = []
        self._largest = largest
        self._done: set[str] = set()

    def _add(self, operator: str, inputs: list[str], outputs: list[str], name: str, **attributes: Any) -> None:
        self.nodes.append(helper.make_node(operator, inputs, outputs, name, **attributes))

    def _is_new(self, name: str) -> bool:
        new = name not in self._done
        self._done.add(name)
        return new

    def _store(self, name: str, values: NDArray[Any]) -> None:
        self.initializers.append(numpy_helper.from_array(values, name))

    def _store_weight(self, name: str, integers: NDArray[np.int8], scale: NDArray[np.float32]) -> None:
        for suffix, values in (("int8", integers), ("scale", scale), ("zero", np.zeros(len(scale), np.int8))):
            self._store(f"{name}/{suffix}", values)


class _Pairs(_Rewrite):
    """With Q/DQ pairs."""

    def __init__(self, ranges: Mapping[str, float]) -> None:
        super().__init__(_FULL_RANGE)
        self._ranges = ranges

    def activation(self, node: onnx.NodeProto) -> str:
        """The input of a product, to INT8 and back."""
        x = node.input[0]
        if self._is_new(x):
            if x not in self._ranges:
                raise ExportError(f"activation {x} has no range; calibrate it")
            self._store(f"{x}/scale", np.asarray(np.float32(max(self._ranges[x], _LEAST_RANGE) / self._largest)))
            self._store(f"{x}/zero", np.asarray(0, np.int8))
            scale = [f"{x}/scale", f"{x}/zero"]
            self._add("QuantizeLinear", [x, *scale], [f"{x}/int8"], f"{node.name}:{x}/int8")
            self._add("DequantizeLinear", [f"{x}/int8", *scale], [f"{x}/dequantized"], f"{node.name}:{x}/dequantized")
        return f"{x}/dequantized"

    def weight(self, product: _Product) -> str:
        """The weight of a product, stored in INT8."""
        node, name = product.node, f"{product.node.input[1]}/by axis {product.axis}"
        value = f"{name}/dequantized"
        if self._is_new(name):
            self._store_weight(name, *quantize_weight(product.weight, product.axis, self._largest))
            inputs = [f"{name}/{suffix}" for suffix in ("int8", "scale", "zero")]
            self._add("DequantizeLinear", inputs, [value], f"{node.name}:{value}", axis=product.axis)
        return value


class _Integers(_Rewrite):
    """With products of integers."""

    def product(self, product: _Product) -> None:
        """Add a product: quantize, multiply integers, scale, add the bias."""
        node, x = product.node, product.node.input[0]
        _require_plain(node)
        if self._is_new(x):
            self._add("DynamicQuantizeLinear", [x], [f"{x}/int8", f"{x}/scale", f"{x}/zero"], f"{node.name}:quantize")
        weight = self._weight(product)
        y, out = node.output[0], node.output[0]
        bias = node.input[2] if len(node.input) > 2 else ""
        if bias:
            y = f"{out}/product"
        inputs = [f"{x}/int8", f"{weight}/int8", f"{x}/zero", f"{weight}/zero"]
        self._step(node, "MatMulInteger", inputs, f"{out}/int32")
        self._step(node, "Cast", [f"{out}/int32"], f"{out}/float", to=TensorProto.FLOAT)
        self._step(node, "Mul", [f"{x}/scale", f"{weight}/scale"], f"{out}/scale")
        self._step(node, "Mul", [f"{out}/float", f"{out}/scale"], y)
        if bias:
            self._step(node, "Add", [y, bias], out)

    def _weight(self, product: _Product) -> str:
        """Store a weight of shape (inputs, outputs) in INT8; what its names begin with."""
        name = f"{product.node.input[1]}/by axis {product.axis}"
        if self._is_new(name):
            integers, scale = quantize_weight(product.weight, product.axis, self._largest)
            self._store_weight(name, integers if product.axis == 1 else np.ascontiguousarray(integers.T), scale)
        return name

    def _step(self, node: onnx.NodeProto, operator: str, inputs: list[str], output: str, **attributes: Any) -> None:
        self._add(operator, inputs, [output], f"{node.name}:{output.rpartition('/')[2]}:{operator}", **attributes)


def _require_plain(node: onnx.NodeProto) -> None:
    """Only ``x W`` and ``x W + b`` can be written in integers here."""
    if _attribute(node, "alpha", 1.0) != 1.0 or _attribute(node, "beta", 1.0) != 1.0 or _attribute(node, "transA", 0):
        raise ExportError(f"node {node.name} is not a plain product; export with --no-simplify")


def _attribute(node: onnx.NodeProto, name: str, default: Any) -> Any:
    return next((helper.get_attribute_value(entry) for entry in node.attribute if entry.name == name), default)


def fold_transposes(model: onnx.ModelProto) -> onnx.ModelProto:
    """Turn weights that the graph turns when it runs, as it does where onnxsim was left out; a new graph."""
    folded = onnx.ModelProto()
    folded.CopyFrom(model)
    graph = folded.graph
    constants = {tensor.name: tensor for tensor in graph.initializer}
    kept, turned = [], []
    for node in graph.node:
        if node.op_type == "Transpose" and node.input[0] in constants:
            order = _attribute(node, "perm", None)
            values = np.ascontiguousarray(numpy_helper.to_array(constants[node.input[0]]).transpose(order))
            turned.append(numpy_helper.from_array(values, node.output[0]))
        else:
            kept.append(node)
    return _rebuilt(folded, kept, turned)


def _rebuilt(
    model: onnx.ModelProto, nodes: Iterable[onnx.NodeProto], more: Iterable[onnx.TensorProto]
) -> onnx.ModelProto:
    """The model with other nodes, and with more initializers; those that no node takes any more are dropped.

    Raises:
        ExportError: It is not valid ONNX.
    """
    graph = model.graph
    copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del graph.node[:], graph.value_info[:]
    graph.node.extend(copies)
    graph.initializer.extend(more)
    used = {name for node in graph.node for name in node.input} | {value.name for value in graph.output}
    kept = [onnx.TensorProto.FromString(t.SerializeToString()) for t in graph.initializer if t.name in used]
    del graph.initializer[:]
    graph.initializer.extend(kept)
    try:
        onnx.checker.check_model(model)
    except onnx.checker.ValidationError as exc:
        raise ExportError(f"the graph in INT8 is not valid ONNX: {str(exc).splitlines()[0]}") from exc
    return model
