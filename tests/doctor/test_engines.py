"""Whether engines can be built and run, by each TensorRT, on GPUs of every kind and without one."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from rest_deploy.doctor.records import CUDA, EXPORT
from tests.doctor.machines import (
    NO_DRIVER,
    RTX,
    RTX_4090,
    TRT,
    FakeOnnxRuntime,
    Machine,
    broken_module,
    hide,
    note,
    steps,
    table,
)
from tests.standins.cuda import FakeCuda, FakeDevice
from tests.standins.tensorrt import FakeTensorRT

MonkeyPatch = pytest.MonkeyPatch
T4, H200 = FakeDevice("Tesla T4", (7, 5), 16 << 30), FakeDevice("NVIDIA H200", (9, 0), 139 << 30)
B200, P100 = FakeDevice("NVIDIA B200", (10, 0), 180 << 30), FakeDevice("Tesla P100", (6, 0), 16 << 30)


@pytest.mark.parametrize(
    ("gpu", "answer", "words", "told"),
    [
        (RTX_4090, "yes never yes", "", ""),
        (T4, "yes never yes", "", "not in fp32: target sm75: TensorRT-RTX has no FP32 products on Turing; "),
        (
            H200,
            "yes never no",
            "NVIDIA H200 (sm90): target sm90: TensorRT-RTX does not support Hopper; build with --format trt",
            "",
        ),
        (B200, "yes never no", "NVIDIA B200 (sm100): target sm100: TensorRT-RTX 1.7.1.116 has sm75, ", ""),
        (P100, "yes never no", "Tesla P100 (sm60): target sm60: TensorRT-RTX supports Turing", ""),
    ],
    ids=["sm89", "sm75", "sm90", "sm100", "sm60"],
)
def test_rtx_and_the_gpus_that_it_has(
    monkeypatch: MonkeyPatch, gpu: FakeDevice, answer: str, words: str, told: str
) -> None:
    report = Machine(monkeypatch, RTX, cuda=FakeCuda((gpu,)), onnxruntime=FakeOnnxRuntime()).look()
    assert table(report)["trt-rtx"] == answer
    found = steps(report, "trt-rtx", CUDA)
    assert len(found) == bool(words)
    assert all(step.startswith(words) and step.endswith('; pip install "rest-deploy[trt]"') for step in found)
    assert note(report, "trt-rtx", CUDA).startswith(told)
    assert bool(note(report, "trt-rtx", CUDA)) == bool(told)


@pytest.mark.parametrize("gpu", [RTX_4090, T4, H200], ids=["sm89", "sm75", "sm90"])
def test_tensorrt_beside_a_gpu(monkeypatch: MonkeyPatch, gpu: FakeDevice) -> None:
    report = Machine(monkeypatch, TRT, cuda=FakeCuda((gpu,)), onnxruntime=FakeOnnxRuntime()).look()
    assert table(report)["trt"] == "yes never yes"


@pytest.mark.parametrize(
    ("cuda", "words"),
    [
        (FakeCuda.no_driver(), NO_DRIVER),
        (FakeCuda.no_gpu(), "the NVIDIA driver finds no GPU"),
        (FakeCuda.old_driver(), "the NVIDIA driver supports CUDA 12.2, cuda-bindings needs CUDA "),
    ],
    ids=["no driver", "no GPU", "old driver"],
)
@pytest.mark.parametrize("files", [(TRT,), (TRT, RTX), (RTX,)])
def test_tensorrt_without_a_gpu(monkeypatch: MonkeyPatch, cuda: FakeCuda, words: str, files: tuple[str, ...]) -> None:
    report = Machine(monkeypatch, *files, cuda=cuda, onnxruntime=FakeOnnxRuntime()).look()
    found = table(report)
    assert found["trt"] == "no never no"
    assert found["trt-rtx"] == ("yes never no" if RTX in files else "no never no")
    if TRT in files:
        (step,) = steps(report, "trt", EXPORT)
        assert step.startswith(f"TensorRT builds only on a GPU, and device cuda:0: {words}")
        assert steps(report, "trt", CUDA)[0].startswith(words)
    stands_in = "--format trt builds with TensorRT-RTX 1.7.1.116 here"
    assert note(report, "trt", EXPORT) == (stands_in if RTX in files else "")


def test_tensorrt_without_cuda_python(monkeypatch: MonkeyPatch) -> None:
    machine = Machine(monkeypatch, TRT, RTX, onnxruntime=FakeOnnxRuntime(), cuda_bindings=None)
    hide(monkeypatch, "cuda.bindings.runtime")
    report = machine.look()
    assert table(report) | {"trt": "no never no", "trt-rtx": "yes never no"} == table(report)
    assert steps(report, "trt", EXPORT) == (
        'cuda-bindings is needed to use an NVIDIA GPU; install it: pip install "rest-deploy[trt]"',
    )
    assert steps(report, "trt", CUDA) == ('cuda-bindings is not installed; pip install "rest-deploy[trt]"',)
    assert steps(report, "trt-rtx", CUDA) == ('cuda-bindings is not installed; pip install "rest-deploy[trt-rtx]"',)


@pytest.mark.parametrize("libs", [None, "1.7.1.116"])
def test_a_rtx_that_does_not_load(monkeypatch: MonkeyPatch, tmp_path: Path, libs: str | None) -> None:
    """Its bindings are there; its libraries are not, or do not load."""
    machine = Machine(
        monkeypatch, onnxruntime=FakeOnnxRuntime(), tensorrt_rtx_cu13_bindings="1.7.1.116", tensorrt_rtx_cu13_libs=libs
    )
    broken_module(monkeypatch, tmp_path, "tensorrt_rtx_bindings", "raise ImportError('libtensorrt_rtx.so.1: no file')")
    report = machine.look()
    step = (
        'pip install "rest-deploy[trt-rtx]"'
        if libs is None
        else "pip install --force-reinstall tensorrt-rtx-cu13-bindings"
    )
    for ability in (EXPORT, CUDA):
        assert steps(report, "trt-rtx", ability) == (
            f"tensorrt-rtx-cu13-bindings is installed but does not load: libtensorrt_rtx.so.1: no file; {step}",
        )


def test_a_tensorrt_that_does_not_start(monkeypatch: MonkeyPatch) -> None:
    machine = Machine(monkeypatch, onnxruntime=FakeOnnxRuntime())
    fake = FakeTensorRT(TRT, machine.cuda)
    fake.returns["Runtime"] = None
    fake.errors_to_log.append("CUDA initialization failure with error: 222")
    monkeypatch.setitem(sys.modules, "tensorrt", fake.module)
    (step,) = steps(machine.look(), "trt", CUDA)
    assert step.startswith(
        "TensorRT 10.9.0.34 could not start its runtime: CUDA initialization failure with error: 222"
    )


def test_an_old_tensorrt(monkeypatch: MonkeyPatch) -> None:
    report = Machine(monkeypatch, TRT, onnxruntime=FakeOnnxRuntime(), tensorrt="8.6.1").look()
    step = 'tensorrt 8.6.1 is too old; pip install "tensorrt>=10.0.1"'
    assert steps(report, "trt", EXPORT) == steps(report, "trt", CUDA) == (step,)
