"""INT8 graphs of both kinds: what is quantized, how exactly, and what they compute."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator
from torch import nn

from rest_deploy.errors import ExportError
from rest_deploy.export.precision.half import to_half
from rest_deploy.export.precision.int8 import (
    fold_transposes,
    quantize_weight,
    quantized_inputs,
    to_dynamic_int8,
    to_qdq,
)
from rest_deploy.export.precision.plan import PrecisionPlan, plan_for
from rest_deploy.specs import ImageSize, Precision
from rest_deploy.verification import Case, synthetic_images
from tests.export.precision.conftest import run_of


def _image(size: tuple[int, int] = (40, 56), batch: int = 1) -> NDArray[np.float32]:
    return synthetic_images(np.random.default_rng(1), Case(batch, ImageSize(*size)), 3)


def _ranges(graph: onnx.ModelProto, plan: PrecisionPlan) -> dict[str, float]:
    return dict.fromkeys(quantized_inputs(graph, plan), 8.0)


def test_weights_keep_their_largest_value_in_every_channel(rng: np.random.Generator) -> None:
    weight = rng.standard_normal((5, 3, 2, 2)).astype(np.float32)
    weight[4] = 0
    integers, scale = quantize_weight(weight, 0, 127)
    assert (np.abs(integers).reshape(5, -1).max(axis=1) == [127] * 4 + [0]).all()
    assert np.abs(integers * scale[:, None, None, None] - weight).max() <= scale.max() / 2 * 1.0001
    reduced, _ = quantize_weight(weight, 0, 64)
    assert np.abs(reduced).max() == 64


def test_the_axis_of_the_channels_is_that_of_the_scale(rng: np.random.Generator) -> None:
    weight = rng.standard_normal((6, 4)).astype(np.float32) * np.array([1, 10, 100, 1000], np.float32)
    integers, scale = quantize_weight(weight, 1, 127)
    assert scale.shape == (4,)
    assert (np.abs(integers).max(axis=0) == 127).all()  # the small channel is not drowned by the large one


def test_pairs_are_as_tensorrt_wants_them(tiny_deploy: nn.Sequential, tiny_graph: onnx.ModelProto) -> None:
    plan = plan_for(tiny_deploy, Precision.INT8)
    graph = to_qdq(tiny_graph, plan, _ranges(tiny_graph, plan)).graph
    stored = {tensor.name: tensor for tensor in graph.initializer}
    made = {output: node for node in graph.node for output in node.output}
    quantized = [node for node in graph.node if node.op_type in ("Conv", "Gemm", "MatMul") and node.input[1] in made]
    dequantized = [node for node in quantized if made[node.input[1]].op_type == "DequantizeLinear"]
    assert len(dequantized) == 43  # every product with a constant weight
    for node in dequantized:
        activation, weight = made[node.input[0]], made[node.input[1]]
        assert activation.op_type == "DequantizeLinear"
        assert made[activation.input[0]].op_type == "QuantizeLinear"
        for pair in (activation, weight):
            scale, zero = stored[pair.input[1]], stored[pair.input[2]]
            assert (scale.data_type, zero.data_type) == (TensorProto.FLOAT, TensorProto.INT8)
            assert not numpy_helper.to_array(zero).any()
        assert list(stored[activation.input[1]].dims) == []  # one scale a tensor
        integers = stored[weight.input[0]]
        axis = weight.attribute[0].i
        assert integers.data_type == TensorProto.INT8
        assert list(stored[weight.input[1]].dims) == [integers.dims[axis]]  # one a channel
        if node.op_type == "Conv":
            assert axis == 0
        if len(node.input) > 2:
            assert stored[node.input[2]].data_type == TensorProto.FLOAT  # biases as they were
    attention = [n for n in graph.node if n.op_type == "MatMul" and n.name.partition("/")[0].endswith("attn")]
    assert attention
    assert all(made[name].op_type != "DequantizeLinear" for n in attention for name in n.input if name in made)


def test_a_shared_activation_is_quantized_once(tiny_deploy: nn.Sequential, tiny_graph: onnx.ModelProto) -> None:
    plan = plan_for(tiny_deploy, Precision.INT8)
    graph = to_qdq(tiny_graph, plan, _ranges(tiny_graph, plan)).graph
    inputs = [node.input[0] for node in graph.node if node.op_type == "QuantizeLinear"]
    assert len(inputs) == len(set(inputs)) == len(quantized_inputs(tiny_graph, plan))


def test_half_around_int8_has_float32_scales(tiny_deploy: nn.Sequential, tiny_graph: onnx.ModelProto) -> None:
    plan = plan_for(tiny_deploy, Precision.INT8)
    both = to_half(to_qdq(tiny_graph, plan, _ranges(tiny_graph, plan)), plan)
    stored = {tensor.name: tensor.data_type for tensor in both.graph.initializer}
    for node in both.graph.node:
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            assert stored[node.input[1]] == TensorProto.FLOAT
    inferred = onnx.shape_inference.infer_shapes(both)
    types = {value.name: value.type.tensor_type.elem_type for value in inferred.graph.value_info}
    convolutions = [node for node in both.graph.node if node.op_type == "Conv"]
    assert {types[node.output[0]] for node in convolutions} == {TensorProto.FLOAT16}


def test_qdq_is_computed_alike_by_the_reference_evaluator(
    tiny_deploy: nn.Sequential, tiny_graph: onnx.ModelProto
) -> None:
    """FP32 around the pairs: every Q/DQ rounds to the same integers but where a value lies at a border."""
    plan = plan_for(tiny_deploy, Precision.INT8)
    quantized = to_qdq(tiny_graph, plan, _ranges(tiny_graph, plan))
    image = _image()
    ours = run_of(quantized)(image)
    quantized.opset_import[0].version = 19  # of which the evaluator knows Q/DQ
    (theirs,) = ReferenceEvaluator(quantized).run(None, {"image": image})
    exact = run_of(tiny_graph)(image)
    error = np.abs(ours - exact).max()
    assert error > 1e-3  # INT8 it is
    assert np.abs(ours - theirs).max() < 0.3 * error


def test_parts_kept_wider_are_not_quantized(tiny_deploy: nn.Sequential, tiny_graph: onnx.ModelProto) -> None:
    plan = plan_for(tiny_deploy, Precision.INT8).changed(["stage3_0.mlp", "stem"], Precision.FP16)
    graph = to_qdq(tiny_graph, plan, _ranges(tiny_graph, plan)).graph
    pairs = {node.name.partition("/")[0] for node in graph.node if node.op_type == "QuantizeLinear"}
    assert pairs
    assert not any(module.startswith(("stage3_0.mlp", "stem")) for module in pairs)
    dynamic = to_dynamic_int8(tiny_graph, plan, reduced_range=False).graph
    integers = {node.name.partition("/")[0] for node in dynamic.node if node.op_type == "MatMulInteger"}
    assert "stage3_1.mlp.fc1" in integers
    assert not any(module.startswith("stage3_0.mlp") for module in integers)


def test_an_activation_without_a_range_is_an_error(tiny_deploy: nn.Sequential, tiny_graph: onnx.ModelProto) -> None:
    with pytest.raises(ExportError, match="activation image has no range"):
        to_qdq(tiny_graph, plan_for(tiny_deploy, Precision.INT8), {})


def test_an_activation_that_is_always_zero_has_a_usable_scale(
    tiny_deploy: nn.Sequential, tiny_graph: onnx.ModelProto
) -> None:
    plan = plan_for(tiny_deploy, Precision.INT8)
    graph = to_qdq(tiny_graph, plan, dict.fromkeys(quantized_inputs(tiny_graph, plan), 0.0))
    scale = next(t for t in graph.graph.initializer if t.name == "image/scale")
    assert numpy_helper.to_array(scale) == np.float32(2.0**-14)
    assert np.isfinite(run_of(graph)(_image())).all()


@pytest.mark.parametrize(("reduced", "largest"), [(False, 127), (True, 64)])
def test_integers_for_the_cpu(
    tiny_deploy: nn.Sequential, tiny_graph: onnx.ModelProto, *, reduced: bool, largest: int
) -> None:
    plan = plan_for(tiny_deploy, Precision.INT8)
    model = to_dynamic_int8(tiny_graph, plan, reduced_range=reduced)
    weights = [numpy_helper.to_array(t) for t in model.graph.initializer if t.name.endswith("/int8")]
    assert len(weights) == 29  # MatMul and Gemm; convolutions stay as they were
    assert {int(np.abs(weight).max()) for weight in weights} == {largest}
    assert {domain.domain for domain in model.opset_import} == {""}  # operators of the standard
    products = [node for node in model.graph.node if node.op_type == "MatMulInteger"]
    quantizers = [node for node in model.graph.node if node.op_type == "DynamicQuantizeLinear"]
    assert len(products) == 29 > len(quantizers)  # keys and values share theirs
    image = _image(batch=3)
    exact = run_of(tiny_graph)(image)
    (ours,) = ReferenceEvaluator(model).run(None, {"image": image})  # exact sums, which not every CPU has
    error = np.abs(ours - exact).max() / exact.std()
    assert 1e-3 < error < 2  # these weights amplify rounding; other tests hold real networks to their budgets


def test_integers_for_the_cpu_are_what_the_standard_says(
    tiny_deploy: nn.Sequential, tiny_graph: onnx.ModelProto
) -> None:
    model = to_dynamic_int8(tiny_graph, plan_for(tiny_deploy, Precision.INT8), reduced_range=True)
    image = _image()
    (theirs,) = ReferenceEvaluator(model).run(None, {"image": image})
    exact, ours = run_of(tiny_graph)(image), run_of(model)(image)
    assert np.abs(ours - theirs).max() < 0.3 * np.abs(ours - exact).max()


def test_weights_that_are_turned_when_the_graph_runs_are_turned_before() -> None:
    weight = numpy_helper.from_array(np.arange(6, dtype=np.float32).reshape(2, 3), "w")
    nodes = [
        helper.make_node("Transpose", ["w"], ["wt"], "head.head/turn", perm=[1, 0]),
        helper.make_node("MatMul", ["image", "wt"], ["logits"], "head.head/product"),
    ]
    values = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, n]) for name, n in (("image", 3), ("logits", 2))
    ]
    graph = helper.make_graph(nodes, "g", values[:1], values[1:], [weight])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    folded = fold_transposes(model)
    assert [node.op_type for node in folded.graph.node] == ["MatMul"]
    assert [tensor.name for tensor in folded.graph.initializer] == ["wt"]
    assert len(model.graph.node) == 2  # its argument is left as it was
    plan = PrecisionPlan({"head": Precision.INT8})
    image = np.array([[1.0, -2.0, 0.5]], np.float32)
    for quantized in (to_dynamic_int8(model, plan, reduced_range=False), to_qdq(folded, plan, {"image": 2.0})):
        wanted = image @ numpy_helper.to_array(weight).T
        assert np.abs(run_of(quantized)(image) - wanted).max() < 0.05 * np.abs(wanted).max()


@pytest.mark.parametrize("inputs", [("image", "w", "b"), ("image", "w")])
@pytest.mark.parametrize(("attribute", "value"), [("alpha", 2.0), ("beta", 0.5), ("transA", 1)])
def test_a_product_that_cannot_be_written_in_integers_is_refused(
    attribute: str, value: float, inputs: tuple[str, ...]
) -> None:
    initializers = [
        numpy_helper.from_array(np.ones((2, 2), np.float32), "w"),
        numpy_helper.from_array(np.ones(2, np.float32), "b"),
    ]
    node = helper.make_node("Gemm", inputs, ["logits"], "head/gemm", **{attribute: value})
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [2, 2]) for name in ("image", "logits")]
    graph = helper.make_graph([node], "g", values[:1], values[1:], initializers)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    with pytest.raises(ExportError, match="head/gemm is not a plain product"):
        to_dynamic_int8(model, PrecisionPlan({"head": Precision.INT8}), reduced_range=False)
