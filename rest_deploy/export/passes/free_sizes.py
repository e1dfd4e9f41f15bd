"""Name the input's batch, height and width, and drop every size that was written down while tracing."""

from __future__ import annotations

from collections.abc import Sequence

import onnx

from rest_deploy.specs import TensorSpec


def free_sizes(model: onnx.ModelProto, name: str, image: TensorSpec, outputs: Sequence[TensorSpec]) -> onnx.ModelProto:
    """Give the graph a name and the declared input and outputs, and no other shapes.

    Postcondition: the graph has one input and these outputs, with names, dtypes and shapes as declared; its nodes carry
    no traces of the exporter's source files.
    """
    model.graph.name = name
    for value, spec in zip((*model.graph.input, *model.graph.output), (image, *outputs), strict=True):
        _rename(model, value.name, spec.name)
        value.CopyFrom(onnx.helper.make_tensor_value_info(spec.name, onnx.TensorProto.FLOAT, spec.shape))
    del model.graph.value_info[:]
    del model.metadata_props[:]
    for node in model.graph.node:
        node.doc_string = ""
        del node.metadata_props[:]
    return model


def _rename(model: onnx.ModelProto, old: str, new: str) -> None:
    for node in model.graph.node:
        node.input[:] = [new if name == old else name for name in node.input]
        node.output[:] = [new if name == old else name for name in node.output]
