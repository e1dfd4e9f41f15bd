"""The TensorRT stand-in lacks what a version lacks, and its builder fails as TensorRT's does."""

from __future__ import annotations

import importlib
import importlib.util
from pathlib import Path
from typing import Any

import pytest

from tests.standins.bench import PROFILE, Workshop, make_logger, make_monitor, refusal, write_onnx
from tests.standins.cuda import FakeCuda, FakeDevice
from tests.standins.tensorrt import API_FILES, FakeTensorRT

OLD, NEW, RTX = "tensorrt-10.9.0.34", "tensorrt-11.4.0.106", "tensorrt_rtx-1.7.1.116"


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_onnx(tmp_path_factory.mktemp("small") / "small.onnx")


@pytest.fixture
def rtx() -> FakeTensorRT:
    return FakeTensorRT(RTX, FakeCuda())


# Names, enums, types.


def test_there_are_versions() -> None:
    assert {OLD, NEW, RTX} <= set(API_FILES)


@pytest.mark.parametrize("file", API_FILES)
def test_every_name_of_a_version_is_there(file: str) -> None:
    fake = FakeTensorRT(file)
    assert all(hasattr(fake.module, name) for name in fake.names)


@pytest.mark.parametrize(("file", "owner", "name"), [
    (OLD, None, "ComputeCapability"), (NEW, None, "IRuntimeCache"), (RTX, None, "IInt8Calibrator"),
    (NEW, "BuilderFlag", "FP16"), (RTX, "NetworkDefinitionCreationFlag", "EXPLICIT_BATCH"),
    (RTX, "ICudaEngine", "device_memory_size"), ("tensorrt-10.0.1", "ICudaEngine", "create_runtime_config"),
])  # fmt: skip
def test_a_name_that_a_version_lacks(file: str, owner: str | None, name: str) -> None:
    module = FakeTensorRT(file).module
    with pytest.raises(AttributeError, match=name):
        getattr(getattr(module, owner) if owner else module, name)


def test_objects_have_no_other_attributes(rtx: FakeTensorRT, path: Path) -> None:
    config = Workshop(rtx.module, path).config
    with pytest.raises(AttributeError):
        config.max_workspace_size = 1 << 30
    with pytest.raises(AttributeError):
        config.int8_calibrator  # noqa: B018
    with pytest.raises(NotImplementedError, match=r"IBuilderConfig\.get_tactic_sources is not in the"):
        config.get_tactic_sources()


def test_literals_of_enums_fail() -> None:
    values = [int(FakeTensorRT(file).module.BuilderFlag.TF32) for file in API_FILES]
    assert len(set(values)) == len(values)
    module = FakeTensorRT(OLD).module
    assert all(int(kind) >= len(module.DataType.__members__) for kind in module.DataType.__members__.values())
    assert (str(module.BuilderFlag.TF32), module.BuilderFlag.TF32.name) == ("BuilderFlag.TF32", "TF32")
    assert int(module.BuilderFlag.TF32) != module.BuilderFlag.TF32
    assert module.Logger.ERROR is module.ILogger.Severity.ERROR
    assert module.Logger.INTERNAL_ERROR < module.Logger.ERROR < module.Logger.INFO < module.Logger.VERBOSE
    assert [int(FakeTensorRT(f).module.NetworkDefinitionCreationFlag.STRONGLY_TYPED) for f in (OLD, RTX)] == [1, 0]


def test_wrong_types(path: Path) -> None:
    trt = FakeTensorRT(OLD).module
    shop = Workshop(trt, path)
    profile = shop.builder.create_optimization_profile()
    wrong = (
        lambda: shop.config.set_flag(int(trt.BuilderFlag.TF32)),
        lambda: setattr(shop.config, "profiling_verbosity", 2),
        lambda: profile.set_shape("image", (1, 3, 32.5, 32), *PROFILE[1:]),
        lambda: profile.set_shape("image", *PROFILE[1:]),
        lambda: shop.builder.create_network(flag=1),
        lambda: trt.Builder(None),
        trt.IBuilderConfig,
    )
    assert [refusal(call) for call in wrong] == ["TypeError"] * len(wrong)


def test_imports(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeTensorRT(OLD).install(monkeypatch)
    assert importlib.import_module("tensorrt") is fake.module
    assert importlib.util.find_spec("tensorrt") is not None
    assert importlib.util.find_spec("tensorrt_rtx") is None
    assert fake.module.__version__ == "10.9.0.34"


# Building.


def test_calls_are_recorded(path: Path) -> None:
    fake = FakeTensorRT(OLD)
    shop = Workshop(fake.module, path)
    shop.config.clear_flag(flag=fake.module.BuilderFlag.TF32)
    shop.config.builder_optimization_level = 4
    names = [call.name for call in fake.calls]
    assert names[:3] == ["Builder", "Builder.create_network", "OnnxParser"]
    assert fake.calls[-2:] == [
        ("IBuilderConfig.clear_flag", (), {"flag": fake.module.BuilderFlag.TF32}),
        ("IBuilderConfig.builder_optimization_level=", (4,), {}),
    ]


@pytest.mark.parametrize("result", [None, False, -1])
def test_overrides_fail_as_tensorrt_does(result: Any, path: Path) -> None:
    fake = FakeTensorRT(OLD)
    fake.returns["Builder.build_serialized_network"] = result
    fake.errors_to_log.append("out of luck")
    shop = Workshop(fake.module, path)
    assert shop.build() is result
    assert shop.logger.errors() == ["out of luck"]


def test_overrides_raise_call_and_make_nothing(path: Path) -> None:
    fake = FakeTensorRT(OLD)
    fake.returns |= {"Builder.create_network": RuntimeError("no"), "Builder": lambda logger: None}
    with pytest.raises(TypeError, match="factory function returned nullptr"):
        Workshop(fake.module, path)
    del fake.returns["Builder"]
    with pytest.raises(RuntimeError, match="no"):
        Workshop(fake.module, path)


def test_tensorrt_needs_a_gpu_and_rtx_does_not(path: Path) -> None:
    logger = make_logger(FakeTensorRT(OLD).module)
    with pytest.raises(TypeError, match="nullptr"):
        Workshop(FakeTensorRT(OLD, FakeCuda.no_gpu()).module, path)
    shop = Workshop(FakeTensorRT(RTX, FakeCuda.no_driver()).module, path)
    shop.add_profile()
    plan = shop.build()
    assert shop.trt.Runtime(shop.logger).deserialize_cuda_engine(plan) is None
    assert "cudaError 35" in shop.logger.errors()[-1]
    assert not logger.said


@pytest.mark.parametrize("file", [OLD, NEW, RTX])
@pytest.mark.parametrize("datatype", ["Float", "Half"])
def test_layers_are_told_where_asked(file: str, datatype: str, path: Path) -> None:
    fake = FakeTensorRT(file)
    fake.datatype, fake.datatypes = datatype, {"head/linear": "Int8"}
    shop = Workshop(fake.module, path)
    shop.add_profile()
    shop.build()
    assert not [words for _, words in shop.logger.said if words.startswith("Layers:")]
    shop.config.profiling_verbosity = fake.module.ProfilingVerbosity.DETAILED
    shop.build()
    told = shop.logger.said[-1][1]
    assert ("\n\nBindings:\nimage\nlogits" in told) == (file == OLD)
    assert told.count("\nName: ") == 2
    assert "Metadata: [ONNX Layer: stem/conv]\x1f[ONNX Layer: stem/relu]\n" in told
    assert f"atatype: {datatype}" in told
    assert "atatype: Int8" in told
    fake.layers_text = None
    shop.logger.said.clear()
    shop.build()
    assert shop.logger.said == [("INFO", "Total Activation Memory: 155785216 bytes")]


def test_what_a_monitor_or_logger_raises_goes_no_further(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shop = Workshop(FakeTensorRT(OLD).module, path)
    shop.add_profile()
    monitor = make_monitor(shop.trt)
    monitor.step_complete = monitor.phase_finish = lambda *args: 1 // 0
    shop.config.progress_monitor = monitor
    shop.logger.log = lambda *args: 1 // 0
    assert shop.build() is None
    told = capsys.readouterr().err
    assert all(f"[ERROR] Exception caught in {name}()" in told for name in ("log", "step_complete", "phase_finish"))


def test_timing_cache(path: Path) -> None:
    trt = FakeTensorRT(OLD, FakeCuda()).module
    shop = Workshop(trt, path)
    shop.add_profile()
    assert shop.config.set_timing_cache(shop.config.create_timing_cache(b""), False)
    shop.build()
    kept = bytes(memoryview(shop.config.get_timing_cache().serialize()))
    other = Workshop(FakeTensorRT(OLD, FakeCuda((FakeDevice("other", (7, 5), 1 << 30),))).module, path)
    cache = other.config.create_timing_cache(kept)
    assert not other.config.set_timing_cache(cache, False)
    assert other.config.set_timing_cache(cache, True)
    with pytest.warns(DeprecationWarning, match="Timing cache operations are no-ops in TensorRT-RTX"):
        Workshop(FakeTensorRT(RTX).module, path).config.get_timing_cache()
