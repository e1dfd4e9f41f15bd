"""Small value types that every part of rest_deploy speaks in. Plain Python; checked when made."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from enum import Enum
from typing import Any

from rest_deploy.errors import ConfigError


class Precision(str, Enum):
    """Number format of an artifact's weights and activations."""

    FP32 = "fp32"
    FP16 = "fp16"
    INT8 = "int8"

    @classmethod
    def parse(cls, value: str | Precision) -> Precision:
        """Read ``"fp32"``, ``"fp16"`` or ``"int8"``.

        Raises:
            ConfigError: Anything else.
        """
        try:
            return cls(value)
        except ValueError:
            raise ConfigError(f"unknown precision {value!r}; accepted: {', '.join(p.value for p in cls)}") from None


class Int8Target(str, Enum):
    """What an INT8 artifact is made for; one graph does not serve both."""

    CPU = "cpu"  # weights in INT8, activations quantized as they come; ONNX Runtime
    TRT = "trt"  # Q/DQ pairs with calibrated scales; TensorRT


class CalibrationMethod(str, Enum):
    """How the range of an activation is taken from the values that occurred."""

    MIN_MAX = "min-max"
    ENTROPY = "entropy"
    PERCENTILE = "percentile"


@dataclass(frozen=True)
class ImageSize:
    """Height and width in pixels, each at least 1."""

    height: int
    width: int

    def __post_init__(self) -> None:
        for value in (self.height, self.width):
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise ConfigError(
                    f"image size {self.height!r}x{self.width!r}: both must be whole numbers of at least 1"
                )

    def __str__(self) -> str:
        return f"{self.height}x{self.width}"

    @classmethod
    def parse(cls, text: str) -> ImageSize:
        """Read ``"480x640"`` (height first) or ``"224"`` (square).

        Raises:
            ConfigError: Anything else.
        """
        match = re.fullmatch(r"(\d{1,6})(?:[xX](\d{1,6}))?", text.strip())
        if not match:
            raise ConfigError(
                f"image size {text!r}; accepted: HEIGHTxWIDTH such as 480x640, or one number for a square"
            )
        height = int(match[1])
        return cls(height, int(match[2]) if match[2] else height)


def input_size(size: ImageSize | tuple[int, int]) -> ImageSize:
    """A size, or (height, width), that images may be brought to, or made of to measure with.

    Raises:
        ConfigError: It is none, or has more than :data:`MAX_INPUT_PIXELS`.
    """
    size = size if isinstance(size, ImageSize) else ImageSize(*size)
    if size.height * size.width > MAX_INPUT_PIXELS:
        raise ConfigError(f"size {size}: more than the {MAX_INPUT_PIXELS:,} pixels that images are resized to")
    return size


class Resize(str, Enum):
    """How an image is brought to the size that the network sees."""

    CROP = "crop"  # resize the short side to size / crop_ratio, then cut the centre out
    WARP = "warp"  # resize to the size, whatever the aspect ratio
    NATIVE = "native"  # feed the image at its own size


IMAGENET_MEAN = (0.485, 0.456, 0.406)
MIN_STD = 1e-6  # below, an input can overflow float32

#: Pixels of the largest size that images are resized to, or made of to measure with.
MAX_INPUT_PIXELS = 1 << 26

#: ONNX operator sets that are written: 18 has every operator needed, 21 is the last that ONNX Runtime 1.18 reads.
OPSETS = range(18, 22)
DEFAULT_OPSET = 18

MIN_CROP_RATIO = 0.1  # below, the resized image is more than a hundred times what is cut out of it

MAX_MEAN = 1.0  # of images from 0 to 1; a greater one is of another scale

IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Preprocessing:
    """From an 8-bit image to the input: resize (bicubic, antialiased), scale to 0-1, subtract mean, divide by std.

    The default is the authors' evaluation transform at 224 pixels. They warp at 384 pixels and over.

    Args:
        resize: How the image is brought to ``size``.
        size: What the network sees; None exactly when ``resize`` is native.
        crop_ratio: For ``crop``: side of the cut over the resized short side, 0.1 to 1.
        mean: Mean of each input channel, on the scale 0-1. One value means the image is turned to grey, three to RGB.
        std: Standard deviation of each channel, on the same scale.

    Raises:
        ConfigError: A value is out of range.
    """

    resize: Resize = Resize.CROP
    size: ImageSize | None = ImageSize(224, 224)
    crop_ratio: float = 0.875
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD

    def __post_init__(self) -> None:
        object.__setattr__(self, "mean", tuple(float(v) for v in self.mean))
        object.__setattr__(self, "std", tuple(float(v) for v in self.std))
        if len(self.mean) not in (1, 3) or len(self.std) != len(self.mean):
            raise ConfigError(f"mean {self.mean} and std {self.std}: both must have 1 value (grey) or 3 (RGB)")
        if not all(MIN_STD <= v < math.inf for v in self.std) or not all(math.isfinite(v) for v in self.mean):
            raise ConfigError(
                f"mean {self.mean} and std {self.std}: they must be finite and every std at least {MIN_STD}"
            )
        if not MIN_CROP_RATIO <= self.crop_ratio <= 1:
            raise ConfigError(f"crop_ratio {self.crop_ratio}: it must be from {MIN_CROP_RATIO} to 1")
        if not all(-MAX_MEAN <= v <= MAX_MEAN for v in self.mean):
            raise ConfigError(f"mean {self.mean}: images are scaled to 0-1; divide mean and std of 0-255 by 255")
        if self.size is not None:
            input_size(self.size)
        if (self.size is None) != (self.resize is Resize.NATIVE):
            raise ConfigError(f"resize {self.resize.value} with size {self.size}: native has none, the others need one")

    def at(self, size: ImageSize) -> Preprocessing:
        """The same at another size; images that would be fed at their own are warped to it."""
        return replace(self, size=size, resize=Resize.WARP if self.resize is Resize.NATIVE else self.resize)

    def __str__(self) -> str:
        size = f" {self.size}" if self.size is not None else ""
        return f"{self.resize.value}{size} mean {self.mean} std {self.std}"

    @classmethod
    def for_size(cls, size: ImageSize) -> Preprocessing:
        """The authors' evaluation transform at a size: centre crop under 384 pixels, warp from there on."""
        warp = min(size.height, size.width) >= 384
        return cls(resize=Resize.WARP if warp else Resize.CROP, size=size)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; the inverse of :meth:`from_dict`."""
        values = asdict(self)
        values["resize"] = self.resize.value
        values["size"] = [self.size.height, self.size.width] if self.size else None
        return {**values, "mean": list(self.mean), "std": list(self.std)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Preprocessing:
        """Read what :meth:`to_dict` gave.

        Raises:
            ConfigError: A field is unknown, missing or out of range.
        """
        if set(values) != {field.name for field in fields(cls)}:
            raise ConfigError(f"preprocessing has the fields {sorted(values)}; needed: {[f.name for f in fields(cls)]}")
        try:
            resize, size = Resize(values["resize"]), values["size"]
            return cls(**{**values, "resize": resize, "size": ImageSize(*size) if size is not None else None})
        except (TypeError, ValueError, OverflowError) as exc:
            raise ConfigError(f"preprocessing cannot be read: {exc}") from exc


@dataclass(frozen=True)
class PreprocessingChange:
    """Some of a :class:`Preprocessing`, to be laid over another one; None leaves a field as it is.

    A new size without a new ``resize`` takes the authors' way for that size.
    """

    resize: Resize | None = None
    size: ImageSize | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        if self.resize is Resize.NATIVE and self.size is not None:
            raise ConfigError(f"native feeds images at their own size; leave the size {self.size} out")

    def apply(self, base: Preprocessing) -> Preprocessing:
        """``base`` with the changes.

        Raises:
            ConfigError: The result is out of range.
        """
        resize, size = base.resize, base.size
        if self.resize is Resize.NATIVE:
            resize, size = Resize.NATIVE, None
        elif self.resize is not None or self.size is not None:
            size = self.size or base.size or ImageSize(224, 224)
            resize = self.resize or Preprocessing.for_size(size).resize
        return replace(base, resize=resize, size=size, mean=self.mean or base.mean, std=self.std or base.std)


@dataclass(frozen=True)
class TensorSpec:
    """Name, dtype and shape of an input or output; a dimension is a number or the name of a free size."""

    name: str
    dtype: str
    shape: tuple[int | str, ...]
