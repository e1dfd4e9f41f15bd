"""A toy precision; such a file is all that is new of one.

As tensor cores do with TF32, it multiplies numbers that have some bits of the mantissa alone. Weights are stored so,
in float32; activations are rounded by the machine that it is made for, which is none that is here.
"""

from __future__ import annotations

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from rest_deploy.export.precision.plan import Convert, ConvertInput, PrecisionPlan
from rest_deploy.specs import Precision

#: Bits of the mantissa of float32 that are lost, of 23. Part of the network -> in place of it.
LOST, LOST_IN = 13, dict[str, int]()
_PRODUCTS = ("Conv", "Gemm", "MatMul")
_ROUNDED = "/rounded"


def convert(source: ConvertInput) -> Convert:
    """The recipe: weights of products rounded."""
    return lambda plan: _round_weights(source.graph, plan)


def _round_weights(graph: onnx.ModelProto, plan: PrecisionPlan) -> onnx.ModelProto:
    made = onnx.ModelProto()
    made.CopyFrom(graph)
    weights = {tensor.name: tensor for tensor in made.graph.initializer}
    for node in made.graph.node:
        if node.op_type in _PRODUCTS and node.input[1] in weights and plan.of(node.name) is not Precision.FP32:
            tensor = weights.pop(node.input[1])
            node.input[1] += _ROUNDED
            values = rounded(numpy_helper.to_array(tensor), LOST_IN.get(plan.part_of(node.name), LOST))
            tensor.CopyFrom(numpy_helper.from_array(values, node.input[1]))
    return made


def rounded(values: NDArray[np.float32], lost: int = LOST) -> NDArray[np.float32]:
    """Values with fewer bits of the mantissa, the nearest ones."""
    mantissa, exponent = np.frexp(values)
    steps = np.float32(2.0 ** (24 - lost))
    return np.ldexp(np.rint(mantissa * steps) / steps, exponent)


def emulate(graph: onnx.ModelProto) -> onnx.ModelProto:
    """Round the activations of products too: ``c x - (c x - x)`` with c = 2**lost + 1 (Dekker, A Floating-Point
    Technique for Extending the Available Precision, 1971).
    """
    made = onnx.ModelProto()
    made.CopyFrom(graph)
    nodes: dict[str, onnx.NodeProto] = {}  # by their output: an activation that several products take is rounded once
    for node in graph.graph.node:
        copy = onnx.NodeProto.FromString(node.SerializeToString())
        if node.op_type in _PRODUCTS and node.input[1].endswith(_ROUNDED):
            x = node.input[0]
            copy.input[0] = x + _ROUNDED
            for operator, inputs, output in (
                ("Mul", [x, "factor"], f"{x}/times"),
                ("Sub", [f"{x}/times", x], f"{x}/less"),
                ("Sub", [f"{x}/times", f"{x}/less"], x + _ROUNDED),
            ):
                nodes.setdefault(output, helper.make_node(operator, inputs, [output], f"{node.name}:{output}"))
        nodes[node.output[0]] = copy
    del made.graph.node[:]
    made.graph.node.extend(nodes.values())
    made.graph.initializer.append(numpy_helper.from_array(np.asarray(2.0**LOST + 1, np.float32), "factor"))
    return made
