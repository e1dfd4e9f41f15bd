"""Small value types that every part of rest_deploy uses. Plain Python; checked when made."""

from __future__ import annotations

import numbers
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Annotated, Any, ClassVar

from rest_deploy.errors import ConfigError, DeviceError
from rest_deploy.values import ABSENT, Many, OneOf, Real, Text, Whole, check, hold, plain, shown

#: CPU threads of a call. Each started thread takes memory before anything is computed: a hundred thousand take 3.5 GB.
#: A fixed number, so that all machines accept the same; the largest servers have under a thousand.
THREADS = Whole(1, 1024)
#: Of random numbers: the range of torch's generators.
SEED = Whole(0, (1 << 64) - 1)
BATCH = Whole(1, 1 << 20)
#: A side of an image or an input, in pixels: sizes of tensors have 31 bits.
SIDE = Whole(1, (1 << 31) - 1)
_TYPED_SIDE = Whole(1, 999_999)  # a longer one is a slip of the hand
TOP_K = Whole(1, 1 << 24)  # as many as there may be classes
MAX_PIXELS = Whole(1, 1 << 40)
#: Of a map, or of a block of one; a file divides by it.
MAP_NUMBERS = Whole(1, 1 << 40)
#: Default for the largest number of pixels of an input: 33 megapixels take rest_small 20 minutes on two cores.
USUAL_MAX_PIXELS = 1 << 25
#: A share of a whole, such as of images.
FRACTION = Real(0, 1)
#: An error in standard deviations, or a speedup: more is a typing error.
FACTOR = Real(0, 1e9, over=True)
IMAGES = Whole(1, 1 << 30)  # of a folder
#: Attention heads of each of the four stages.
HEADS = Whole(1, 1 << 12)
NUM_HEADS = Annotated[tuple[Annotated[int, HEADS], ...], Many(4, 4)]
#: Pixels of the input per value of a map.
STRIDE = Whole(1, 4096)
#: Dtypes of inputs and outputs; outputs are never pixels.
DTYPE = OneOf("float32", "float16", "uint8")

#: Called with the share of a step that is done, 0 to 1, and its name.
StepProgress = Callable[[float, str], None]


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
    """What an INT8 artifact is made for; one graph cannot serve both."""

    CPU = "cpu"  # weights in INT8, activations quantized at run time; ONNX Runtime
    TRT = "trt"  # Q/DQ pairs with calibrated scales; TensorRT


class InputKind(str, Enum):
    """What a file takes."""

    FLOAT = "float"  # (batch, channels, height, width), resized and normalised
    UINT8 = "uint8"  # pictures (batch, height, width, 3) in RGB, resized; the scaling is in the graph
    PIXELS = "pixels"  # such pictures of any size; the resize is in the graph too


class CalibrationMethod(str, Enum):
    """How calibration computes the range of an activation from its values."""

    MIN_MAX = "min-max"
    ENTROPY = "entropy"
    PERCENTILE = "percentile"


@dataclass(frozen=True)
class ImageSize:
    """Height and width in pixels, each at least 1; in JSON ``[height, width]``."""

    height: Annotated[int, SIDE]
    width: Annotated[int, SIDE]

    PLAIN: ClassVar[Any] = tuple[Annotated[int, SIDE], Annotated[int, SIDE]]

    def __post_init__(self) -> None:
        hold(self)

    def to_plain(self) -> tuple[int, int]:
        """(height, width)."""
        return self.height, self.width

    @classmethod
    def from_plain(cls, sizes: tuple[int, int]) -> ImageSize:
        """The inverse of :meth:`to_plain`."""
        return cls(*sizes)

    def __str__(self) -> str:
        return f"{self.height}x{self.width}"

    @classmethod
    def parse(cls, text: str, *, resized: bool = True) -> ImageSize:
        """Read ``"480x640"`` (height first) or ``"224"`` (square).

        Args:
            text: The size.
            resized: Whether images are resized to it or made in it; it then has at most :data:`MAX_INPUT_PIXELS`.

        Raises:
            ConfigError: Anything else.
        """
        match = re.fullmatch(r"(\d{1,100})(?:[xX](\d{1,100}))?", text.strip())
        if not match:
            raise ConfigError(
                f"image size {shown(text)}; accepted: HEIGHTxWIDTH such as 480x640, or one number for a square"
            )
        try:
            size = cls(
                check(_TYPED_SIDE, int(match[1]), "height"), check(_TYPED_SIDE, int(match[2] or match[1]), "width")
            )
            return input_size(size) if resized else size
        except ConfigError as exc:
            raise ConfigError(f"image size {shown(text)}: {exc}") from exc


def input_size(size: ImageSize | tuple[int, int]) -> ImageSize:
    """A size, or (height, width), to which images may be resized or in which synthetic ones may be made.

    Raises:
        ConfigError: It is not a size, or has more than :data:`MAX_INPUT_PIXELS`.
    """
    found: ImageSize = check(ImageSize, size, "size")
    if found.height * found.width > MAX_INPUT_PIXELS:
        raise ConfigError(f"size {found}: more than the {MAX_INPUT_PIXELS:,} pixels that images are resized to")
    return found


class Resize(str, Enum):
    """How an image is resized to the input size."""

    CROP = "crop"  # resize the short side to size / crop_ratio, then cut out the centre
    WARP = "warp"  # resize to the size, ignoring the aspect ratio
    NATIVE = "native"  # keep the image's own size


class Interpolation(str, Enum):
    """Filter of Pillow's resize; its support grows with the scale when an image shrinks (antialiasing)."""

    NEAREST = "nearest"
    BILINEAR = "bilinear"
    BICUBIC = "bicubic"
    LANCZOS = "lanczos"


class Alpha(str, Enum):
    """How transparent pixels are handled."""

    WHITE = "white"  # the image is placed on white
    DROP = "drop"  # the stored colours, as torchvision's ImageFolder reads them


class Activation(str, Enum):
    """How logits become scores."""

    SOFTMAX = "softmax"  # one class of several
    SIGMOID = "sigmoid"  # each class by itself: several labels for an image, or one output
    NONE = "none"  # the logits unchanged


PICTURE_CHANNELS = (1, 3)  # grey, RGB

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
MIN_STD = 1e-6  # below, an input can overflow float32
MEAN, STD = Real(-1e30, 1e30), Real(MIN_STD, 1e30)
CHANNELS = Many(1, 1 << 16)

#: Largest absolute value of an input in float32. LayerNorm squares the stem's output, and the square of more than 2**64
#: is infinite: ONNX Runtime then gives finite, wrong logits, and PyTorch may too. The stem's weights and sums may add a
#: factor of 2**24; networks that were tried began to fail between 2**62 and 2**74.
LARGEST_INPUT = 2.0**40
#: The same for half precision: its largest value.
LARGEST_HALF = 65504.0

#: Pixels of the largest size to which images are resized, and in which synthetic ones are made.
MAX_INPUT_PIXELS = 1 << 26

#: ONNX opsets that can be written: 18 has every operator needed, 21 is the last that ONNX Runtime 1.18 reads.
OPSETS = range(18, 22)
DEFAULT_OPSET = 18

MIN_CROP_RATIO = 0.1  # below, the resized image has over a hundred times the pixels of the cut
CROP_RATIO = Real(MIN_CROP_RATIO, 1)

MAX_MEAN = 1.0  # of images from 0 to 1; a larger mean belongs to another scale


@dataclass(frozen=True)
class Preprocessing:
    """From an 8-bit image to the input: resize (antialiased), scale to 0-1, subtract mean, divide by std.

    The default is the evaluation transform of ResT's authors at 224 pixels.

    Args:
        resize: How the image is resized to ``size``; values such as ``"crop"`` are accepted too.
        size: (height, width) of the input; None exactly when ``resize`` is native.
        crop_ratio: For ``crop``: side of the cut divided by the resized short side, 0.1 to 1.
        mean: Mean of each input channel, on the scale 0-1. With one value the image becomes grey, with three RGB. With
            another number the input is not a picture, and the caller makes it.
        std: Standard deviation of each channel, on the same scale.
        interpolation: Filter of the resize.
        alpha: How transparent pixels are handled.

    Raises:
        ConfigError: A value is out of range.
    """

    resize: Resize = Resize.CROP
    size: ImageSize | None = ImageSize(224, 224)
    crop_ratio: Annotated[float, CROP_RATIO] = 0.875
    mean: Annotated[tuple[Annotated[float, MEAN], ...], CHANNELS] = IMAGENET_MEAN
    std: Annotated[tuple[Annotated[float, STD], ...], CHANNELS] = IMAGENET_STD
    # The first model cards did not have these two: there was only one choice then.
    interpolation: Annotated[Interpolation, ABSENT] = Interpolation.BICUBIC
    alpha: Annotated[Alpha, ABSENT] = Alpha.WHITE
    # The same in every transform; written for programs in other languages.
    channels: str | None = field(init=False, repr=False, compare=False)
    divide_by: int | None = field(init=False, repr=False, compare=False)
    antialias: bool = field(default=True, init=False, repr=False, compare=False)
    layout: str = field(default="NCHW", init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if isinstance(self.size, numbers.Integral):
            object.__setattr__(self, "size", ImageSize(self.size, self.size))
        hold(self)
        colours = {1: "grey", 3: "RGB"}.get(len(self.mean))
        object.__setattr__(self, "channels", colours)
        object.__setattr__(self, "divide_by", 255 if colours else None)
        if len(self.std) != len(self.mean):
            raise ConfigError(f"mean {self.mean} and std {self.std}: both must have one value for each input channel")
        if self.takes_pictures and not all(-MAX_MEAN <= v <= MAX_MEAN for v in self.mean):
            raise ConfigError(f"mean {self.mean}: images are scaled to 0-1; divide mean and std of 0-255 by 255")
        if self.size is not None:
            input_size(self.size)
        if (self.size is None) != (self.resize is Resize.NATIVE):
            raise ConfigError(
                f"resize {self.resize.value} with size {self.size}: native needs size=None, the others need a size"
            )

    def at(self, size: ImageSize) -> Preprocessing:
        """The same at another size; native becomes warp."""
        return replace(self, size=size, resize=Resize.WARP if self.resize is Resize.NATIVE else self.resize)

    @property
    def takes_pictures(self) -> bool:
        """Whether a picture can become the input: grey has one channel, RGB three."""
        return len(self.mean) in PICTURE_CHANNELS

    def __str__(self) -> str:
        if not self.takes_pictures:
            return f"made by the caller, mean {self.mean} std {self.std}"
        words = [self.resize.value]
        if self.size is not None:
            words.append(str(self.size))
        if self.resize is Resize.CROP:
            words.append(f"crop ratio {self.crop_ratio:g}")
        if self.resize is not Resize.NATIVE:
            words.append(self.interpolation.value)
        return f"{' '.join(words)}, alpha {self.alpha.value}, mean {self.mean} std {self.std}"

    @classmethod
    def for_size(cls, size: ImageSize) -> Preprocessing:
        """The evaluation transform of ResT's authors at a size: centre crop under 384 pixels, else warp."""
        warp = min(size.height, size.width) >= 384
        return cls(resize=Resize.WARP if warp else Resize.CROP, size=size)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; the inverse of :meth:`from_dict`."""
        return dict(plain(self))

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Preprocessing:
        """Read what :meth:`to_dict` gave.

        Raises:
            ConfigError: A field is unknown, missing or out of range.
        """
        made: Preprocessing = check(cls, values, "preprocessing")
        return made


#: The preprocessing of a family of networks at a size; at the family's own size if there is none.
Usual = Callable[["ImageSize | None"], Preprocessing]


@dataclass(frozen=True)
class PreprocessingChange:
    """Some fields of a :class:`Preprocessing` that replace those of another one; None keeps a field.

    A new size without a new ``resize`` takes what is usual for the family of networks at that size.
    """

    resize: Resize | None = None
    size: ImageSize | None = None
    crop_ratio: Annotated[float, CROP_RATIO] | None = None
    mean: Annotated[tuple[Annotated[float, MEAN], ...], CHANNELS] | None = None
    std: Annotated[tuple[Annotated[float, STD], ...], CHANNELS] | None = None
    interpolation: Interpolation | None = None
    alpha: Alpha | None = None

    def __post_init__(self) -> None:
        hold(self)
        if self.resize is Resize.NATIVE and self.size is not None:
            raise ConfigError(f"native keeps the size of images; leave out the size {self.size}")

    def apply(self, base: Preprocessing, usual: Usual) -> Preprocessing:
        """``base`` with the changes.

        Args:
            base: What is changed.
            usual: Of the family of networks: says the resize at a new size, and the size where there is none.

        Raises:
            ConfigError: The result is out of range, or a change has no effect on it.
        """
        resize, size = base.resize, base.size
        if self.resize is Resize.NATIVE:
            resize, size = Resize.NATIVE, None
        elif self.resize is not None or self.size is not None:
            at = usual(self.size or base.size)
            resize, size = self.resize or at.resize, at.size
        if self.crop_ratio is not None and resize is not Resize.CROP:
            raise ConfigError(
                f"crop ratio {self.crop_ratio} needs the transform crop, and it is {resize.value}; leave it out"
            )
        if self.interpolation is not None and resize is Resize.NATIVE:
            raise ConfigError(f"interpolation {self.interpolation.value}: native does not resize; leave it out")
        others = {name: getattr(self, name) for name in ("crop_ratio", "mean", "std", "interpolation", "alpha")}
        changes = {name: value for name, value in others.items() if value is not None}
        return replace(base, resize=resize, size=size, **changes)

    def assumed(self, card: Preprocessing | None, usual: Usual) -> dict[str, str]:
        """Fields of the result that neither this change nor the checkpoint gave, and their assumed values in words.

        Args:
            card: The checkpoint's own preprocessing; None if it has none.
            usual: What is assumed then.
        """
        result = self.apply(card or usual(None), usual)
        unsaid = {}
        if self.resize is None and (card is None or card.resize is not result.resize):
            unsaid["transform"] = result.resize.value
        if self.size is None and result.size is not None and (card is None or card.size is None):
            unsaid["image size"] = str(result.size)
        if (
            self.crop_ratio is None
            and result.resize is Resize.CROP
            and (card is None or card.resize is not Resize.CROP)
        ):
            unsaid["crop ratio"] = f"{result.crop_ratio:g}"
        said = card is not None and card.resize is not Resize.NATIVE
        if self.interpolation is None and result.resize is not Resize.NATIVE and not said:
            unsaid["interpolation"] = result.interpolation.value
        if card is not None:
            return unsaid
        for name, imagenet in (("mean", IMAGENET_MEAN), ("std", IMAGENET_STD)):
            if getattr(self, name) is None:
                own = getattr(result, name)
                unsaid[name] = " ".join(map(str, own)) + (" (ImageNet's)" if own == imagenet else "")
        if self.alpha is None:
            unsaid["alpha"] = result.alpha.value
        return unsaid


@dataclass(frozen=True)
class Device:
    """Where a network runs.

    Args:
        kind: ``"cpu"``, ``"cuda"``, ``"server"`` if a server decides, or a kind of another runtime.
        index: Number of a CUDA GPU.
        name: Name of a device of another kind, as its runtime calls it; empty for the runtime's default.
    """

    kind: str
    index: int = 0
    name: str = ""

    @classmethod
    def parse(cls, text: str) -> Device:
        """Read ``"cpu"``, ``"cuda"``, ``"cuda:1"``, ``"openvino"`` or ``"openvino:GPU.1"``.

        Raises:
            DeviceError: Another form. The registry of runtimes knows which kinds there are.
        """
        other = r"((?!cpu|cuda)[a-z]+(?:-[a-z]+)*)(?::(\w[\w.]{0,39}))?"
        match = re.fullmatch(rf"(cpu)|(cuda)(?::(\d{{1,3}}))?|{other}", text, re.ASCII)
        if not match:
            others = "another kind in small letters, as openvino, or openvino:NAME"
            raise DeviceError(f"device {text!r}; accepted: cpu, cuda, cuda:0, cuda:1, ..., or {others}")
        cpu, cuda, index, other, name = match.groups()
        return cls(cpu or cuda or other, int(index or 0), name or "")

    @property
    def in_memory(self) -> bool:
        """Whether it computes on this machine's CPU, in its memory."""
        return self.kind == "cpu" or self.name in ("CPU", "software")

    def __str__(self) -> str:
        if self.kind == "cuda":
            return f"{self.kind}:{self.index}"
        return f"{self.kind}:{self.name}" if self.name else self.kind


@dataclass(frozen=True)
class TensorSpec:
    """Name, dtype and shape of an input or output. A dimension is a number, or the name of a free size."""

    name: Annotated[str, Text(1000)]
    dtype: Annotated[str, DTYPE]
    shape: Annotated[tuple[Annotated[int, SIDE] | Annotated[str, Text(1000)], ...], Many(1, 8)]


#: Names of what a network gives: the logits of its classes; the pooled, normalised vector that they are taken from; the
#: maps that leave its four stages.
LOGITS, EMBEDDING, STAGE_MAPS = "logits", "embedding", ("stage1", "stage2", "stage3", "stage4")
#: Pixels of the input per value of each stage's map.
STAGE_STRIDES = (4, 8, 16, 32)


class FeatureNorm(str, Enum):
    """Where a backbone has LayerNorms over the channels of its maps."""

    NONE = "none"  # nowhere: maps leave as the classifier's stages give them
    LAST = "last"  # on the map of stage 4
    OUTPUTS = "outputs"  # on every map that has one, as it leaves; the next stage gets it without
    CHAIN = "chain"  # on every map that has one, and the next stage gets it with it: another network


@dataclass(frozen=True)
class Taps:
    """What is taken of a network; a classifier gives its logits alone.

    Args:
        names: Of the outputs, in order, each once: ``logits``, ``embedding``, ``stage1`` to ``stage4``.
        norm: Of the maps.

    Raises:
        ConfigError: An unknown name, or one that stands twice.
    """

    names: tuple[str, ...] = (LOGITS,)
    norm: FeatureNorm = FeatureNorm.NONE

    def __post_init__(self) -> None:
        known = (LOGITS, EMBEDDING, *STAGE_MAPS)
        wrong = [name for name in self.names if name not in known]
        if wrong or not self.names:
            raise ConfigError(f"features {shown(','.join(map(str, wrong)))}; accepted: {', '.join(known)}")
        if len(set(self.names)) < len(self.names):
            raise ConfigError(f"features {','.join(self.names)}: a name stands twice; give each once")

    @property
    def stages(self) -> tuple[int, ...]:
        """Numbers of the stages whose maps are taken, 1 to 4, in order."""
        return tuple(number for number, name in enumerate(STAGE_MAPS, 1) if name in self.names)

    @property
    def last_stage(self) -> int:
        """The last stage that is needed."""
        return max(self.stages) if set(self.names) <= set(STAGE_MAPS) else len(STAGE_MAPS)

    def normed(self, stage: int) -> bool:
        """Whether the map of a stage leaves with a norm, if there is one for it."""
        return self.norm in (FeatureNorm.OUTPUTS, FeatureNorm.CHAIN) or (
            self.norm is FeatureNorm.LAST and stage == len(STAGE_MAPS)
        )


@dataclass(frozen=True)
class Output(TensorSpec):
    """An output: (batch, classes or channels), or, with a stride, a map (batch, channels, height, width).

    The stride is the number of pixels of the input per value of the map; ``norm`` says whether a LayerNorm over its
    channels is in it.
    """

    stride: Annotated[Annotated[int, STRIDE] | None, ABSENT] = None
    norm: Annotated[bool | None, ABSENT] = None

    @property
    def flat(self) -> bool:
        """Whether it has no height and width."""
        return self.name in (LOGITS, EMBEDDING)

    def sizes(self, batch: int, height: int, width: int) -> tuple[int, ...]:
        """Its shape for images of a size; sides of a map are rounded up."""
        size = () if self.stride is None else (-(-height // self.stride), -(-width // self.stride))
        return (batch, int(self.shape[1]), *size)
