"""A graph with half-precision nodes -> one in FP32 that rounds to half wherever the graph would hold a half.

ONNX Runtime's CPU provider computes half-precision nodes in FP32 and keeps what lies between them in FP32, so it shows
none of the faults of a graph in half. Casts that stand in the graph it keeps. So each half value is computed in FP32, as
tensor cores do, then cast to half and back: what ``onnx.reference.ReferenceEvaluator`` does node by node, some fifty times
as fast (tests/export/precision/test_rounding.py holds the two together).
"""

from __future__ import annotations

import onnx
from onnx import TensorProto, helper, numpy_helper

#: Operators that move numbers and make none: their results are as round as what goes in.
_MOVES = frozenset({"Reshape", "Transpose", "Identity", "Relu"})


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
    halves = {tensor.name for tensor in graph.initializer if tensor.data_type == TensorProto.FLOAT16}
    for tensor in graph.initializer:
        if tensor.name in halves:
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype("float32"), tensor.name))
    nodes = []
    for value in graph.input:
        if value.type.tensor_type.elem_type == TensorProto.FLOAT16:
            value.type.tensor_type.elem_type = TensorProto.FLOAT
            halves.add(value.name)
            nodes += _pair(f"{value.name}/in", value.name)
            for node in graph.node:
                node.input[:] = [f"{value.name}/in" if name == value.name else name for name in node.input]
            halves.add(f"{value.name}/in")
    for node in graph.node:
        nodes.append(node)
        if node.op_type == "Cast":
            made_half = node.attribute[0].i == TensorProto.FLOAT16
            if made_half:
                node.attribute[0].i = TensorProto.FLOAT
        else:
            made_half = node.op_type != "Shape" and any(name in halves for name in node.input)
        if not made_half:
            continue
        halves |= set(node.output)
        if node.op_type not in _MOVES:
            for position, name in enumerate(node.output):
                node.output[position] = f"{name}/exact"
                nodes += _pair(name, f"{name}/exact")
    for value in graph.output:
        value.type.tensor_type.elem_type = TensorProto.FLOAT
    copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del graph.node[:]
    graph.node.extend(copies)
    return rounded


def _pair(name: str, exact: str) -> list[onnx.NodeProto]:
    """Nodes that round a value to half and widen it again."""
    half = f"{name}/rounded"
    return [
        helper.make_node("Cast", [exact], [half], f"{half}", to=TensorProto.FLOAT16),
        helper.make_node("Cast", [half], [name], f"{name}/widened", to=TensorProto.FLOAT),
    ]
