"""Real builds by TensorRT-RTX, which needs no GPU for them: the engines, the proof of their precision, cancelling."""

from __future__ import annotations

import signal
import threading
import weakref
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from benchmarks.precision import write_pictures
from examples.digits.data import load_split
from rest_deploy.artifact.info import ArtifactInfo
from rest_deploy.artifact.profile import Profile
from rest_deploy.errors import ConfigError, ExportError
from rest_deploy.export.engine import builder
from rest_deploy.export.engine.builder import build
from rest_deploy.export.engine.choice import choose_library
from rest_deploy.export.engine.config import EngineConfig
from rest_deploy.export.engine.layers import histogram, prove
from rest_deploy.export.formats import FormatRequest, get_format
from rest_deploy.models.family import FAMILIES, engine_bytes, get_config
from rest_deploy.models.rest_family import ResTConfig
from rest_deploy.pipeline import ExportRequest, run_export
from rest_deploy.runtimes.registry import read_info
from rest_deploy.specs import ImageSize, InputKind, Interpolation, Precision, PreprocessingChange, Resize
from tests.conftest import DIGITS, further

pytest.importorskip("tensorrt_rtx_bindings", reason="TensorRT-RTX is not installed")

ONE = (Profile.parse("1x1x1:1x224x224:4x512x512"),)
TWO = (Profile.parse("1x32x32:1x48x48:8x96x96"), Profile.parse("1x97x97:1x224x224:1x640x640"))


@pytest.fixture(scope="module")
def digits_onnx(tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("digits") / "digits.onnx"
    options = {"blockwise": False}  # as an engine is built
    return run_export(ExportRequest(None, output, checkpoint=DIGITS, verify=False, options=options)).path


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "targets", "profiles"),
    [
        ("digits", ("sm86",), ONE),
        ("digits", ("sm86", "sm89", "sm120"), TWO),
        ("rest_lite", ("sm89",), TWO),
        ("rest_lite", (), ONE),
    ],
)
def test_engines_in_fp32(
    model: str,
    targets: tuple[str, ...],
    profiles: tuple[Profile, ...],
    request: pytest.FixtureRequest,
    tmp_path: Path,
) -> None:
    source = request.getfixturevalue("digits_onnx" if model == "digits" else "lite_onnx")
    info, config = read_info(source), EngineConfig(profiles=profiles, targets=targets)
    wanted = FormatRequest("trt-rtx", Precision.FP32, config, verify=False)
    made = get_format("trt-rtx").check(wanted).make(source, info, tmp_path)
    record, plan = made.info.engine, made.path
    assert record is not None
    assert record.targets == (targets or ("sm80", "sm86", "sm89", "sm120", "sm121"))
    assert (record.library, record.gpu, record.profiles, made.notes) == ("trt-rtx", None, profiles, ())
    assert record.plan_bytes == plan.stat().st_size > source.stat().st_size
    stages = {"stem", "patch_embed_2", "patch_embed_3", "patch_embed_4", "head", *(f"stage{i}" for i in range(1, 5))}
    assert set(record.layers) - {"other"} == stages
    assert all(set(counts) == {"fp32"} for counts in record.layers.values())
    assert record.layers["stage3"]["fp32"] > 20
    largest = max((profile.max for profile in profiles), key=lambda size: size.batch * size.size.height**4)
    estimate = FAMILIES["rest"].engine_bytes(ResTConfig.from_dict(info.config), largest, Precision.FP32)
    assert record.activation_bytes == pytest.approx(estimate, rel=0.3)


@pytest.mark.slow
def test_reasons_out_of_the_log(digits_onnx: Path) -> None:
    config = EngineConfig(profiles=ONE, targets=("sm86",), workspace_mib=1)
    choice = choose_library("trt-rtx", config, Precision.FP32)
    with pytest.raises(ExportError, match=r"could not build the engine: .*within workspace limit") as raised:
        build(digits_onnx.read_bytes(), digits_onnx, read_info(digits_onnx), choice, config)
    assert "cudaError" not in str(raised.value)  # spurious on a machine without a GPU
    turing = replace(choice, targets=("sm75",))
    config = replace(config, workspace_mib=None)
    with pytest.raises(ExportError, match=r"for Turing .*FP32 GEMM is not supported"):
        build(digits_onnx.read_bytes(), digits_onnx, read_info(digits_onnx), turing, config)


def test_a_failed_build_leaves_nothing_of_tensorrt_to_the_collector(
    digits_onnx: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What an exception keeps alive would go whenever Python collects, and that may be under a lock of TensorRT's."""
    builders: list[weakref.ref[Any]] = []
    honest = builder._Build.__init__

    def init(self: Any, *arguments: Any) -> None:
        honest(self, *arguments)
        builders.append(weakref.ref(self._builder))

    monkeypatch.setattr(builder._Build, "__init__", init)
    config = EngineConfig(profiles=ONE, targets=("sm86",), workspace_mib=1)
    choice = choose_library("trt-rtx", config, Precision.FP32)
    with pytest.raises(ExportError) as raised:
        build(digits_onnx.read_bytes(), digits_onnx, read_info(digits_onnx), choice, config)
    assert raised.value.__traceback__ is not None  # kept, as by a caller that looks at it later
    assert [made() for made in builders] == [None]


@pytest.mark.usefixtures("ctrl_c")
def test_ctrl_c_ends_a_real_build(digits_onnx: Path) -> None:
    main = threading.main_thread().ident
    assert main is not None
    told: list[str] = []

    def interrupt(share: float, phase: str) -> None:
        if share > 0.1 and not told:
            told.append(phase)
            signal.pthread_kill(main, signal.SIGINT)

    config = EngineConfig(profiles=ONE, targets=("sm86",))
    choice = choose_library("trt-rtx", config, Precision.FP32)
    with pytest.raises(KeyboardInterrupt):
        build(digits_onnx.read_bytes(), digits_onnx, read_info(digits_onnx), choice, config, report=interrupt)
    assert told
    assert not [thread for thread in threading.enumerate() if thread.name == "tensorrt-build"]


def _network(path: Path, precision: Precision) -> Path:
    """A convolution and a linear layer, float32 in and out, computed in a precision."""
    rng = np.random.default_rng(0)
    half = precision is Precision.FP16
    dtype, number = (np.float16, TensorProto.FLOAT16) if half else (np.float32, TensorProto.FLOAT)
    weights = {
        "kernel": rng.standard_normal((16, 3, 4, 4)).astype(dtype),
        "weight": rng.standard_normal((16, 8)).astype(dtype),
        "scale": np.float32(0.02),
        "zero": np.int8(0),
    }
    nodes = [helper.make_node("Cast", ["image"], ["x"], name="stem/in", to=number)]
    given = {"x": "x", "kernel": "kernel"}
    if precision is Precision.INT8:
        for name in given:
            quantized, steps = f"{name}_q", ["scale", "zero"]
            nodes.append(helper.make_node("QuantizeLinear", [name, *steps], [quantized], name=f"stem/{quantized}"))
            nodes.append(
                helper.make_node("DequantizeLinear", [quantized, *steps], [f"{name}_d"], name=f"stem/{name}_d")
            )
            given[name] = f"{name}_d"
    nodes += [
        helper.make_node("Conv", list(given.values()), ["c"], name="stem/conv", strides=[4, 4], kernel_shape=[4, 4]),
        helper.make_node("Relu", ["c"], ["r"], name="stem/relu"),
        helper.make_node("GlobalAveragePool", ["r"], ["p"], name="head/pool"),
        helper.make_node("Flatten", ["p"], ["f"], name="head/flatten"),
        helper.make_node("MatMul", ["f", "weight"], ["m"], name="head/linear"),
        helper.make_node("Cast", ["m"], ["logits"], name="head/out", to=TensorProto.FLOAT),
    ]
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", 3, "height", "width"])
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 8])
    constants = [numpy_helper.from_array(np.asarray(value), name) for name, value in weights.items()]
    graph = helper.make_graph(nodes, "small", [image], [logits], constants)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9), path)
    return path


@pytest.mark.parametrize(
    ("made_in", "datatype"), [(Precision.FP16, "fp16"), (Precision.INT8, "int8"), (Precision.FP32, "fp32")]
)
def test_the_log_tells_the_precision_that_was_built(
    made_in: Precision, datatype: str, tiny_onnx: Path, tmp_path: Path
) -> None:
    """What is asked and what is in the graph are set apart here, as a faulty export would set them apart."""
    source = _network(tmp_path / "small.onnx", made_in)
    config = EngineConfig(max_size=ImageSize(64, 64), opt_size=ImageSize(32, 32), min_size=ImageSize(8, 8))
    config = replace(config, targets=("sm89",))
    info: ArtifactInfo = read_info(tiny_onnx)
    info = replace(info, labels=None, outputs=(replace(info.outputs[0], shape=("batch", 8)),))
    layers = build(source.read_bytes(), source, info, choose_library("trt-rtx", config, Precision.FP32), config).layers
    counts = histogram(layers, str)
    assert datatype in counts["stem"]
    for asked in Precision:
        if asked is made_in:
            prove(layers, asked)
            continue
        with pytest.raises(ExportError, match=f"{asked.value} was asked for"):
            prove(layers, asked)
    if made_in is Precision.FP16:
        with pytest.raises(ExportError, match=r"FP32 was asked for parts of the network, .* in fp16"):
            prove(layers, Precision.FP16, fp32_nodes={"stem/conv"})


@pytest.mark.slow
@pytest.mark.parametrize("precision", [Precision.FP16, *further([Precision.FP32, Precision.INT8])])
def test_a_restv2_in_every_precision(precision: Precision, tmp_path: Path) -> None:
    """Of real size: each stage computes in the precision that was asked for, and FP32 in nothing else."""
    options: dict[str, Any] = {"targets": ("sm89",), "profiles": ONE}
    if precision is not Precision.FP32:
        options["compare_speed"] = False
    if precision is Precision.INT8:
        options["calibration"] = tmp_path / "images"
        write_pictures(load_split()[0][:24], options["calibration"])
    request = ExportRequest(
        "restv2_tiny", tmp_path / "x.engine", format="trt-rtx", precision=precision, verify=False, options=options
    )
    record = run_export(request).info.engine
    assert record is not None
    stages = {"stem", "patch_2", "patch_3", "patch_4", "head", *(f"stage{number}" for number in range(1, 5))}
    assert set(record.layers) - {"other"} == stages
    asked = {Precision.FP32: "fp32", Precision.FP16: "fp16", Precision.INT8: "int8"}[precision]
    assert all(counts.get(asked, 0) >= 1 for stage, counts in record.layers.items() if stage != "other")
    if precision is Precision.FP32:
        assert all(set(counts) == {"fp32"} for counts in record.layers.values())
        estimate = FAMILIES["restv2"].engine_bytes(get_config("restv2_tiny"), ONE[0].max, precision)
        assert record.activation_bytes == pytest.approx(estimate, rel=0.3)


@pytest.mark.slow
@pytest.mark.parametrize("precision", [Precision.FP32, Precision.INT8, *further([Precision.FP16])])
def test_an_engine_that_takes_pictures(precision: Precision, tmp_path: Path) -> None:
    """Of up to four in 4K; what resizes them stays in FP32, and their activations are within the estimate."""
    profiles = (Profile.parse("1x1x1:1x480x640:4x2160x3840"),)
    options: dict[str, Any] = {"targets": ("sm89",), "profiles": profiles}
    if precision is not Precision.FP32:
        options["compare_speed"] = False
    if precision is Precision.INT8:
        options["calibration"] = tmp_path / "images"
        write_pictures(load_split()[0][:24], options["calibration"])
    steps = PreprocessingChange(Resize.CROP, ImageSize(48, 48))
    request = ExportRequest(
        None, tmp_path / "x.engine", checkpoint=DIGITS, format="trt-rtx", precision=precision, input=InputKind.PIXELS,
        preprocessing=steps, options=options,
    )  # fmt: skip
    info = run_export(request).info
    assert info.engine is not None
    assert info.engine.source_verification is not None
    assert (info.input.dtype, info.resizes) == ("uint8", True)
    assert set(info.engine.layers["pixels"]) == {"fp32"}
    told, estimate = info.engine.activation_bytes, engine_bytes(info, profiles[0].max)
    assert told is not None
    assert 0.3 * estimate < told <= estimate


def test_what_an_engine_cannot_resize_is_refused(tmp_path: Path) -> None:
    asked = {"checkpoint": DIGITS, "format": "trt-rtx", "input": "pixels", "output": tmp_path / "x.engine"}
    crop = PreprocessingChange(Resize.CROP, ImageSize(48, 48))
    with pytest.raises(ConfigError, match="nearest needs float64"):
        run_export(ExportRequest(None, preprocessing=replace(crop, interpolation=Interpolation.NEAREST), **asked))
    with pytest.raises(ConfigError, match="--tf32 rounds products to 10 bits"):
        run_export(ExportRequest(None, preprocessing=crop, options={"tf32": True}, **asked))
    assert list(tmp_path.iterdir()) == []
