"""An engine's memory: the estimate against what TensorRT-RTX told, and what is refused or explained by it."""

from __future__ import annotations

from pathlib import Path

import pytest
from cuda.bindings.runtime import cudaError_t

from rest_deploy.artifact.info import ArtifactInfo
from rest_deploy.artifact.profile import InputSize, Profile
from rest_deploy.errors import DeviceError, ExportError
from rest_deploy.export.engine.memory import check_room, engine_side, explained, most_activations
from rest_deploy.models.family import FAMILIES, get_config
from rest_deploy.models.rest_family import ResTConfig
from rest_deploy.nvidia import ComputeCapability, Gpu
from rest_deploy.runtimes.registry import read_info
from rest_deploy.specs import ImageSize, Precision
from tests.conftest import TINY
from tests.engines import Machine
from tests.standins.cuda import FakeCuda, FakeDevice

#: What the docstring of the estimate promises, as a share of what was measured.
TOLERANCE, V2_TOLERANCE = 0.15, 0.2

CONFIGS = {
    "digits": ResTConfig(embed_dims=(16, 32, 64, 128), depths=(1, 1, 2, 1), num_heads=(1, 2, 4, 8), num_classes=10),
    "rest_small": get_config("rest_small"),
    "rest_base": get_config("rest_base"),
}
#: Bytes of "Total Activation Memory" in the log of TensorRT-RTX 1.7.1.116, measured on 2026-11-22 for sm86 in FP32,
#: profile 1x32x32:1x224x224:MAX. Another ONNX file of digits told 17,326,592 at 1x224x224.
MEASURED = {
    "digits": {
        "1x224x224": 18_015_744,
        "1x512x512": 38_471_680,
        "4x512x512": 155_785_216,
        "8x640x640": 698_793_472,
        "1x1024x1024": 556_340_224,
        "1x320x320": 18_305_536,
        "1x384x384": 19_150_336,
        "1x480x640": 52_264_960,
        "1x640x640": 91_445_760,
        "1x800x800": 215_236_096,
        "2x320x320": 22_286_336,
        "4x224x224": 22_169_600,
        "4x640x640": 356_769_792,
        "8x224x224": 27_954_688,
        "8x320x320": 57_964_544,
        "8x384x384": 108_174_848,
        "16x224x224": 42_360_832,
    },
    "rest_small": {
        "1x224x224": 20_500_480,
        "1x512x512": 54_856_704,
        "4x512x512": 186_459_136,
        "8x640x640": 801_199_616,
        "1x1024x1024": 584_914_944,
        "1x320x320": 24_783_360,
        "1x384x384": 29_723_136,
        "1x480x640": 69_635_072,
        "1x640x640": 110_595_584,
        "1x800x800": 235_236_352,
        "2x320x320": 43_011_584,
        "4x224x224": 42_153_472,
        "4x640x640": 404_696_064,
        "8x224x224": 79_653_376,
        "8x320x320": 147_468_288,
        "8x384x384": 208_745_984,
        "16x224x224": 149_344_256,
    },
    "rest_base": {
        "1x224x224": 22_558_208,
        "1x384x384": 40_487_936,
        "1x512x512": 69_799_424,
        "1x1024x1024": 604_838_400,
        "8x224x224": 112_007_680,
        "8x320x320": 217_104_384,
        "8x640x640": 870_016_512,
    },
}

#: The same on 2026-11-26 of another family.
V2 = {
    "1x224x224": 29_346_304,
    "1x512x512": 78_446_592,
    "4x512x512": 267_190_272,
    "1x1024x1024": 636_289_024,
    "8x224x224": 86_090_240,
    "8x640x640": 946_995_200,
}


def estimate(model: str, largest: str, precision: Precision = Precision.FP32) -> int:
    return FAMILIES["rest"].engine_bytes(CONFIGS[model], InputSize.parse(largest), precision)


@pytest.mark.parametrize(
    ("model", "largest", "measured"),
    [(model, largest, measured) for model, sizes in MEASURED.items() for largest, measured in sizes.items()],
)
def test_the_estimate_is_near_what_was_measured(model: str, largest: str, measured: int) -> None:
    assert estimate(model, largest) == pytest.approx(measured, rel=TOLERANCE)


@pytest.mark.parametrize("largest", V2)
def test_the_estimate_of_restv2_tiny_is_near_what_was_measured(largest: str) -> None:
    estimated = FAMILIES["restv2"].engine_bytes(get_config("restv2_tiny"), InputSize.parse(largest), Precision.FP32)
    assert estimated == pytest.approx(V2[largest], rel=V2_TOLERANCE)


def test_the_promise_is_the_one_in_the_docstring() -> None:
    said = f"Within {TOLERANCE:.0%} (ResT) and {V2_TOLERANCE:.0%} (ResTv2) of what TensorRT-RTX 1.7"
    assert said in str(FAMILIES["rest"].engine_bytes.__doc__)


@pytest.mark.parametrize("model", CONFIGS)
def test_more_to_hold_takes_more(model: str) -> None:
    sizes = ["1x1x1", "1x224x224", "1x224x640", "1x640x640", "2x640x640", "8x640x640", "8x1024x1024"]
    found = [estimate(model, size) for size in sizes]
    assert found == sorted(found)
    assert len(set(found[1:])) == len(found[1:])


def test_height_and_width_count_alike() -> None:
    assert estimate("rest_small", "1x320x640") == estimate("rest_small", "1x640x320")


def test_a_side_that_no_stride_divides_is_rounded_up() -> None:
    assert estimate("rest_small", "1x637x637") == estimate("rest_small", "1x640x640")
    assert estimate("rest_small", "1x641x641") > estimate("rest_small", "1x640x640")


def test_the_grid_of_each_stage_is_rounded_up() -> None:
    """Of a network whose second stage is the widest: 257 and 258 tokens a side become 129."""
    config = ResTConfig(sr_ratios=(32, 4, 2, 1))
    odd, even = (
        FAMILIES["rest"].engine_bytes(config, InputSize.parse(f"1x{side}x{side}"), Precision.FP32)
        for side in (1028, 1032)
    )
    assert odd == even


def test_fp16_takes_half_beside_the_scratch_memory() -> None:
    full, half = (estimate("rest_small", "8x640x640", precision) for precision in (Precision.FP32, Precision.FP16))
    assert half / full == pytest.approx(0.5, abs=0.01)


def test_int8_keeps_its_largest_maps_in_half() -> None:
    """Of rest_small at 8x640x640 TensorRT-RTX 1.7.1.116 told 367,015,424 bytes in INT8, 417,805,824 in FP16."""
    estimated = estimate("rest_small", "8x640x640", Precision.INT8)
    assert estimated == estimate("rest_small", "8x640x640", Precision.FP16)
    assert estimated == pytest.approx(367_015_424, rel=0.15)


# The GPU that an engine is built on.

PROFILES = (Profile.parse("1x1x1:1x224x224:8x640x640"), Profile.parse("1x1x1:1x224x224:2x2000x2000"))
SMALLER = "--profile, or by --max-size and --max-batch"


@pytest.fixture(scope="module")
def info(tiny_onnx: Path) -> ArtifactInfo:
    return read_info(tiny_onnx)


def _gpu(memory_bytes: int) -> Gpu:
    return Gpu(1, "GPU", ComputeCapability(8, 9), memory_bytes)


def _bytes(batch: int, side: int) -> int:
    size = InputSize(batch, ImageSize(side, side))
    return FAMILIES["rest"].engine_bytes(TINY, size, Precision.FP32)


def test_the_profile_that_takes_most_counts(info: ArtifactInfo) -> None:
    assert most_activations(info, PROFILES) == (_bytes(2, 2000), InputSize.parse("2x2000x2000"))
    assert most_activations(info, PROFILES[:1]) == (_bytes(8, 640), InputSize.parse("8x640x640"))


@pytest.mark.parametrize(("batch", "mib"), [(1, 100), (8, 1000), (8, 24_000)])
def test_the_side_that_fits_and_the_next_does_not(info: ArtifactInfo, batch: int, mib: int) -> None:
    side = engine_side(info, batch, mib << 20)
    assert _bytes(batch, side) <= mib << 20 < _bytes(batch, side + 1)
    assert engine_side(info, batch, 1 << 20) == 0


def test_a_gpu_with_just_enough_memory_is_none_to_refuse(info: ArtifactInfo) -> None:
    check_room(info, PROFILES, _gpu(_bytes(2, 2000)))
    check_room(info, PROFILES, _gpu(_bytes(2, 2000) + 1000), weights=1000)
    for memory, weights in ((_bytes(2, 2000) - 1, 0), (_bytes(2, 2000) + 999, 1000)):
        with pytest.raises(DeviceError, match=r"cuda:1"):
            check_room(info, PROFILES, _gpu(memory), weights)


def test_a_refusal_tells_the_estimate_and_what_fits(info: ArtifactInfo) -> None:
    memory, weights = 1 << 30, 100 << 20
    side = engine_side(info, 2, memory - weights)
    assert 300 < side < 2000
    with pytest.raises(DeviceError) as caught:
        check_room(info, PROFILES, _gpu(memory), weights)
    (line,) = str(caught.value).splitlines()
    facts = ("2x2000x2000", f"{_bytes(2, 2000) / 2**20:,.0f} MiB", "estimated", "100 MiB", "GPU (sm89) has 1,024 MiB")
    assert all(fact in line for fact in (*facts, f"at batch 2 at most about {side}x{side} fits", SMALLER))
    with pytest.raises(DeviceError, match="no size fits at batch 2") as caught:
        check_room(info, PROFILES, _gpu(1 << 20))
    assert "for weights" not in str(caught.value)


def test_a_build_that_ran_out_of_memory_is_explained(info: ArtifactInfo, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeCuda((FakeDevice("other", (8, 9), 1), FakeDevice("GPU", (8, 9), 8 << 30))).install(monkeypatch)
    error = ExportError("TensorRT could not build the engine: OutOfMemory")
    told = explained(error, info, PROFILES, _gpu(8 << 30))
    assert isinstance(told, DeviceError)
    side = engine_side(info, 2, 8 << 30)
    assert side < 2000
    facts = (str(error), "2x2000x2000", f"{_bytes(2, 2000) / 2**20:,.0f} MiB", "estimated", "8,192 MiB are free")
    assert all(fact in str(told) for fact in (*facts, f"at most about {side}x{side} fits", "--workspace", SMALLER))
    small = explained(error, info, PROFILES[:1], _gpu(8 << 30))  # fits by the estimate: no size can be told
    assert "8x640x640" in str(small)
    assert "at most" not in str(small)
    fake.fail["cudaMemGetInfo"] = cudaError_t.cudaErrorUnknown
    assert "free now" not in str(explained(error, info, PROFILES, _gpu(8 << 30)))


def test_a_build_without_a_gpu_that_ran_out_of_memory(info: ArtifactInfo) -> None:
    told = explained(ExportError("out of memory"), info, PROFILES, None)
    assert isinstance(told, ExportError)
    assert f"{_bytes(2, 2000) / 2**20:,.0f} MiB" in str(told)
    assert SMALLER in str(told)


def test_weights_count_before_the_build(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, tiny_onnx: Path) -> None:
    """They are known once there is a file."""
    most = _bytes(8, 640)
    machine = Machine.make(monkeypatch, "tensorrt-10.9.0.34", (FakeDevice("small", (8, 9), most + 100),))
    with pytest.raises(DeviceError, match=r"for activations \(estimated\) and \d+ MiB for weights"):
        machine.build(tiny_onnx, tmp_path)
    assert "Builder" not in machine.names()
    Machine.make(
        monkeypatch, "tensorrt-10.9.0.34", (FakeDevice("small", (8, 9), most + tiny_onnx.stat().st_size),)
    ).build(tiny_onnx, tmp_path)


def test_a_build_that_runs_out_of_memory_tells_what_it_needs(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, tiny_onnx: Path
) -> None:
    machine = Machine.make(monkeypatch, "tensorrt-10.9.0.34")
    machine.trt.returns["Builder.build_serialized_network"] = None
    machine.trt.errors_to_log = ["[virtualMemoryBuffer.cpp::resizePhysical::145] Error Code 2: OutOfMemory ()"]
    most = _bytes(8, 640)
    with pytest.raises(DeviceError, match=rf"OutOfMemory .* 8x640x640 .* {most / 2**20:,.0f} MiB .*24,576 MiB"):
        machine.build(tiny_onnx, tmp_path)
    machine.trt.errors_to_log = ["Error Code 10: Internal Error (no implementation)"]
    with pytest.raises(ExportError, match=r"no implementation\)$"):
        machine.build(tiny_onnx, tmp_path)
