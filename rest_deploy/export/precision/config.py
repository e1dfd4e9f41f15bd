"""How a network is to be narrowed; checked when made, without importing torch or onnx."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated

from rest_deploy.errors import ConfigError
from rest_deploy.specs import FACTOR, IMAGES, SEED, CalibrationMethod, ImageSize, Int8Target, Precision
from rest_deploy.values import Real, hold

#: What the table of sensitivities may be written as; the plot goes beside it.
TABLE_SUFFIXES = (".csv", ".json")


@dataclass(frozen=True)
class PrecisionConfig:
    """How to narrow a network, and what that may cost.

    Args:
        half_io: Input and output in float16.
        int8_target: What an INT8 artifact is for; None for TensorRT where an engine is made, else for the CPU.
        calibration: Folder of images: ranges of INT8 for TensorRT are taken from some, and any narrowed network is
            judged on others. Of a network that takes no pictures it holds ``.npy`` files, inputs as they are.
        calibration_images: How many to take ranges from; None for a hundred, or three quarters of a smaller folder.
        calibration_method: How a range is taken from the values that occurred; None for min-max.
        calibration_sizes: Sizes that they are brought to; empty for the preprocessing's own.
        calibration_seed: Of the choice of images.
        min_top1_agreement: Share of the judged images that must keep FP32's best class; None for the precision's own.
        max_error: Largest difference of a logit, in standard deviations of the logits; None for the precision's own.
        sensitivity: ``.csv`` or ``.json`` file for what each part of the network costs; a plot is written beside it.
        reduced_range: INT8 weights of 7 bits for CPUs whose 8-bit sums saturate, where the file is to run on such a
            one; they are taken in any case where this machine's own does.
        require_speedup: Least speed over FP32's on this machine; None asks nothing.
        compare_speed: Whether to time against FP32 where there is a machine for it.

    Raises:
        ConfigError: A value that cannot be meant.
    """

    half_io: bool = False
    int8_target: Int8Target | None = None
    calibration: Path | None = None
    calibration_images: Annotated[int, IMAGES] | None = None
    calibration_method: CalibrationMethod | None = None
    calibration_sizes: tuple[ImageSize, ...] = ()
    calibration_seed: Annotated[int, SEED] = 0
    min_top1_agreement: Annotated[float, Real(0, 1, over=True)] | None = None
    max_error: Annotated[float, FACTOR] | None = None
    sensitivity: Path | None = None
    reduced_range: bool = False
    require_speedup: Annotated[float, FACTOR] | None = None
    compare_speed: bool = True

    def __post_init__(self) -> None:
        hold(self)
        for name in ("calibration", "sensitivity"):
            if getattr(self, name) is not None:
                object.__setattr__(self, name, Path(getattr(self, name)))
        if self.sensitivity is not None and self.sensitivity.suffix.lower() not in TABLE_SUFFIXES:
            raise ConfigError(f"sensitivity {self.sensitivity}: its name must end in {' or '.join(TABLE_SUFFIXES)}")
        if self.require_speedup is not None and not self.compare_speed:
            raise ConfigError("a speedup is required and the comparison of speed left out; give one of the two")

    def target_for(self, makes_engine: bool) -> Int8Target:
        """What an INT8 artifact is made for."""
        return self.int8_target or (Int8Target.TRT if makes_engine else Int8Target.CPU)

    def check(self, precision: Precision, makes_engine: bool, verify: bool = True) -> None:
        """Refuse what a precision does not have, and budgets that nothing is judged by.

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
        elif self.target_for(makes_engine) is Int8Target.CPU:
            if makes_engine:
                raise ConfigError("int8_target cpu: an engine is made for TensorRT; leave it out, or export to onnx")
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
