"""The ONNX file itself: what any reader of it may count on."""

from __future__ import annotations

import copy
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx.reference import ReferenceEvaluator

from rest_deploy.errors import ConfigError
from rest_deploy.export.onnx_exporter import OnnxConfig, export
from rest_deploy.models.deploy import to_deploy
from rest_deploy.models.rest import ResT
from rest_deploy.specs import TensorSpec
from tests.conftest import TINY

IMAGE = TensorSpec("image", "float32", ("batch", 3, "height", "width"))
LOGITS = TensorSpec("logits", "float32", ("batch", TINY.num_classes))

# What ONNX Runtime 1.18 and TensorRT 10.0 read (onnx 1.16: IR 10, opset 21).
NEWEST_IR = 10


@pytest.mark.parametrize("opset", [18, 19, 20, 21])
def test_every_opset_gives_the_same_function(
    tiny_model: ResT, tmp_path: Path, opset: int, rng: np.random.Generator
) -> None:
    path = tmp_path / "tiny.onnx"
    notes = export(to_deploy(tiny_model), IMAGE, LOGITS, path, OnnxConfig(opset=opset))
    model = onnx.load(str(path))
    assert notes.simplified
    assert [(o.domain, o.version) for o in model.opset_import] == [("", opset)]
    assert model.ir_version <= NEWEST_IR
    assert not model.functions
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    reference = copy.deepcopy(tiny_model).double()
    for shape in ((1, 3, 1, 1), (2, 3, 45, 33)):
        image = rng.standard_normal(shape).astype(np.float32)
        exact = reference(torch.from_numpy(image).double()).numpy()
        # float32 through a dozen layers whose largest activations are about 10
        np.testing.assert_allclose(session.run(None, {"image": image})[0], exact, rtol=0, atol=2e-5)


def test_reference_evaluator_agrees(tiny_onnx: Path, rng: np.random.Generator) -> None:
    """A second implementation of ONNX, so that the file means what it says and not what one runtime makes of it."""
    image = rng.standard_normal((2, 3, 37, 20)).astype(np.float32)
    session = onnxruntime.InferenceSession(str(tiny_onnx), providers=["CPUExecutionProvider"])
    ours = session.run(None, {"image": image})[0]
    theirs = ReferenceEvaluator(str(tiny_onnx)).run(None, {"image": image})[0]
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=2e-5)


def test_structure(lite_onnx: Path) -> None:
    model = onnx.load(str(lite_onnx))
    counts = Counter(node.op_type for node in model.graph.node)
    assert counts["InstanceNormalization"] == counts["BatchNormalization"] == 0
    assert counts["Softmax"] == 8
    assert counts["LayerNormalization"] == 2 * 8 + 6 + 1  # two a block, one for each of six reductions, the last
    image, logits = model.graph.input[0], model.graph.output[0]
    assert [d.dim_param or d.dim_value for d in image.type.tensor_type.shape.dim] == ["batch", 3, "height", "width"]
    assert [d.dim_param or d.dim_value for d in logits.type.tensor_type.shape.dim] == ["batch", 1000]
    assert not any(node.metadata_props or node.doc_string for node in model.graph.node)
    constants = {tensor.name for tensor in model.graph.initializer}
    folded = [node.name for node in model.graph.node if node.op_type == "Transpose" and node.input[0] in constants]
    assert folded == []  # onnxsim has turned every weight


def test_the_same_model_gives_the_same_bytes(tiny_model: ResT, tmp_path: Path) -> None:
    paths = [tmp_path / "one.onnx", tmp_path / "two.onnx"]
    for path in paths:
        export(to_deploy(tiny_model), IMAGE, LOGITS, path, OnnxConfig())
    assert paths[0].read_bytes() == paths[1].read_bytes()


def test_without_simplifying(tiny_model: ResT, tmp_path: Path) -> None:
    notes = export(to_deploy(tiny_model), IMAGE, LOGITS, tmp_path / "tiny.onnx", OnnxConfig(simplify=False))
    assert (notes.simplified, notes.not_simplified_why) == (False, None)


@pytest.mark.parametrize("opset", [17, 22, 0])
def test_opset_out_of_range(opset: int) -> None:
    with pytest.raises(ConfigError, match="accepted: 18 to 21"):
        OnnxConfig(opset=opset)
