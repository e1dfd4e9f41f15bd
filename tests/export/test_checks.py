"""Each pass on graphs that it must pass, mend or refuse."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from rest_deploy.errors import ExportError
from rest_deploy.export import checks
from rest_deploy.export.blockwise import whole
from rest_deploy.export.checks import answers, check_graph, simplify
from rest_deploy.export.onnx_exporter import OnnxConfig, export, free_sizes
from rest_deploy.models.deploy import to_deploy
from rest_deploy.models.family import FAMILIES
from rest_deploy.models.network import Structure
from rest_deploy.models.rest import ResT
from rest_deploy.specs import TensorSpec

REST = FAMILIES["rest"].operators


@pytest.fixture
def expected(tiny_model: ResT) -> Structure:
    return to_deploy(tiny_model).structure()


@pytest.fixture
def graph(tiny_onnx: Path) -> onnx.ModelProto:
    return whole(onnx.load(str(tiny_onnx)))


def _find(model: onnx.ModelProto, kind: str) -> onnx.NodeProto:
    return next(node for node in model.graph.node if node.op_type == kind)


def test_an_exported_graph_passes(graph: onnx.ModelProto, expected: Structure) -> None:
    check_graph(graph, expected, REST)


def test_another_operator_is_refused(graph: onnx.ModelProto, expected: Structure) -> None:
    relu = _find(graph, "Relu")
    relu.op_type = "Softplus"
    with pytest.raises(ExportError, match="operators that the deploy form does not have: Softplus"):
        check_graph(graph, expected, REST)


def test_instance_normalization_is_refused(graph: onnx.ModelProto, expected: Structure) -> None:
    node = _find(graph, "LayerNormalization")
    node.CopyFrom(helper.make_node("InstanceNormalization", list(node.input), list(node.output), node.name))
    with pytest.raises(ExportError, match="InstanceNormalization"):
        check_graph(graph, expected, REST)


def test_a_missing_softmax_is_refused(graph: onnx.ModelProto, expected: Structure) -> None:
    with pytest.raises(ExportError, match="5 Softmax nodes, the deploy form 6"):
        check_graph(graph, replace(expected, counts={**expected.counts, "Softmax": 6}), REST)


@pytest.mark.parametrize("shape", [[2, 768, 1, 8], [0, -1, 7919], [0, 0, 768, 8], [0, 768, -1]])
def test_a_baked_size_is_refused(graph: onnx.ModelProto, expected: Structure, shape: list[int]) -> None:
    reshape = _find(graph, "Reshape")
    baked = numpy_helper.from_array(np.array(shape), "baked")
    graph.graph.initializer.append(baked)
    reshape.input[1] = "baked"
    with pytest.raises(ExportError, match="a size of the traced image is baked in"):
        check_graph(graph, expected, REST)


def test_broken_onnx_is_refused(graph: onnx.ModelProto, expected: Structure) -> None:
    _find(graph, "Softmax").input[0] = "nowhere"
    with pytest.raises(ExportError, match="not valid ONNX"):
        check_graph(graph, expected, REST)


def test_sizes_are_freed_and_names_given() -> None:
    node = helper.make_node("Relu", ["x"], ["y"], doc_string="/home/somebody/model.py")
    value = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [2, 3, 96, 128]) for name in ("x", "y")]
    model = helper.make_model(helper.make_graph([node], "main", value[:1], value[1:]))
    image, logits = (TensorSpec(name, "float32", ("batch", 3, "height", "width")) for name in ("image", "logits"))
    freed = free_sizes(model, "rest", image, [logits])
    onnx.checker.check_model(freed)
    assert [d.dim_param or d.dim_value for d in freed.graph.input[0].type.tensor_type.shape.dim] == list(image.shape)
    assert (freed.graph.node[0].input[0], freed.graph.node[0].output[0]) == ("image", "logits")
    assert "somebody" not in str(freed)


def test_simplifying_that_fails_keeps_the_graph(
    graph: onnx.ModelProto, expected: Structure, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(model: onnx.ModelProto, **_: object) -> tuple[onnx.ModelProto, bool]:
        raise RuntimeError("segmented\nfault")

    monkeypatch.setattr(checks.onnxsim, "simplify", fail)
    kept, why = simplify(graph, expected, REST, answers(graph))
    assert kept is graph
    assert why == "onnxsim failed: segmented fault"


def test_simplifying_that_changes_an_output_keeps_the_graph(
    graph: onnx.ModelProto, expected: Structure, monkeypatch: pytest.MonkeyPatch
) -> None:
    def spoil(model: onnx.ModelProto, **_: object) -> tuple[onnx.ModelProto, bool]:
        spoiled = onnx.ModelProto()
        spoiled.CopyFrom(model)
        bias = next(t for t in spoiled.graph.initializer if t.name.endswith("head.bias"))
        bias.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(bias) + np.float32(1e-2), bias.name))
        return spoiled, True

    monkeypatch.setattr(checks.onnxsim, "simplify", spoil)
    kept, why = simplify(graph, expected, REST, answers(graph))
    assert kept is graph
    assert why is not None
    assert "changed the logits by 0.01" in why


def test_simplifying_that_bakes_a_size_keeps_the_graph(
    graph: onnx.ModelProto, expected: Structure, monkeypatch: pytest.MonkeyPatch
) -> None:
    def bake(model: onnx.ModelProto, **_: object) -> tuple[onnx.ModelProto, bool]:
        baked = onnx.ModelProto()
        baked.CopyFrom(model)
        baked.graph.initializer.append(numpy_helper.from_array(np.array([2, 768, 1, 8]), "baked"))
        _find(baked, "Reshape").input[1] = "baked"
        return baked, True

    monkeypatch.setattr(checks.onnxsim, "simplify", bake)
    kept, why = simplify(graph, expected, REST, answers(graph))
    assert kept is graph
    assert why is not None
    assert "baked in" in why


def test_reductions_that_onnxsim_merges_are_not_kept(
    tmp_path: Path, tiny_model: ResT, expected: Structure, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Left to itself onnxsim merges the two steps of the variance, which shows in the logits at large sizes only."""
    path = tmp_path / "tiny.onnx"
    image, logits = (TensorSpec(n, "float32", s) for n, s in (("image", ("b", 3, "h", "w")), ("logits", ("b", 7))))
    export(to_deploy(tiny_model), image, [logits], path, OnnxConfig(simplify=False, blockwise=False))
    raw = onnx.load(str(path))
    merging = [name for name in checks._SKIPPED if name != "fuse_consecutive_reduce"]
    monkeypatch.setattr(checks, "_SKIPPED", merging)
    kept, why = simplify(raw, expected, REST, answers(raw))
    assert kept is raw
    assert why is not None
    assert "ReduceMean nodes became" in why


def test_simplifying_that_gives_no_numbers_keeps_the_graph(
    graph: onnx.ModelProto, expected: Structure, monkeypatch: pytest.MonkeyPatch
) -> None:
    def spoil(model: onnx.ModelProto, **_: object) -> tuple[onnx.ModelProto, bool]:
        spoiled = onnx.ModelProto()
        spoiled.CopyFrom(model)
        bias = next(t for t in spoiled.graph.initializer if t.name.endswith("head.bias"))
        bias.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(bias) + np.float32("nan"), bias.name))
        return spoiled, True

    monkeypatch.setattr(checks.onnxsim, "simplify", spoil)
    kept, why = simplify(graph, expected, REST, answers(graph))
    assert kept is graph
    assert why is not None
    assert "changed the logits by nan" in why


def test_simplifying_that_no_longer_runs_keeps_the_graph(
    graph: onnx.ModelProto, expected: Structure, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = answers(graph)
    monkeypatch.setattr(checks.onnxsim, "simplify", lambda model, **_: (model, True))
    monkeypatch.setattr(checks, "_SIZES", ((1, 0, 5),))
    kept, why = simplify(graph, expected, REST, wanted)
    assert kept is graph
    assert why is not None
    assert "does not run it on (1, 3, 0, 5)" in why
