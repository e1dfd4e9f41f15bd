"""Speed against FP32: figures of a clock that the test sets, what is said of them, what is required."""

from __future__ import annotations

from dataclasses import replace

import pytest

from rest_deploy import timing
from rest_deploy.artifact.profile import InputSize
from rest_deploy.errors import VerificationError
from rest_deploy.pipeline.speed import Speed, advice, require_speedup, time_speed
from rest_deploy.recipes import recipe_of
from rest_deploy.specs import ImageSize, Precision

SPEED = Speed("cpu", "1x224x224", 30.0, 20.0, 1.5, 1.4, 1.6, 20)


def test_a_speedup_is_the_ratio_of_the_times(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(timing.time, "perf_counter", lambda: now[0])

    def taking(seconds: float) -> object:
        def run() -> None:
            now[0] += seconds

        return run

    contenders = {"fp32": taking(0.03), "lower": taking(0.02)}
    speed = time_speed(contenders, "cpu", InputSize(2, ImageSize(48, 64)))  # type: ignore[arg-type]
    assert (speed.device, speed.size) == ("cpu", "2x48x64")
    assert (speed.fp32_ms, speed.ms, speed.speedup) == pytest.approx((30, 20, 1.5))
    assert 9 <= speed.rounds <= 60
    assert str(speed).startswith("1.50x the speed of FP32 (faster) on cpu at 2x48x64: median of the ratios in ")


@pytest.mark.parametrize(
    ("speedup", "low", "high", "verdict"),
    [
        (1.5, 1.4, 1.6, "faster"),
        (0.8, 0.7, 0.9, "slower"),
        (0.96, 0.9, 1.02, "no difference beyond noise"),
        (1.2, 0.9, 1.5, "no difference beyond noise"),
        (1.02, 1.01, 1.03, "no difference beyond noise"),
        (0.99, 0.98, 0.995, "no difference beyond noise"),
    ],
)
def test_a_difference_is_said_where_noise_cannot_be_it(speedup: float, low: float, high: float, verdict: str) -> None:
    speed = replace(SPEED, speedup=speedup, low=low, high=high)
    assert f"x the speed of FP32 ({verdict}) on cpu" in str(speed)
    assert speed.faster == (verdict == "faster")


@pytest.mark.parametrize(
    ("precision", "device", "instead"),
    [
        (Precision.FP16, "cpu", "FP16 is for GPUs"),
        (Precision.FP16, "cuda:0", "here use --precision fp32"),
        (Precision.INT8, "cpu", "here use --precision fp32"),
        (Precision.INT8, "cuda:0", "on this GPU use --fp16"),
    ],
)
def test_what_is_not_faster_says_what_to_use(precision: Precision, device: str, instead: str) -> None:
    (note,) = advice(replace(SPEED, speedup=1.0, device=device), recipe_of(precision))
    assert note.startswith("not faster than FP32: 1.00x")
    assert instead in note
    assert advice(replace(SPEED, device=device), recipe_of(precision)) == ()
    assert advice(replace(SPEED, low=0.8, device=device), recipe_of(precision)) != ()  # undecided


def test_a_speedup_that_is_required() -> None:
    require_speedup(SPEED, None, "")
    require_speedup(SPEED, 1.5, "")
    with pytest.raises(VerificationError, match=r"a speedup of 1\.6 is required; measured: 1\.50x"):
        require_speedup(SPEED, 1.6, "")
    with pytest.raises(VerificationError, match=r"cannot be measured: there is no GPU"):
        require_speedup(None, 1.1, "there is no GPU")
