"""ONNX files in TensorRT inside ONNX Runtime: by stand-ins alone, never run on a GPU."""

from __future__ import annotations

import ctypes
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

from rest_deploy import Predictor, benchmark, export, nvidia, verify
from rest_deploy.artifact.onnx_file import OnnxFile
from rest_deploy.benchmarking.run import Effort
from rest_deploy.errors import DeviceError, InputError, MissingPackageError
from rest_deploy.runtimes import onnx_tensorrt, ort
from rest_deploy.runtimes.onnx_tensorrt import OnnxTensorRTRuntime
from rest_deploy.runtimes.registry import open_runtime
from rest_deploy.specs import Device
from tests.engines import Machine
from tests.standins.onnx_providers import CPU_EP, CUDA_EP, PROVIDERS, FakeProvider
from tests.standins.tensorrt import API_CASES

KINDS = pytest.mark.parametrize("kind", PROVIDERS)


@KINDS
def test_options_are_pinned(kind: str, tiny_onnx: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Strong typing is what the absence of narrower numbers means; the file is whole, without loops."""
    number = 3 if kind == "tensorrt" else 0
    fake = FakeProvider(kind, gpus=number + 1).install(monkeypatch)
    with open_runtime(tiny_onnx, f"{kind}:{number}") as runtime:
        assert (runtime.device, runtime.target.in_memory) == (f"{kind}:{number}", False)
    narrower = ("fp16_enable", "bf16_enable", "int8_enable", "engine_cache_enable", "dla_enable")
    own = {f"trt_{name}": "False" for name in narrower} if kind == "tensorrt" else {}
    ((options, content),) = fake.asked
    assert options == {"device_id": str(number), **own}
    assert content == bytes(OnnxFile(tiny_onnx).without_blocks()[0])
    onnx.checker.check_model(onnx.load_model_from_string(content))


@KINDS
@pytest.mark.parametrize("value", [None, "", "1"])
def test_tf32_is_to_be_forbidden(
    kind: str, value: str | None, tiny_onnx: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = FakeProvider(kind).install(monkeypatch)
    monkeypatch.setenv("NVIDIA_TF32_OVERRIDE", value or "") if value is not None else monkeypatch.delenv(
        "NVIDIA_TF32_OVERRIDE"
    )
    with pytest.raises(
        DeviceError, match=rf"device {kind}:0: .*TF32, of 10 bits, unless NVIDIA_TF32_OVERRIDE=0 is set"
    ):
        open_runtime(tiny_onnx, kind)
    assert not fake.asked


@KINDS
@pytest.mark.parametrize(
    ("gpus", "name", "words"),
    [
        (0, ":0", "no NVIDIA GPU is here"),
        (2, ":2", "GPUs here: 2; accepted: {}:0 to {}:1"),
        (2, ":GPU", "accepted: {}, {}:0, {}:1, ..."),
    ],
)
def test_a_gpu_that_is_not_there(
    kind: str, gpus: int, name: str, words: str, *, tiny_onnx: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = FakeProvider(kind, gpus=gpus).install(monkeypatch)
    with pytest.raises(DeviceError) as caught:
        open_runtime(tiny_onnx, kind + name)
    assert f"device {kind}{name}" in str(caught.value)
    assert words.replace("{}", kind) in str(caught.value)
    assert not fake.asked


@pytest.mark.parametrize(("taken", "why"), [(0, "from Ampere on"), (2, "does not know CUDA_VISIBLE_DEVICES")])
def test_a_gpu_that_the_plugin_does_not_take(
    tiny_onnx: Path, monkeypatch: pytest.MonkeyPatch, taken: int, why: str
) -> None:
    """As one before Ampere is; or it is one of several, which the plugin sees all."""
    FakeProvider("tensorrt-rtx", taken=taken).install(monkeypatch)
    with pytest.raises(
        DeviceError, match=rf"device tensorrt-rtx:0: GPUs that TensorRT-RTX takes here: {taken}, .*{why}"
    ):
        open_runtime(tiny_onnx, "tensorrt-rtx")


@pytest.mark.parametrize(("gpus", "taken"), [(2, 2), (2, 1), (1, 2)])
def test_of_several_gpus_the_plugin_takes_none(
    gpus: int, taken: int, tiny_onnx: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its numbers may be other GPUs than CUDA's; the third case is CUDA_VISIBLE_DEVICES, which it does not know."""
    fake = FakeProvider("tensorrt-rtx", gpus=gpus, taken=taken).install(monkeypatch)
    with pytest.raises(DeviceError, match=r"^device tensorrt-rtx:0: .*; use device"):
        open_runtime(tiny_onnx, "tensorrt-rtx")
    assert not fake.asked


@KINDS
@pytest.mark.parametrize(
    ("stray", "words"),
    [
        ({"Erf": CPU_EP, "Conv": CPU_EP}, "run Conv, Erf on the CPU"),
        ({"Conv": CUDA_EP}, "run Conv by its CUDA provider"),
        ({"Conv": CUDA_EP, "Softmax": CPU_EP}, "run Conv by its CUDA provider and Softmax on the CPU"),
    ],
)
def test_a_provider_that_lies(
    kind: str, stray: dict[str, str], words: str, tiny_onnx: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It started, and leaves nodes to others."""
    FakeProvider(kind, stray=stray).install(monkeypatch)
    with pytest.raises(DeviceError) as caught:
        open_runtime(tiny_onnx, kind)
    assert words in str(caught.value)


@KINDS
def test_arithmetic_on_sizes_may_be_elsewhere(kind: str, tiny_onnx: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    FakeProvider(kind, stray={"Shape": CPU_EP, "Concat": CPU_EP}).install(monkeypatch)
    with open_runtime(tiny_onnx, kind) as runtime:
        assert runtime.run(np.zeros((1, 3, 8, 8), np.float32))["logits"].shape == (1, 7)


@KINDS
def test_a_provider_that_does_not_start(kind: str, tiny_onnx: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    FakeProvider(kind, active=[CPU_EP]).install(monkeypatch)
    short = PROVIDERS[kind].removesuffix("ExecutionProvider")
    with pytest.raises(DeviceError, match=rf"could not start its {short} provider .*check the NVIDIA driver"):
        open_runtime(tiny_onnx, kind)
    FakeProvider(kind, raises=RuntimeError("your GPU\nis too old")).install(monkeypatch)
    with pytest.raises(DeviceError, match=r"check the NVIDIA driver.*\(your GPU is too old\)$"):
        open_runtime(tiny_onnx, kind)


@KINDS
def test_files_of_other_numbers(
    kind: str, tmp_path: Path, tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch, rng: np.random.Generator
) -> None:
    """INT8 is refused; FP16 runs as it is, its halves in the file that the provider is given."""
    options = {"verify": False, "compare_speed": False}
    eight = export(None, tmp_path / "8.onnx", checkpoint=tiny_checkpoint, precision="int8", **options)
    half = export(None, tmp_path / "16.onnx", checkpoint=tiny_checkpoint, precision="fp16", **options)
    batch = rng.standard_normal((1, 3, 33, 40)).astype(np.float32)
    with Predictor(half) as on_cpu:
        wanted = on_cpu.logits(batch)
    fake = FakeProvider(kind).install(monkeypatch)
    with pytest.raises(DeviceError, match=rf"8\.onnx: on {kind}:0 .*an engine with --int8"):
        open_runtime(eight, kind)
    assert not fake.asked
    with Predictor(half, kind) as predictor:
        np.testing.assert_allclose(predictor.logits(batch), wanted, atol=0.02)  # as halves round
    kinds = {own.data_type for own in onnx.load_model_from_string(fake.asked[0][1]).graph.initializer}
    assert onnx.TensorProto.FLOAT16 in kinds


@KINDS
def test_maps_are_never_in_blocks(kind: str, tiny_onnx: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whose loops TensorRT does not read: what is too large for whole maps is refused before it runs."""
    fake = FakeProvider(kind).install(monkeypatch)
    monkeypatch.setattr(OnnxTensorRTRuntime, "whole", 0)
    batch = np.zeros((1, 3, 64, 64), np.float32)
    with open_runtime(tiny_onnx, kind) as runtime:
        assert runtime.run(batch)["logits"].shape == (1, 7)
        monkeypatch.setattr(ort, "_GPU_WRONG", 0)
        with pytest.raises(InputError, match=rf"on {kind}:0 .*1x64x64 .*2\*\*31 numbers.*or use device cuda"):
            runtime.run(batch)
    assert len(fake.asked) == 1


@KINDS
@pytest.mark.parametrize("version", API_CASES[:1])
def test_engines_stay_where_they_are(
    kind: str, version: str, tiny_onnx: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = Machine.make(monkeypatch, version).build(tiny_onnx, tmp_path)
    with pytest.raises(DeviceError, match=rf"\.engine: device {kind}: .*use device cuda, or elsewhere an \.onnx file"):
        open_runtime(engine, kind)


@KINDS
def test_it_is_verified_timed_and_named(
    kind: str, tiny_onnx: Path, tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    FakeProvider(kind).install(monkeypatch)
    found = verify(tiny_onnx, reference=tiny_checkpoint, sizes=[(33, 40)], device=kind)
    assert found.passed
    assert [own["device"] for own in found.to_dict()["artifacts"]] == [f"{kind}:0"]
    timed = benchmark([tiny_onnx], sizes=[(16, 16)], effort=Effort(1, 0.0), cold=False, device=kind)
    assert timed.errors == {}
    assert [own.where for own in timed.contenders] == [f"{kind}:0"]
    title = {"tensorrt": "ONNX Runtime TensorRT", "tensorrt-rtx": "ONNX Runtime TRT-RTX"}[kind]
    assert timed.descriptions[tiny_onnx.name].startswith(title)


@KINDS
def test_probe_finds_what_multiplies_wrongly(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    FakeProvider(kind).install(monkeypatch)
    runtime = {"tensorrt": OnnxTensorRTRuntime, "tensorrt-rtx": onnx_tensorrt.OnnxTensorRTRTXRuntime}[kind]
    runtime.probe(Device(kind, name="0"))
    content, feeds, _ = ort.one_convolution()
    monkeypatch.setattr(ort, "one_convolution", lambda: (content, feeds, 16.0))
    with pytest.raises(DeviceError, match=rf"multiplies wrongly on {kind}:0: 16\.0 came out as 15\.0"):
        runtime.probe(Device(kind, name="0"))


def test_the_onnxruntime_that_is_here(tiny_onnx: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The real one, which has neither; where there is no GPU it is not told to be replaced."""
    if "TensorrtExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("this ONNX Runtime has a TensorRT provider")
    monkeypatch.setenv("NVIDIA_TF32_OVERRIDE", "0")
    monkeypatch.setattr(nvidia, "gpu_count", lambda: 0)
    with pytest.raises(DeviceError, match="no NVIDIA GPU is here"):
        open_runtime(tiny_onnx, "tensorrt")
    monkeypatch.setattr(nvidia, "gpu_count", lambda: 1)
    with pytest.raises(DeviceError, match=r"device tensorrt:0: the installed ONNX Runtime .* has no TensorRT provider"):
        open_runtime(tiny_onnx, "tensorrt")


def test_without_the_plugin(tiny_onnx: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime_ep_nv_tensorrt_rtx", None)
    with pytest.raises(MissingPackageError) as caught:
        open_runtime(tiny_onnx, "tensorrt-rtx")
    assert (caught.value.package, caught.value.extra) == ("onnxruntime_ep_nv_tensorrt_rtx", "ort-rtx")


def test_a_library_that_is_missing_is_named(tiny_onnx: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the loader's words as they are with onnxruntime-gpu 1.31.1; that a symbol is missing is ONNX Runtime's own."""
    library = tmp_path / "capi" / "libonnxruntime_providers_tensorrt.so"
    library.parent.mkdir()
    library.touch()
    FakeProvider("tensorrt").install(monkeypatch)
    monkeypatch.setattr(onnxruntime, "__file__", str(tmp_path / "__init__.py"))
    words = "libnvinfer.so.10: cannot open shared object file: No such file or directory"

    def load(name: str) -> None:
        assert name == str(library)
        raise OSError(words)

    monkeypatch.setattr(ctypes, "CDLL", load)
    with pytest.raises(DeviceError, match=r"does not load: libnvinfer\.so\.10: cannot open .*LD_LIBRARY_PATH"):
        open_runtime(tiny_onnx, "tensorrt")
    words = "undefined symbol: Provider_GetHost"
    open_runtime(tiny_onnx, "tensorrt").close()


@pytest.mark.parametrize(("started", "shown", "count"), [(0, 0, 3), (100, 0, 0), (0, 100, 0), (803, 0, None)])
def test_the_driver_is_asked(started: int, shown: int, count: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    class Driver:
        """libcuda, of three GPUs or of an error."""

        def __init__(self, name: str) -> None:
            assert name == "libcuda.so.1"

        def cuInit(self, flags: int) -> int:
            return started

        def cuDeviceGetCount(self, pointer: object) -> int:
            pointer._obj.value = 3  # type: ignore[attr-defined]
            return shown

    monkeypatch.setattr(ctypes, "CDLL", Driver)
    assert nvidia.gpu_count() == count


def test_without_a_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    def load(name: str) -> None:
        raise OSError(f"{name}: cannot open shared object file")

    monkeypatch.setattr(ctypes, "CDLL", load)
    assert nvidia.gpu_count() == 0
