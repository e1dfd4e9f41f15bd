"""What can be served, and ``config.pbtxt`` as Triton's own protobuf reads it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from rest_deploy.artifact.info import ArtifactInfo
from rest_deploy.artifact.profile import Profile
from rest_deploy.errors import ConfigError, InputError
from rest_deploy.export.engine.config import EngineConfig
from rest_deploy.runtimes.registry import read_info
from rest_deploy.serving.config import TritonConfig
from rest_deploy.serving.model import Model, config_pbtxt, model_of, quoted, read_model
from tests.engines import RTX, Machine

model_config_pb2 = pytest.importorskip("tritonclient.grpc.model_config_pb2", reason="tritonclient is not installed")


def read(model: Model) -> Any:
    """A configuration as the server reads it; unknown fields are an error."""
    from google.protobuf import text_format

    return text_format.Parse(config_pbtxt(model), model_config_pb2.ModelConfig())


def tensors(values: Any) -> list[tuple[str, str, list[int]]]:
    names = model_config_pb2.DataType.Name
    return [(one.name, names(one.data_type), list(one.dims)) for one in values]


def test_an_onnx_file(tiny_onnx: Path) -> None:
    config = read(read_model(tiny_onnx, TritonConfig()))
    assert (config.name, config.platform, config.max_batch_size) == ("tiny", "onnxruntime_onnx", 16)
    assert tensors(config.input) == [("image", "TYPE_FP32", [3, -1, -1])]
    assert tensors(config.output) == [("logits", "TYPE_FP32", [7])]
    assert config.output[0].label_filename == "labels.txt"
    assert config.dynamic_batching.max_queue_delay_microseconds == 1000
    (group,) = config.instance_group
    assert (model_config_pb2.ModelInstanceGroup.Kind.Name(group.kind), group.count) == ("KIND_CPU", 1)
    (warm_up,) = config.model_warmup  # images come at their own size, and the usual one is tried
    assert (warm_up.batch_size, list(warm_up.inputs["image"].dims)) == (1, [3, 224, 224])
    assert warm_up.inputs["image"].zero_data
    assert not config.response_cache.enable
    told = {key: value.string_value for key, value in config.parameters.items()}
    assert told["enable_mem_pattern"] == "0"  # or memory of every size that was seen would stay
    assert ArtifactInfo.from_json(told["rest_deploy"], "x") == read_info(tiny_onnx)
    assert len(told["sha256"]) == 64


def test_options(tiny_onnx: Path) -> None:
    options = TritonConfig(
        name="other",
        max_batch_size=4,
        queue_delay_us=20,
        warm_up=(Profile.parse("1x8x8:4x32x48:4x64x64").opt,),
        instances=3,
        server_threads=2,
        on_gpu=True,
        response_cache=True,
    )
    config = read(read_model(tiny_onnx, options))
    assert (config.name, config.max_batch_size, config.response_cache.enable) == ("other", 4, True)
    assert config.dynamic_batching.max_queue_delay_microseconds == 20
    assert (config.instance_group[0].kind, config.instance_group[0].count) == (1, 3)  # KIND_GPU
    assert (config.model_warmup[0].batch_size, list(config.model_warmup[0].inputs["image"].dims)) == (4, [3, 32, 48])
    assert config.parameters["intra_op_thread_count"].string_value == "2"
    (cuda,) = config.optimization.execution_accelerators.gpu_execution_accelerator
    assert (cuda.name, dict(cuda.parameters)) == ("cuda", {"use_tf32": "0"})


@pytest.mark.parametrize(
    ("kind", "dims", "warm_up"),
    [
        ("float", [3, -1, -1], [[3, 48, 33]]),
        ("uint8", [-1, -1, 3], [[48, 33, 3]]),
        ("pixels", [-1, -1, 3], [[480, 640, 3], [1080, 1920, 3]]),
    ],
)
def test_what_a_file_takes(
    tiny_by_input: dict[str, Path], kind: str, dims: list[int], warm_up: list[list[int]]
) -> None:
    config = read(read_model(tiny_by_input[kind], TritonConfig()))
    name, dtype = ("image", "TYPE_FP32") if kind == "float" else ("pixels", "TYPE_UINT8")
    assert tensors(config.input) == [(name, dtype, dims)]
    assert [list(own.inputs[name].dims) for own in config.model_warmup] == warm_up


def test_feature_maps(tiny_features: Path) -> None:
    info = read_info(tiny_features)
    config = read(read_model(tiny_features, TritonConfig()))
    channels = [int(own.shape[1]) for own in info.outputs]
    assert tensors(config.output) == [
        (own.name, "TYPE_FP32", [count, -1, -1] if own.stride is not None else [count])
        for own, count in zip(info.outputs, channels, strict=True)
    ]
    assert not any(own.label_filename for own in config.output)


PROFILES = (Profile.parse("1x32x32:1x64x64:8x96x96"), Profile.parse("1x97x97:2x128x160:4x256x256"))


@pytest.fixture
def plan(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, tiny_onnx: Path) -> Path:
    """An engine of TensorRT, by its stand-in."""
    machine = Machine.make(monkeypatch, "tensorrt-10.9.0.34")
    return machine.build(tiny_onnx, tmp_path, EngineConfig(use_timing_cache=False, profiles=PROFILES))


def test_a_plan(plan: Path) -> None:
    """Not run on hardware: what Triton's backend for TensorRT is told."""
    model = read_model(plan, TritonConfig(on_gpu=True))
    config = read(model)
    assert (config.platform, model.file_name) == ("tensorrt_plan", "model.plan")
    assert config.max_batch_size == 4  # which every profile takes
    (group,) = config.instance_group
    assert (group.kind, list(group.profile)) == (1, ["0", "1"])
    assert [(own.batch_size, list(own.inputs["image"].dims)) for own in config.model_warmup] == [
        (1, [3, 64, 64]),
        (2, [3, 128, 160]),
    ]
    assert not config.optimization.ListFields()
    with pytest.raises(ConfigError, match="max_batch_size 5, and its profiles take 4"):
        read_model(plan, TritonConfig(max_batch_size=5))
    with pytest.raises(InputError, match="outside of what"):
        read_model(plan, TritonConfig(warm_up=(Profile.parse("1x8x8:1x8x8:1x8x8").opt,)))


def test_a_plan_of_tensorrt_rtx_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, tiny_onnx: Path) -> None:
    path = Machine.make(monkeypatch, RTX).build(tiny_onnx, tmp_path)
    with pytest.raises(ConfigError, match=r"TensorRT-RTX, for which Triton has no backend.*--format trt .*\.onnx file"):
        read_model(path, TritonConfig())


def test_what_no_server_runs(tiny_checkpoint: Path, tiny_onnx: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=f"--checkpoint {tiny_checkpoint} --format triton -o repo"):
        read_model(tiny_checkpoint, TritonConfig())
    with pytest.raises(ConfigError, match="it is on a server already"):
        read_model("http://localhost:8000/tiny", TritonConfig())
    with pytest.raises(ConfigError, match="warm-up 17x8x8: at most 16 images"):
        read_model(tiny_onnx, TritonConfig(warm_up=(Profile.parse("1x8x8:17x8x8:17x8x8").opt,)))
    odd = tmp_path / "a model.onnx"
    odd.write_bytes(tiny_onnx.read_bytes())
    with pytest.raises(ConfigError, match=r"a model\.onnx: name is 'a model'.*; give one with --name, or rename"):
        read_model(odd, TritonConfig())
    assert read_model(odd, TritonConfig(name="a.model")).name == "a.model"


def test_labels_that_are_no_lines(tiny_onnx: Path) -> None:
    info = read_info(tiny_onnx)
    broken = replace(info, labels=("a\nb", *info.labels[1:]))  # type: ignore[index]
    with pytest.raises(ConfigError, match="has a line break"):
        model_of(tiny_onnx, broken, TritonConfig())


@pytest.mark.parametrize(
    "text", ["", "plain", 'a "quote"', "back\\slash\\n", "line\nbreak\r\t\0", "Grüße, 犬 🐕", "\x7f%s{}", "trailing\\"]
)
def test_text_is_read_back_as_it_was(text: str) -> None:
    from google.protobuf import text_format

    assert text_format.Parse(f"name: {quoted(text)}", model_config_pb2.ModelConfig()).name == text


def test_any_label_survives_in_the_record(tiny_onnx: Path) -> None:
    info = read_info(tiny_onnx)
    odd = replace(info, labels=('"', "\\", "犬", "\x00", "a\tb", "", "g"))
    told = read(model_of(tiny_onnx, odd, TritonConfig())).parameters["rest_deploy"].string_value
    assert json.loads(told)["labels"] == list(odd.labels or ())
