"""How a network of lower precision was made, in words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rest_deploy.artifact.precision import PrecisionRecord
from rest_deploy.specs import Int8Target


def precision_rows(plan: PrecisionRecord) -> dict[str, str]:
    """Name -> value, empty where there is nothing to say."""
    kept = ", ".join(f"{part} {precision.value}" for part, precision in plan.kept.items())
    return {
        "made for": _target(plan),
        "ends": "input and output in float16" if plan.half_io else "",
        "kept": kept,
        "ranges": _ranges(plan),
        "agreement": _agreement(plan.agreement) if plan.agreement is not None else "not judged on images",
        "speed": _speed(plan.speed) if plan.speed is not None else "not timed against FP32",
    }


def _target(plan: PrecisionRecord) -> str:
    if plan.int8_target is Int8Target.TRT:
        return "TensorRT: INT8 by Q/DQ pairs, the rest in half"
    if plan.int8_target is Int8Target.CPU:
        bits = "7 bits, so that sums of products do not saturate" if plan.reduced_range else "8 bits"
        return f"CPUs: weights in {bits}, activations quantized as they come"
    return ""


def _ranges(plan: PrecisionRecord) -> str:
    calibration = plan.calibration
    if calibration is None:
        return ""
    sizes = f" at {', '.join(calibration.sizes)}" if calibration.sizes else ""
    return f"{calibration.method.value}, {len(calibration.images)} images{sizes}, SHA-256 {calibration.sha256[:16]}..."


def _agreement(figures: Mapping[str, Any]) -> str:
    return (
        f"top-1 {figures['top1_agreement']:.2%} of {figures['images']} images, cosine {figures['cosine']:.5f}, largest "
        f"error {figures['max_error']:.3g} standard deviations of the logits, against FP32"
    )


def _speed(figures: Mapping[str, Any]) -> str:
    slower = "slower: " if figures["speedup"] < 1 else ""
    return (
        f"{slower}{figures['speedup']:.2f}x the speed of FP32 on {figures['device']} at {figures['size']} "
        f"({figures['ms']:.1f} ms, FP32 {figures['fp32_ms']:.1f} ms; median of {figures['rounds']} paired rounds, "
        f"middle half {figures['low']:.2f} to {figures['high']:.2f})"
    )
