"""How FP16 and INT8 are made of a network; checked when made, without importing torch or onnx."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated

from rest_deploy.errors import ConfigError
from rest_deploy.export.options import option
from rest_deploy.specs import FACTOR, IMAGES, SEED, CalibrationMethod, ImageSize, Int8Target, Precision
from rest_deploy.values import Real, hold

#: What the table of sensitivities may be written as; the plot goes beside it.
TABLE_SUFFIXES = (".csv", ".json")


@dataclass(frozen=True)
class PrecisionConfig:
    """How to make a network of lower precision, and what that may cost.

    Raises:
        ConfigError: A value that cannot be meant.
    """

    calibration: Path | None = option(
        None,
        "images, or .npy inputs of a network that takes no pictures: INT8 ranges for TensorRT are taken from some, and "
        "the result is judged on others",
        metavar="DIR",
    )
    calibration_images: Annotated[int, IMAGES] | None = option(
        None, "how many ranges are taken from (default 100, or three quarters of a smaller folder)", metavar="N"
    )
    calibration_method: CalibrationMethod | None = option(
        None, "how a range is taken from the values that occurred (default min-max)"
    )
    calibration_sizes: tuple[ImageSize, ...] = option(
        (), "sizes of those images (default: the image size)", metavar="HxW", arguments={"nargs": "+"}
    )
    calibration_seed: Annotated[int, SEED] = option(0, "of the choice of images (default 0)", metavar="N")
    int8_target: Int8Target | None = option(None, "what INT8 is made for (default trt for engines, else cpu)")
    reduced_range: bool = option(
        False, "INT8 weights of 7 bits, for CPUs without VNNI; taken in any case where this CPU needs them"
    )
    half_io: bool = option(False, "input and output in float16 too")
    min_top1_agreement: Annotated[float, Real(0, 1, over=True)] | None = option(
        None,
        "share of the judged images that must keep FP32's best class (default fp16 0.99, int8 0.98)",
        metavar="SHARE",
    )
    max_error: Annotated[float, FACTOR] | None = option(
        None, "largest difference of a logit, in standard deviations of the logits", metavar="STD"
    )
    sensitivity: Path | None = option(
        None, ".csv or .json: what each part of the network costs; beside it a plot", metavar="FILE"
    )
    require_speedup: Annotated[float, FACTOR] | None = option(
        None, "fail unless it is X times as fast as FP32 here", metavar="X"
    )
    compare_speed: bool = option(True, "do not time it against FP32", flag="--no-speed")

    def __post_init__(self) -> None:
        hold(self)
        for name in ("calibration", "sensitivity"):
            if getattr(self, name) is not None:
                object.__setattr__(self, name, Path(getattr(self, name)))
        if self.sensitivity is not None and self.sensitivity.suffix.lower() not in TABLE_SUFFIXES:
            raise ConfigError(f"sensitivity {self.sensitivity}: its name must end in {' or '.join(TABLE_SUFFIXES)}")
        if self.require_speedup is not None and not self.compare_speed:
            raise ConfigError("a speedup is required and the comparison of speed left out; give one of the two")

    def target_for(self, targets: Sequence[Int8Target]) -> Int8Target:
        """What INT8 is made for: what was asked, or the first of what all formats have."""
        return self.int8_target or targets[0]

    def check(self, precision: Precision, targets: Sequence[Int8Target], verify: bool = True) -> None:
        """Refuse what a precision does not have, and budgets that nothing is judged by.

        Args:
            precision: Asked for.
            targets: What the INT8 of all formats that are asked for can be made for.
            verify: Whether what is made will be judged.

        Raises:
            ConfigError: An option of another precision or target, or INT8 for TensorRT without images.
        """
        given = [field.name for field in fields(self) if getattr(self, field.name) != field.default]
        if precision is Precision.FP32 and given:
            raise ConfigError(f"{', '.join(given)}: only of fp16 and int8; add --fp16 or --int8, or leave it out")
        if not verify:
            _refuse(given, ("min_top1_agreement", "max_error"), "verification, which --no-verify leaves out")
        if precision is not Precision.INT8:
            _refuse(given, _OF_INT8, "int8")
        elif not targets:
            raise ConfigError("the formats have no INT8 in common; export them one at a time")
        elif (target := self.target_for(targets)) not in targets:
            made = " or ".join(one.value for one in targets)
            raise ConfigError(
                f"int8_target {target.value}: INT8 of this format is for {made}; leave it out, or change --format"
            )
        elif target is Int8Target.CPU:
            quantizes = "INT8 for the CPU measures ranges in every call and takes none from images"
            _refuse(given, ("half_io", *_OF_CALIBRATION), f"--int8-target trt; {quantizes}")
        elif "reduced_range" in given:
            raise ConfigError("reduced_range: only of INT8 for the CPU; leave it out")
        elif self.calibration is None:
            raise ConfigError(
                "INT8 for TensorRT takes its ranges from images (or .npy inputs): give --calibration DIR, a hundred or "
                "more of the kind that the network will see"
            )
        if self.calibration is None:
            _refuse(given, ("calibration_seed", "min_top1_agreement"), "--calibration DIR")


_OF_CALIBRATION = ("calibration_method", "calibration_sizes", "calibration_images")
_OF_INT8 = ("int8_target", "reduced_range", *_OF_CALIBRATION)


def _refuse(given: Sequence[str], names: Sequence[str], owner: str) -> None:
    found = [name for name in names if name in given]
    if found:
        raise ConfigError(f"{', '.join(found)}: only with {owner}; leave it out")
