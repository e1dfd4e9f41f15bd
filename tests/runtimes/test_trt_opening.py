"""Opening an engine: what is checked before TensorRT is handed the plan, and what the messages say to do."""

from __future__ import annotations

import gc
import json
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cuda.bindings import runtime as real

from rest_deploy.artifact.manifest import manifest_path
from rest_deploy.cli import export as cli
from rest_deploy.errors import ArtifactError, DeviceError, MissingPackageError, RestDeployError
from rest_deploy.export.engine.config import EngineConfig, HardwareCompatibility
from rest_deploy.pipeline import ExportRequest
from rest_deploy.runtimes.registry import open_runtime
from rest_deploy.runtimes.tensorrt import TensorRTRuntime
from tests.engines import GPU, RTX, Machine, images
from tests.standins.cuda import FakeCuda, FakeDevice
from tests.standins.tensorrt import API_CASES, FakeTensorRT

TRT10, TRT11 = "tensorrt-10.9.0.34", "tensorrt-11.4.0.106"
A10 = FakeDevice("NVIDIA A10", (8, 6), 24 << 30)
A10G = FakeDevice("NVIDIA A10G", (8, 6), 24 << 30)
H200 = FakeDevice("NVIDIA H200", (9, 0), 139 << 30)
NO_CACHE = EngineConfig(use_timing_cache=False)

Make = Callable[..., Machine]


@pytest.fixture
def make(monkeypatch: pytest.MonkeyPatch) -> Make:
    return lambda file, *devices: Machine.make(monkeypatch, file, devices or (GPU,))


def _rebuild(message: str, path: Path) -> ExportRequest:
    """The request that the line at the end of a message makes."""
    words = shlex.split(message[message.rindex("rest-export ") :])
    request = cli.request_of(cli._parser().parse_args(words[1:]))
    assert request.output_of(request.formats[0], "") == path
    return request


def _edit(path: Path, **changes: Any) -> None:
    """Change fields of the engine's record in its manifest."""
    file = manifest_path(path)
    values = json.loads(file.read_text())
    values["engine"] |= changes
    file.write_text(json.dumps(values))


@pytest.mark.parametrize("file", API_CASES)
def test_the_calls_of_opening(file: str, make: Make, tiny_onnx: Path, tmp_path: Path) -> None:
    machine = make(file)
    path = machine.build(tiny_onnx, tmp_path)
    with TensorRTRuntime(path, "cuda:0"):
        names = [name for name in machine.names() if not name.startswith(("ICudaEngine.get", "ICudaEngine.num"))]
        trt = machine.trt.module
    user_managed = trt.ExecutionContextAllocationStrategy.USER_MANAGED
    (made,) = [call for call in machine.trt.calls if call.name == "ICudaEngine.create_execution_context"]
    if file != RTX:
        assert names == ["Runtime", "Runtime.deserialize_cuda_engine", "ICudaEngine.create_execution_context"]
        assert made.args == (user_managed,)
        return
    assert names == [
        "Runtime",
        "Runtime.get_engine_validity",
        "Runtime.deserialize_cuda_engine",
        "ICudaEngine.create_runtime_config",
        "IRuntimeConfig.set_execution_context_allocation_strategy",
        "IRuntimeConfig.dynamic_shapes_kernel_specialization_strategy=",
        "IRuntimeConfig.cuda_graph_strategy=",
        "IRuntimeConfig.create_runtime_cache",
        "IRuntimeConfig.set_runtime_cache",
        "ICudaEngine.create_execution_context",
    ]
    arguments = {call.name: call.args for call in machine.trt.calls}
    assert arguments["IRuntimeConfig.set_execution_context_allocation_strategy"] == (user_managed,)
    assert arguments["IRuntimeConfig.cuda_graph_strategy="] == (trt.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE,)
    lazy = trt.DynamicShapesKernelSpecializationStrategy.LAZY
    assert arguments["IRuntimeConfig.dynamic_shapes_kernel_specialization_strategy="] == (lazy,)


@pytest.mark.parametrize("file", API_CASES)
@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("Runtime", "could not start its runtime"),
        ("Runtime.deserialize_cuda_engine", "could not load"),
        ("ICudaEngine.create_execution_context", "could not make an execution context"),
        ("ICudaEngine.create_runtime_config", "could not make a runtime config"),
        ("IRuntimeConfig.create_runtime_cache", "could not make a runtime cache"),
        ("IRuntimeConfig.set_runtime_cache", "could not use its runtime cache"),
    ],
)
def test_none_on_the_way_is_an_error_and_leaves_nothing(  # noqa: PLR0917
    file: str, name: str, words: str, make: Make, tiny_onnx: Path, tmp_path: Path
) -> None:
    if (
        "untime" in name
        and name.rsplit(".", maxsplit=1)[-1] != "deserialize_cuda_engine"
        and name != "Runtime"
        and file != RTX
    ):
        pytest.skip("only TensorRT-RTX has it")
    machine = make(file)
    path = machine.build(tiny_onnx, tmp_path)
    machine.trt.returns[name] = False if name.endswith("set_runtime_cache") else None
    machine.trt.errors_to_log = ["the reason that it logs"]
    with pytest.raises(RestDeployError, match=rf"{words}.*: .*(the reason that it logs|gave no reason)"):
        TensorRTRuntime(path, "cuda:0")
    assert not any(machine.cuda.live().values())


@pytest.mark.parametrize(("built", "here"), [(TRT10, TRT11), (TRT11, TRT10), ("tensorrt-10.3.0", TRT10)])
def test_another_version(built: str, here: str, make: Make, tiny_onnx: Path, tmp_path: Path) -> None:
    path = make(built).build(tiny_onnx, tmp_path)
    machine = make(here)
    wanted = f"built with TensorRT {built[9:]}, here is TensorRT {here[9:]}; it runs on the version that built it alone"
    with pytest.raises(ArtifactError, match=wanted) as raised:
        TensorRTRuntime(path, "cuda:0")
    assert "Runtime.deserialize_cuda_engine" not in machine.names()
    request = _rebuild(str(raised.value), path)
    assert (request.formats, request.checkpoint) == (("trt",), "tiny.safetensors")


@pytest.mark.parametrize(("built", "here", "runs"), [(TRT10, TRT11, True), (TRT11, TRT10, False)])
def test_a_version_compatible_engine_runs_on_later_versions(
    *, built: str, here: str, runs: bool, make: Make, tiny_onnx: Path, tmp_path: Path
) -> None:
    config = EngineConfig(version_compatible=True, use_timing_cache=False)
    first = make(built)
    path = first.build(tiny_onnx, tmp_path, config)
    machine = make(here)
    machine.trt.network = first.trt.network
    if not runs:
        with pytest.raises(ArtifactError, match="it runs on that version or a later one alone"):
            TensorRTRuntime(path, "cuda:0")
        return
    machine.trt.returns["Runtime.deserialize_cuda_engine"] = lambda plan: None  # a plan of another stand-in
    with pytest.raises(ArtifactError, match="could not load"):
        TensorRTRuntime(path, "cuda:0")
    (allowed,) = [call.args for call in machine.trt.calls if call.name == "Runtime.engine_host_code_allowed="]
    assert allowed == (True,)


@pytest.mark.parametrize(
    ("level", "here", "runs"),
    [
        ("none", A10, True),
        ("none", A10G, False),
        ("same-cc", A10G, True),
        ("same-cc", GPU, False),
        ("ampere+", GPU, True),
        ("ampere+", FakeDevice("NVIDIA T4", (7, 5), 16 << 30), False),
    ],
)
def test_another_gpu(  # noqa: PLR0917  fixtures
    level: str, here: FakeDevice, runs: bool, make: Make, tiny_onnx: Path, tmp_path: Path
) -> None:
    config = EngineConfig(hardware_compatibility=HardwareCompatibility(level), use_timing_cache=False)
    path = make("tensorrt-10.16.1.11", A10).build(tiny_onnx, tmp_path, config)
    machine = make("tensorrt-10.16.1.11", here)
    if runs:
        TensorRTRuntime(path, "cuda:0").close()
        return
    wanted = rf"built on NVIDIA A10 \(sm86\), hardware compatibility {level.replace('+', '.')}, here is {here.name}"
    with pytest.raises(DeviceError, match=wanted) as raised:
        TensorRTRuntime(path, "cuda:0")
    assert machine.names() == []
    _rebuild(str(raised.value), path)


def test_rtx_on_a_gpu_that_is_no_target(make: Make, tiny_onnx: Path, tmp_path: Path) -> None:
    path = make(RTX).build(tiny_onnx, tmp_path, EngineConfig(targets=("sm89", "sm120")))
    make(RTX, A10)
    with pytest.raises(DeviceError, match=r"built for sm89, sm120, here is NVIDIA A10 \(sm86\); rebuild: ") as raised:
        TensorRTRuntime(path, "cuda:0")
    request = _rebuild(str(raised.value), path)
    assert (request.formats, request.configs["trt-rtx"].targets) == (("trt-rtx",), ("sm86",))


def test_rtx_on_hopper(make: Make, tiny_onnx: Path, tmp_path: Path) -> None:
    path = make(RTX).build(tiny_onnx, tmp_path)
    make(RTX, H200)
    with pytest.raises(DeviceError, match=r"H200 \(sm90\); TensorRT-RTX does not run on Hopper; pip") as raised:
        TensorRTRuntime(path, "cuda:0")
    assert _rebuild(str(raised.value), path).formats == ("trt",)


def test_what_rtx_itself_says_of_a_plan(make: Make, tiny_onnx: Path, tmp_path: Path) -> None:
    machine = make(RTX)
    path, trt = machine.build(tiny_onnx, tmp_path), machine.trt.module
    bits = trt.EngineInvalidityDiagnostics
    told = int(bits.OLD_CUDA_DRIVER) | int(bits.OLD_CUDA_RUNTIME)
    machine.trt.returns["Runtime.get_engine_validity"] = (trt.EngineValidity.INVALID, told)
    with pytest.raises(ArtifactError, match=r"refuses it: (OLD_CUDA_DRIVER|OLD_CUDA_RUNTIME), \w+$"):
        TensorRTRuntime(path, "cuda:0")
    assert not any(machine.cuda.live().values())


#: As TensorRT logs it: of memory for weights, of memory for a context.
NO_MEMORY = (
    "[defaultAllocator.cpp::allocate::31] Error Code 1: Cuda Runtime (out of memory)",
    "[executionContext.cpp::ExecutionContext::470] Error Code 2: OutOfMemory (no further information)",
)


@pytest.mark.parametrize("file", API_CASES)
@pytest.mark.parametrize("name", ["Runtime.deserialize_cuda_engine", "ICudaEngine.create_execution_context"])
@pytest.mark.parametrize("words", NO_MEMORY)
def test_an_engine_that_the_gpu_has_no_memory_for(  # noqa: PLR0917  fixtures
    file: str, name: str, words: str, make: Make, tiny_onnx: Path, tmp_path: Path
) -> None:
    """What it needs is in its record, and the artifact is not at fault."""
    machine = make(file)
    path = machine.build(tiny_onnx, tmp_path)
    _edit(path, activation_bytes=3 << 30)
    machine.trt.returns[name] = None
    machine.trt.errors_to_log = [words]
    with pytest.raises(DeviceError, match=r"tiny\.engine: .*[mM]emory.* 0 MiB.* 3,072 MiB .*activations: free memory"):
        TensorRTRuntime(path, "cuda:0")
    _edit(path, activation_bytes=None)
    with pytest.raises(DeviceError, match="0 MiB") as caught:
        TensorRTRuntime(path, "cuda:0")
    assert "activations" not in str(caught.value)
    assert not any(machine.cuda.live().values())


def test_a_gpu_that_rtx_itself_finds_too_small(make: Make, tiny_onnx: Path, tmp_path: Path) -> None:
    machine = make(RTX)
    path, trt = machine.build(tiny_onnx, tmp_path), machine.trt.module
    told = int(trt.EngineInvalidityDiagnostics.INSUFFICIENT_GPU_MEMORY)
    machine.trt.returns["Runtime.get_engine_validity"] = (trt.EngineValidity.INVALID, told)
    with pytest.raises(DeviceError, match=r"INSUFFICIENT_GPU_MEMORY; .* 149 MiB .*activations: free memory"):
        TensorRTRuntime(path, "cuda:0")


def test_the_cpu_is_no_place_for_an_engine(make: Make, tiny_onnx: Path, tmp_path: Path) -> None:
    path = make(RTX).build(tiny_onnx, tmp_path)
    with pytest.raises(DeviceError, match=r"tiny\.engine: device cpu: .* on cuda only; use device cuda"):
        open_runtime(path, "cpu")


def test_no_driver_and_no_gpu(make: Make, tiny_onnx: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = make(RTX).build(tiny_onnx, tmp_path)
    FakeCuda.no_driver().install(monkeypatch)
    with pytest.raises(DeviceError, match="cuda:0: there is no NVIDIA driver here; install one"):
        TensorRTRuntime(path, "cuda:0")
    FakeCuda.no_gpu().install(monkeypatch)
    with pytest.raises(DeviceError, match="cuda:0: the NVIDIA driver finds no GPU; check nvidia-smi"):
        TensorRTRuntime(path, "cuda:0")


def test_neither_library(make: Make, tiny_onnx: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for file, extra in ((RTX, "trt-rtx"), (TRT10, "trt")):
        path = make(file).build(tiny_onnx, tmp_path)
        for name in ("tensorrt", "tensorrt_rtx", "tensorrt_rtx_bindings"):
            monkeypatch.setitem(sys.modules, name, None)
        with pytest.raises(MissingPackageError, match=rf'to run this engine; .*"rest-deploy\[{extra}\]"'):
            TensorRTRuntime(path, "cuda:0")


def test_a_manifest_that_tells_of_another_network(make: Make, tiny_onnx: Path, tmp_path: Path) -> None:
    machine = make(TRT10)
    path = machine.build(tiny_onnx, tmp_path)
    wide = {"min": [1, 1, 1], "opt": [1, 224, 224], "max": [9, 640, 640]}
    _edit(path, profiles=[wide])
    with pytest.raises(
        ArtifactError,
        match=r"has profiles .*\(8, 3, 640, 640\).* says .*\(9, 3, 640, 640\)",
    ) as raised:
        TensorRTRuntime(path, "cuda:0")
    _rebuild(str(raised.value), path)
    assert not any(machine.cuda.live().values())


def test_kernels_that_rtx_compiled_are_kept_beside_the_engine(make: Make, tiny_onnx: Path, tmp_path: Path) -> None:
    machine = make(RTX)
    path = machine.build(tiny_onnx, tmp_path)
    cache = path.with_name("tiny.engine.cache")
    with TensorRTRuntime(path, "cuda:0") as runtime:
        assert not cache.exists()
        runtime.run(images(1, 3, 8, 8))
        early = cache.read_bytes()  # a process that is killed keeps this much
        runtime.run(images(2, 3, 9, 9))
        assert cache.read_bytes() == early
    kept = cache.read_bytes()
    assert kept != early
    with TensorRTRuntime(path, "cuda:0"):
        (loaded,) = [call.args for call in machine.trt.calls if call.name == "IRuntimeCache.deserialize"]
        assert loaded == (kept,)
    cache.write_bytes(b"of another GPU")
    with TensorRTRuntime(path, "cuda:0") as runtime:
        runtime.run(images(1, 3, 8, 8))
    assert cache.read_bytes() == early


@pytest.mark.parametrize("file", [TRT10, RTX])
def test_an_engine_that_nobody_closes_is_let_go_of(file: str, make: Make, tiny_onnx: Path, tmp_path: Path) -> None:
    machine = make(file)
    path = machine.build(tiny_onnx, tmp_path)
    runtime = TensorRTRuntime(path, "cuda:0")
    runtime.run(images(1, 3, 8, 8))
    runtime.run(images(2, 3, 9, 9))
    del runtime
    gc.collect()
    assert not any(machine.cuda.live().values())
    assert path.with_name("tiny.engine.cache").exists() == (file == RTX)


@pytest.mark.parametrize("name", ["cudaSetDevice", "cudaGetDevice"])
def test_closing_where_nothing_works_any_more(name: str, make: Make, tiny_onnx: Path, tmp_path: Path) -> None:
    machine = make(TRT10, GPU, GPU)
    runtime = TensorRTRuntime(machine.build(tiny_onnx, tmp_path), "cuda:1")
    runtime.run(images(1, 3, 8, 8))
    machine.cuda.fail[name] = real.cudaError_t.cudaErrorIllegalAddress
    runtime.close()
    assert runtime.closed
    assert not any(machine.cuda.live().values())


@pytest.mark.parametrize("device", [FakeDevice("NVIDIA T4", (7, 5), 16 << 30), FakeDevice("P40", (6, 1), 24 << 30)])
def test_rtx_on_a_gpu_that_it_cannot_build_for(device: FakeDevice, make: Make, tiny_onnx: Path, tmp_path: Path) -> None:
    path = make(RTX).build(tiny_onnx, tmp_path)
    make(RTX, device)
    with pytest.raises(DeviceError, match=r"begins with Turing, in FP32 with Ampere; pip install \"rest-") as raised:
        TensorRTRuntime(path, "cuda:0")
    assert _rebuild(str(raised.value), path).formats == ("trt",)


def test_a_request_without_a_command_line(make: Make, tiny_onnx: Path, tmp_path: Path) -> None:
    path = make(RTX).build(tiny_onnx, tmp_path)
    _edit(path, command=None)
    make(RTX, A10)
    _edit(path, targets=["sm120"])
    with pytest.raises(DeviceError, match=r"rebuild: rest_deploy\.export\(\) in Python, as it was made"):
        TensorRTRuntime(path, "cuda:0")


def test_a_cache_that_cannot_be_kept_is_no_error(
    make: Make, tiny_onnx: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = make(RTX).build(tiny_onnx, tmp_path)
    path.with_name("tiny.engine.cache").mkdir()
    caplog.set_level("WARNING", "rest_deploy")
    with TensorRTRuntime(path, "cuda:0") as runtime:
        runtime.run(images(1, 3, 8, 8))
    assert "tiny.engine.cache cannot be read" in caplog.text
    assert "tiny.engine.cache was not kept" in caplog.text


def test_the_second_gpu_and_the_callers_own_choice(make: Make, tiny_onnx: Path, tmp_path: Path) -> None:
    machine = make(TRT10, GPU, GPU)
    path = machine.build(tiny_onnx, tmp_path)
    with TensorRTRuntime(path, "cuda:1") as runtime:
        assert machine.trt.network is not None
        batch = images(1, 3, 8, 8)
        assert (runtime.run(batch)["logits"] == machine.trt.network(batch)).all()
        assert machine.cuda.module.cudaGetDevice() == (real.cudaError_t.cudaSuccess, 0)
    assert ("cudaSetDevice", (1,)) in [(name, args) for name, args, _ in machine.cuda.calls]


def test_a_stand_in_lacks_what_its_version_lacks() -> None:
    """Else all of this would prove nothing."""
    with pytest.raises(AttributeError):
        _ = FakeTensorRT(TRT11).module.BuilderFlag.FP16
    with pytest.raises(AttributeError):
        _ = FakeTensorRT(TRT10).module.EngineValidity
