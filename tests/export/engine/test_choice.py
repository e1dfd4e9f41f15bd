"""Where an engine is built: the choice of the library, its reason, and what each library refuses."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from typing import Any

import pytest

from rest_deploy.errors import ConfigError, DeviceError, MissingPackageError
from rest_deploy.export.engine.choice import choose_library
from rest_deploy.export.engine.config import EngineConfig, HardwareCompatibility
from rest_deploy.nvidia import ComputeCapability, Gpu, is_installed
from rest_deploy.specs import Precision
from tests.standins.cuda import FakeCuda, FakeDevice
from tests.standins.tensorrt import FakeTensorRT

TRT, RTX = "tensorrt-10.9.0.34", "tensorrt_rtx-1.7.1.116"
RTX_4090 = FakeDevice("NVIDIA GeForce RTX 4090", (8, 9), 24 << 30)
H200 = FakeDevice("NVIDIA H200", (9, 0), 139 << 30)
#: Compute capabilities of TensorRT-RTX 1.7 from Ampere on.
DEFAULT_TARGETS = ("sm80", "sm86", "sm89", "sm120", "sm121")
PLAIN = EngineConfig()

Machine = Callable[..., None]


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    """A machine with some of the libraries, and with these GPUs."""

    def make(*files: str, cuda: FakeCuda | None = None) -> None:
        (cuda or FakeCuda((RTX_4090, H200))).install(monkeypatch)
        for name in ("tensorrt", "tensorrt_rtx", "tensorrt_rtx_bindings"):
            monkeypatch.setitem(sys.modules, name, None)
        for file in files:
            module = FakeTensorRT(file).module
            monkeypatch.setitem(sys.modules, module.__name__, module)

    return make


def refusal(error: type[Exception], format: str = "trt", **options: Any) -> str:
    """The message of a refusal, FP32 being asked for."""
    with pytest.raises(error) as caught:
        choose_library(format, EngineConfig(**options), Precision.FP32)
    return str(caught.value)


@pytest.mark.parametrize("others", [(), (RTX,)])
def test_tensorrt_beside_a_gpu_is_taken(machine: Machine, others: tuple[str, ...]) -> None:
    machine(TRT, *others)
    choice = choose_library("trt", PLAIN, Precision.FP32)
    assert str(choice.library) == "TensorRT 10.9.0.34"
    assert choice.gpu == Gpu(0, "NVIDIA GeForce RTX 4090", ComputeCapability(8, 9), 24 << 30)
    assert choice.targets == ("sm89",)
    assert not choice.unexpected
    assert choice.why == "it is installed, and NVIDIA GeForce RTX 4090 (sm89) is there"


def test_the_gpu_is_the_one_asked_for(machine: Machine) -> None:
    machine(TRT)
    choice = choose_library("trt", EngineConfig(gpu=1), Precision.FP32)
    assert choice.gpu is not None
    assert (choice.gpu.index, choice.gpu.name, choice.targets) == (1, "NVIDIA H200", ("sm90",))


@pytest.mark.parametrize("files", [(RTX,), (RTX, TRT)])
def test_rtx_is_taken_where_it_is_asked_for(machine: Machine, files: tuple[str, ...]) -> None:
    machine(*files)
    choice = choose_library("trt-rtx", PLAIN, Precision.FP32)
    assert (str(choice.library), choice.gpu, choice.why) == ("TensorRT-RTX 1.7.1.116", None, "asked for")
    assert choice.targets == DEFAULT_TARGETS


def test_rtx_is_taken_where_tensorrt_is_not_installed(machine: Machine) -> None:
    machine(RTX)
    choice = choose_library("trt", PLAIN, Precision.FP32)
    assert (choice.library.name, choice.gpu, choice.why) == ("trt-rtx", None, "TensorRT is not installed")
    assert not choice.unexpected


def test_an_engine_that_the_gpu_here_could_not_run_has_to_be_asked_for(machine: Machine) -> None:
    machine(RTX, cuda=FakeCuda((H200,)))
    said = (
        r"^TensorRT-RTX 1\.7\.1\.116 builds no fp32 engines for the GPU here, NVIDIA H200 \(sm90\), and TensorRT "
        r"is not installed; pip install \"rest-deploy\[trt\]\", or build for other GPUs with --format trt-rtx$"
    )
    assert re.search(said, refusal(DeviceError))


@pytest.mark.parametrize(("format", "targets"), [("trt", ("sm86",)), ("trt-rtx", ("sm86",)), ("trt-rtx", ())])
def test_other_gpus_may_be_asked_for(machine: Machine, format: str, targets: tuple[str, ...]) -> None:
    machine(RTX, cuda=FakeCuda((H200,)))
    choice = choose_library(format, EngineConfig(targets=targets), Precision.FP32)
    assert choice.targets == (targets or DEFAULT_TARGETS)


@pytest.mark.parametrize("files", [(TRT, RTX), (RTX,), (TRT,)])
def test_a_gpu_that_was_asked_for_must_be_there(machine: Machine, files: tuple[str, ...]) -> None:
    """No building elsewhere in its place."""
    machine(*files)
    assert re.search("^device cuda:5: .* 2; accepted: cuda:0 to cuda:1$", refusal(DeviceError, gpu=5))


@pytest.mark.parametrize("gpu", [0, 1])
def test_a_gpu_that_was_asked_for_where_there_is_none(machine: Machine, gpu: int) -> None:
    machine(TRT, RTX, cuda=FakeCuda.no_driver())
    assert re.search(f"^device cuda:{gpu}: there is no NVIDIA driver here", refusal(DeviceError, gpu=gpu))


@pytest.mark.parametrize(
    ("cuda", "reason"),
    [
        (FakeCuda.no_driver(), "there is no NVIDIA driver here"),
        (FakeCuda.no_gpu(), "the NVIDIA driver finds no GPU"),
        (FakeCuda.old_driver(), "the NVIDIA driver supports CUDA 12.2"),
    ],
    ids=["no driver", "no GPU", "old driver"],
)
def test_rtx_is_taken_where_there_is_no_gpu_for_tensorrt(machine: Machine, cuda: FakeCuda, reason: str) -> None:
    machine(TRT, RTX, cuda=cuda)
    choice = choose_library("trt", PLAIN, Precision.FP32)
    assert (choice.library.name, choice.gpu, choice.targets) == ("trt-rtx", None, DEFAULT_TARGETS)
    assert choice.unexpected
    assert choice.why.startswith(f"TensorRT builds only on a GPU, and device cuda:0: {reason}")


def test_tensorrt_alone_without_a_gpu(machine: Machine) -> None:
    machine(TRT, cuda=FakeCuda.no_driver())
    said = refusal(DeviceError)
    assert re.search("^TensorRT builds only on a GPU, and device cuda:0: there is no NVIDIA driver here; ", said)
    assert re.search(r"; to build without one: pip install .rest-deploy\[trt-rtx\].$", said)


def test_tensorrt_alone_without_cuda_python(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    machine(TRT)
    monkeypatch.setitem(sys.modules, "cuda.bindings.runtime", None)
    assert re.search("^cuda-bindings is needed to use an NVIDIA GPU; install it", refusal(MissingPackageError))


def test_rtx_does_not_stand_in_where_only_cuda_python_is_missing(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There may be a GPU: TensorRT was installed for one."""
    machine(TRT, RTX)
    monkeypatch.setitem(sys.modules, "cuda.bindings.runtime", None)
    assert re.search("^cuda-bindings is needed to use an NVIDIA GPU; install it", refusal(MissingPackageError))


def test_neither_is_installed(machine: Machine) -> None:
    machine()
    said = r'^tensorrt-rtx-cu13-bindings or tensorrt is needed to build engines; .* "rest-deploy\[trt-rtx\]"$'
    assert re.search(said, refusal(MissingPackageError))


@pytest.mark.parametrize("files", [(), (TRT,)])
def test_tensorrt_does_not_stand_for_rtx(machine: Machine, files: tuple[str, ...]) -> None:
    machine(*files)
    told = refusal(MissingPackageError, "trt-rtx")
    assert told.startswith("tensorrt-rtx-cu13-bindings is needed to build engines; install it")


def test_tensorrt_builds_for_no_other_target(machine: Machine) -> None:
    machine(TRT, RTX)
    told = refusal(ConfigError, targets=("sm86", "sm120"))
    said = r"^target sm86, sm120: TensorRT builds for the GPU it runs on, here NVIDIA GeForce RTX 4090 \(sm89\); leave"
    assert re.search(f"{said}.*or build with --format trt-rtx$", told)


@pytest.mark.parametrize("format", ["trt", "trt-rtx"])
@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"version_compatible": True}, "^TensorRT-RTX 1.7.1.116 has no version-compatible or hardware-compatible"),
        ({"hardware_compatibility": HardwareCompatibility.SAME_CC}, "has no version-compatible or hardware-compatible"),
        (
            {"hardware_compatibility": HardwareCompatibility.AMPERE_PLUS},
            "; name the GPUs by --target sm86,sm89,..., or",
        ),
        (
            {"timing_cache": "my.cache"},
            r"^timing cache my\.cache: TensorRT-RTX 1.7.1.116 times nothing at build; leave",
        ),
        (
            {"targets": ("sm90",)},
            "^target sm90: TensorRT-RTX does not support Hopper; build with --format trt",
        ),
        (
            {"targets": ("sm86", "sm75")},
            "^target sm75: TensorRT-RTX has no FP32 products on Turing; use --fp16, or sm80",
        ),
        ({"targets": ("sm70",)}, "^target sm70: TensorRT-RTX supports Turing, sm75, and later$"),
        (
            {"targets": ("sm86", "sm100", "sm130")},
            "^target sm100, sm130: TensorRT-RTX 1.7.1.116 has sm75, sm80, sm86, sm89, sm120, sm121$",
        ),
    ],
)
def test_what_rtx_does_not_have(machine: Machine, format: str, options: dict[str, Any], said: str) -> None:
    machine(RTX)
    assert re.search(said, refusal(ConfigError, format, **options))


@pytest.mark.parametrize(
    ("options", "precision"),
    [
        ({"targets": ("sm86",)}, Precision.FP32),
        ({"targets": ("sm120", "sm86")}, Precision.FP32),
        ({"targets": ("sm75",)}, Precision.FP16),
        ({"targets": ("sm75", "sm89")}, Precision.INT8),
    ],
)
def test_targets_that_rtx_has(machine: Machine, options: dict[str, Any], precision: Precision) -> None:
    machine(RTX)
    assert choose_library("trt-rtx", EngineConfig(**options), precision).targets == options["targets"]


@pytest.mark.parametrize("precision", Precision)
def test_without_targets_ampere_and_later_are_meant(machine: Machine, precision: Precision) -> None:
    """Turing too has FP16 and INT8, and has to be asked for."""
    machine(RTX)
    assert choose_library("trt-rtx", PLAIN, precision).targets == DEFAULT_TARGETS


@pytest.mark.parametrize(
    "options",
    [
        {"version_compatible": True},
        {"hardware_compatibility": HardwareCompatibility.AMPERE_PLUS},
        {"timing_cache": "my.cache"},
        {"use_timing_cache": False},
    ],
)
def test_what_tensorrt_has(machine: Machine, options: dict[str, Any]) -> None:
    machine(TRT, RTX)
    assert choose_library("trt", EngineConfig(**options), Precision.FP32).library.name == "trt"


def test_no_timing_cache_is_no_request_of_rtx(machine: Machine) -> None:
    machine(RTX)
    assert choose_library("trt", EngineConfig(use_timing_cache=False), Precision.FP32).library.name == "trt-rtx"


@pytest.mark.skipif(not is_installed("trt-rtx"), reason="pip install 'rest-deploy[trt-rtx]'")
def test_the_installed_rtx_builds_for_ampere_and_later() -> None:
    choice = choose_library("trt-rtx", PLAIN, Precision.FP32)
    assert set(DEFAULT_TARGETS) <= set(choice.targets)
    assert "sm75" not in choice.targets
