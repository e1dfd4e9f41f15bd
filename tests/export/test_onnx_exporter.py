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
from onnx import numpy_helper
from onnx.reference import ReferenceEvaluator

from rest_deploy.errors import ConfigError, ExportError
from rest_deploy.export import checks
from rest_deploy.export.blockwise import whole
from rest_deploy.export.onnx_exporter import OnnxConfig, export
from rest_deploy.export.precision.plan import plan_for
from rest_deploy.models.deploy import to_deploy
from rest_deploy.models.rest import ResT
from rest_deploy.specs import Precision, TensorSpec
from tests.conftest import TINY, slow
from tests.export.conftest import all_nodes

IMAGE = TensorSpec("image", "float32", ("batch", 3, "height", "width"))
LOGITS = TensorSpec("logits", "float32", ("batch", TINY.num_classes))

# What ONNX Runtime 1.18 and TensorRT 10.0 read (onnx 1.16: IR 10, opset 21).
NEWEST_IR = 10


@pytest.mark.parametrize("opset", [18, 20, *slow([19, 21])])
def test_every_opset_gives_the_same_function(
    tiny_model: ResT, tmp_path: Path, opset: int, rng: np.random.Generator
) -> None:
    path = tmp_path / "tiny.onnx"
    notes = export(to_deploy(tiny_model), IMAGE, [LOGITS], path, OnnxConfig(opset=opset))
    model = onnx.load(str(path))
    assert notes.simplified
    assert [(o.domain, o.version) for o in model.opset_import] == [("", opset)]
    assert model.ir_version <= NEWEST_IR
    assert not model.functions
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    reference = copy.deepcopy(tiny_model).double()
    for shape in ((1, 3, 1, 1), (2, 3, 45, 33)):
        image = rng.standard_normal(shape).astype(np.float32)
        exact = reference(torch.from_numpy(image).double()).detach().numpy()
        # float32 through a dozen layers whose largest activations are about 10
        np.testing.assert_allclose(session.run(None, {"image": image})[0], exact, rtol=0, atol=2e-5)


def test_reference_evaluator_agrees(tiny_onnx: Path, rng: np.random.Generator) -> None:
    """A second implementation of ONNX, so that the file means what it says and not what one runtime makes of it."""
    image = rng.standard_normal((2, 3, 37, 20)).astype(np.float32)
    session = onnxruntime.InferenceSession(str(tiny_onnx), providers=["CPUExecutionProvider"])
    ours = session.run(None, {"image": image})[0]
    theirs = ReferenceEvaluator(str(tiny_onnx)).run(None, {"image": image})[0]
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=2e-5)


@pytest.mark.parametrize(
    ("file", "blocks", "reductions", "classes"),
    [("tiny_onnx", 5, 4, 7), pytest.param("lite_onnx", 8, 6, 1000, marks=pytest.mark.slow)],
)
def test_structure(file: str, blocks: int, reductions: int, classes: int, request: pytest.FixtureRequest) -> None:
    model = whole(onnx.load(str(request.getfixturevalue(file))))
    counts = Counter(node.op_type for node in model.graph.node)
    assert counts["InstanceNormalization"] == counts["BatchNormalization"] == 0
    assert counts["Softmax"] == blocks
    assert counts["LayerNormalization"] == 2 * blocks + reductions + 1  # two a block, one for each reduction, the last
    image, logits = model.graph.input[0], model.graph.output[0]
    assert [d.dim_param or d.dim_value for d in image.type.tensor_type.shape.dim] == ["batch", 3, "height", "width"]
    assert [d.dim_param or d.dim_value for d in logits.type.tensor_type.shape.dim] == ["batch", classes]
    assert not any(node.metadata_props or node.doc_string for node in model.graph.node)
    constants = {tensor.name for tensor in model.graph.initializer}
    folded = [node.name for node in model.graph.node if node.op_type == "Transpose" and node.input[0] in constants]
    assert folded == []  # onnxsim has turned every weight


def _constant(model: onnx.ModelProto, name: str) -> float | None:
    """A scalar of the graph; None where a value is no constant or no scalar."""
    values = {tensor.name: tensor for tensor in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "Constant" and node.attribute[0].name == "value":
            values[node.output[0]] = node.attribute[0].t
    value = numpy_helper.to_array(values[name]) if name in values else np.zeros(2)
    return float(value.reshape(())) if value.size == 1 else None


@pytest.mark.parametrize("simplify", [True, False])
@pytest.mark.parametrize("opset", [18, 20])
def test_gelu_is_written_as_runtimes_know_it(tiny_model: ResT, tmp_path: Path, opset: int, simplify: bool) -> None:
    """One operator, or ``(x * (1 + erf(x / sqrt(2)))) * 0.5`` with each constant second: of another order OpenCV dies,
    and ONNX Runtime leaves it unfused.
    """
    path = tmp_path / "tiny.onnx"
    export(to_deploy(tiny_model), IMAGE, [LOGITS], path, OnnxConfig(opset=opset, simplify=simplify))
    model = whole(onnx.load(str(path)))
    makers = {output: node for node in model.graph.node for output in node.output}
    users = {name: node for node in model.graph.node for name in node.input}
    erfs = [node for node in model.graph.node if node.op_type == "Erf"]
    for erf in erfs:
        div, add = makers[erf.input[0]], users[erf.output[0]]
        product = users[add.output[0]]
        half = users[product.output[0]]
        assert [node.op_type for node in (div, add, product, half)] == ["Div", "Add", "Mul", "Mul"]
        assert _constant(model, div.input[1]) == pytest.approx(2**0.5)
        assert (add.input[0], _constant(model, add.input[1])) == (erf.output[0], 1)
        assert list(product.input) == [div.input[0], add.output[0]]
        assert (half.input[0], _constant(model, half.input[1])) == (product.output[0], 0.5)
    single = sum(node.op_type == "Gelu" for node in model.graph.node)
    assert len(erfs) + single == sum(TINY.depths)
    plan = plan_for(to_deploy(tiny_model), Precision.FP16)
    assert all(plan.part_of(node.name) for node in model.graph.node)  # what onnxsim fused too

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # that the written graph is of this machine alone
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    fused = Counter(node.op_type for node in all_nodes(onnx.load(options.optimized_model_filepath).graph))
    assert fused["BiasGelu"] == 2 * sum(TINY.depths)  # as traced, and in blocks
    assert not fused.keys() & {"Erf", "Gelu"}


def test_softmaxes_can_be_computed_in_place(tiny_onnx: Path) -> None:
    """By the names of sizes, which ONNX Runtime compares; what it infers itself has none."""
    graph = whole(onnx.load(tiny_onnx)).graph
    shapes = {value.name: value.type.tensor_type.shape for value in graph.value_info}
    softmaxes = [node for node in graph.node if node.op_type == "Softmax"]
    assert softmaxes
    for node in softmaxes:
        entry, leave = shapes.pop(node.input[0]), shapes.pop(node.output[0])
        assert entry == leave
        assert all(size.dim_param or size.dim_value for size in entry.dim)
    assert shapes == {}  # the others would be read for nothing


@pytest.mark.slow
@pytest.mark.anew
def test_the_same_model_gives_the_same_bytes(tiny_model: ResT, tmp_path: Path) -> None:
    paths = [tmp_path / "one.onnx", tmp_path / "two.onnx"]
    for path in paths:
        export(to_deploy(tiny_model), IMAGE, [LOGITS], path, OnnxConfig())
    assert paths[0].read_bytes() == paths[1].read_bytes()


def test_a_traced_graph_that_does_not_run_is_no_export(
    tiny_model: ResT, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither onnxsim's result nor the blocks could be compared with it."""
    monkeypatch.setattr(checks, "_SIZES", ((1, 0, 5),))
    with pytest.raises(ExportError, match=r"does not run it on \(1, 3, 0, 5\)"):
        export(to_deploy(tiny_model), IMAGE, [LOGITS], tmp_path / "tiny.onnx", OnnxConfig())
    assert list(tmp_path.iterdir()) == []


def test_without_simplifying(tiny_model: ResT, tmp_path: Path) -> None:
    notes = export(to_deploy(tiny_model), IMAGE, [LOGITS], tmp_path / "tiny.onnx", OnnxConfig(simplify=False))
    assert (notes.simplified, notes.not_simplified_why) == (False, None)


@pytest.mark.parametrize("opset", [17, 22, 0])
def test_opset_out_of_range(opset: int) -> None:
    with pytest.raises(ConfigError, match="accepted: a whole number from 18 to 21"):
        OnnxConfig(opset=opset)
