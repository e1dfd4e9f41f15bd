"""The message that tells of an engine's layers at the end of a build, as TensorRT 10 and TensorRT-RTX write it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import onnx

from tests.standins.plan import Plan


class _Entry(NamedTuple):
    """What an ONNX operator becomes: LayerType of RTX and 11, LayerType and ParameterType of 10."""

    kind: str
    old_kind: str
    parameters: str


_ENTRIES = {
    "Conv": _Entry("correlation", "CaskConvolution", "Convolution"),
    "Gemm": _Entry("gemm", "CaskGemmMatrixMultiply", "MatrixMultiply"),
    "MatMul": _Entry("gemm", "CaskGemmMatrixMultiply", "MatrixMultiply"),
    "Softmax": _Entry("kgen", "CaskSoftMaxV2", "SoftMax"),
}
_FUSED = {"Relu", "Sigmoid"}
_ELEMENTS = {onnx.TensorProto.FLOAT16: "Half", onnx.TensorProto.INT8: "Int8", onnx.TensorProto.INT64: "Int64"}
_OLD_TYPES = {"Float": "FP32", "Half": "FP16", "Int8": "INT8", "BFloat16": "BF16"}


def layers_message(
    model: onnx.ModelProto, plan: Plan, old: bool, datatypes: Mapping[str, str], other: str | None
) -> str:
    """The whole message.

    Args:
        model: That was parsed.
        plan: That was built.
        old: Whether to write as TensorRT 10 does.
        datatypes: ONNX node -> datatype of its layer.
        other: Datatype of all other layers; None for what the network says.
    """
    shapes = _shapes(model)
    weights = {initializer.name for initializer in model.graph.initializer}
    types = _types(model)
    write = _old_line if old else _line
    lines = []
    for number, (node, nodes) in enumerate(_fused(model)):
        datatype = datatypes.get(node.name, other)
        own = types if datatype is None else dict.fromkeys((*node.input, *node.output), datatype)
        metadata = "\x1f".join(f"[ONNX Layer: {name}]" for name in nodes)
        lines.append(write(node, number, shapes, weights, own) + f", StreamId: 0, Metadata: {metadata}")
    return "Layers:\n" + "\n".join(lines) + (_old_tail(plan) if old else _tail(plan))


def _fused(model: onnx.ModelProto) -> list[tuple[onnx.NodeProto, list[str]]]:
    """Nodes that become layers, with the names of the nodes that went into each."""
    found: list[tuple[onnx.NodeProto, list[str]]] = []
    for node in model.graph.node:
        if node.op_type in _ENTRIES:
            found.append((node, [node.name]))
        elif found and node.op_type in _FUSED and node.input[0] == found[-1][0].output[0]:
            found[-1][1].append(node.name)
    return found


def _shapes(model: onnx.ModelProto) -> dict[str, list[int]]:
    graph = onnx.shape_inference.infer_shapes(model).graph
    shapes = {initializer.name: list(initializer.dims) for initializer in graph.initializer}
    for value in [*graph.input, *graph.output, *graph.value_info]:
        dims = value.type.tensor_type.shape.dim
        shapes[value.name] = [dim.dim_value if dim.HasField("dim_value") else -1 for dim in dims]
    return shapes


def _types(model: onnx.ModelProto) -> dict[str, str]:
    """Datatype of each value; a product takes in the integers of the Q/DQ pair before it, as TensorRT's do."""
    graph = onnx.shape_inference.infer_shapes(model).graph
    kinds = {initializer.name: initializer.data_type for initializer in graph.initializer}
    kinds |= {v.name: v.type.tensor_type.elem_type for v in [*graph.input, *graph.output, *graph.value_info]}
    types = {name: _ELEMENTS.get(kind, "Float") for name, kind in kinds.items()}
    for node in graph.node:
        if node.op_type == "DequantizeLinear" or (node.op_type == "Cast" and types.get(node.input[0]) == "Int8"):
            types[node.output[0]] = "Int8"
    return types


def _list(sizes: Any) -> str:
    return "[" + ",".join(str(size) for size in sizes) + "]"


def _line(node: Any, number: int, shapes: Any, weights: set[str], types: Mapping[str, str]) -> str:
    def tensor(name: str, kernel: bool = False) -> str:
        shape = shapes.get(name, [-1])
        strides = [1] * len(shape)  # of no interest to anybody
        placed = "" if kernel else f"Strides: {_list(strides)}, StrideOrder: {_list(range(len(shape))[::-1])}, "
        rest = f"Datatype: {types.get(name, 'Float')}, Format: (Linear) Row major linear format"
        return f"{{ Name: {name}, Dimensions: {_list(shape)}, {placed}{rest} }}"

    inputs = ", ".join(tensor(name) for name in node.input if name not in weights)
    constants = ", ".join(tensor(name, kernel=True) for name in node.input if name in weights)
    outputs = ", ".join(tensor(name) for name in node.output)
    return (
        f"Name: {node.name}_myl0_{number}, LayerType: {_ENTRIES[node.op_type].kind}, Inputs: [ {inputs}], "
        f"Constants: [ {constants}], Outputs: [ {outputs}], TacticName: __myelin_CASK_STUB"
    )


def _old_line(node: Any, number: int, shapes: Any, weights: set[str], types: Mapping[str, str]) -> str:
    def linear(name: str) -> str:
        datatype = types.get(name, "Float")
        return f"Row major linear {_OLD_TYPES.get(datatype, datatype)}"

    def tensor(name: str, written: str) -> str:
        dimensions = f"Location: Device, Dimensions: {_list(shapes.get(name, [-1]))}"
        return f"{{ Name: {name}, {dimensions}, Format/Datatype: {written} }}"

    inputs = ", ".join(tensor(name, linear(name)) for name in node.input if name not in weights)
    outputs = ", ".join(tensor(name, types.get(name, "Float")) for name in node.output)
    entry = _ENTRIES[node.op_type]
    return (
        f"Name: {node.name}, LayerType: {entry.old_kind}, Inputs: [ {inputs}], Outputs: [ {outputs}], "
        f"ParameterType: {entry.parameters}, TacticName: sm80_fake_{number}"
    )


def _old_tail(plan: Plan) -> str:
    return "\n\nBindings:\n" + "\n".join(tensor.name for tensor in plan.inputs + plan.outputs)


def _end(word: str, shape: Any) -> str:
    return f"{word}Shape: {_list(shape)}"


def _tail(plan: Plan) -> str:
    lines = []
    for tensor in plan.inputs + plan.outputs:
        mode = "Input" if tensor in plan.inputs else "Output"
        ends = [profile.get(tensor.name, ()) for profile in plan.profiles]
        told = " ".join(
            f"{{ MinShape: {_list(e[0])}, OptShape: {_list(e[1])}, MaxShape: {_list(e[2])} }}" for e in ends if e
        )
        lines.append(
            f" Name: {tensor.name}, IOMode: {mode}, DataType: Float, Dimensions: {_list(tensor.shape)}, "
            f"Location: Device, IsShapeInferenceIO: false, ProfileInfo: [ {told}]"
        )
    return "\n\nI/O Tensors:\n" + "\n".join(lines) + "\n\nEngine Metadata:\n Multi-Device: Disabled"
