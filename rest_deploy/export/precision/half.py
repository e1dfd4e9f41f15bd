"""FP16: the parts that a plan lowers in half precision, and what GPUs make of such a graph computed on the CPU.

ONNX Runtime's CPU provider computes half-precision nodes in FP32 and keeps what lies between them in FP32, so it shows
none of the faults of a graph in half. Casts that stand in the graph it keeps. So to be judged each half value is
computed in FP32, as tensor cores do, then cast to half and back: what ``onnx.reference.ReferenceEvaluator`` does node
by node, some fifty times as fast (tests/export/precision/test_half.py holds the two together).
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from rest_deploy.errors import ExportError
from rest_deploy.export.precision.plan import Convert, ConvertInput, PrecisionPlan
from rest_deploy.specs import Precision

#: Operators whose types are fixed: sizes are integers, quantization is FP32 to INT8 and back.
_FIXED = frozenset({"Shape", "Cast", "QuantizeLinear", "DequantizeLinear"})
#: Operators that move numbers and make none, but for ones: their results are as round as what goes in.
_MOVES = frozenset({"DepthToSpace", "Identity", "Pad", "Relu", "Reshape", "Slice", "Transpose"})
#: Those that compute nothing in floating point, or are there to change the type.
_NO_ARITHMETIC = _MOVES - {"Relu"} | _FIXED | {"Constant"}
_ELEMENT = {TensorProto.FLOAT: "fp32", TensorProto.FLOAT16: "half"}


def convert(source: ConvertInput) -> Convert:
    """The recipe of FP16."""
    return lambda plan: to_half(source.graph, plan)


def to_half(model: onnx.ModelProto, plan: PrecisionPlan) -> onnx.ModelProto:
    """Compute in half precision what a plan lowers.

    A value that both precisions use is cast once. Weights beyond half's range become infinite, which the check of the
    result finds.

    Args:
        model: FP32, every node named by its module; Q/DQ pairs in it stay FP32.
        plan: Parts in FP16 or INT8 become half, the others stay.

    Returns:
        A new graph of the same function but for rounding, float32 at its ends unless the plan says half.

    Raises:
        ExportError: A node belongs to no part, or the types do not fit together.
    """
    lowered = onnx.ModelProto()
    lowered.CopyFrom(model)
    _Half(lowered.graph, plan).run()
    try:
        onnx.checker.check_model(lowered)
        onnx.shape_inference.infer_shapes(lowered, check_type=True, strict_mode=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as exc:
        raise ExportError(f"the graph in half precision is not valid ONNX: {str(exc).splitlines()[0]}") from exc
    return lowered


class _Half:
    """One graph being rewritten: the type of every value so far, and the values that are there in the other type."""

    def __init__(self, graph: onnx.GraphProto, plan: PrecisionPlan) -> None:
        self._graph, self._plan = graph, plan
        self._constants = {tensor.name: tensor for tensor in graph.initializer}
        self._types: dict[str, str] = {}
        self._nodes: list[onnx.NodeProto] = []
        self._used: dict[str, onnx.TensorProto] = {}

    def run(self) -> None:
        kind = "half" if self._plan.half_io else "fp32"
        self._types |= {value.name: kind for value in self._graph.input}
        for node in self._graph.node:
            self._add(node)
        for value in self._graph.output:
            self._end_in(value.name, kind)
        if self._plan.half_io:
            for value in (*self._graph.input, *self._graph.output):
                value.type.tensor_type.elem_type = TensorProto.FLOAT16
        del self._graph.node[:], self._graph.initializer[:], self._graph.value_info[:]
        self._graph.node.extend(self._nodes)
        self._graph.initializer.extend(self._used.values())

    def _add(self, node: onnx.NodeProto) -> None:
        if node.op_type == "Constant":  # as an initializer, so that each user takes it in its own type
            self._constants[node.output[0]] = _tensor_of(node)
            return
        kind = "fp32" if node.op_type in _FIXED or self._plan.of(node.name) is Precision.FP32 else "half"
        copy = onnx.NodeProto()
        copy.CopyFrom(node)
        any_type = node.op_type == "Shape"
        copy.input[:] = [name if any_type else self._in(name, kind, node) for name in node.input]
        self._nodes.append(copy)
        self._types |= dict.fromkeys(node.output, _result(node, kind))

    def _in(self, name: str, kind: str, node: onnx.NodeProto) -> str:
        """The name of a value in a type, cast or copied where it is there in the other."""
        if name in self._constants:
            return self._constant(name, kind)
        held = self._types.get(name, "other")
        if not name or held in ("other", kind):
            return name
        cast = f"{name}/{kind}"
        if cast not in self._types:
            self._cast(name, cast, kind, node)
        return cast

    def _cast(self, value: str, to: str, kind: str, beside: onnx.NodeProto) -> None:
        element = TensorProto.FLOAT if kind == "fp32" else TensorProto.FLOAT16
        name = f"{beside.name.partition('/')[0]}/cast:{to}"
        self._nodes.append(helper.make_node("Cast", [value], [to], name, to=element))
        self._types[to] = kind

    def _constant(self, name: str, kind: str) -> str:
        tensor = self._constants[name]
        if kind == "fp32" or tensor.data_type != TensorProto.FLOAT:
            self._used.setdefault(name, tensor)
            return name
        half = f"{name}/half"
        if half not in self._used:
            with np.errstate(over="ignore"):
                values = numpy_helper.to_array(tensor).astype(np.float16)
            self._used[half] = numpy_helper.from_array(values, half)
        return half

    def _end_in(self, name: str, kind: str) -> None:
        """Cast an output of the graph, which keeps its name; nodes of the graph take it as it was."""
        if self._types[name] == kind:
            return
        last = next(node for node in self._nodes if name in node.output)
        inner = f"{name}/{self._types[name]}"
        for node in self._nodes:
            for names in (node.input, node.output):
                names[:] = [inner if other == name else other for other in names]
        self._cast(inner, name, kind, last)


def _result(node: onnx.NodeProto, kind: str) -> str:
    """Type of a node's results."""
    if node.op_type in ("Shape", "QuantizeLinear"):
        return "other"
    if node.op_type == "Cast":
        return _ELEMENT.get(node.attribute[0].i, "other")
    return kind


def _tensor_of(constant: onnx.NodeProto) -> onnx.TensorProto:
    """The value of a Constant node."""
    (attribute,) = constant.attribute
    value = helper.get_attribute_value(attribute)
    if isinstance(value, onnx.TensorProto):
        values = numpy_helper.to_array(value)
    else:
        values = np.asarray(value, np.float32 if attribute.name.startswith("value_float") else np.int64)
    return numpy_helper.from_array(values, constant.output[0])


def with_explicit_rounding(model: onnx.ModelProto) -> onnx.ModelProto:
    """Make every rounding to half a pair of casts in an FP32 graph.

    Args:
        model: With FP32 and half values; Q/DQ pairs are left as they are.

    Returns:
        A new graph: float32 in and out, no half value outside the pairs.
    """
    rounded = onnx.ModelProto()
    rounded.CopyFrom(model)
    graph = rounded.graph
    halves = _widen_weights(graph)
    nodes: list[onnx.NodeProto] = []
    for value in graph.input:
        if value.type.tensor_type.elem_type == TensorProto.FLOAT16:
            nodes += _rounded_input(graph, value, halves)
    for node in graph.node:
        nodes.append(node)
        if _makes_half(node, halves):
            halves |= set(node.output)
            if node.op_type not in _MOVES:
                nodes += _round_outputs(node)
    for value in graph.output:
        value.type.tensor_type.elem_type = TensorProto.FLOAT
    copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del graph.node[:]
    graph.node.extend(copies)
    return rounded


def fp32_nodes(content: bytes) -> frozenset[str]:
    """Nodes of an ONNX file that compute in FP32: neither on half nor on integers, and no casts."""
    model = onnx.load_model_from_string(content)
    halves = {tensor.name for tensor in model.graph.initializer if tensor.data_type == TensorProto.FLOAT16}
    halves |= {v.name for v in model.graph.input if v.type.tensor_type.elem_type == TensorProto.FLOAT16}
    found = set()
    for node in model.graph.node:
        if _is_half(node, halves):
            halves |= set(node.output)
        elif node.op_type not in _NO_ARITHMETIC:
            found.add(node.name)
    return frozenset(found)


def _widen_weights(graph: onnx.GraphProto) -> set[str]:
    """Store half initializers as float32; their names."""
    halves = {tensor.name for tensor in graph.initializer if tensor.data_type == TensorProto.FLOAT16}
    for tensor in graph.initializer:
        if tensor.name in halves:
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype("float32"), tensor.name))
    return halves


def _rounded_input(graph: onnx.GraphProto, value: onnx.ValueInfoProto, halves: set[str]) -> list[onnx.NodeProto]:
    """Take the image as float32, and round it."""
    value.type.tensor_type.elem_type = TensorProto.FLOAT
    inner = f"{value.name}/in"
    for node in graph.node:
        node.input[:] = [inner if name == value.name else name for name in node.input]
    halves.add(inner)
    return _pair(inner, value.name)


def _is_half(node: onnx.NodeProto, halves: set[str]) -> bool:
    if node.op_type == "Cast":
        return bool(node.attribute[0].i == TensorProto.FLOAT16)
    return node.op_type != "Shape" and any(name in halves for name in node.input)


def _makes_half(node: onnx.NodeProto, halves: set[str]) -> bool:
    """Whether a node's results are half; a cast to half becomes one to float32, to be rounded like the others."""
    made = _is_half(node, halves)
    if made and node.op_type == "Cast":
        node.attribute[0].i = TensorProto.FLOAT
    return made


def _round_outputs(node: onnx.NodeProto) -> list[onnx.NodeProto]:
    pairs = []
    for position, name in enumerate(node.output):
        node.output[position] = f"{name}/exact"
        pairs += _pair(name, f"{name}/exact")
    return pairs


def _pair(name: str, exact: str) -> list[onnx.NodeProto]:
    """Nodes that round a value to half and widen it again."""
    half = f"{name}/rounded"
    return [
        helper.make_node("Cast", [exact], [half], f"{half}", to=TensorProto.FLOAT16),
        helper.make_node("Cast", [half], [name], f"{name}/widened", to=TensorProto.FLOAT),
    ]
