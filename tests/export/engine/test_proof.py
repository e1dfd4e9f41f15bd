"""An engine that is not what was asked for is refused, with the layers that give it away."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from rest_deploy.errors import ExportError
from rest_deploy.export.engine.layers import Layer, prove, read_layers
from rest_deploy.specs import Precision
from tests.export.engine.test_layers import RTX, TEN


def layer(
    *inputs: str, name: str = "conv", constants: Sequence[str] = (), outputs: Sequence[str] = (), node: str = ""
) -> Layer:
    return Layer(name, "gemm", (node,) if node else (), inputs, tuple(constants), tuple(outputs))


WAITS = layer(name="wait")
SIZES = layer("int64", name="sizes", outputs=["int64"])
FP32 = layer("fp32", name="plain", constants=["fp32"], outputs=["fp32"])
FP16 = layer("fp16", name="half", constants=["fp16"], outputs=["fp16"])
INT8 = layer("int8", name="quantized", constants=["int8", "fp32"], outputs=["fp32"])
QUANTIZES = layer("fp32", name="quantize", outputs=["int8"])
HALF_WEIGHTS = layer("fp32", name="half weights", constants=["fp16"], outputs=["fp32"])
CORE = layer("fp32", name="core", outputs=["fp32"], node="stage1_0/softmax")
HALF_CORE = layer("fp16", name="half core", outputs=["fp16"], node="stage1_0/softmax")
CAST_CORE = layer("fp16", name="cast core", outputs=["fp32"], node="stage1_0/softmax")
SCALED_CORE = layer("fp16", name="half core", constants=["fp32"], outputs=["fp16"], node="stage1_0/softmax")
SIZE_CORE = layer("int64", name="size core", outputs=["int64"], node="stage1_0/softmax")
SOFTMAX = ["stage1_0/softmax"]
#: As TensorRT-RTX 1.7 names what it makes of a residual, a LayerNorm and what rounds it to INT8.
_NORM = "__myl_{}MeanSubMulMeanAddSqrtDivMulMulAddMulMinMaxRounCast_myl1_47"


def norm(name: str, weights: str) -> Layer:
    return layer("fp16", name=_NORM.format(name), constants=[weights] * 3, outputs=["int8", "fp16"], node=SOFTMAX[0])


@pytest.mark.parametrize(
    ("layers", "precision", "fp32_nodes"),
    [
        ([FP32], Precision.FP32, ()),
        ([WAITS, SIZES, FP32], Precision.FP32, ()),
        ([FP16], Precision.FP16, ()),
        ([FP32, FP16, FP32], Precision.FP16, ()),
        ([QUANTIZES, INT8, FP32], Precision.INT8, ()),
        ([FP16, INT8], Precision.INT8, ()),
        ([FP16, CORE], Precision.FP16, SOFTMAX),
        ([FP16, CAST_CORE], Precision.FP16, SOFTMAX),
        ([FP16, SIZE_CORE], Precision.FP16, SOFTMAX),
        ([FP16, HALF_CORE], Precision.FP16, ["stage2_0/softmax"]),
        ([INT8, CORE], Precision.INT8, SOFTMAX),
        ([INT8, norm("AddCast", "fp32")], Precision.INT8, SOFTMAX),
    ],
)
def test_what_was_asked_for(layers: list[Layer], precision: Precision, fp32_nodes: Sequence[str]) -> None:
    assert prove(layers, precision, fp32_nodes) is None  # type: ignore[func-returns-value]


@pytest.mark.parametrize("precision", Precision)
@pytest.mark.parametrize("layers", [[], [WAITS], [WAITS, SIZES]])
def test_a_log_without_layers_proves_nothing(layers: list[Layer], precision: Precision) -> None:
    with pytest.raises(ExportError, match="log names no layers, so its precision cannot be proved; no engine was"):
        prove(layers, precision)


@pytest.mark.parametrize(
    ("layers", "named"),
    [
        ([FP32, FP16], "half in fp16"),
        ([FP32, QUANTIZES], "quantize in fp32, int8"),
        ([FP32, HALF_WEIGHTS], "half weights in fp16, fp32"),
        ([INT8, FP32, FP16], "quantized in fp32, int8; half in fp16"),
        ([FP16, INT8, HALF_WEIGHTS, FP16, FP16], "half in fp16; quantized in .*; half weights in .*; and 2 more"),
        ([layer("bf16", name="brain")], "brain in bf16"),
        ([layer("fp8", name="eight")], "eight in fp8"),
    ],
)
def test_fp32_with_a_narrower_layer_is_refused(layers: list[Layer], named: str) -> None:
    with pytest.raises(ExportError, match=rf"^fp32 was asked for, and TensorRT built {named}; no engine was kept$"):
        prove(layers, Precision.FP32)


@pytest.mark.parametrize(
    ("layers", "precision"),
    [
        ([FP32, FP32], Precision.FP16),
        ([FP32, INT8], Precision.FP16),
        ([FP32, layer("bf16")], Precision.FP16),
        ([FP32, layer("fp32", outputs=["fp16"])], Precision.FP16),  # a cast at the end alone
        ([FP32, FP16], Precision.INT8),
        ([FP32, QUANTIZES], Precision.INT8),  # quantized, and the product computed in FP32 nevertheless
    ],
)
def test_a_narrower_precision_that_no_layer_computes_in_is_refused(layers: list[Layer], precision: Precision) -> None:
    said = f"^{precision.value} was asked for, and of 2 layers TensorRT built none in it; no engine was kept; leave"
    with pytest.raises(ExportError, match=said):
        prove(layers, precision)


@pytest.mark.parametrize(
    ("layers", "precision"),
    [
        ([FP16, HALF_CORE], Precision.FP16),
        ([FP16, CORE, HALF_CORE], Precision.FP16),
        ([FP16, SCALED_CORE], Precision.FP16),  # alpha and beta of a product are FP32 in all of them
        ([INT8, HALF_CORE], Precision.INT8),
    ],
)
def test_a_part_that_must_stay_in_fp32_and_did_not_is_refused(layers: list[Layer], precision: Precision) -> None:
    with pytest.raises(
        ExportError, match=r"^FP32 was asked for parts of the network, and TensorRT built half core in fp16"
    ):
        prove(layers, precision, SOFTMAX)


@pytest.mark.parametrize(("name", "weights"), [("Add", "fp32"), ("AddCast", "fp16"), ("Add", "fp16")])
def test_a_norm_in_half_that_rounds_to_int8_is_refused(name: str, weights: str) -> None:
    with pytest.raises(ExportError, match=r"^FP32 was asked for parts .* __myl_Add"):
        prove([INT8, norm(name, weights)], Precision.INT8, SOFTMAX)


def test_a_real_log_proves_fp32_and_nothing_else() -> None:
    layers = read_layers([RTX])
    prove(layers, Precision.FP32)
    for precision in (Precision.FP16, Precision.INT8):
        with pytest.raises(
            ExportError, match=f"^{precision.value} was asked for, and of 29 layers TensorRT built none"
        ):
            prove(layers, precision)


def test_a_log_of_tensorrt_10_proves_fp16_and_int8() -> None:
    layers = read_layers([TEN])
    prove(layers, Precision.FP16)
    prove(layers, Precision.INT8)
    with pytest.raises(
        ExportError, match=r"Reformatting CopyNode .* in fp16, fp32; .*; and 3 more; no engine was kept"
    ):
        prove(layers, Precision.FP32)
    with pytest.raises(ExportError, match=r"^FP32 was asked for parts .* PWN\(stage2_0/node_sigmoid"):
        prove(layers, Precision.FP16, ["stage2_0/node_mul"])  # the second of its nodes
