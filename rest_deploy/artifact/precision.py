"""What an FP16 or INT8 artifact says of its precision: what is in a higher one, where ranges come from, its figures."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, TypedDict

from rest_deploy.specs import FACTOR, FRACTION, SEED, CalibrationMethod, Int8Target, Precision
from rest_deploy.values import Is, Real, Sha256, Text, Whole, hold

#: Below, a speedup is none that the noise of a timing of seconds could tell from 1.
_LEAST_SPEEDUP = 1.03
_FIGURE, _COUNT, _NAME = Real(0), Whole(0, 1 << 40), Text(4096)


class _Agreement(TypedDict):
    images: Annotated[int, _COUNT]
    max_error: Annotated[float, _FIGURE]
    rms_error: Annotated[float, _FIGURE]
    cosine: Annotated[float, Real(-1.001, 1.001)]  # rounding


class AgreementFigures(_Agreement, total=False):
    """Figures on real images against FP32, in standard deviations of its outputs, as ``verification/figures.py``
    measures them: of the logits, or where there are none, the worst of all outputs.
    """

    top1_agreement: Annotated[float, FRACTION]  # of logits


class SpeedFigures(TypedDict):
    """Times against FP32's, as ``pipeline.speed`` takes them."""

    device: Annotated[str, Text(100)]
    size: Annotated[str, Text(100)]
    fp32_ms: Annotated[float, _FIGURE]
    ms: Annotated[float, _FIGURE]
    speedup: Annotated[float, _FIGURE]
    low: Annotated[float, _FIGURE]
    high: Annotated[float, _FIGURE]
    rounds: Annotated[int, _COUNT]


def speed_text(figures: Mapping[str, Any]) -> str:
    """:class:`SpeedFigures` in words."""
    return (
        f"{figures['speedup']:.2f}x the speed of FP32 ({speed_verdict(figures)}) on {figures['device']} at "
        f"{figures['size']}: median of the ratios in {figures['rounds']} paired rounds, middle half "
        f"{figures['low']:.2f} to {figures['high']:.2f}; median times {figures['ms']:.1f} ms, FP32 "
        f"{figures['fp32_ms']:.1f} ms"
    )


def speed_verdict(figures: Mapping[str, Any]) -> str:
    """``"faster"`` or ``"slower"``: in three rounds of four, and by more than a timing of seconds can be wrong."""
    if figures["low"] > 1 and figures["speedup"] >= _LEAST_SPEEDUP:
        return "faster"
    if figures["high"] < 1 and figures["speedup"] <= 1 / _LEAST_SPEEDUP:
        return "slower"
    return "no difference beyond noise"


@dataclass(frozen=True)
class CalibrationRecord:
    """The images that ranges were taken from.

    Args:
        method: How.
        images: Their names below the folder, in the order they were taken in.
        sha256: Of all their bytes and names.
        seed: Of the choice.
        sizes: Heights and widths they were brought to, as text; empty for their own.
    """

    method: CalibrationMethod
    images: tuple[Annotated[str, _NAME], ...]
    sha256: Sha256
    seed: Annotated[int, SEED]
    sizes: tuple[Annotated[str, Text(100)], ...]

    def __post_init__(self) -> None:
        hold(self)


@dataclass(frozen=True)
class PrecisionRecord:
    """How a network of lower precision was made.

    Args:
        kept: Part of the network -> its precision, of those wider than the artifact's; the parts that are always FP32
            (LayerNorm, softmax to variance) are left out.
        half_io: Whether input and output are float16.
        int8_target: What an INT8 artifact is made for; None for FP16.
        reduced_range: Whether INT8 weights have 7 bits, for CPUs whose 16-bit sums saturate; None where that does not
            matter.
        calibration: Where ranges come from; None where they are measured in every call, or there are none.
        budget: What it was judged by: ``min_top1_agreement`` and ``max_error`` on real images, ``synthetic_max_error``
            where one was asked for.
        agreement: Figures on real images against FP32, or None where there were none.
        judged_images: Names of those images.
        steps: What was kept in higher precision, in order, and what that bought, in words.
        speed: Figures of the comparison with FP32 on this machine, or None where there was none.
    """

    kept: Mapping[str, Precision]
    half_io: bool = False
    int8_target: Int8Target | None = None
    reduced_range: bool | None = None
    calibration: CalibrationRecord | None = None
    budget: Mapping[str, Annotated[float, FACTOR] | None] = field(default_factory=dict)
    agreement: Annotated[Mapping[str, Any], Is(AgreementFigures)] | None = None
    judged_images: tuple[Annotated[str, _NAME], ...] = ()
    steps: tuple[str, ...] = ()
    speed: Annotated[Mapping[str, Any], Is(SpeedFigures)] | None = None

    def __post_init__(self) -> None:
        hold(self)
