"""Products with constant weights, and those weights in INT8: what both kinds of INT8 graph quantize."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from rest_deploy.errors import ExportError
from rest_deploy.export.precision.plan import PrecisionPlan
from rest_deploy.specs import Precision

#: Below, a channel's weights are taken for zeros; its scale would be no normal float32.
_TINY = 1e-30


@dataclass(frozen=True)
class Product:
    """A Conv, Gemm or MatMul whose second input is a constant weight.

    Args:
        node: The node.
        weight: float32, as the node takes it.
        axis: Of the weight, along which the output channels lie.
    """

    node: onnx.NodeProto
    weight: NDArray[np.float32]
    axis: int


def products(model: onnx.ModelProto, plan: PrecisionPlan, operators: Mapping[str, int]) -> Iterator[Product]:
    """Products of the parts that a plan puts in INT8, in the order of the graph.

    Args:
        model: FP32.
        plan: Of its parts.
        operators: Operator -> axis of the output channels of its weight.
    """
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type not in operators or node.input[1] not in constants:
            continue
        if plan.of(node.name) is Precision.INT8:
            axis = operators[node.op_type]
            if node.op_type == "Gemm" and attribute(node, "transB", 0):
                axis = 1 - axis
            yield Product(node, numpy_helper.to_array(constants[node.input[1]]), axis)


def attribute(node: onnx.NodeProto, name: str, default: Any) -> Any:
    """An attribute of a node."""
    return next((helper.get_attribute_value(entry) for entry in node.attribute if entry.name == name), default)


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


def fold_transposes(model: onnx.ModelProto) -> onnx.ModelProto:
    """Turn weights that the graph turns when it runs, as it does where onnxsim was left out; a new graph."""
    folded = onnx.ModelProto()
    folded.CopyFrom(model)
    graph = folded.graph
    constants = {tensor.name: tensor for tensor in graph.initializer}
    kept, turned = [], []
    for node in graph.node:
        if node.op_type == "Transpose" and node.input[0] in constants:
            order = attribute(node, "perm", None)
            values = np.ascontiguousarray(numpy_helper.to_array(constants[node.input[0]]).transpose(order))
            turned.append(numpy_helper.from_array(values, node.output[0]))
        else:
            kept.append(node)
    return rebuilt(folded, kept, turned)


def rebuilt(
    model: onnx.ModelProto, nodes: Iterable[onnx.NodeProto], more: Iterable[onnx.TensorProto]
) -> onnx.ModelProto:
    """The model with other nodes, and with more initializers; those that no node takes any more are dropped.

    Raises:
        ExportError: It is no valid ONNX.
    """
    graph = model.graph
    copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del graph.node[:], graph.value_info[:]
    graph.node.extend(copies)
    graph.initializer.extend(more)
    _drop_unused(graph)
    try:
        onnx.checker.check_model(model)
    except onnx.checker.ValidationError as exc:
        raise ExportError(f"the graph in INT8 is no valid ONNX: {str(exc).splitlines()[0]}") from exc
    return model


def _drop_unused(graph: onnx.GraphProto) -> None:
    """Drop the initializers that no node takes."""
    used = {name for node in graph.node for name in node.input} | {value.name for value in graph.output}
    kept = [onnx.TensorProto.FromString(t.SerializeToString()) for t in graph.initializer if t.name in used]
    del graph.initializer[:]
    graph.initializer.extend(kept)
