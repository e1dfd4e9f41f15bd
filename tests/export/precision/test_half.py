"""Half where the plan says so and nowhere else, and the rounding of it computed two ways."""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator
from torch import nn

from rest_deploy.export.precision.half import fp32_nodes, to_half, with_explicit_rounding
from rest_deploy.export.precision.plan import PrecisionPlan, plan_for
from rest_deploy.specs import ImageSize, Precision
from rest_deploy.verification import Case, synthetic_images
from tests.export.precision.conftest import run_of

SIZES = ((33, 47), (40, 56), (1, 1))


def _types(model: onnx.ModelProto) -> dict[str, int]:
    inferred = onnx.shape_inference.infer_shapes(model)
    values = (*inferred.graph.value_info, *inferred.graph.input, *inferred.graph.output)
    return {value.name: value.type.tensor_type.elem_type for value in values}


def _image(size: tuple[int, int], seed: int = 0, batch: int = 2) -> NDArray[np.float32]:
    return synthetic_images(np.random.default_rng(seed), Case(batch, ImageSize(*size)), 3)


def test_types_are_as_planned(tiny_deploy: nn.Sequential, tiny_graph: onnx.ModelProto) -> None:
    plan = plan_for(tiny_deploy, Precision.FP16)
    half = to_half(tiny_graph, plan)
    types = _types(half)
    for node in half.graph.node:
        if node.op_type in ("Cast", "Shape"):
            continue
        wanted = TensorProto.FLOAT if plan.of(node.name) is Precision.FP32 else TensorProto.FLOAT16
        assert types[node.output[0]] == wanted, node.name
    assert types["image"] == types["logits"] == TensorProto.FLOAT
    counts = Counter(tensor.data_type for tensor in half.graph.initializer if tensor.dims and len(tensor.dims) > 1)
    assert set(counts) == {TensorProto.FLOAT16}  # matrices and kernels; LayerNorm's weights stay


def test_the_core_of_attention_has_casts_at_its_borders_alone(
    tiny_deploy: nn.Sequential, tiny_graph: onnx.ModelProto
) -> None:
    """From softmax to variance one FP32 region: a cast in, one out for the map, one for the factor."""
    half = to_half(tiny_graph, plan_for(tiny_deploy, Precision.FP16))
    region = [node.name for node in half.graph.node if node.name.startswith("stage2_0.attn.softmax/")]
    assert sum("/cast:" in name for name in region) == 1
    outward = [n for n in half.graph.node if n.op_type == "Cast" and n.input[0].startswith("stage2_0/")]
    from_region = [n for n in outward if any(n.input[0] in m.output for m in half.graph.node if m.name in region)]
    assert sum(n.attribute[0].i == TensorProto.FLOAT16 for n in from_region) == 2


def test_what_a_plan_keeps_wide_stays_float32(tiny_deploy: nn.Sequential, tiny_graph: onnx.ModelProto) -> None:
    plan = plan_for(tiny_deploy, Precision.FP16).changed(["stage3_1.attn", "head"], Precision.FP32)
    types = _types(half := to_half(tiny_graph, plan))
    kept = [
        n for n in half.graph.node if n.name.startswith(("stage3_1.attn", "head")) and n.op_type in ("MatMul", "Gemm")
    ]
    assert len(kept) >= 6
    assert {types[node.output[0]] for node in kept} == {TensorProto.FLOAT}


def test_everything_kept_is_the_graph_as_it_was(tiny_deploy: nn.Sequential, tiny_graph: onnx.ModelProto) -> None:
    plan = plan_for(tiny_deploy, Precision.FP32)
    same = to_half(tiny_graph, plan)
    assert not any(tensor.data_type == TensorProto.FLOAT16 for tensor in same.graph.initializer)
    image = _image((33, 47))
    assert np.array_equal(run_of(same)(image), run_of(tiny_graph)(image))


@pytest.mark.parametrize("half_io", [False, True])
@pytest.mark.parametrize("size", SIZES)
def test_rounding_is_what_the_reference_evaluator_computes(
    tiny_deploy: nn.Sequential, tiny_graph: onnx.ModelProto, size: tuple[int, int], *, half_io: bool
) -> None:
    """Both round every node; sums are in another order and exp has other last bits, so errors are alike in size."""
    half = to_half(tiny_graph, plan_for(tiny_deploy, Precision.FP16, half_io=half_io))
    theirs, exact_run, our_run = ReferenceEvaluator(half), run_of(tiny_graph), run_of(half)
    errors = []
    for seed in range(3):
        image = _image(size, seed)
        with np.errstate(over="ignore", invalid="ignore"):
            (given,) = theirs.run(None, {"image": image.astype(np.float16) if half_io else image})
        exact = exact_run(image)
        errors.append([np.abs(given - exact).mean(), np.abs(our_run(image) - exact).mean()])
        assert errors[-1][1] > 30 * np.finfo(np.float32).eps * np.abs(exact).mean()  # it does round
    their_error, error = np.median(errors, axis=0)
    assert 0.25 * their_error < error < 4 * their_error


def test_each_half_value_of_one_node_is_exactly_rounded() -> None:
    """Where there is one way to compute a node, both give the same bits."""
    nodes = [
        helper.make_node("Cast", ["image"], ["h"], "stem/cast:h", to=TensorProto.FLOAT16),
        helper.make_node("Mul", ["h", "w"], ["m"], "stem/mul"),
        helper.make_node("Add", ["m", "w"], ["s"], "stem/add"),
        helper.make_node("Cast", ["s"], ["logits"], "stem/cast:logits", to=TensorProto.FLOAT),
    ]
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [4]) for name in ("image", "logits")]
    weight = numpy_helper.from_array(np.array([3.3, 1e-4, 300, 1.7], np.float16), "w")
    graph = helper.make_graph(nodes, "g", values[:1], values[1:], [weight])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    image = np.array([0.1, 3e-4, 400.0, -7.77], np.float32)  # a subnormal and an overflow among them
    with np.errstate(over="ignore"):
        (theirs,) = ReferenceEvaluator(model).run(None, {"image": image})
    ours = run_of(model)(image)
    assert np.array_equal(ours, theirs)
    assert np.isinf(ours[2])
    assert not np.array_equal(ours, (image * weight_of(weight)) + weight_of(weight))


def weight_of(tensor: onnx.TensorProto) -> NDArray[np.float32]:
    return numpy_helper.to_array(tensor).astype(np.float32)


def test_explicit_rounding_leaves_nothing_half(tiny_deploy: nn.Sequential, tiny_graph: onnx.ModelProto) -> None:
    rounded = with_explicit_rounding(to_half(tiny_graph, plan_for(tiny_deploy, Precision.FP16)))
    types = _types(rounded)
    halves = {name for name, kind in types.items() if kind == TensorProto.FLOAT16}
    assert halves
    assert all(name.endswith("/rounded") for name in halves)
    assert not any(tensor.data_type == TensorProto.FLOAT16 for tensor in rounded.graph.initializer)


def test_without_rounding_the_fault_would_be_hidden(tiny_deploy: nn.Sequential, tiny_graph: onnx.ModelProto) -> None:
    """Weights that half cannot hold, and smaller ones behind them: the same function, infinite when rounded."""
    broken = onnx.ModelProto()
    broken.CopyFrom(tiny_graph)
    for tensor in broken.graph.initializer:
        factor = {"stem.conv2.weight": 1e6, "stem.conv2.bias": 1e6, "stem.conv3.weight": 1e-6}.get(tensor.name)
        if factor is not None:
            tensor.CopyFrom(numpy_helper.from_array(np.float32(factor) * numpy_helper.to_array(tensor), tensor.name))
    half = to_half(broken, plan_for(tiny_deploy, Precision.FP16))
    assert not np.isfinite(run_of(half)(_image((33, 47)))).all()
    kept = plan_for(tiny_deploy, Precision.FP16).changed(["stem"], Precision.FP32)
    assert np.isfinite(run_of(to_half(broken, kept))(_image((33, 47)))).all()


def test_nodes_in_fp32_are_told_for_the_proof_of_engines(
    tiny_deploy: nn.Sequential, tiny_graph: onnx.ModelProto
) -> None:
    plan = plan_for(tiny_deploy, Precision.FP16)
    nodes = fp32_nodes(to_half(tiny_graph, plan).SerializeToString())
    assert nodes
    assert all(plan.of(name) is Precision.FP32 for name in nodes)
    assert {"stage2_0.attn.softmax", "stage2_0.attn.norm", "head.pool"} <= {name.partition("/")[0] for name in nodes}


def test_an_output_may_go_on_inside() -> None:
    """A map that is given and that another node takes: float32 outside, half inside."""
    nodes = [
        helper.make_node("Mul", ["image", "image"], ["map"], "a/mul"),
        helper.make_node("Add", ["map", "map"], ["logits"], "b/add"),
    ]
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [2]) for name in ("image", "map", "logits")]
    model = helper.make_model(
        helper.make_graph(nodes, "g", values[:1], values[1:]), opset_imports=[helper.make_opsetid("", 18)], ir_version=8
    )
    half = to_half(model, PrecisionPlan({"a": Precision.FP16, "b": Precision.FP16}))
    image = np.array([1.5, 0.1], np.float32)
    given, logits = ReferenceEvaluator(half).run(None, {"image": image})
    exact = image.astype(np.float16) ** 2
    assert (given.dtype, given.tolist()) == (np.float32, exact.tolist())
    assert logits.tolist() == (exact + exact).tolist()


def test_constants_of_nodes_are_taken_in_each_type() -> None:
    """A constant that an FP32 and a half node share, with onnxsim left out."""
    plan = PrecisionPlan({"a": Precision.FP16, "b": Precision.FP32})
    nodes = [
        helper.make_node("Constant", [], ["two"], "a/two", value_float=2.0),
        helper.make_node("Mul", ["image", "two"], ["x"], "a/mul"),
        helper.make_node("Mul", ["x", "two"], ["logits"], "b/mul"),
    ]
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [2]) for name in ("image", "logits")]
    model = helper.make_model(
        helper.make_graph(nodes, "g", values[:1], values[1:]), opset_imports=[helper.make_opsetid("", 18)], ir_version=8
    )
    half = to_half(model, plan)
    (result,) = ReferenceEvaluator(half).run(None, {"image": np.array([1.5, 0.1], np.float32)})
    assert result.dtype == np.float32
    assert result.tolist() == [6.0, float(np.float16(0.1)) * 4]
