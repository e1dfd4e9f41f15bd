"""What is allowed, and why: the one place that judges figures. ``figures.py`` measures them.

Logits are compared with PyTorch's in float64. The baseline error is what PyTorch itself loses in float32, measured in
the same run on the same images: some weights amplify rounding a thousandfold, and an artifact is not to blame for what
its model does too.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Annotated

from rest_deploy.artifact.info import ArtifactInfo
from rest_deploy.specs import FACTOR, SHARE, Precision
from rest_deploy.values import Real, hold
from rest_deploy.verification.figures import LogitFigures, ValueFigures


@dataclass(frozen=True)
class Limits:
    """What is allowed. The largest error may reach the largest of three: ``max_error``, ``baseline_factor``, ``floor``.

    As what is asked for, in place of the limits of a precision: None and 0 leave those.

    Args:
        max_error: Largest difference of a logit, in standard deviations of the reference's logits.
        min_top1_agreement: Share of images with the reference's best class, 0 to 1; None does not judge it.
        max_accuracy_loss: Of top-1 accuracy against the reference's, as a share: 0.005 is half a point. None does not
            judge it.
        baseline_factor: Largest difference of a logit, in units of the baseline error: that of the model as written,
            for less than FP32 that of its deploy form, which is what was narrowed.
        floor: Largest difference of a logit, relative to the largest logit or to 1, whichever is more.
        max_block_rms: Root mean squared error of a map, or of the output of a block inside the network, in its
            standard deviations, in place of its largest error; None judges the largest.
        reason: Why these.

    Raises:
        ConfigError: A figure out of range.
    """

    max_error: Annotated[float, FACTOR] | None = None
    min_top1_agreement: Annotated[float, SHARE] | None = None
    max_accuracy_loss: Annotated[float, SHARE] | None = None
    baseline_factor: Annotated[float, Real(0, 1e9)] = 0.0
    floor: Annotated[float, Real(0, 1e9)] = 0.0
    max_block_rms: Annotated[float, FACTOR] | None = None
    reason: str = "asked for"

    def __post_init__(self) -> None:
        hold(self)

    @property
    def limits_error(self) -> bool:
        """Whether they say anything of the largest error."""
        return self.max_error is not None or self.baseline_factor > 0 or self.floor > 0

    def allowed_error(self, reference_error: float | None, scale: float, std: float) -> float:
        """Largest error that is allowed of values of a scale and a standard deviation.

        NaN, which no error is within, where one of them is not finite: what the reference cannot say is not confirmed
        by saying it too. No limit lets an infinite error pass.

        Args:
            reference_error: The baseline error; None where there is none.
            scale: Largest absolute value of the reference.
            std: Standard deviation of the reference's values.
        """
        if not all(math.isfinite(value) for value in (reference_error or 0.0, scale, std)):
            return math.nan
        return min(max(self._terms(reference_error, scale, std)), sys.float_info.max)

    def allowed(self, figures: LogitFigures | ValueFigures) -> float:
        """Largest error that is allowed."""
        return self.allowed_error(figures.reference_error, figures.scale, figures.std)

    def _terms(self, reference_error: float | None, scale: float, std: float) -> tuple[float, float, float]:
        lost = self.baseline_factor * (reference_error or 0.0)
        return lost, self.floor * max(1.0, scale), (self.max_error or 0.0) * std

    def _why(self, figures: LogitFigures) -> str:
        """Which of the three decides, in words."""
        lost, floor, spread = self._terms(figures.reference_error, figures.logit_scale, figures.logit_std)
        if lost > max(floor, spread):
            return f"{self.baseline_factor:g} times the baseline error {figures.reference_error:.3g}"
        if floor > spread:
            return f"{self.floor:g} of the largest logit, or of 1"
        return f"{self.max_error or 0.0:g} standard deviations of the logits"


_FLOAT32 = Limits(
    baseline_factor=2.0,
    floor=5e-5,
    reason="two float32 computations of one function differ by rounding alone, so by about what either loses; the "
    "floor is for cases in which PyTorch is exact by luck, as on an image of one pixel, and grows with the logits "
    "because float32's steps do",
)

#: Precision -> what is allowed on synthetic images, and of blocks.
ON_SYNTHETIC: Mapping[Precision, Limits] = MappingProxyType(
    {
        Precision.FP32: _FLOAT32,
        Precision.FP16: Limits(
            baseline_factor=1.5 * 2**13,
            max_error=0.02,
            reason="half has 13 bits fewer than float32, so a network that loses e there loses some 2**13 e in half; "
            "where it is exact in float32 by luck, 2% of what tells one class from another",
        ),
        Precision.INT8: Limits(
            max_error=1.5,
            max_block_rms=0.75,
            reason="images made of noise lie outside of what ranges were taken from; this finds graphs that are wrong, "
            "and real images judge the rest; of a block's thousands of values some are then cut off far away, so a "
            "block is judged by the root mean square of its errors: up to 0.46 of a standard deviation was measured "
            "where the graph is right, and zeros are 1 away",
        ),
    }
)

#: Precision -> what is allowed on real images.
ON_IMAGES: Mapping[Precision, Limits] = MappingProxyType(
    {
        Precision.FP32: _FLOAT32,
        Precision.FP16: Limits(
            max_error=0.05,
            min_top1_agreement=0.99,
            reason="what half loses, as on synthetic images; agreement counts ties, so not every image is asked for",
        ),
        Precision.INT8: Limits(
            max_error=0.75,
            min_top1_agreement=0.98,
            reason="INT8 rounds to 1/127 of a range, which comes to a cosine of some 0.99 (docs/precision.md); "
            "agreement counts ties, so not every image is asked for",
        ),
    }
)

_NOTHING = Limits()


def on_synthetic(precision: Precision, asked: Limits = _NOTHING) -> Limits:
    """What is allowed on synthetic images, and of blocks; what was asked for goes first."""
    own = ON_SYNTHETIC[precision]
    if asked.limits_error:
        own = replace(asked, min_top1_agreement=None, max_accuracy_loss=None, max_block_rms=own.max_block_rms)
    return own if asked.max_block_rms is None else replace(own, max_block_rms=asked.max_block_rms)


def on_images(precision: Precision, asked: Limits = _NOTHING, *, random: bool = False) -> Limits:
    """What is allowed on real images; what was asked for goes first.

    Args:
        precision: Of the artifact.
        asked: What was asked for.
        random: Whether the weights are random. Their classes mean nothing, so that no agreement is asked for unasked.
    """
    own = ON_IMAGES[precision]
    agreement = asked.min_top1_agreement
    if agreement is None and not random:
        agreement = own.min_top1_agreement
    return replace(
        asked if asked.limits_error else own, min_top1_agreement=agreement, max_accuracy_loss=asked.max_accuracy_loss
    )


def of_export(precision: Precision, asked: Limits, *, images: bool, random: bool) -> tuple[Limits, Limits]:
    """What is allowed of an artifact that is being made, on synthetic images and on real ones.

    Args:
        precision: Of the artifact.
        asked: What was asked for. A ``max_error`` tighter than the precision's own is meant of real images where there
            are any: INT8 loses more on noise, which its ranges are not for.
        images: Whether there are any.
        random: Whether the weights are random.
    """
    tighter = asked.max_error is not None and asked.max_error < (ON_SYNTHETIC[precision].max_error or 0.0)
    synthetic = on_synthetic(precision, _NOTHING if images and tighter else asked)
    return synthetic, on_images(precision, asked, random=random)


def budget_record(synthetic: Limits, images: Limits) -> dict[str, float | None]:
    """What an artifact's record says of the limits that it was made within; :func:`of_artifact` reads it."""
    asked = synthetic.max_error if synthetic not in ON_SYNTHETIC.values() else None
    return {
        "min_top1_agreement": images.min_top1_agreement,
        "max_error": images.max_error,
        "synthetic_max_error": asked,
    }


def of_artifact(info: ArtifactInfo, asked: Limits = _NOTHING) -> Limits:
    """What is allowed of an artifact on synthetic images: what is asked for, else what its own export was allowed."""
    if not asked.limits_error and info.precision_plan is not None:
        asked = replace(asked, max_error=info.precision_plan.budget.get("synthetic_max_error"))
    return on_synthetic(info.precision, asked)


def judge(figures: LogitFigures | ValueFigures, limits: Limits, *, accuracy_loss: float | None = None) -> list[str]:
    """Why figures are past the limits, in words; nothing where they are within. What is no number is past them.

    Args:
        figures: What was measured.
        limits: What is allowed.
        accuracy_loss: Top-1 accuracy of the reference less the artifact's; None where the classes are not known.
    """
    if isinstance(figures, ValueFigures):
        verdict = judge_values(figures, limits)
        error = f"{_JUDGED_BY[verdict.judged_by]} error {getattr(figures, verdict.judged_by):.3g}"
        if math.isnan(verdict.limit):
            return [f"{error}: the reference's values, or what float32 loses of them, are not finite"]
        return [] if verdict.passed else [f"{error} is over {verdict.limit:.3g}"]
    reasons, allowed = [], limits.allowed(figures)
    if math.isnan(allowed):
        reasons.append(
            f"largest error {figures.max_error:.3g}: the reference's logits, or what float32 loses of them, are not "
            "finite"
        )
    elif not figures.max_error <= allowed:
        reasons.append(f"largest error {figures.max_error:.3g} is over {allowed:.3g} ({limits._why(figures)})")
    least, most = limits.min_top1_agreement, limits.max_accuracy_loss
    if least is not None and not figures.top1_agreement >= least:
        reasons.append(f"top-1 agreement {figures.top1_agreement:.2%} is under {least:.2%}")
    if most is not None and accuracy_loss is not None and not accuracy_loss <= most:
        reasons.append(f"top-1 accuracy is {accuracy_loss:.2%} under the reference's, allowed {most:.2%}")
    return reasons


@dataclass(frozen=True)
class ValueVerdict:
    """By which error values are judged, ``max_error`` or ``rms_error``, and what is allowed of it."""

    judged_by: str
    limit: float
    passed: bool


_JUDGED_BY = {"max_error": "largest", "rms_error": "root mean squared"}


def judge_values(figures: ValueFigures, limits: Limits, *, largest: bool = False) -> ValueVerdict:
    """Judge a map or a block; an error that is no number is not within.

    Args:
        figures: What was measured.
        limits: What is allowed.
        largest: Whether the largest error is judged in any case, as of the block whose output is the logits.
    """
    if limits.max_block_rms is None or largest:
        allowed = limits.allowed(figures)
        return ValueVerdict("max_error", allowed, figures.max_error <= allowed)
    allowed = limits.max_block_rms * figures.std
    return ValueVerdict("rms_error", allowed, figures.rms_error <= allowed)
