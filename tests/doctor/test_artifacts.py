"""What can be exported and run on machines of every kind, and what is missing where it cannot."""

from __future__ import annotations

import shutil
import sys
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest

from rest_deploy.doctor import artifacts
from rest_deploy.doctor.artifacts import artifact_keys
from rest_deploy.doctor.records import CPU, CUDA, EXPORT
from rest_deploy.export import web_format
from rest_deploy.export.formats import FORMATS
from rest_deploy.export.onnxruntime_web import INSTALLED, find_package
from rest_deploy.runtimes import registry
from rest_deploy.runtimes.registry import RuntimeRow
from tests.doctor.machines import (
    CPU_EP,
    CUDA_EP,
    NO_DRIVER,
    RTX,
    TRT,
    FakeOnnxRuntime,
    Machine,
    broken_module,
    fake_module,
    hide,
    note,
    steps,
    table,
    torch_with_gpu,
)  # fmt: skip
from tests.export.npm import write_package
from tests.standins.cuda import FakeCuda

MonkeyPatch = pytest.MonkeyPatch
NO_PROVIDER = (
    "the installed ONNX Runtime 1.32.0 has no CUDA provider; install it: pip uninstall onnxruntime && "
    'pip install "rest-deploy[gpu]", or use device cpu'
)
ONNX = ("onnx", "onnx-fp16", "onnx-int8")


def cpu_only() -> FakeOnnxRuntime:
    """Of the package onnxruntime."""
    return FakeOnnxRuntime()


def with_gpu() -> FakeOnnxRuntime:
    """Of the package onnxruntime-gpu."""
    return FakeOnnxRuntime((CUDA_EP, CPU_EP))


def test_everything_is_there(monkeypatch: MonkeyPatch) -> None:
    torch_with_gpu(monkeypatch)
    monkeypatch.setenv("NVIDIA_TF32_OVERRIDE", "0")
    report = Machine(monkeypatch, TRT, RTX, onnxruntime=with_gpu()).look()
    assert table(report) == {
        "onnx": "yes yes yes", "onnx-fp16": "yes yes yes", "onnx-int8": "yes yes never", "trt": "yes never yes",
        "trt-rtx": "yes never yes", "openvino": "never no never", "webgpu": "never never no",
        "ort-trt": "never never no", "ort-rtx": "never never no",
        "pytorch": "never yes yes", "web": "yes never never", "triton": "yes never never",
    }  # fmt: skip
    missing = (
        'openvino is not installed; pip install "rest-deploy[openvino]"',
        'onnxruntime-ep-webgpu is not installed; pip install "rest-deploy[webgpu]"',
        "device tensorrt:0: the installed ONNX Runtime 1.32.0 has no TensorRT provider; install it: pip uninstall "
        'onnxruntime && pip install "rest-deploy[ort-trt]", or use device cpu',
        'onnxruntime-ep-nv-tensorrt-rtx is not installed; pip install "rest-deploy[ort-rtx]"',
    )
    others = [
        ability for a in report.artifacts for ability in a.abilities.values() if ability.possible.value != "never"
    ]
    assert [step for ability in others for step in ability.steps] == list(missing)


def test_a_page_takes_the_package_of_npm_where_the_export_looks(monkeypatch: MonkeyPatch, tmp_path: Path) -> None:
    machine = Machine(monkeypatch, cuda=FakeCuda.no_driver(), onnxruntime=cpu_only())
    monkeypatch.setattr(web_format, "find_package", find_package)
    monkeypatch.chdir(tmp_path)
    (step,) = steps(machine.look(), "web", EXPORT)
    assert step.startswith(f"a page needs the npm package onnxruntime-web, and there is no {INSTALLED} here; npm pack ")
    assert step.endswith(": --onnxruntime-web TGZ")
    made = write_package(tmp_path / "made", without="dist/ort.min.mjs")
    INSTALLED.parent.mkdir()
    made.rename(INSTALLED)
    assert "without dist/ort.min.mjs" in steps(machine.look(), "web", EXPORT)[0]
    shutil.rmtree(INSTALLED)
    write_package(tmp_path / "whole").rename(INSTALLED)
    assert table(machine.look())["web"] == "yes never never"


def test_a_machine_for_the_cpu(monkeypatch: MonkeyPatch) -> None:
    """Extras export and cpu, no GPU."""
    report = Machine(monkeypatch, cuda=FakeCuda.no_driver(), onnxruntime=cpu_only()).look()
    assert table(report) == {
        "onnx": "yes yes no", "onnx-fp16": "yes yes no", "onnx-int8": "yes yes never", "trt": "no never no",
        "trt-rtx": "no never no", "openvino": "never no never", "webgpu": "never never no", "pytorch": "never yes no",
        "ort-trt": "never never no", "ort-rtx": "never never no",
        "web": "yes never never", "triton": "yes never never",
    }  # fmt: skip
    assert steps(report, "onnx", CUDA) == steps(report, "onnx-fp16", CUDA) == (NO_DRIVER,)
    assert steps(report, "trt", EXPORT) == (NO_DRIVER,)
    rtx = 'tensorrt-rtx-cu13-bindings is not installed; pip install "rest-deploy[trt-rtx]"'
    assert steps(report, "trt-rtx", EXPORT) == (rtx,)
    assert steps(report, "trt-rtx", CUDA) == steps(report, "pytorch", CUDA) == (NO_DRIVER,)


def test_nothing_is_there(monkeypatch: MonkeyPatch) -> None:
    """Only what rest-deploy itself needs: one pip line for each thing, with all the extras that it takes."""
    gone = dict.fromkeys(("torch", "onnx", "onnxscript", "onnxsim", "safetensors", "cuda_bindings"))
    machine = Machine(monkeypatch, **gone)
    hide(monkeypatch, "torch", "onnx", "onnxscript", "onnxsim", "safetensors", "cuda.bindings.runtime")
    report = machine.look()
    assert set(table(report).values()) == {
        *("no no no", "no no never", "no never no", "no never never"),
        *("never no never", "never never no", "never no no"),
    }
    for key in ONNX:
        assert steps(report, key, EXPORT) == (
            "torch, safetensors, onnx, onnxscript, onnxsim and onnxruntime are not installed; "
            'pip install "rest-deploy[export,cpu]"',
        )
        run = 'onnxruntime is not installed; pip install "rest-deploy[{}]"'
        assert steps(report, key, CPU) == (run.format("cpu"),)
        assert key == "onnx-int8" or steps(report, key, CUDA) == (run.format("gpu"),)
    assert steps(report, "trt", CUDA) == (
        'tensorrt and cuda-bindings are not installed; pip install "rest-deploy[trt]"',
    )
    assert steps(report, "trt-rtx", CUDA) == (
        'tensorrt-rtx-cu13-bindings and cuda-bindings are not installed; pip install "rest-deploy[trt-rtx]"',
    )
    for device in (CPU, CUDA):
        assert steps(report, "pytorch", device) == ('torch is not installed; pip install "rest-deploy[export]"',)


def test_one_package_is_missing(monkeypatch: MonkeyPatch) -> None:
    machine = Machine(monkeypatch, onnxruntime=cpu_only(), onnxsim=None)
    hide(monkeypatch, "onnxsim")
    report = machine.look()
    assert steps(report, "onnx", EXPORT) == ('onnxsim is not installed; pip install "rest-deploy[export]"',)
    assert table(report)["onnx"] == "no yes no"


def test_a_gpu_and_no_package_for_it(monkeypatch: MonkeyPatch) -> None:
    report = Machine(monkeypatch, onnxruntime=cpu_only()).look()
    assert steps(report, "onnx", CUDA) == (NO_PROVIDER,)
    assert steps(report, "trt", CUDA) == ('tensorrt is not installed; pip install "rest-deploy[trt]"',)
    (torch_step,) = steps(report, "pytorch", CUDA)
    assert torch_step.startswith("this PyTorch (")
    assert torch_step.endswith("sees 0 CUDA GPUs; use device cpu, or install a CUDA build of torch and a driver")


def test_a_torch_without_kernels_for_the_gpu(monkeypatch: MonkeyPatch) -> None:
    def ones(count: int, device: str) -> Any:
        raise RuntimeError("CUDA error: no kernel image is available for execution on the device")

    torch_with_gpu(monkeypatch, ones)
    report = Machine(monkeypatch, onnxruntime=cpu_only()).look()
    assert steps(report, "pytorch", CUDA) == (
        "RuntimeError: CUDA error: no kernel image is available for execution on the device",
    )


def test_a_provider_that_does_not_start(monkeypatch: MonkeyPatch) -> None:
    fake = FakeOnnxRuntime((CUDA_EP, CPU_EP), (CPU_EP,), log="with error: libcublasLt.so.12: cannot open\n")
    report = Machine(monkeypatch, onnxruntime=fake).look()
    assert table(report)["onnx"] == "yes yes no"
    (step,) = steps(report, "onnx", CUDA)
    assert step.startswith("ONNX Runtime could not start its CUDA provider")
    assert step.endswith("(libcublasLt.so.12: cannot open)")


# ONNX Runtime.


def test_both_onnxruntimes(monkeypatch: MonkeyPatch) -> None:
    """The step of the provider that is missing would leave an empty package."""
    report = Machine(monkeypatch, onnxruntime=cpu_only(), onnxruntime_gpu="1.32.0").look()
    assert table(report)["onnx"] == "yes yes no"
    (step,) = steps(report, "onnx", CUDA)
    assert step.startswith("onnxruntime and onnxruntime-gpu are installed together")
    assert "pip uninstall onnxruntime onnxruntime-gpu, then " in step


def test_an_empty_onnxruntime(monkeypatch: MonkeyPatch) -> None:
    machine = Machine(monkeypatch, onnxruntime=cpu_only())
    fake_module(monkeypatch, "onnxruntime")
    report = machine.look()
    assert table(report)["onnx"] == "no no no"
    (step,) = steps(report, "onnx", CPU)
    assert steps(report, "onnx", EXPORT) == steps(report, "onnx-int8", CPU) == steps(report, "onnx", CUDA) == (step,)
    assert step.startswith("onnxruntime is installed but empty")


def test_an_old_onnxruntime(monkeypatch: MonkeyPatch) -> None:
    machine = Machine(monkeypatch, onnxruntime=with_gpu(), onnxruntime_gpu="1.17.3")
    del machine.versions["onnxruntime"]
    report = machine.look()
    assert table(report)["onnx"] == "no no no"
    step = 'onnxruntime-gpu 1.17.3 is too old; pip install "onnxruntime-gpu>=1.18"'
    assert steps(report, "onnx", EXPORT) == steps(report, "onnx", CPU) == steps(report, "onnx", CUDA) == (step,)


def test_an_onnxruntime_that_loads_and_does_not_compute(monkeypatch: MonkeyPatch) -> None:
    """What is exported is verified there."""
    report = Machine(monkeypatch, onnxruntime=FakeOnnxRuntime(factor=2)).look()
    assert table(report)["onnx"] == "no no no"
    step = "ONNX Runtime multiplies wrongly on cpu: 15.0 came out as 30.0"
    assert steps(report, "onnx", EXPORT) == steps(report, "onnx", CPU) == (step,)


@pytest.mark.parametrize("saturates", [True, False])
def test_int8_where_sums_saturate(monkeypatch: MonkeyPatch, *, saturates: bool) -> None:
    report = Machine(monkeypatch, onnxruntime=FakeOnnxRuntime(saturates=saturates)).look()
    assert table(report)["onnx-int8"] == "yes yes never"
    for ability in (EXPORT, CPU):
        assert ("--reduced-range" in note(report, "onnx-int8", ability)) is saturates
    assert note(report, "onnx", CPU) == ""


# PyTorch.


def test_a_torch_that_does_not_load(monkeypatch: MonkeyPatch, tmp_path: Path) -> None:
    machine = Machine(monkeypatch, RTX, onnxruntime=cpu_only())
    broken_module(monkeypatch, tmp_path, "torch", "raise OSError('libcudart.so.13: cannot open shared object file')")
    report = machine.look()
    found = table(report)
    assert (found["onnx"], found["trt-rtx"], found["pytorch"]) == ("no yes no", "no never yes", "never no no")
    step = (
        "torch is installed but does not load: OSError: libcudart.so.13: cannot open shared object file; "
        "pip install --force-reinstall torch"
    )
    assert steps(report, "onnx", EXPORT) == steps(report, "pytorch", CPU) == (step,)


def test_a_checkpoint_reader_that_is_missing(monkeypatch: MonkeyPatch) -> None:
    """The runtime's module is loaded too, with all that it needs."""
    machine = Machine(monkeypatch, onnxruntime=cpu_only(), safetensors=None)
    hide(monkeypatch, "safetensors")
    monkeypatch.delitem(sys.modules, "safetensors.torch", raising=False)
    for name in [name for name in sys.modules if name.startswith("rest_deploy.models.checkpoint")]:
        monkeypatch.delitem(sys.modules, name)
    for name in ("rest_deploy.runtimes.pytorch", "rest_deploy.models.factory"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    assert steps(machine.look(), "pytorch", CPU) == (
        'safetensors is needed to open such files; install it: pip install "rest-deploy[export]"',
    )


# Registries.


def test_the_keys_are_those_of_the_registries() -> None:
    assert artifact_keys() == (
        *ONNX,
        "web",
        "trt",
        "trt-rtx",
        "triton",
        "openvino",
        "webgpu",
        "ort-trt",
        "ort-rtx",
        "pytorch",
    )


def test_a_new_row_shows_up_by_itself(monkeypatch: MonkeyPatch) -> None:
    """A format with its runtime, whose package is there and whose module is not."""
    row = replace(
        FORMATS["onnx"], suffix=".tflite", precisions=FORMATS["onnx"].made_in[:1], packages={"tflite": "edge"}
    )
    monkeypatch.setattr(artifacts, "FORMATS", MappingProxyType({**FORMATS, "tflite": row}))
    runtime = RuntimeRow(
        "TFLite", (".tflite",), ("rest_deploy.runtimes.tflite", "TFLite"), {"tflite": ("tflite",)}, {"cpu": "edge"}
    )
    monkeypatch.setitem(registry._ROWS, "tflite", runtime)
    machine = Machine(monkeypatch, onnxruntime=cpu_only(), tflite="2.0")
    fake_module(monkeypatch, "tflite")
    report = machine.look()
    assert table(report)["tflite"] == "yes no never"
    assert steps(report, "tflite", CPU) == ("ModuleNotFoundError: No module named 'rest_deploy.runtimes.tflite'",)
    assert "tflite" in {package.module for package in report.packages}
    machine.versions.pop("tflite")
    hide(monkeypatch, "tflite")
    again = machine.look()
    assert steps(again, "tflite", EXPORT) == ('tflite is not installed; pip install "rest-deploy[edge]"',)


def test_without_numpy_nothing_is_told_of_artifacts(monkeypatch: MonkeyPatch) -> None:
    def fail() -> None:
        raise ImportError("numpy.core.multiarray failed to import")

    machine = Machine(monkeypatch, onnxruntime=cpu_only())
    monkeypatch.setattr("rest_deploy.doctor.artifacts.check_artifacts", lambda _: fail())
    report = machine.look()
    assert report.artifacts == ()
    assert report.artifacts_problem == "ImportError: numpy.core.multiarray failed to import"
