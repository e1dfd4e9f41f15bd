"""How a network of lower precision is asked for; checked when made, without importing torch or onnx."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated

from rest_deploy.errors import ConfigError
from rest_deploy.export.options import option
from rest_deploy.recipes import Recipe, recipe_of, recipes
from rest_deploy.specs import FACTOR, IMAGES, SEED, CalibrationMethod, ImageSize, Int8Target, Precision
from rest_deploy.values import Real, hold

#: What the table of sensitivities may be written as; the plot goes beside it.
TABLE_SUFFIXES = (".csv", ".json")
_LOWER = [precision for precision in Precision if precision is not Precision.FP32]
_AGREEMENT = ", ".join(f"{own.value} {recipe_of(own).on_images.min_top1_agreement}" for own in _LOWER)


@dataclass(frozen=True)
class PrecisionConfig:
    """How to make a network of lower precision, and what that may cost.

    Raises:
        ConfigError: A value that is not valid.
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
    calibration_seed: Annotated[int, SEED] = option(0, "seed of the choice of images (default 0)", metavar="N")
    int8_target: Int8Target | None = option(None, "what INT8 is made for (default trt for engines, else cpu)")
    reduced_range: bool = option(
        False, "INT8 weights of 7 bits, for CPUs without VNNI; taken in any case where this CPU needs them"
    )
    half_io: bool = option(False, "input and output in float16 too")
    min_top1_agreement: Annotated[float, Real(0, 1, over=True)] | None = option(
        None,
        f"share of the judged images that must keep FP32's best class (default {_AGREEMENT})",
        metavar="SHARE",
    )
    max_error: Annotated[float, FACTOR] | None = option(
        None,
        "largest difference of a logit, in standard deviations of the logits; maps are held to it too",
        metavar="STD",
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
            raise ConfigError("--require-speedup needs the comparison that --no-speed leaves out; give one of the two")

    def recipe(self, precision: Precision, targets: Sequence[Int8Target | None]) -> Recipe:
        """How a precision is to be made.

        Args:
            precision: Asked for.
            targets: What all formats that are asked for can be made for in it; the first unless another is asked for.

        Raises:
            ConfigError: They have none in common, or not the one that is asked for.
        """
        name = precision.value.upper()
        if not targets:
            raise ConfigError(f"the formats have no {name} in common; export them one at a time")
        asked = self.int8_target
        made = [target.value for target in targets if target is not None]
        if made and asked is not None and asked not in targets:
            raise ConfigError(
                f"int8_target {asked.value}: {name} of this format is for {' or '.join(made)}; leave it out, or change "
                "--format"
            )
        return recipe_of(precision, asked if asked in targets else targets[0])

    def check(self, recipe: Recipe, verify: bool = True) -> None:
        """Refuse what a recipe does not have, and budgets that nothing is judged by.

        Args:
            recipe: Of the precision asked for.
            verify: Whether what is made will be judged.

        Raises:
            ConfigError: An option of another recipe, or ranges from images without images.
        """
        given = [field.name for field in fields(self) if getattr(self, field.name) != field.default]
        if recipe.precision is Precision.FP32 and given:
            others = [precision.value for precision in Precision if precision is not Precision.FP32]
            flags = " or ".join(f"--{name}" for name in others)
            raise ConfigError(f"{', '.join(given)}: only of {' and '.join(others)}; add {flags}, or leave it out")
        if not verify:
            _refuse(given, ("min_top1_agreement", "max_error"), "verification, which --no-verify leaves out")
        owners = {name: _owner(name, recipe) for name in given if name not in recipe.options}
        for owner in filter(None, dict.fromkeys(owners.values())):
            _refuse(given, [name for name in given if owners.get(name) == owner], owner)
        if self.calibration is None:
            if recipe.calibrated:
                raise ConfigError(
                    f"{recipe} takes its ranges from images (or .npy inputs): give --calibration DIR, a hundred or "
                    "more of the kind that the network will see"
                )
            _refuse(given, ("calibration_seed", "min_top1_agreement"), "--calibration DIR")


def _owner(option: str, recipe: Recipe) -> str:
    """Who has an option that a recipe does not have, in words; empty where every precision has it."""
    owners = [other for precision in Precision for other in recipes(precision) if option in other.options]
    same = [other.target for other in owners if other.precision is recipe.precision]
    if beside := [target.value for target in same if target is not None]:
        return f"--int8-target {' or '.join(beside)}" + (f"; {recipe.lacks}" if recipe.lacks else "")
    return " or ".join(dict.fromkeys(other.precision.value for other in owners))


def _refuse(given: Sequence[str], names: Sequence[str], owner: str) -> None:
    found = [name for name in names if name in given]
    if found:
        raise ConfigError(f"{', '.join(found)}: only with {owner}; leave it out")
