"""A network that is no classifier alone: ``logits``, and the map of stride 4 that they are taken from."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from rest_deploy.artifact.info import ArtifactInfo, Weights
from rest_deploy.artifact.onnx_file import write_record
from rest_deploy.specs import Output, Precision, Preprocessing, TensorSpec
from tests.conftest import TINY

MAP = Output("stage1", "float32", ("batch", 4, "rows", "columns"), stride=4)
INFO = ArtifactInfo(
    format="onnx",
    precision=Precision.FP32,
    family="rest",
    model="two",
    config=TINY.to_dict(),
    weights=Weights(seed=0),
    labels=None,
    preprocessing=Preprocessing(),
    input=TensorSpec("image", "float32", ("batch", 3, "height", "width")),
    outputs=(Output("logits", "float32", ("batch", 7)), MAP),
)


def write_two_outputs(path: Path, *, fault: float = 0.0, info: ArtifactInfo = INFO) -> Path:
    """Write it; ``fault`` is added to the map on its way out, and the logits know nothing of it."""
    rng = np.random.default_rng(0)
    weights = {
        "kernel": rng.standard_normal((4, 3, 7, 7)) / 12,
        "head": rng.standard_normal((4, 7)),
        "fault": np.full((1, 4, 1, 1), fault),
    }
    nodes = [
        helper.make_node("Conv", ["image", "kernel"], ["inner"], strides=[4, 4], pads=[3, 3, 3, 3]),
        helper.make_node("ReduceMean", ["inner", "axes"], ["mean"], keepdims=0),
        helper.make_node("MatMul", ["mean", "head"], ["logits"]),
        helper.make_node("Add", ["inner", "fault"], ["stage1"]),
    ]
    values = [
        helper.make_tensor_value_info(own.name, TensorProto.FLOAT, own.shape) for own in (INFO.input, *INFO.outputs)
    ]
    constants = [numpy_helper.from_array(own.astype(np.float32), name) for name, own in weights.items()]
    axes = numpy_helper.from_array(np.array([2, 3]), "axes")
    graph = helper.make_graph(nodes, "two", values[:1], values[1:], [*constants, axes])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8), path)
    write_record(path, info)
    return path
