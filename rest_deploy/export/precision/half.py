"""FP32 graph -> the parts that a plan narrows in half precision: weights, activations, and casts at the borders."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from rest_deploy.errors import ExportError
from rest_deploy.export.precision.plan import PrecisionPlan
from rest_deploy.specs import Precision

#: Operators whose types are fixed: sizes are integers, quantization is FP32 to INT8 and back.
_FIXED = frozenset({"Shape", "Cast", "QuantizeLinear", "DequantizeLinear"})
_ELEMENT = {TensorProto.FLOAT: "fp32", TensorProto.FLOAT16: "half"}


def to_half(model: onnx.ModelProto, plan: PrecisionPlan) -> onnx.ModelProto:
    """Compute in half precision what a plan narrows.

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
    narrowed = onnx.ModelProto()
    narrowed.CopyFrom(model)
    _Narrowing(narrowed.graph, plan).run()
    try:
        onnx.checker.check_model(narrowed)
        onnx.shape_inference.infer_shapes(narrowed, check_type=True, strict_mode=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as exc:
        raise ExportError(f"the graph in half precision is no valid ONNX: {str(exc).splitlines()[0]}") from exc
    return narrowed


class _Narrowing:
    """One graph being rewritten: the type of every value so far, and the values that are there in the other type."""

    def __init__(self, graph: onnx.GraphProto, plan: PrecisionPlan) -> None:
        self._graph, self._plan = graph, plan
        self._constants = {tensor.name: tensor for tensor in graph.initializer}
        self._types: dict[str, str] = {}
        self._nodes: list[onnx.NodeProto] = []
        self._used: dict[str, onnx.TensorProto] = {}

    def run(self) -> None:
        (image,), (logits,) = self._graph.input, self._graph.output
        self._types[image.name] = "half" if self._plan.half_io else "fp32"
        for node in self._graph.node:
            self._add(node)
        self._end_in(logits.name, "half" if self._plan.half_io else "fp32")
        if self._plan.half_io:
            for value in (image, logits):
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
            module = node.name.partition("/")[0]
            to = TensorProto.FLOAT if kind == "fp32" else TensorProto.FLOAT16
            self._nodes.append(helper.make_node("Cast", [name], [cast], f"{module}/cast:{cast}", to=to))
            self._types[cast] = kind
        return cast

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
        """Cast the graph's output, which keeps its name."""
        if self._types[name] == kind:
            return
        last = next(node for node in self._nodes if name in node.output)
        inner = f"{name}/{self._types[name]}"
        last.output[:] = [inner if other == name else other for other in last.output]
        module = last.name.partition("/")[0]
        to = TensorProto.FLOAT if kind == "fp32" else TensorProto.FLOAT16
        self._nodes.append(helper.make_node("Cast", [inner], [name], f"{module}/cast:{name}", to=to))


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
