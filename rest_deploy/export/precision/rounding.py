"""A graph with half-precision nodes -> one in FP32 that rounds to half wherever the graph would hold a half.

ONNX Runtime's CPU provider computes half-precision nodes in FP32 and keeps what lies between them in FP32, so it shows
none of the faults of a graph in half. Casts that stand in the graph it keeps. So each half value is computed in FP32,
as tensor cores do, then cast to half and back: what ``onnx.reference.ReferenceEvaluator`` does node by node, some fifty
times as fast (tests/export/precision/test_half.py holds the two together).
"""

from __future__ import annotations

import onnx
from onnx import TensorProto, helper, numpy_helper

#: Operators that move numbers and make none: their results are as round as what goes in.
_MOVES = frozenset({"Reshape", "Transpose", "Identity", "Relu"})
#: Those that compute nothing in floating point, or are there to change the type.
_NO_ARITHMETIC = _MOVES - {"Relu"} | {"Shape", "Cast", "Constant", "QuantizeLinear", "DequantizeLinear"}


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
