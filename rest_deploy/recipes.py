"""The precisions that a network can be exported in: a row each says how it is made, judged, built and run.

Nothing else decides by the name of a precision, but by whether it is FP32, which all others are made from. A new one is
a member of ``Precision``, a row here, and a module whose ``convert`` makes it (as ``export/precision/half.py``).
"""

from __future__ import annotations

import importlib
import math
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Annotated, Any, Protocol

from rest_deploy.errors import ConfigError
from rest_deploy.specs import FACTOR, FRACTION, LARGEST_HALF, LARGEST_INPUT, Int8Target, Precision
from rest_deploy.values import Real, hold


class Figures(Protocol):
    """What the largest error is judged by: the baseline error, and how large and how different the values are."""

    @property
    def reference_error(self) -> float | None: ...
    @property
    def scale(self) -> float: ...
    @property
    def std(self) -> float: ...


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
            for a lower precision that of its deploy form, which it is made from.
        floor: Largest difference of a logit, relative to the largest logit or to 1, whichever is more; of the values of
            a map or a block, which are many, relative to the largest.
        max_block_rms: Root mean squared error of a map, or of the output of a block inside the network, in its
            standard deviations, in place of its largest error; None judges the largest.
        reason: Why these.

    Raises:
        ConfigError: A figure out of range.
    """

    max_error: Annotated[float, FACTOR] | None = None
    min_top1_agreement: Annotated[float, FRACTION] | None = None
    max_accuracy_loss: Annotated[float, FRACTION] | None = None
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

    def allowed(self, figures: Figures, *, least_scale: float = 1.0) -> float:
        """Largest error that is allowed.

        NaN, which no error is within, where a figure is not finite: what the reference cannot say is not confirmed by
        saying it too. No limit lets an infinite error pass.

        Args:
            figures: What it is judged by.
            least_scale: What the floor is at least relative to.
        """
        if not all(math.isfinite(own) for own in (figures.reference_error or 0.0, figures.scale, figures.std)):
            return math.nan
        return min(max(self._terms(figures, least_scale)), sys.float_info.max)

    def why(self, figures: Figures) -> str:
        """Which of the three decides, in words."""
        lost, floor, std = self._terms(figures, 1.0)
        if lost > max(floor, std):
            return f"{self.baseline_factor:g} times the baseline error {figures.reference_error:.3g}"
        if floor > std:
            return f"{self.floor:g} of the largest logit, or of 1"
        return f"{self.max_error or 0.0:g} standard deviations of the logits"

    def _terms(self, figures: Figures, least_scale: float) -> tuple[float, float, float]:
        lost = self.baseline_factor * (figures.reference_error or 0.0)
        return lost, self.floor * max(least_scale, figures.scale), (self.max_error or 0.0) * figures.std


@dataclass(frozen=True, eq=False, repr=False)
class Recipe:
    """A row. Functions are named as ``"module:name"``, as they need packages that running a file does not.

    Args:
        precision: Its name.
        target: What it is made for, where the precision has a recipe for each; else None.
        on_synthetic: What is allowed on synthetic images, and of blocks.
        on_images: What is allowed on real images.
        logits_tolerance: By how much of the largest logit another runtime or CPU may differ.
        converter: Makes it: takes a ``ConvertInput`` and gives what makes the graph of a plan
            (``export/precision/plan.py``).
        emulator: Graph -> the graph in FP32 with which ONNX Runtime on the CPU computes what the machines do that the
            file is made for. Empty where it does so with the file itself.
        emulated: What is done so, in words.
        kept_in: Precision of the parts that cannot be in this one within the limits.
        options: Fields of ``PrecisionConfig`` that it has and not every precision.
        lacks: Why it does not have the others, in words.
        calibrated: Whether ranges are taken from images.
        integers: Whether ONNX Runtime multiplies 8-bit integers, for which it has operators on CPUs alone, and which
            some CPUs add up wrongly.
        qdq: Whether the file has Q/DQ pairs for TensorRT, which ONNX Runtime is to leave as they are.
        blockwise: Whether its ONNX file has large maps in blocks of rows: not if it is for GPUs, as TensorRT
            does not read that.
        largest_input: Largest absolute value of an input.
        attention_maps: Maps of queries x keys that ONNX Runtime 1.32 has at a time, where heads are not mixed and where
            they are. If not, the softmax is done in place, where the runtime sees that its input and output are of one
            shape: operators of INT8 and casts of FP16 hide that from it. If so, there is the product and what is mixed
            of it.
        engine_type: What TensorRT's log calls it; empty where no engines are built in it.
        engine_bytes: Of an activation in an engine.
        rtx_since: Oldest GPU that TensorRT-RTX builds it for.
        instead: ``"cpu"`` or ``"cuda"`` -> what to use there where it is not faster.
    """

    precision: Precision
    on_synthetic: Limits
    on_images: Limits
    logits_tolerance: float
    attention_maps: tuple[int, int]
    target: Int8Target | None = None
    converter: str = ""
    emulator: str = ""
    emulated: str = "as it runs"
    kept_in: Precision = Precision.FP32
    options: tuple[str, ...] = ()
    lacks: str = ""
    calibrated: bool = False
    integers: bool = False
    qdq: bool = False
    blockwise: bool = False
    largest_input: float = LARGEST_INPUT
    engine_type: str = ""
    engine_bytes: int = 4
    rtx_since: str = "sm75"
    instead: Mapping[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        made_for = {None: "", Int8Target.CPU: " for the CPU", Int8Target.TRT: " for TensorRT"}[self.target]
        return self.precision.value.upper() + made_for

    def convert(self, source: Any) -> Callable[[Any], Any]:
        """What makes the graph of a plan; calibrates where ranges are taken from images."""
        made: Callable[[Any], Any] = _function(self.converter)(source)
        return made

    def emulate(self, graph: Any) -> Any:
        """The graph that ONNX Runtime on the CPU is to compute in place of one in this precision."""
        return _function(self.emulator)(graph) if self.emulator else graph


def _function(place: str) -> Any:
    module, _, name = place.partition(":")
    return getattr(importlib.import_module(module), name)


_FLOAT32 = Limits(
    baseline_factor=2.0,
    floor=5e-5,
    reason="two float32 computations of one function differ by rounding alone, so by about what either loses; the "
    "floor is for cases in which PyTorch is exact by luck, as on an image of one pixel, and grows with the logits "
    "because the steps of float32 do",
)
_INT8 = Recipe(
    Precision.INT8,
    on_synthetic=Limits(
        max_error=1.5,
        max_block_rms=0.75,
        reason="images made of noise lie outside of what ranges were taken from; this finds graphs that are wrong, and "
        "real images judge the rest; of a block's thousands of values some are then cut off far away, so a block is "
        "judged by the root mean square of its errors: up to 0.46 of a standard deviation was measured where the graph "
        "is right, and zeros are 1 away",
    ),
    on_images=Limits(
        max_error=0.75,
        min_top1_agreement=0.98,
        reason="INT8 rounds to 1/127 of a range, which comes to a cosine of some 0.99 (docs/precision.md); agreement "
        "counts ties, so not every image is asked for",
    ),
    logits_tolerance=0.1,
    attention_maps=(2, 2),
    instead=MappingProxyType({"cuda": "on this GPU use --fp16"}),
)
_ROUNDED = "rest_deploy.export.precision.half:with_explicit_rounding"
_AS_ROUNDED = "every half value rounded, as a GPU holds it"

_ROWS = [
    Recipe(
        Precision.FP32,
        on_synthetic=_FLOAT32,
        on_images=_FLOAT32,
        logits_tolerance=1e-3,
        attention_maps=(1, 2),
        blockwise=True,
        engine_type="fp32",
        rtx_since="sm80",
    ),
    Recipe(
        Precision.FP16,
        converter="rest_deploy.export.precision.half:convert",
        emulator=_ROUNDED,
        emulated=_AS_ROUNDED,
        on_synthetic=Limits(
            baseline_factor=1.5 * 2**13,
            max_error=0.02,
            reason="half has 13 bits fewer than float32, so a network that loses e there loses some 2**13 e in half; "
            "where it is exact in float32 by luck, 2% of what tells one class from another",
        ),
        on_images=Limits(
            max_error=0.05,
            min_top1_agreement=0.99,
            reason="what half loses, as on synthetic images; agreement counts ties, so not every image is asked for",
        ),
        logits_tolerance=0.02,
        options=("half_io",),
        largest_input=LARGEST_HALF,
        attention_maps=(3, 3),
        engine_type="fp16",
        engine_bytes=2,
        instead=MappingProxyType({"cpu": "FP16 is for GPUs; on this CPU use --precision fp32, or --int8"}),
    ),
    replace(
        _INT8,
        target=Int8Target.CPU,
        converter="rest_deploy.export.precision.int8:convert_for_cpu",
        options=("int8_target", "reduced_range"),
        lacks="INT8 for the CPU measures ranges in every call and takes none from images",
        integers=True,
        blockwise=True,
    ),
    replace(
        _INT8,
        target=Int8Target.TRT,
        converter="rest_deploy.export.precision.int8:convert_for_tensorrt",
        emulator=_ROUNDED,
        emulated=_AS_ROUNDED,
        kept_in=Precision.FP16,
        options=("int8_target", "half_io", "calibration_method", "calibration_sizes", "calibration_images"),
        calibrated=True,
        qdq=True,
        largest_input=LARGEST_HALF,
        engine_type="int8",
        engine_bytes=2,  # most activations are half: attention maps, and what goes from block to block
    ),
]


def recipes(precision: Precision) -> tuple[Recipe, ...]:
    """The rows of a precision."""
    return tuple(recipe for recipe in _ROWS if recipe.precision is precision)


def recipe_of(precision: Precision, target: Int8Target | None = None) -> Recipe:
    """The row of a precision.

    Args:
        precision: Its name.
        target: What it is made for. None of a precision with several rows gives the one that engines are built in: for
            engines, and for what all of its rows say alike.

    Raises:
        ConfigError: It is not made for that.
    """
    rows = recipes(precision)
    for recipe in rows:
        if recipe.target is target:
            return recipe
    if target is not None:
        raise ConfigError(f"{precision.value} is not made for {target.value}; leave the target out")
    return rows[-1]
