"""The judgement itself is judged: planted figures fail for the right reason, and what was asked for goes first."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from rest_deploy.errors import ConfigError
from rest_deploy.recipes import Recipe, recipe_of, recipes
from rest_deploy.specs import Precision
from rest_deploy.verification import Limits
from rest_deploy.verification.figures import LogitFigures, ValueFigures, measure_logits
from rest_deploy.verification.limits import (
    budget_record,
    judge,
    judge_values,
    of_blocks,
    of_export,
    of_maps,
    of_one_class,
    on_images,
    on_synthetic,
)

RECIPES = [recipe for precision in Precision for recipe in recipes(precision)]
INT8 = recipe_of(Precision.INT8)
FIGURES = LogitFigures(
    images=40,
    max_error=0.5,
    mean_error=0.1,
    rms_error=0.2,
    reference_error=0.01,
    logit_scale=4.0,
    logit_std=2.0,
    cosine=0.99,
    kl_divergence=0.0,
    max_kl_divergence=0.0,
    top1_agreement=0.9,
    top5_agreement=0.95,
)


@pytest.mark.parametrize(
    ("limits", "allowed", "why"),
    [
        (Limits(0.1), 0.2, "0.1 standard deviations of the logits"),
        (Limits(baseline_factor=3), 0.03, "3 times the baseline error 0.01"),
        (Limits(floor=0.05), 0.2, "0.05 of the largest logit"),
        (Limits(0.02, baseline_factor=3, floor=0.001), 0.04, "0.02 standard deviations"),
        (Limits(0.01, baseline_factor=30, floor=0.001), 0.3, "30 times"),
    ],
)
def test_the_largest_of_three_is_allowed_and_named(limits: Limits, allowed: float, why: str) -> None:
    assert limits.allowed(FIGURES) == pytest.approx(allowed)
    (reason,) = judge(FIGURES, limits)
    assert f"largest error 0.5 is over {allowed:g} ({why}" in reason
    assert judge(replace(FIGURES, max_error=allowed * 0.999), limits) == []


def test_small_logits_have_the_floor_of_one() -> None:
    assert Limits(floor=0.05).allowed(replace(FIGURES, logit_scale=0.1)) == 0.05


def test_agreement_and_accuracy_are_judged_where_they_are_limited() -> None:
    wide = Limits(1e9)
    assert judge(FIGURES, wide, accuracy_loss=0.9) == []
    (reason,) = judge(FIGURES, replace(wide, min_top1_agreement=0.91))
    assert reason == "top-1 agreement 90.00% is under 91.00%"
    assert judge(FIGURES, replace(wide, min_top1_agreement=0.9)) == []
    loss = replace(wide, max_accuracy_loss=0.005)
    (reason,) = judge(FIGURES, loss, accuracy_loss=0.006)
    assert "0.60% under the reference's, allowed 0.50%" in reason
    assert judge(FIGURES, loss, accuracy_loss=0.005) == judge(FIGURES, loss) == []
    assert len(judge(FIGURES, Limits(0.01, 0.99, 0.0), accuracy_loss=0.1)) == 3


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("recipe", RECIPES, ids=str)
def test_what_is_no_number_is_past_every_limit(recipe: Recipe, bad: float) -> None:
    for limits in (on_synthetic(recipe), on_images(recipe), Limits(1e9, 0.0)):
        assert judge(replace(FIGURES, max_error=bad), limits) != []
        assert judge(replace(FIGURES, top1_agreement=math.nan), replace(limits, min_top1_agreement=0.1)) != []
        for name in ("reference_error", "logit_scale", "logit_std"):
            reason = judge(replace(FIGURES, **{name: bad}), limits)[0]
            assert "not finite" in reason


@pytest.mark.parametrize(
    "bad",
    [
        {"max_error": 0.0},
        {"max_error": math.nan},
        {"min_top1_agreement": 1.1},
        {"min_top1_agreement": -0.1},
        {"max_accuracy_loss": -0.1},
        {"floor": -1.0},
        {"baseline_factor": math.inf},
    ],
)
def test_limits_that_cannot_be_meant(bad: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=r"is .*; accepted: a number"):
        Limits(**bad)  # type: ignore[arg-type]


@pytest.mark.parametrize("recipe", RECIPES, ids=str)
def test_every_recipe_has_limits_with_a_reason(recipe: Recipe) -> None:
    for limits in (recipe.on_synthetic, recipe.on_images):
        assert limits.limits_error
        assert len(limits.reason) > 20


@pytest.mark.parametrize(("logit", "most"), [(0.2, 0.5), (-8.0, 4.0)])
def test_one_class_over_one_image(logit: float, most: float) -> None:
    """Half of the largest logit, so an artifact that always answers 0 is found; and what was asked for, as a share."""
    exact = np.array([[logit]])
    figures = measure_logits(np.zeros((1, 1)), exact)
    assert judge(figures, INT8.on_synthetic)  # whatever is computed, as it has no standard deviation
    limits = of_one_class(INT8.on_synthetic)
    assert limits.allowed(figures) == pytest.approx(most)
    assert bool(judge(figures, limits)) == (abs(logit) > most)
    assert limits.why(figures) == "0.5 of the largest logit, or of 1"
    assert of_one_class(Limits(0.3)).allowed(figures) == pytest.approx(most / 5)
    assert math.isnan(limits.allowed(measure_logits(exact, exact * np.nan)))
    assert of_one_class(on_synthetic(recipe_of(Precision.FP32))) == on_synthetic(recipe_of(Precision.FP32))
    assert budget_record(INT8, limits, INT8.on_images)["synthetic_max_error"] is None  # nothing was asked for


@pytest.mark.parametrize("recipe", RECIPES, ids=str)
def test_what_was_asked_for_goes_first(recipe: Recipe) -> None:
    assert on_synthetic(recipe) == recipe.on_synthetic
    assert on_images(recipe) == recipe.on_images
    asked = Limits(0.3, 0.7, 0.1)
    synthetic, images = on_synthetic(recipe, asked), on_images(recipe, asked)
    assert synthetic.allowed(FIGURES) == images.allowed(FIGURES) == pytest.approx(0.6)
    assert (synthetic.min_top1_agreement, synthetic.max_accuracy_loss) == (None, None)  # of images
    assert synthetic.max_block_rms == (None if recipe.on_synthetic.max_block_rms is None else 0.3)
    assert (images.min_top1_agreement, images.max_accuracy_loss) == (0.7, 0.1)
    own = on_images(recipe, Limits(max_accuracy_loss=0.1))
    assert replace(own, max_accuracy_loss=None) == recipe.on_images


def test_of_random_weights_no_agreement_is_asked_for_unasked() -> None:
    assert on_images(INT8, random=True).min_top1_agreement is None
    assert on_images(INT8, Limits(min_top1_agreement=0.5), random=True).min_top1_agreement == 0.5


@pytest.mark.parametrize(
    ("asked", "images", "synthetic"), [(None, True, None), (0.1, True, None), (0.1, False, 0.1), (2.0, True, 2.0)]
)
def test_a_tighter_error_is_meant_of_real_images_where_there_are_any(
    asked: float | None, images: bool, synthetic: float | None
) -> None:
    """INT8's own is 1.5 on noise, 0.75 on images."""
    limits = of_export(INT8, Limits(asked), images=images, random=False)
    assert [own.max_error for own in limits] == [synthetic or 1.5, asked or 0.75]
    assert budget_record(INT8, *limits) == {
        "min_top1_agreement": 0.98,
        "max_error": asked or 0.75,
        "synthetic_max_error": synthetic,
    }


def test_maps_are_held_to_a_smaller_error_that_is_asked_for() -> None:
    assert INT8.on_synthetic.max_block_rms == 0.75
    for asked, allowed in ((None, 0.75), (0.1, 0.1), (2.0, 0.75)):  # a map of zeros is 1 away
        synthetic = on_synthetic(INT8, Limits(asked))
        assert synthetic.max_block_rms == of_maps(INT8, Limits(asked)).max_block_rms == allowed
        assert of_blocks(INT8, synthetic, Limits(asked)).max_block_rms == 0.75  # of what is inside of the network
    for asked_rms in (Limits(max_block_rms=0.3), Limits(0.1, max_block_rms=0.3)):
        limits = (on_synthetic(INT8, asked_rms), of_maps(INT8, asked_rms), of_blocks(INT8, synthetic, asked_rms))
        assert [own.max_block_rms for own in limits] == [0.3, 0.3, 0.3]
    half = recipe_of(Precision.FP16)
    assert on_synthetic(half, Limits(0.01)).max_block_rms is None
    assert of_maps(half).max_block_rms == half.on_images.max_error


def test_logits_have_one_floor_as_an_output_and_as_the_last_block() -> None:
    small = ValueFigures(max_error=1e-5, rms_error=1e-6, reference_error=1e-8, scale=1e-2, std=1e-3, cosine=1.0)
    limits = recipe_of(Precision.FP32).on_synthetic
    assert judge_values(small, limits, largest=True).limit == limits.floor
    assert judge_values(small, limits).limit == pytest.approx(limits.floor * 1e-2)


def test_maps_of_small_values_have_a_small_floor() -> None:
    small = ValueFigures(max_error=1e-6, rms_error=1e-7, reference_error=1e-8, scale=1e-3, std=1e-4, cosine=1.0)
    limits = recipe_of(Precision.FP32).on_synthetic
    assert not judge_values(small, limits).passed
    assert judge_values(replace(small, max_error=4e-8), limits).passed


def test_a_block_is_judged_by_its_root_mean_square_where_that_is_limited() -> None:
    block = ValueFigures(max_error=9.0, rms_error=0.7, reference_error=0.1, scale=5.0, std=1.0, cosine=1.0)
    by_rms, by_largest = Limits(1.0, max_block_rms=0.75), Limits(1.0)
    assert judge_values(block, by_rms).passed
    assert not judge_values(replace(block, rms_error=0.8), by_rms).passed
    assert not judge_values(block, by_largest).passed
    assert judge_values(block, by_rms, largest=True).judged_by == "max_error"
