"""Requests for FP16 and INT8 that cannot be meant."""

from __future__ import annotations

from typing import Any

import pytest

from rest_deploy.errors import ConfigError
from rest_deploy.export.formats import FORMATS, Format
from rest_deploy.export.precision.config import PrecisionConfig
from rest_deploy.recipes import Recipe, recipe_of
from rest_deploy.specs import CalibrationMethod, ImageSize, Int8Target, Precision

ENGINE, BOTH = FORMATS["trt"], FORMATS["onnx"]


def _check(config: PrecisionConfig, precision: str, format: Format) -> Recipe:
    recipe = config.recipe(Precision(precision), format.targets(Precision(precision)))
    config.check(recipe)
    return recipe


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"int8_target": "gpu"}, "int8_target is 'gpu'; accepted: cpu, trt"),
        ({"calibration_method": "mse"}, "accepted: min-max, entropy, percentile"),
        ({"calibration_images": 0}, "calibration_images is 0; accepted: a whole number from 1"),
        ({"calibration_images": True}, "whole number"),
        ({"calibration_seed": -1}, "calibration_seed is -1; accepted: a whole number from 0"),
        ({"min_top1_agreement": 99}, "min_top1_agreement is 99; accepted: a number over 0 to 1"),
        ({"max_error": 0.0}, "max_error is 0.0; accepted: a number over 0"),
        ({"max_error": float("inf")}, "max_error is inf"),
        ({"require_speedup": float("nan")}, "require_speedup is nan"),
        ({"require_speedup": 1.1, "compare_speed": False}, "give one of the two"),
        ({"sensitivity": "table.txt"}, "must end in .csv or .json"),
    ],
)
def test_values_that_cannot_be_meant(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        PrecisionConfig(**options)


@pytest.mark.parametrize(
    ("precision", "engine", "options", "message"),
    [
        ("fp32", False, {"half_io": True}, "half_io: only of fp16 and int8"),
        ("fp32", True, {"calibration": "x", "max_error": 0.1}, "calibration, max_error: only of fp16 and int8"),
        ("fp16", False, {"int8_target": "trt"}, "int8_target: only with int8"),
        ("fp16", False, {"calibration": "x", "calibration_method": "entropy"}, "calibration_method: only with int8"),
        ("int8", True, {"int8_target": "cpu"}, "INT8 of this format is for trt"),
        ("int8", True, {}, "give --calibration DIR"),
        ("int8", False, {"int8_target": "trt"}, "give --calibration DIR"),
        ("int8", False, {"half_io": True}, "half_io: only with --int8-target trt"),
        ("int8", False, {"calibration": "x", "calibration_sizes": [ImageSize(9, 9)]}, "takes none from images"),
        ("fp16", False, {"min_top1_agreement": 0.9}, "min_top1_agreement: only with --calibration DIR"),
        ("int8", False, {"calibration_images": 5}, "calibration_images: only with --int8-target trt"),
        ("int8", True, {"calibration": "x", "reduced_range": True}, "reduced_range: only with --int8-target cpu"),
        ("fp16", False, {"reduced_range": True}, "reduced_range: only with int8"),
    ],
)
def test_options_of_another_precision(precision: str, engine: bool, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        _check(PrecisionConfig(**options), precision, ENGINE if engine else BOTH)


@pytest.mark.parametrize("option", ["max_error", "min_top1_agreement"])
def test_a_budget_that_nothing_is_judged_by(option: str) -> None:
    config = PrecisionConfig(calibration="x", **{option: 0.5})
    with pytest.raises(ConfigError, match=f"{option}: only with verification, which --no-verify leaves out"):
        config.check(recipe_of(Precision.FP16), verify=False)


def test_what_may_be_asked() -> None:
    assert _check(PrecisionConfig(), "fp32", ENGINE).target is None
    _check(PrecisionConfig(half_io=True, calibration="x", min_top1_agreement=0.9), "fp16", ENGINE)
    assert _check(PrecisionConfig(calibration="x", max_error=0.5), "int8", BOTH).target is Int8Target.CPU
    assert _check(PrecisionConfig(calibration="x"), "int8", ENGINE).target is Int8Target.TRT
    config = PrecisionConfig(calibration="x", calibration_method="entropy", int8_target="trt")
    assert _check(config, "int8", BOTH).target is Int8Target.TRT
    assert config.calibration_method is CalibrationMethod.ENTROPY
