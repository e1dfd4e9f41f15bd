"""What must hold of every exported graph, whatever passes it went through."""

from __future__ import annotations

from collections import Counter
from collections.abc import Set

import onnx
from onnx import numpy_helper

from rest_deploy.errors import ExportError
from rest_deploy.models.network import Structure


def check_graph(model: onnx.ModelProto, structure: Structure, operators: Set[str]) -> None:
    """Check a graph against the structure of the deploy form.

    Args:
        model: The graph.
        structure: Of the deploy form.
        operators: That graphs of its family may have.

    Raises:
        ExportError: It is no valid ONNX, has other operators, a normalisation taken apart, or a size baked in.
    """
    try:
        onnx.checker.check_model(model)
    except onnx.checker.ValidationError as exc:
        raise ExportError(f"the graph is no valid ONNX: {str(exc).splitlines()[0]}") from exc
    counts = Counter(node.op_type for node in model.graph.node)
    strange = sorted(set(counts) - operators)
    if strange:
        raise ExportError(f"the graph has operators that the deploy form does not have: {', '.join(strange)}")
    for operator, needed in structure.counts.items():
        if counts[operator] != needed:
            raise ExportError(
                f"the graph has {counts[operator]} {operator} nodes, the deploy form {needed}; each must be one node"
            )
    _check_reshapes(model, structure)


def _check_reshapes(model: onnx.ModelProto, structure: Structure) -> None:
    """A constant shape must be one of those that leave batch, height, width and the number of tokens open."""
    allowed = [list(shape) for shape in structure.reshapes]
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
