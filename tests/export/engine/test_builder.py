"""The builder against the stand-in of each TensorRT: calls, arguments, and every way to fail."""

from __future__ import annotations

import signal
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from rest_deploy.artifact.onnx_file import write_record
from rest_deploy.artifact.profile import Profile
from rest_deploy.errors import ConfigError, DeviceError, ExportError
from rest_deploy.export.engine.builder import Built, build
from rest_deploy.export.engine.choice import choose_library
from rest_deploy.export.engine.config import EngineConfig, HardwareCompatibility
from rest_deploy.runtimes.registry import read_info
from rest_deploy.specs import ImageSize, Precision, Preprocessing
from tests.conftest import slow
from tests.engines import GPU, RTX, Machine
from tests.standins.bench import write_onnx
from tests.standins.cuda import FakeDevice
from tests.standins.tensorrt import API_CASES, API_FILES

PLAIN = [file for file in API_FILES if file != RTX]
NO_CACHE = EngineConfig(use_timing_cache=False)
H200 = FakeDevice("NVIDIA H200", (9, 0), 139 << 30)


@pytest.fixture(params=API_CASES)
def machine(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Machine:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return Machine.make(monkeypatch, request.param)


def _build(machine: Machine, onnx: Path, config: EngineConfig = NO_CACHE, source: Path | None = None) -> Built:
    choice = choose_library(machine.format, config, Precision.FP32)
    path = source or onnx
    return build(path.read_bytes(), path, read_info(onnx), choice, config)


def _calls(machine: Machine, name: str) -> list[tuple[Any, ...]]:
    return [call.args for call in machine.trt.calls if call.name == name]


def test_the_calls_of_a_build(machine: Machine, tiny_onnx: Path) -> None:
    config = EngineConfig(
        profiles=(Profile.parse("1x8x8:1x32x32:4x64x64"), Profile.parse("2x64x64:2x96x96:2x128x128")),
        targets=("sm86", "sm120") if machine.trt.is_rtx else (),
        workspace_mib=256,
        optimization_level=2,
        use_timing_cache=False,
    )
    built = _build(machine, tiny_onnx, config)
    trt = machine.trt.module
    order = [name for name in machine.names() if not name.startswith(("INetwork", "ITensor"))]
    wanted = ["Builder", "Builder.create_network", "OnnxParser", "OnnxParser.parse"]
    wanted += ["Builder.create_builder_config", "IBuilderConfig.profiling_verbosity="]
    profile = ["Builder.create_optimization_profile", "IOptimizationProfile.set_shape"]
    wanted += 2 * [*profile, "IBuilderConfig.add_optimization_profile"]
    wanted += ["IBuilderConfig.clear_flag", "IBuilderConfig.set_memory_pool_limit"]
    wanted += ["IBuilderConfig.builder_optimization_level="]
    if machine.trt.is_rtx:
        wanted += ["IBuilderConfig.num_compute_capabilities=", *["IBuilderConfig.set_compute_capability"] * 2]
    assert order == [*wanted, "IBuilderConfig.progress_monitor=", "Builder.build_serialized_network"]
    strongly_typed = 1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
    assert _calls(machine, "Builder.create_network") == [(strongly_typed,)]
    assert _calls(machine, "IBuilderConfig.clear_flag") == [(trt.BuilderFlag.TF32,)]
    assert _calls(machine, "IBuilderConfig.profiling_verbosity=") == [(trt.ProfilingVerbosity.DETAILED,)]
    workspace = (trt.MemoryPoolType.WORKSPACE, 256 << 20)
    assert _calls(machine, "IBuilderConfig.set_memory_pool_limit") == [workspace]
    assert _calls(machine, "IOptimizationProfile.set_shape") == [
        ("image", (1, 3, 8, 8), (1, 3, 32, 32), (4, 3, 64, 64)),
        ("image", (2, 3, 64, 64), (2, 3, 96, 96), (2, 3, 128, 128)),
    ]
    if machine.trt.is_rtx:
        capability = trt.ComputeCapability
        assert _calls(machine, "IBuilderConfig.set_compute_capability") == [(capability.SM86, 0), (capability.SM120, 1)]
    assert built.options == {"workspace_mib": 256, "optimization_level": 2}
    assert built.profiles == config.profiles
    assert built.activation_bytes == 155785216
    assert {layer.datatype for layer in built.layers} <= {"fp32", None}
    assert built.plan.startswith(b"FAKEPLAN")


@pytest.mark.parametrize("file", [PLAIN[0], *slow(PLAIN[1:])])
def test_options_of_full_tensorrt(file: str, monkeypatch: pytest.MonkeyPatch, tiny_onnx: Path) -> None:
    machine = Machine.make(monkeypatch, file)
    config = EngineConfig(
        tf32=True,
        version_compatible=True,
        hardware_compatibility=HardwareCompatibility.AMPERE_PLUS,
        use_timing_cache=False,
    )
    built = _build(machine, tiny_onnx, config)
    trt = machine.trt.module
    flags = [args for call in ("set_flag", "clear_flag") for args in _calls(machine, f"IBuilderConfig.{call}")]
    assert flags == [(trt.BuilderFlag.TF32,), (trt.BuilderFlag.VERSION_COMPATIBLE,)]
    (level,) = _calls(machine, "IBuilderConfig.hardware_compatibility_level=")
    assert level == (trt.HardwareCompatibilityLevel.AMPERE_PLUS,)
    assert built.options == {"tf32": True, "version_compatible": True, "hardware_compatibility": "ampere+"}


def test_a_level_that_a_version_lacks(monkeypatch: pytest.MonkeyPatch, tiny_onnx: Path) -> None:
    config = EngineConfig(hardware_compatibility=HardwareCompatibility.SAME_CC, use_timing_cache=False)
    old = Machine.make(monkeypatch, "tensorrt-10.3.0")
    with pytest.raises(ExportError, match=r"10\.3\.0 has no hardware compatibility same-cc; it has ampere\+; upgrade"):
        _build(old, tiny_onnx, config)
    new = Machine.make(monkeypatch, "tensorrt-11.4.0.106")
    assert _build(new, tiny_onnx, config).options == {"hardware_compatibility": "same-cc"}


@pytest.mark.parametrize(
    ("name", "given", "words"),
    [
        ("Builder", None, "could not start its builder"),
        ("Builder.create_network", None, "could not make a network"),
        ("OnnxParser", None, "could not start its ONNX parser"),
        ("OnnxParser.parse", False, r"cannot read tiny\.onnx"),
        ("Builder.create_builder_config", None, "could not make a builder config"),
        ("Builder.create_optimization_profile", None, "could not make a profile"),
        ("IBuilderConfig.add_optimization_profile", -1, "refuses the profile 1x1x1:1x224x224:8x640x640"),
        ("Builder.build_serialized_network", None, "could not build the engine"),
        ("Builder.build_serialized_network", RuntimeError("no"), r"could not build the engine: .*\(no\)"),
    ],
)
def test_what_tensorrt_only_logs_is_raised(
    machine: Machine, tiny_onnx: Path, name: str, given: Any, words: str
) -> None:
    machine.trt.returns[name] = given
    machine.trt.errors_to_log = [
        "the reason\n that it logs",
        "[checkMacros.cpp::catchCudaError::250] Error Code 1: Cuda Runtime (cudaError 35: CUDA driver version is ...)",
    ]
    with pytest.raises(ExportError, match=words) as raised:
        _build(machine, tiny_onnx)
    message = str(raised.value)
    assert machine.trt.version in message
    assert "\n" not in message
    assert "catchCudaError" not in message
    if not isinstance(given, RuntimeError) and name not in ("Builder", "OnnxParser"):
        assert "the reason that it logs" in message


def test_a_target_that_is_refused(monkeypatch: pytest.MonkeyPatch, tiny_onnx: Path) -> None:
    machine = Machine.make(monkeypatch, RTX)
    machine.trt.returns["IBuilderConfig.set_compute_capability"] = False
    with pytest.raises(ExportError, match="could not build for sm80"):
        _build(machine, tiny_onnx)


def test_an_operator_that_tensorrt_lacks(machine: Machine, tiny_onnx: Path, tmp_path: Path) -> None:
    strange = write_onnx(tmp_path / "strange.onnx", head="Det")
    with pytest.raises(ExportError, match=r"cannot read strange.onnx: node head/linear \(Det\): .*no such operator"):
        _build(machine, tiny_onnx, source=strange)


def test_a_file_that_parses_and_is_another_network(machine: Machine, tiny_onnx: Path, tmp_path: Path) -> None:
    empty = tmp_path / "empty.onnx"
    empty.touch()
    with pytest.raises(ExportError, match=r"its inputs are \[\]; needed: image of shape \(-1, 3, -1, -1\)"):
        _build(machine, tiny_onnx, source=empty)
    fixed = write_onnx(tmp_path / "fixed.onnx", shape=(1, 3, 32, 32))
    with pytest.raises(ExportError, match=r"its inputs are \[\('image', \(1, 3, 32, 32\)\)\]; needed"):
        _build(machine, tiny_onnx, source=fixed)


def test_damaged_onnx(machine: Machine, tiny_onnx: Path, tmp_path: Path) -> None:
    damaged = tmp_path / "damaged.onnx"
    damaged.write_bytes(b"junk" * 100)
    with pytest.raises(ExportError, match=r"cannot read damaged\.onnx: .*[Ff]ail"):
        _build(machine, tiny_onnx, source=damaged)


@pytest.mark.usefixtures("ctrl_c")
def test_ctrl_c_cancels_the_build(machine: Machine, tiny_onnx: Path) -> None:
    """TensorRT hears of it by its progress monitor, and is waited for."""
    main, stopped = threading.main_thread().ident, []
    assert main is not None

    def interrupted(network: Any, config: Any) -> None:
        ((monitor,),) = _calls(machine, "IBuilderConfig.progress_monitor=")
        signal.pthread_kill(main, signal.SIGINT)
        calls = 0
        while monitor.step_complete("Building engine", 0) and calls < 10_000_000:
            calls += 1
        stopped.append(calls < 10_000_000 and threading.current_thread() is not threading.main_thread())

    machine.trt.returns["Builder.build_serialized_network"] = interrupted
    with pytest.raises(KeyboardInterrupt):
        _build(machine, tiny_onnx)
    assert stopped == [True]


@pytest.mark.parametrize("file", [PLAIN[0], *slow(PLAIN[1:])])
def test_tensorrt_builds_on_the_gpu_that_was_asked_for(
    file: str, monkeypatch: pytest.MonkeyPatch, tiny_onnx: Path
) -> None:
    """CUDA's current GPU is each thread's own; the one that builds must be told, and the caller's left as it was."""
    machine = Machine.make(monkeypatch, file, (GPU, H200))
    seen = []

    def build_here(network: Any, config: Any) -> None:
        seen.append(machine.cuda.module.cudaGetDevice()[1])

    machine.trt.returns["Builder"] = lambda logger: seen.append(machine.cuda.module.cudaGetDevice()[1])
    config = EngineConfig(gpu=1, use_timing_cache=False)
    with pytest.raises(ExportError, match="could not start its builder"):
        _build(machine, tiny_onnx, config)
    machine.trt.returns.clear()
    machine.trt.returns["Builder.build_serialized_network"] = build_here
    with pytest.raises(ExportError, match="could not build the engine"):
        _build(machine, tiny_onnx, config)
    assert seen == [1, 1]
    assert machine.cuda.module.cudaGetDevice()[1] == 0


def test_a_gpu_that_is_not_there_is_no_reason_to_build_something_else(monkeypatch: pytest.MonkeyPatch) -> None:
    Machine.make(monkeypatch, PLAIN[0])
    with pytest.raises(DeviceError, match=r"cuda:5: .* 1; accepted: cuda:0"):
        choose_library("trt", EngineConfig(gpu=5), Precision.FP32)


def test_rtx_for_a_gpu_that_it_lacks_must_be_meant(monkeypatch: pytest.MonkeyPatch) -> None:
    Machine.make(monkeypatch, RTX, (H200,))
    with pytest.raises(DeviceError, match=r"TensorRT-RTX .* H200 \(sm90\), .*pip install \"rest-dep"):
        choose_library("trt", NO_CACHE, Precision.FP32)
    assert choose_library("trt", EngineConfig(targets=("sm89",)), Precision.FP32).targets == ("sm89",)
    assert choose_library("trt-rtx", NO_CACHE, Precision.FP32).targets[0] == "sm80"


def test_progress_is_told(machine: Machine, tiny_onnx: Path) -> None:
    told: list[tuple[float, str]] = []
    choice = choose_library(machine.format, NO_CACHE, Precision.FP32)
    build(
        tiny_onnx.read_bytes(),
        tiny_onnx,
        read_info(tiny_onnx),
        choice,
        NO_CACHE,
        report=lambda share, phase: told.append((share, phase)),
    )
    shares = [share for share, _ in told]
    assert shares == sorted(shares)
    assert shares[0] == 0
    assert shares[-1] > 0.8
    assert len({phase for _, phase in told}) > 3


@pytest.mark.parametrize("file", [PLAIN[0], *slow(PLAIN[1:])])
def test_the_timing_cache_is_kept_by_version_and_gpu(
    file: str, monkeypatch: pytest.MonkeyPatch, tiny_onnx: Path, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    machine = Machine.make(monkeypatch, file)
    _build(machine, tiny_onnx, EngineConfig())
    (kept,) = (tmp_path / "rest_deploy").iterdir()
    assert kept.name == f"timing-{machine.trt.version}-nvidia-geforce-rtx-4090-sm89.cache"
    assert _calls(machine, "IBuilderConfig.create_timing_cache") == [(b"",)]
    first = kept.read_bytes()
    machine.forget()
    _build(machine, tiny_onnx, EngineConfig())
    assert _calls(machine, "IBuilderConfig.create_timing_cache") == [(first,)]
    assert kept.read_bytes() != first  # what it measured now is there too
    machine.forget()
    _build(machine, tiny_onnx)
    assert not _calls(machine, "IBuilderConfig.create_timing_cache")


def test_rtx_times_nothing(monkeypatch: pytest.MonkeyPatch, tiny_onnx: Path, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    machine = Machine.make(monkeypatch, RTX)
    _build(machine, tiny_onnx, EngineConfig())
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(ConfigError, match="times nothing at build; leave it out"):
        _build(machine, tiny_onnx, EngineConfig(timing_cache=tmp_path / "x.cache"))


def test_the_default_profile_follows_the_preprocessing(machine: Machine, tiny_onnx: Path, tmp_path: Path) -> None:
    path = tmp_path / "cropping.onnx"
    write_record(path, replace(read_info(tiny_onnx), preprocessing=Preprocessing()), graph=tiny_onnx)
    assert _build(machine, path).profiles == (Profile.parse("1x1x1:1x224x224:8x640x640"),)
    large = EngineConfig(max_size=ImageSize(1024, 1024), use_timing_cache=False)
    assert _build(machine, path, large).profiles == (Profile.parse("1x1x1:1x224x224:8x1024x1024"),)
