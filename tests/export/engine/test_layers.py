"""Layers read out of a build's log: a real one of TensorRT-RTX, and one written as TensorRT 10 writes them."""

from __future__ import annotations

import onnx
import onnx.parser
import pytest

from rest_deploy.export.engine.layers import NUMBERS, Layer, histogram, read_layers
from rest_deploy.models.family import FAMILIES
from rest_deploy.nvidia import TensorRTLog, is_installed, load_library
from tests.conftest import ROOT

DATA = ROOT / "tests" / "data"
#: Excerpt of the log of a build of examples/digits by TensorRT-RTX 1.7.1.116.
RTX = (DATA / "trt_layers_rtx.txt").read_text("utf-8")
#: Made by hand after logs of TensorRT 10 with FP16 and INT8: names with brackets, nodes parted by \x1e.
TEN = (DATA / "trt_layers_10.txt").read_text("utf-8")

FP32 = ("fp32",)
BLOCK_NAME = FAMILIES["rest"].block_name


def by_name(text: str, start: str) -> Layer:
    """The only layer whose name begins so."""
    (found,) = [layer for layer in read_layers([text]) if layer.name.startswith(start)]
    return found


def make(inputs: tuple[str, ...] = (), outputs: tuple[str, ...] = (), nodes: tuple[str, ...] = ()) -> Layer:
    return Layer("name", "kind", nodes, inputs, (), outputs)


def line(inputs: str, outputs: str = "") -> str:
    return f"Layers:\nName: x, LayerType: y, Inputs: [{inputs}], Outputs: [{outputs}], StreamId: 0, Metadata: "


def test_the_log_of_rtx_holds_its_layers_and_nothing_else() -> None:
    kinds = [layer.kind for layer in read_layers([RTX])]
    assert len(kinds) == 30 - 1  # lines above the empty one, without the heading
    assert set(kinds) == {
        "ShapeHostToDevice", "shape_call", "kgen", "correlation", "runtime_fusion", "signal", "gemm", "reshape", "cast",
        "wait",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("start", "expected"),
    [
        ("__myl_Move_myl1_1", Layer("__myl_Move_myl1_1", "kgen", (), FP32, (), FP32)),
        (
            "stem/node_conv2d_myl1_2",
            Layer(
                "stem/node_conv2d_myl1_2", "correlation", ("stem/node_conv2d", "stem/node_relu"), FP32, FP32 * 4, FP32
            ),
        ),
        (
            "stage1_0/node_linear_2+stage1_0/node_linear_1",
            Layer(
                "stage1_0/node_linear_2+stage1_0/node_linear_1_myl1_10",
                "gemm",
                ("stage1_0/node_linear_2", "stage1_0/node_linear_1"),
                FP32,
                FP32 * 3,
                FP32,
            ),
        ),
        ("__mye120680", Layer("__mye120680_myl1_7", "signal", (), (), (), ())),
        ("cast_hvar", Layer("cast_hvar^121073i64_myl1_13", "cast", (), ("int64",), (), ("int64",))),
        ("[ShapeHost", Layer("[ShapeHostToDeviceCopy 0]", "ShapeHostToDevice", (), (), (), ("int64",))),
    ],
)
def test_a_layer_of_rtx(start: str, expected: Layer) -> None:
    assert by_name(RTX, start) == expected


def test_sizes_among_the_inputs_are_no_numbers() -> None:
    layer = by_name(RTX, "__myl_SlicReshSlicSlicMulMulAdd")
    assert layer.inputs == ("fp32", "int64")
    assert (layer.datatype, layer.numbers) == ("fp32", {"fp32"})
    assert len(layer.nodes) == 10


@pytest.mark.parametrize(
    ("start", "nodes", "inputs", "outputs", "datatype", "stage"),
    [
        ("stem.conv1", ("stem/node_conv2d", "stem/node_relu"), ("fp16",), ("fp16",), "fp16", "stem"),
        ("stage1_0/node_conv2d_4", ("stage1_0/node_conv2d_4",), ("int8",), ("int8",), "int8", "stage1"),
        ("PWN(", ("stage2_0/node_sigmoid", "stage2_0/node_mul"), ("fp16",), ("fp16",), "fp16", "stage2"),
        ("shape_call_0", (), (), ("int64",), None, "other"),
        ("head/", ("head/node_linear_24",), ("bf16", "bf16", "fp32"), ("fp32",), "bf16", "head"),
    ],
)  # fmt: skip
def test_a_layer_of_tensorrt_10(  # noqa: PLR0917
    start: str, nodes: tuple[str, ...], inputs: object, outputs: object, datatype: str | None, stage: str
) -> None:
    layer = by_name(TEN, start)
    assert layer.nodes == nodes
    assert (layer.inputs, layer.constants, layer.outputs) == (inputs, (), outputs)
    assert (layer.datatype, layer.stage(BLOCK_NAME)) == (datatype, stage)


def test_names_of_tensors_may_hold_brackets() -> None:
    layer = by_name(TEN, "{ForeignNode[(Unnamed Layer* 689) [Shuffle]...")
    assert (layer.inputs, layer.outputs) == (("fp32", "int32"), ("fp16", "fp32"))
    assert layer.numbers == {"fp16", "fp32"}


def test_a_reformat_stands_with_the_layer_that_it_is_for() -> None:
    layer = by_name(TEN, "Reformatting CopyNode")
    assert (layer.inputs, layer.outputs, layer.stage(BLOCK_NAME)) == (FP32, ("fp16",), "stem")


def test_layers_by_stage_and_datatype_in_the_order_of_the_network() -> None:
    found = histogram(read_layers([TEN]), BLOCK_NAME)
    assert list(found.items()) == [
        ("stem", {"fp32": 1, "fp16": 1}),
        ("stage1", {"int8": 1}),
        ("stage2", {"fp32": 1, "fp16": 1}),
        ("head", {"bf16": 1}),
    ]


def test_layers_that_hold_no_data_are_not_counted() -> None:
    found = histogram(read_layers([RTX]), BLOCK_NAME)
    assert list(found) == [
        "other", "stem", "stage1", "patch_embed_2", "stage2", "patch_embed_3", "stage3", "patch_embed_4", "stage4",
        "head",
    ]  # fmt: skip
    assert found["stage3"] == {"fp32": 3}  # of stage3_0 and stage3_1
    assert sum(sum(counts.values()) for counts in found.values()) == 22  # of 29; the rest move sizes, or wait


@pytest.mark.parametrize(
    "messages", [[], [""], ["Building."], ["Layers:"], ["Layers:\n\nI/O Tensors:\n Name: x, LayerType: y"]]
)
def test_a_log_that_tells_of_no_layers(messages: list[str]) -> None:
    assert read_layers(messages) == ()


def test_the_last_engine_is_told_of() -> None:
    assert len(read_layers(["first", TEN, "between", RTX, "end"])) == 29


@pytest.mark.parametrize(
    ("said", "datatype"),
    [
        ("Datatype: Float, Format: (Linear) Row major linear format", "fp32"),
        ("Datatype: Half, Format: (NHWC) Channel major format", "fp16"),
        ("Datatype: BFloat16, Format: x", "bf16"),
        ("Datatype: FP8, Format: x", "fp8"),
        ("Datatype: FP4, Format: x", "fp4"),
        ("Datatype: Int4, Format: x", "int4"),
        ("Datatype: Int8, Format: x", "int8"),
        ("Datatype: UInt8, Format: x", "uint8"),
        ("Datatype: Int32, Format: x", "int32"),
        ("Datatype: Int64, Format: x", "int64"),
        ("Datatype: Bool, Format: x", "bool"),
        ("Datatype: E8M0, Format: x", "e8m0"),
        ("Datatype: , Format: x", "unknown"),
        ("Format/Datatype: Strange", "strange"),
        ("Format/Datatype: Row major linear FP32", "fp32"),
        ("Format/Datatype: Row major linear FP16 format", "fp16"),
        ("Format/Datatype: Row major linear BF16", "bf16"),
        ("Format/Datatype: Row major linear INT32", "int32"),
        ("Format/Datatype: Row major linear BOOL", "bool"),
        ("Format/Datatype: Half", "fp16"),
        ("Format/Datatype: Float", "fp32"),
        ("Format/Datatype: Four wide channel vectorized row major Int8 format", "int8"),
        ("Format/Datatype: Channel major FP16 format where channel % 8 == 0", "fp16"),
    ],
)
def test_words_for_datatypes(said: str, datatype: str) -> None:
    (layer,) = read_layers([line(f" {{ Name: t, Dimensions: [1,2], {said} }}")])
    assert layer.inputs == (datatype,)


def test_inputs_and_outputs_are_kept_apart_and_in_order() -> None:
    tensors = [f" {{ Name: t, Dimensions: [1], Datatype: {word}, Format: x }}" for word in ("Float", "Int8", "Half")]
    (layer,) = read_layers([line(f"{tensors[0]},{tensors[1]}", tensors[2])])
    assert (layer.inputs, layer.constants, layer.outputs) == (("fp32", "int8"), (), ("fp16",))


@pytest.mark.parametrize(
    ("inputs", "outputs", "datatype"),
    [
        (("fp32", "fp16"), ("fp32",), "fp16"),
        (("int8", "fp32"), ("fp32",), "int8"),
        (("fp16", "bf16"), (), "fp16"),
        (("fp32",), ("int8",), "fp32"),  # it quantizes
        ((), ("fp16",), "fp16"),  # a constant
        (("int64",), ("fp16",), "fp16"),
        (("int64", "bool", "uint8"), ("int32",), None),
        ((), (), None),
    ],
)
def test_a_layer_computes_in_the_narrowest_type_of_its_inputs(
    inputs: tuple[str, ...], outputs: tuple[str, ...], datatype: str | None
) -> None:
    assert make(inputs, outputs).datatype == datatype


def test_numbers_are_those_of_inputs_constants_and_outputs() -> None:
    layer = Layer("", "", (), ("int8", "int64"), ("fp32",), ("fp16", "bool"))
    assert layer.numbers == {"int8", "fp32", "fp16"}
    assert layer.data == {"int8", "fp16"}  # constants may be scalars of another type
    assert len(set(NUMBERS)) == len(NUMBERS)


@pytest.mark.parametrize(
    ("nodes", "stage"),
    [
        (("stage3_1/node_add",), "stage3"),
        (("stage12_10/node_add",), "stage12"),
        (("patch_embed_2/node_conv",), "patch_embed_2"),
        (("head/node_linear", "stage4_0/node_add"), "head"),
        (("alone", "stem/node_relu"), "stem"),
        (("alone",), "other"),
        ((), "other"),
    ],
)
def test_the_stage_is_that_of_the_first_node_that_has_one(nodes: tuple[str, ...], stage: str) -> None:
    assert make(nodes=nodes).stage(BLOCK_NAME) == stage


SMALL = """<ir_version: 9, opset_import: ["" : 19]>
small (float[4, 16] x, float[16, 32] w, float16[4, 16] y, float16[16, 32] v) => (float[4, 32] a, float16[4, 32] b)
<float s = {0.05}, int8 z = {0}> {
    [quantize] xq = QuantizeLinear(x, s, z)
    [dequantize] xd = DequantizeLinear(xq, s, z)
    [quantize_w] wq = QuantizeLinear(w, s, z)
    [dequantize_w] wd = DequantizeLinear(wq, s, z)
    [int8_product] a = MatMul(xd, wd)
    [half_product] c = MatMul(y, v)
    [relu] b = Relu(c)
}"""


@pytest.mark.skipif(not is_installed("trt-rtx"), reason="pip install 'rest-deploy[trt-rtx]'")
def test_the_installed_rtx_still_writes_so() -> None:
    model = onnx.parser.parse_model(SMALL)
    for node in model.graph.node:
        node.name = f"stage1_0/{node.name}"
    library = load_library("trt-rtx", "test")
    trt, log = library.api, TensorRTLog(library)
    builder = trt.Builder(log.logger)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    assert trt.OnnxParser(network, log.logger).parse(model.SerializeToString()), log.reasons()
    settings = builder.create_builder_config()
    settings.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    settings.num_compute_capabilities = 1
    settings.set_compute_capability(trt.ComputeCapability.SM89, 0)
    assert builder.build_serialized_network(network, settings) is not None, log.reasons()
    layers = read_layers(log.messages())
    assert {layer.datatype for layer in layers if "stage1_0/int8_product" in layer.nodes} == {"int8"}
    (half,) = [layer for layer in layers if "stage1_0/half_product" in layer.nodes]
    assert half.nodes == ("stage1_0/half_product", "stage1_0/relu")
    assert (half.inputs, half.outputs, half.stage(BLOCK_NAME)) == (("fp16", "fp16"), ("fp16",), "stage1")
