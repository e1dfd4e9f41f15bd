"""Pieces of one kind share a graph and nothing else."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

from rest_deploy.errors import ExportError
from rest_deploy.export.assemble import assemble
from rest_deploy.models.deploy import to_deploy
from rest_deploy.models.rest import ResT
from tests.export.chains import Chain


class Scale(nn.Module):
    """A piece with one weight."""

    def __init__(self, value: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([value]))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.weight


def _kinds_model(weight: str = "kinds.0.weight") -> onnx.ModelProto:
    """A weight times x, and beside it a kind that adds a constant."""
    nodes = [
        helper.make_node("Constant", [], ["one"], "one", value_floats=[1.0]),
        helper.make_node("Mul", ["x", weight], ["scaled"], "scale"),
        helper.make_node("Add", ["y", "one"], ["raised"], "raise"),
    ]
    for node, kind in zip(nodes, (1, 0, 1), strict=True):
        node.metadata_props.add(
            key="pkg.torch.onnx.name_scopes", value=f"['', 'kinds.{kind}', 'kinds.{kind}.deep', 'op']"
        )
    values = {
        name: helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in ("x", "y", "scaled", "raised")
    }
    initializer = [numpy_helper.from_array(np.array([7.0], np.float32), weight)]
    graph = helper.make_graph(
        nodes, "kinds", [values["x"], values["y"]], [values["scaled"], values["raised"]], initializer
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)


def _chain() -> Chain:
    return Chain(a=Scale(2.0), b=nn.Identity(), c=Scale(5.0))


def test_pieces_that_hang_on_others() -> None:
    """Both of two pieces take the first, and two of them are outputs."""
    from onnx.reference import ReferenceEvaluator

    chain = _chain()
    chain.takes, chain.gives = {"c": "a"}, {"second": "c", "first": "b"}
    model = assemble(_kinds_model(), chain, {"a": 0, "b": 1, "c": 0})
    onnx.checker.check_model(model, full_check=True)
    results = ReferenceEvaluator(model).run(None, {model.graph.input[0].name: np.array([3.0], np.float32)})
    assert [result.tolist() for result in results] == [[3 * 2 * 5], [3 * 2 + 1]]


def test_each_piece_has_its_own_weights_and_names() -> None:
    from onnx.reference import ReferenceEvaluator

    model = assemble(_kinds_model(), _chain(), {"a": 0, "b": 1, "c": 0})
    onnx.checker.check_model(model, full_check=True)
    (result,) = ReferenceEvaluator(model).run(None, {model.graph.input[0].name: np.array([3.0], np.float32)})
    assert result.tolist() == [(3 * 2 + 1) * 5]
    assert [node.name for node in model.graph.node] == ["a.deep/scale", "b.deep/one", "b.deep/raise", "c.deep/scale"]
    assert {t.name: numpy_helper.to_array(t).tolist() for t in model.graph.initializer} == {
        "a.weight": [2],
        "c.weight": [5],
    }


def test_a_weight_without_a_place_is_an_error() -> None:
    with pytest.raises(ExportError, match="no place for the weights weight"):
        assemble(_kinds_model(), _chain(), {"a": 1})


def test_a_place_without_a_weight_is_an_error() -> None:
    with pytest.raises(ExportError, match=r"needs a weight kinds\.0\.bias"):
        assemble(_kinds_model("kinds.0.bias"), _chain(), {"a": 0})


def test_a_node_without_a_module_is_an_error() -> None:
    model = _kinds_model()
    del model.graph.node[1].metadata_props[:]
    with pytest.raises(ExportError, match=r"torch\.onnx tells no module of node scale"):
        assemble(model, _chain(), {"a": 0, "b": 1, "c": 0})


def test_every_weight_of_the_network_is_in_the_file(tiny_model: ResT, tiny_onnx: Path) -> None:
    """Folding turns and multiplies weights; the biases of the MLPs go in as they are."""
    stored = {t.name: numpy_helper.to_array(t) for t in onnx.load(str(tiny_onnx)).graph.initializer}
    arrays = list(stored.values())
    for key, value in to_deploy(tiny_model).state_dict().items():
        if key.endswith("fc1.bias"):
            assert any(a.shape == tuple(value.shape) and np.array_equal(a, value.numpy()) for a in arrays), key
