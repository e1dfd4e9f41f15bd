"""What --require asks for, and whether a machine has it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from rest_deploy.doctor import Demand
from rest_deploy.errors import ConfigError
from tests.doctor.machines import CPU_EP, CUDA_EP, RTX, TRT, FakeOnnxRuntime, Machine
from tests.standins.cuda import FakeCuda, FakeDevice

H200 = FakeDevice("NVIDIA H200", (9, 0), 139 << 30)


@pytest.mark.parametrize(
    ("text", "key", "ability"),
    [("onnx", "onnx", None), ("onnx:cuda", "onnx", "cuda"), ("onnx-int8:cpu", "onnx-int8", "cpu"),
     ("trt-rtx", "trt-rtx", None), ("trt:export", "trt", "export"), ("pytorch", "pytorch", None)],
)  # fmt: skip
def test_demands(text: str, key: str, ability: str | None) -> None:
    assert Demand.parse(text) == Demand(key, ability)
    assert str(Demand.parse(text)) == text


@pytest.mark.parametrize("text", ["", "coreml", "ONNX", ":cuda", "onnx ", ".onnx"])
def test_artifacts_that_there_are_not(text: str) -> None:
    accepted = "accepted: onnx, onnx-fp16, onnx-int8, web, trt, trt-rtx, triton, openvino, webgpu, "
    accepted += "ort-trt, ort-rtx, pytorch"
    with pytest.raises(ConfigError, match=f"^unknown artifact '{text.partition(':')[0]}'; {accepted}$"):
        Demand.parse(text)


@pytest.mark.parametrize("text", ["onnx:", "onnx:tpu", "onnx:cuda:1", "onnx:CPU"])
def test_abilities_that_there_are_not(text: str) -> None:
    with pytest.raises(ConfigError, match=f"^'{text}'; accepted after onnx: :export, :cpu, :cuda$"):
        Demand.parse(text)


def test_where_nothing_can_be_told_the_reason_is_that_of_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rest_deploy.doctor.artifacts._kinds", None)
    report = Machine(monkeypatch, onnxruntime=FakeOnnxRuntime()).look()
    assert Demand("onnx", "cuda").unmet(report).startswith("onnx:cuda: artifacts cannot be listed here: TypeErr")


MACHINES = {
    "cpu": ((), FakeCuda.no_driver()),
    "rtx, no GPU": ((RTX,), FakeCuda.no_driver()),
    "rtx, sm89": ((RTX,), None),
    "rtx, sm90": ((RTX,), FakeCuda((H200,))),
    "trt, sm90": ((TRT,), FakeCuda((H200,))),
    "trt, no GPU": ((TRT,), FakeCuda.no_driver()),
}


_BUILT_IN_ITS_PLACE = {("rtx, no GPU", "trt")}


@pytest.mark.parametrize(
    ("machine", "text", "words"),
    [
        ("cpu", "onnx", ""),
        ("cpu", "onnx:export", ""),
        ("cpu", "onnx-int8", ""),
        ("cpu", "pytorch", ""),
        ("cpu", "onnx:cuda", "onnx:cuda: it cannot be run on cuda here: there is no NVIDIA driver here"),
        ("cpu", "onnx-int8:cuda", "onnx-int8:cuda: it cannot be run on cuda here: INT8 files for CPUs run on CPUs"),
        ("cpu", "pytorch:export", "pytorch:export: it cannot be made here: rest-export makes no such file"),
        ("cpu", "trt-rtx", "trt-rtx: it cannot be made here: tensorrt-rtx-cu13-bindings is not installed"),
        ("cpu", "trt:cpu", "trt:cpu: it cannot be run on cpu here: TensorRT runs .engine files on cuda only"),
        ("rtx, no GPU", "trt-rtx", ""),
        ("rtx, no GPU", "trt-rtx:cuda", "trt-rtx:cuda: it cannot be run on cuda here: there is no NVIDIA driver here"),
        ("rtx, no GPU", "trt", "trt: it cannot be made here: there is no NVIDIA driver here"),
        ("rtx, sm89", "trt-rtx", ""),
        ("rtx, sm90", "trt-rtx", "trt-rtx: it cannot be run on cuda here: NVIDIA H200 (sm90): target sm90"),
        ("rtx, sm90", "trt-rtx:export", ""),
        ("trt, sm90", "trt", ""),
        ("trt, no GPU", "trt", "trt: it cannot be made here: TensorRT builds only on a GPU"),
    ],
)
def test_what_is_missing(monkeypatch: pytest.MonkeyPatch, machine: str, text: str, words: str) -> None:
    files, cuda = MACHINES[machine]
    report = Machine(monkeypatch, *files, cuda=cuda, onnxruntime=FakeOnnxRuntime()).look()
    unmet = Demand.parse(text).unmet(report)
    assert unmet.startswith(words)
    assert bool(unmet) == bool(words)
    in_its_place = "; --format trt builds with TensorRT-RTX 1.7.1.116 here"
    assert unmet.endswith(in_its_place) == ((machine, text) in _BUILT_IN_ITS_PLACE)


def test_a_gpu_that_only_nvml_finds_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """As with a driver that is too old: an engine that was built is no engine that runs."""
    machine = Machine(monkeypatch, RTX, cuda=FakeCuda.old_driver(), onnxruntime=FakeOnnxRuntime((CUDA_EP, CPU_EP)))
    report = machine.look()
    assert Demand.parse("trt-rtx").unmet(report) == ""
    gpu = {"name": "Tesla T4", "driver": "535.1", "compute_capability": "7.5"}
    seen = replace(report, environment={**report.environment, "gpus": [gpu]})
    assert "the NVIDIA driver supports CUDA 12.2" in Demand.parse("trt-rtx").unmet(seen)
