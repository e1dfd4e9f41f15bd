"""The one place that judges figures: ``figures.py`` measures them, ``recipes.py`` says what is allowed, and why.

Logits are compared with PyTorch's in float64. The baseline error is what PyTorch itself loses in float32, measured in
the same run on the same images: some weights amplify rounding a thousandfold, and the artifact is not at fault for
what its model does too.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from rest_deploy.artifact.info import ArtifactInfo
from rest_deploy.recipes import Limits, Recipe
from rest_deploy.verification.figures import LogitFigures, ValueFigures

_NOTHING = Limits()


def on_synthetic(recipe: Recipe, asked: Limits = _NOTHING) -> Limits:
    """What is allowed on synthetic images; requested limits replace the precision's own."""
    own, rms = recipe.on_synthetic, _rms(recipe.on_synthetic.max_block_rms, asked)
    if asked.limits_error:
        own = replace(asked, min_top1_agreement=None, max_accuracy_loss=None)
    return replace(own, max_block_rms=rms)


def on_images(recipe: Recipe, asked: Limits = _NOTHING, *, random: bool = False) -> Limits:
    """What is allowed on real images; requested limits replace the precision's own.

    Args:
        recipe: Of the artifact.
        asked: Requested limits.
        random: Whether the weights are random. Their classes mean nothing, so agreement counts only if it is requested.
    """
    own = recipe.on_images
    agreement = asked.min_top1_agreement
    if agreement is None and not random:
        agreement = own.min_top1_agreement
    return replace(
        asked if asked.limits_error else own, min_top1_agreement=agreement, max_accuracy_loss=asked.max_accuracy_loss
    )


def of_export(recipe: Recipe, asked: Limits, *, images: bool, random: bool) -> tuple[Limits, Limits]:
    """What is allowed of an artifact that is being made, on synthetic images and on real ones.

    Args:
        recipe: Of the artifact.
        asked: Requested limits. A ``max_error`` tighter than the precision's own applies to real images if there are
            any: INT8 loses more on noise, for which its ranges are not made.
        images: Whether there are real images.
        random: Whether the weights are random.
    """
    tighter = asked.max_error is not None and asked.max_error < (recipe.on_synthetic.max_error or 0.0)
    synthetic = on_synthetic(recipe, _NOTHING if images and tighter else asked)
    return synthetic, on_images(recipe, asked, random=random)


def of_one_class(synthetic: Limits) -> Limits:
    """What is allowed on synthetic images of a network with one class, whose logits a few images do not spread.

    Their standard deviation, which is 0 of one image, is taken for a third of the largest logit, or of 1: of many
    classes the largest is some three deviations from their mean. A baseline error is a measure without it.
    """
    if synthetic.max_error is None or synthetic.baseline_factor:
        return synthetic
    return replace(synthetic, floor=max(synthetic.floor, synthetic.max_error / 3))


def of_maps(recipe: Recipe, asked: Limits = _NOTHING) -> Limits:
    """What is allowed of maps on real images: they have many values, so their root mean squared error is judged."""
    own, limits = recipe.on_synthetic.max_block_rms, on_images(recipe, asked)
    rms = _rms(own if own is not None else recipe.on_images.max_error, asked)
    return replace(limits, min_top1_agreement=None, max_block_rms=rms)


def _rms(own: float | None, asked: Limits) -> float | None:
    """The limit of a root mean squared error: the precision's own, or the requested one if that is lower."""
    if asked.max_block_rms is not None or own is None:
        return asked.max_block_rms
    return own if asked.max_error is None else min(own, asked.max_error)


def budget_record(recipe: Recipe, synthetic: Limits, images: Limits) -> dict[str, float | None]:
    """What an artifact's record says of the limits that it was made within; :func:`of_artifact` reads it."""
    own = replace(recipe.on_synthetic, floor=synthetic.floor)  # which may be that of one class
    asked = synthetic.max_error if synthetic != own else None
    return {
        "min_top1_agreement": images.min_top1_agreement,
        "max_error": images.max_error,
        "synthetic_max_error": asked,
    }


def of_artifact(info: ArtifactInfo, asked: Limits = _NOTHING) -> Limits:
    """What is allowed of an artifact on synthetic images: what is requested, else the limits of its export."""
    if not asked.limits_error and info.precision_plan is not None:
        asked = replace(asked, max_error=info.precision_plan.budget.get("synthetic_max_error"))
    limits = on_synthetic(info.recipe, asked)
    return of_one_class(limits) if info.num_classes == 1 else limits


def of_blocks(recipe: Recipe, synthetic: Limits, asked: Limits) -> Limits:
    """What is allowed of blocks. If they are judged by their root mean square, a requested ``max_error`` does not apply
    to them: inside the network more may be lost than of the logits.
    """
    rms = asked.max_block_rms if asked.max_block_rms is not None else recipe.on_synthetic.max_block_rms
    return replace(synthetic, max_block_rms=rms)


def judge(figures: LogitFigures | ValueFigures, limits: Limits, *, accuracy_loss: float | None = None) -> list[str]:
    """Why figures are past the limits, in words; empty if they are within. What is not finite is past them.

    Args:
        figures: What was measured.
        limits: What is allowed.
        accuracy_loss: Top-1 accuracy of the reference minus the artifact's; None if the classes are not known.
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
        reasons.append(f"largest error {figures.max_error:.3g} is over {allowed:.3g} ({limits.why(figures)})")
    least, most = limits.min_top1_agreement, limits.max_accuracy_loss
    if least is not None and not figures.top1_agreement >= least:
        reasons.append(f"top-1 agreement {figures.top1_agreement:.2%} is under {least:.2%}")
    if most is not None and accuracy_loss is not None and not accuracy_loss <= most:
        reasons.append(f"top-1 accuracy is {accuracy_loss:.2%} under the reference's, allowed {most:.2%}")
    return reasons


@dataclass(frozen=True)
class ValueVerdict:
    """The error that judges values, ``max_error`` or ``rms_error``, and its limit."""

    judged_by: str
    limit: float
    passed: bool


_JUDGED_BY = {"max_error": "largest", "rms_error": "root mean squared"}


def judge_values(figures: ValueFigures, limits: Limits, *, largest: bool = False) -> ValueVerdict:
    """Judge a map or a block; an error that is not finite is past the limit.

    Args:
        figures: What was measured.
        limits: What is allowed.
        largest: Whether the largest error is judged in any case, as for the block that gives the logits.
    """
    if limits.max_block_rms is None or largest:
        allowed = limits.allowed(figures, least_scale=1.0 if largest else 0.0)
        return ValueVerdict("max_error", allowed, figures.max_error <= allowed)
    allowed = limits.max_block_rms * figures.std
    return ValueVerdict("rms_error", allowed, figures.rms_error <= allowed)
