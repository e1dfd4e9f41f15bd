"""Memory that is predicted from a record, and the refusal that Predictor, rest-verify and rest-bench share."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from rest_deploy.artifact.engine import EngineRecord
from rest_deploy.artifact.info import ArtifactInfo
from rest_deploy.artifact.profile import InputSize, Profile
from rest_deploy.errors import ImageError, InputError, PredictorError
from rest_deploy.machine import SHARE, USUAL
from rest_deploy.models.family import FAMILIES, MAP_BLOCK, config_of, network_bytes
from rest_deploy.predictor import Predictor
from rest_deploy.runtimes.memory import call_bytes, check_call, most_pixels, predict
from rest_deploy.runtimes.registry import read_info
from rest_deploy.specs import USUAL_MAX_PIXELS, ImageSize, Precision
from tests.conftest import TINY

GIB = 1 << 30
PROFILES = (Profile.parse("1x1x1:1x64x64:8x128x128"), Profile.parse("1x1x1:1x224x224:2x320x320"))


def _free(monkeypatch: pytest.MonkeyPatch, free: int | None) -> None:
    for module in ("machine", "runtimes.memory"):
        monkeypatch.setattr(f"rest_deploy.{module}.available_bytes", lambda: free)


def _size(text: str) -> InputSize:
    return InputSize.parse(text, resized=False)


@pytest.fixture(scope="module")
def info(tiny_onnx: Path) -> ArtifactInfo:
    return read_info(tiny_onnx)


def engine_of(info: ArtifactInfo, activation_bytes: int | None) -> ArtifactInfo:
    """The record of an engine of the same network."""
    digest = "0" * 64
    record = EngineRecord(
        "trt", "10.9.0", ("sm89",), "GPU", PROFILES, digest, 1, digest, None, {}, activation_bytes=activation_bytes
    )
    return replace(info, format="trt", verification=None, engine=record)


# What is predicted.


@pytest.mark.parametrize("size", ["224x224", "8x640x640", "64x1500x1500", "4000x3000"])
@pytest.mark.parametrize("free", [1 * GIB, 64 * GIB])
def test_what_is_predicted_is_what_a_predictor_goes_by(
    size: str, free: int, info: ArtifactInfo, tiny_onnx: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same bytes, the same verdict, the same largest square."""
    _free(monkeypatch, free)
    wanted = _size(size)
    found = predict(info, wanted, "tiny.onnx")
    assert (found.size, found.free, found.estimated) == (wanted, free, True)
    assert found.needed == network_bytes(config_of(info), *wanted.sizes, block=info.map_block)
    with Predictor(tiny_onnx) as predictor:
        assert found.needed == predictor._runtime.call_bytes(*wanted.sizes)
        if wanted.batch == 1:
            assert min(found.most or 0, USUAL_MAX_PIXELS) == predictor.max_pixels
        try:
            predictor._check_input(*wanted.sizes, "x", InputError)
            taken = True
        except InputError:
            taken = False
    assert found.fits is taken


def test_the_largest_square_of_a_batch_fits_and_the_next_does_not(
    info: ArtifactInfo, monkeypatch: pytest.MonkeyPatch
) -> None:
    _free(monkeypatch, GIB)
    found = predict(info, _size("8x224x224"), "tiny.onnx")
    assert found.most is not None
    side = math.isqrt(found.most)
    assert call_bytes(info, 8, side, side) <= SHARE * GIB < call_bytes(info, 8, side + 1, side + 1)


def test_where_the_free_memory_is_not_known(info: ArtifactInfo, monkeypatch: pytest.MonkeyPatch) -> None:
    _free(monkeypatch, None)
    found = predict(info, _size("9000x9000"), "tiny.onnx")
    assert (found.free, found.fits, found.most) == (None, True, None)


def test_what_a_predictor_does_not_ask_for_is_taken(info: ArtifactInfo, monkeypatch: pytest.MonkeyPatch) -> None:
    _free(monkeypatch, 1 << 20)
    found = predict(info, _size("640x640"), "tiny.onnx")
    assert SHARE * (1 << 20) < found.needed < USUAL
    assert found.fits


def test_blocks_and_precision_are_those_of_the_record(info: ArtifactInfo) -> None:
    large = _size("2048x2048")
    in_blocks, info = info, replace(info, extra={**info.extra, "map_block": None})
    lower = replace(info, precision=Precision.FP16)
    needed = [predict(own, large, "x").needed for own in (in_blocks, info, lower)]
    assert needed == [
        network_bytes(config_of(info), 1, 2048, 2048, block=MAP_BLOCK),
        network_bytes(config_of(info), 1, 2048, 2048),
        network_bytes(config_of(info), 1, 2048, 2048, precision=Precision.FP16),
    ]
    assert needed[0] < needed[1] < needed[2]


def test_what_is_estimated_is_named(info: ArtifactInfo) -> None:
    told = [
        predict(own, _size("32"), "x").what
        for own in (info, replace(info, format="pytorch"), replace(info, precision=Precision.FP16))
    ]
    assert [("ONNX Runtime on the CPU" in what, "PyTorch on the CPU" in what) for what in told] == [
        (True, False),
        (False, True),
        (True, False),
    ]
    assert ["GPU" in what for what in told] == [False, False, True]


def test_an_engine_tells_what_its_build_told(info: ArtifactInfo) -> None:
    """Of the largest size of all profiles; of others there is an estimate, at most as large."""
    estimate = {
        size: FAMILIES["rest"].engine_bytes(TINY, _size(size), Precision.FP32)
        for size in ("8x128x128", "2x320x320", "1x64x64")
    }
    largest = max(estimate, key=lambda size: estimate[size])
    told = estimate[largest] + 1000
    for size, wanted in (estimate | {largest: told}).items():
        found = predict(engine_of(info, told), _size(size), "x.engine")
        assert (found.needed, found.estimated) == (wanted, size != largest)
        assert (found.free, found.fits, found.most) == (None, None, None)
        assert found.profile is not None
        assert found.profile.holds(_size(size))
    for size, wanted in estimate.items():
        assert predict(engine_of(info, 1000), _size(size), "x.engine").needed == 1000
        nothing = predict(engine_of(info, None), _size(size), "x.engine")
        assert (nothing.needed, nothing.estimated) == (wanted, True)


def test_a_size_outside_of_all_profiles(info: ArtifactInfo) -> None:
    with pytest.raises(InputError, match=r"3x320x320 .* x\.engine .* 1x1x1 to 8x128x128 or 1x1x1 to 2x320x320;"):
        predict(engine_of(info, 1000), _size("3x320x320"), "x.engine")


# What is refused.


def _needed(count: int, height: int, width: int) -> int:
    return count * height * width * 1024


def test_a_call_that_needs_too_much(monkeypatch: pytest.MonkeyPatch) -> None:
    _free(monkeypatch, 4 * GIB)
    check_call(_needed, (3, 1024, 1024), "batch", InputError)  # three of four
    side = math.isqrt(int(SHARE * 4 * GIB) // 1024)
    said = rf"^photo: an input of 2048x2048 .* 4\.0 GiB, and 4\.0 GiB are free: at most about {side**2:,} pixels; scale"
    with pytest.raises(ImageError, match=said):
        check_call(_needed, (1, 2048, 2048), "photo", ImageError)


def test_of_a_batch_the_largest_images_of_so_many_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    _free(monkeypatch, 4 * GIB)
    side = math.isqrt(int(SHARE * 4 * GIB) // 8 // 1024)
    said = (
        rf"^an input of 8x1024x1024 .* 8\.0 GiB.* {side**2:,} pixels each for 8 at a time; run fewer .*, or cut them$"
    )
    with pytest.raises(InputError, match=said):
        check_call(_needed, (8, 1024, 1024), "", InputError, step="cut them")
    with pytest.raises(InputError, match=r"are free: run fewer at a time"):  # not even images of a pixel fit
        check_call(_needed, (1 << 22, 1, 1), "", InputError)


def test_where_no_usual_image_fits_the_machine_is_at_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    _free(monkeypatch, GIB)
    for usual, error in (
        (None, InputError),
        (ImageSize(224, 224), InputError),
        (ImageSize(1000, 1000), PredictorError),
    ):
        with pytest.raises(error, match=r"x: an input of 1024x1024 .* 1\.0 GiB"):
            check_call(_needed, (1, 1024, 1024), "x", InputError, usual=usual)


def test_free_memory_is_not_read_for_what_is_usual(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    monkeypatch.setattr("rest_deploy.machine.available_bytes", lambda: asked.append(1))
    check_call(_needed, (1, 512, 512), "x", InputError)
    assert not asked
    check_call(_needed, (1, 513, 512), "x", InputError)
    assert asked


def test_the_most_pixels_of_a_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    _free(monkeypatch, GIB)
    sides = [math.isqrt(most_pixels(_needed, count) or 0) for count in (1, 4, 1 << 20)]
    assert sides == [math.isqrt(int(SHARE * GIB) // 1024 // count) for count in (1, 4, 1 << 20)]
    _free(monkeypatch, None)
    assert most_pixels(_needed) is None
