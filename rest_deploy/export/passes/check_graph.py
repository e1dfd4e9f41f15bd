"""What must hold of every exported graph, whatever passes it went through."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import onnx
from onnx import numpy_helper

from rest_deploy.artifact.onnx_graph import OPERATORS
from rest_deploy.errors import ExportError


@dataclass(frozen=True)
class Expected:
    """What is known of a graph before it is made.

    Args:
        blocks: Transformer blocks; each has one softmax and at least two layer normalisations.
        heads: (number of heads, channels of a head) of every attention.
    """

    blocks: int
    heads: frozenset[tuple[int, int]]


def check_graph(model: onnx.ModelProto, expected: Expected) -> None:
    """Check a graph against the structure of the deploy form.

    Args:
        model: The graph.
        expected: The structure.

    Raises:
        ExportError: It is no valid ONNX, has other operators, a normalisation taken apart, or a size baked in.
    """
    try:
        onnx.checker.check_model(model)
    except onnx.checker.ValidationError as exc:
        raise ExportError(f"the graph is no valid ONNX: {str(exc).splitlines()[0]}") from exc
    blocks = expected.blocks
    counts = Counter(node.op_type for node in model.graph.node)
    strange = sorted(set(counts) - OPERATORS)
    if strange:
        raise ExportError(f"the graph has operators that the deploy form does not have: {', '.join(strange)}")
    if counts["Softmax"] != blocks or counts["LayerNormalization"] < 2 * blocks:
        raise ExportError(
            f"the graph has {counts['Softmax']} Softmax and {counts['LayerNormalization']} LayerNormalization nodes "
            f"for {blocks} blocks; they must be single nodes"
        )
    _check_reshapes(model, expected)


def _check_reshapes(model: onnx.ModelProto, expected: Expected) -> None:
    """A constant shape must be one of two, which leave batch, height, width and the number of tokens open."""
    allowed = [[0, 0, -1], *([0, -1, *heads] for heads in sorted(expected.heads))]
    constants = {
        tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer if tensor.data_type == 7
    }
    for node in model.graph.node:
        if node.op_type == "Constant" and node.attribute[0].name in ("value", "value_ints"):
            value = onnx.helper.get_attribute_value(node.attribute[0])
            constants[node.output[0]] = numpy_helper.to_array(value) if isinstance(value, onnx.TensorProto) else value
    weights = {tensor.name for tensor in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "Reshape" and node.input[1] in constants and node.input[0] not in weights | set(constants):
            shape = [int(size) for size in constants[node.input[1]]]
            if shape not in allowed:
                raise ExportError(f"node {node.name} reshapes to {shape}: a size of the traced image is baked in")
