"""What an artifact says of itself: one record, carried as JSON inside the file or beside it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, TypedDict

from rest_deploy.artifact.engine import EngineRecord, VerificationRecord
from rest_deploy.artifact.precision import PrecisionRecord
from rest_deploy.errors import ArtifactError, ConfigError, counted, one_line
from rest_deploy.recipes import Recipe, recipe_of, recipes
from rest_deploy.specs import (
    EMBEDDING,
    FRACTION,
    LOGITS,
    MAP_NUMBERS,
    SEED,
    SIDE,
    Activation,
    FeatureNorm,
    ImageSize,
    InputKind,
    Int8Target,
    Output,
    Precision,
    Preprocessing,
    Taps,
    TensorSpec,
)
from rest_deploy.values import (
    ABSENT,
    Is,
    Many,
    Real,
    Scalar,
    Sha256,
    Text,
    Whole,
    check,
    hold,
    load_json,
    plain,
    read,
    shown,
)

SCHEMA = 3
_Shapes = Mapping[str, Sequence[Any]]  # name of a tensor -> sizes, or the names of free ones
#: Key under which an ONNX file's metadata holds the record.
METADATA_KEY = "rest_deploy"


#: What may be assumed where neither the checkpoint nor the caller says it -> the flag that says it.
ASSUMABLE: Mapping[str, str] = MappingProxyType(
    {
        "weights": "--weights-key",
        "left out": "--key-prefix",
        "architecture": "--model of a published network, or in Python a config",
        "labels": "--labels",
        "activation": "--activation",
        "transform": "--transform",
        "image size": "--image-size",
        "crop ratio": "--crop-ratio",
        "interpolation": "--interpolation",
        "mean": "--mean",
        "std": "--std",
        "alpha": "--alpha",
    }
)


_BASE64 = Text(16 << 20, "[A-Za-z0-9+/=]*", "bytes in base64")


class _Shape(TypedDict):
    shape: Annotated[list[Annotated[int, SIDE]], Many(4, 4)]


class VectorInput(_Shape, total=False):
    """The input of a test vector: some of its values, or all of them."""

    samples: Annotated[list[Annotated[list[Annotated[int, Whole(0, 1 << 50)] | float], Many(2, 2)]], Many(1, 10_000)]
    tolerance: Annotated[float, Real(0)]
    values: Annotated[str, _BASE64]


class VectorLogits(TypedDict):
    """The logits of a test vector."""

    values: Annotated[list[float], Many(1, 1 << 24)]
    tolerance: Annotated[float, Real(0)]


class _Known(TypedDict):
    input: VectorInput
    logits: VectorLogits | None


class TestVector(_Known, total=False):
    """A picture, its input and its logits; of an input that is no picture there is none, of a large one no logits."""

    picture: Annotated[str, _BASE64]


@dataclass(frozen=True)
class Weights:
    """Where the weights come from: a checkpoint file, a module in memory, or random numbers of a seed.

    Args:
        file: Name of the checkpoint.
        sha256: Of its bytes, or of a module's weights.
        seed: Of random weights.
        key: Entry of the checkpoint that they were taken from, such as ``"model_ema"``; empty where they stand bare.
        prefix: What stood before their names and was taken off, such as ``"module."``.
        notes: What was done with them, in sentences.
    """

    source: str = field(init=False, repr=False, compare=False)  #: ``"checkpoint"``, ``"module"`` or ``"random"``
    file: Annotated[str, Text(4096)] | None = None
    sha256: Sha256 | None = None
    seed: Annotated[int, SEED] | None = None
    key: str = ""
    prefix: str = ""
    notes: Annotated[tuple[str, ...], Many(0, 10_000)] = ()

    def __post_init__(self) -> None:
        hold(self)
        given = "module" if self.file is None else "checkpoint"
        object.__setattr__(self, "source", "random" if self.random else given)

    @property
    def random(self) -> bool:
        """Whether no weights were given, so that predictions mean nothing."""
        return self.seed is not None

    def __str__(self) -> str:
        if self.random:
            return f"random, seed {self.seed}: predictions mean nothing"
        where = f"{self.file}, " if self.file is not None else "a module in memory, "
        key = f"entry {self.key}, " if self.key else ""
        return f"{where}{key}SHA-256 {str(self.sha256)[:16]}..."


@dataclass(frozen=True)
class Levels:
    """How far levels of pictures that a file resizes were from Pillow's when it was made: the largest distance, of 255,
    and the share that is apart at all.
    """

    most: Annotated[int, Whole(0, 255)]
    share: Annotated[float, FRACTION]

    def __post_init__(self) -> None:
        hold(self)

    def __str__(self) -> str:
        if not self.most:
            return "every level is Pillow's"
        return f"{self.share:.2g} of all levels differ from Pillow's, by at most {self.most} of 255"


#: Of pictures: red, green, blue.
PIXEL_CHANNELS = 3


def pixel_input() -> TensorSpec:
    """The input of a file that takes pictures: uint8 (batch, height, width, 3) in RGB."""
    return TensorSpec("pixels", "uint8", ("batch", "height", "width", PIXEL_CHANNELS))


@dataclass(frozen=True, kw_only=True)
class ArtifactInfo:
    """The record.

    Args:
        format: ``"onnx"``, ``"pytorch"``, ...
        precision: Number format of weights and activations.
        family: What kind of network it is, such as ``"rest"``.
        model: Name of the model.
        config: Its hyper-parameters.
        weights: Where they come from.
        labels: One name a class, or None where they are not known.
        preprocessing: From a picture to the input; None where the caller makes the input.
        input: (batch, channels, height, width) float32, or float16; or pictures, :func:`pixel_input`.
        input_kind: What of the preprocessing is left to the caller.
        levels: Of a file that takes pictures: how far what it makes of them was from Pillow's.
        outputs: What it gives, of the same: ``logits``, (batch, classes), ``embedding``, (batch, channels), and maps.
        feature_norm: Of the maps and of the chain of stages; None of a classifier.
        activation: How logits become scores; ``none`` where there are no logits.
        assumed: What neither the checkpoint nor the caller said -> what was taken, in words; keys of :data:`ASSUMABLE`.
        versions: Of the packages that made the file.
        verification: Figures of the check against the PyTorch model, or None where it was skipped, or could not be
            done where the file was made.
        extra: What only this format has to say.
        engine: How it was built and what may run it; only of TensorRT engines.
        precision_plan: How it was made; only of a lower precision than FP32.
        test_vector: A picture, some values of its input and its logits, for other languages to check themselves by.

    Raises:
        ArtifactError: A name stands twice, a shape is none of an image, logits, an embedding or a map, or labels and
            classes differ in number.
    """

    format: Annotated[str, Text(50, "[a-z][a-z0-9-]*", "the name of a format, such as onnx")]
    precision: Precision
    family: Annotated[str, Text(50, "[a-z][a-z0-9_]*", "the name of a family of networks, such as rest")]
    model: Annotated[str, Text(1000)]
    config: Mapping[str, Scalar | Annotated[list[Scalar], Many(0, 100)]]
    weights: Weights
    labels: Annotated[tuple[str, ...], Many(1, 1 << 24)] | None
    preprocessing: Preprocessing | None
    activation: Activation = Activation.SOFTMAX
    assumed: Mapping[str, str] = field(default_factory=dict)
    input: TensorSpec
    input_kind: Annotated[InputKind, ABSENT] = InputKind.FLOAT
    levels: Annotated[Levels | None, ABSENT] = None
    outputs: Annotated[tuple[Output, ...], Many(1, 16)]
    feature_norm: Annotated[FeatureNorm | None, ABSENT] = None
    task: str = field(init=False, repr=False, compare=False)  #: ``"classification"`` or ``"features"``
    versions: Mapping[str, str] = field(default_factory=dict)
    verification: Annotated[Mapping[str, Any], Is(VerificationRecord)] | None = None
    extra: Annotated[Mapping[str, Scalar], Many(), ABSENT] = field(default_factory=dict)
    engine: Annotated[EngineRecord | None, ABSENT] = None
    precision_plan: Annotated[PrecisionRecord | None, ABSENT] = None
    test_vector: Annotated[Annotated[Mapping[str, Any], Is(TestVector)] | None, ABSENT] = None

    def __post_init__(self) -> None:
        hold(self)
        self._check_input()
        ranks: list[tuple[TensorSpec, int]] = [(own, 2 if own.stride is None else 4) for own in self.outputs]
        if self.input_kind is InputKind.FLOAT:
            ranks.insert(0, (self.input, 4))
        for spec, rank in ranks:
            size = spec.shape[1] if len(spec.shape) == rank else None
            if not isinstance(size, int) or isinstance(size, bool) or size < 1:
                raise ArtifactError(
                    f"tensor {spec.name} has the shape {spec.shape}; needed: {rank} sizes, the second fixed"
                )
        names = [self.input.name, *(output.name for output in self.outputs)]
        if len(set(names)) < len(names):
            raise ArtifactError(f"tensors {', '.join(names)}; needed: each a name of its own")
        try:
            self.taps  # noqa: B018  # checks the names
        except ConfigError as exc:
            raise ArtifactError(f"outputs: {exc}") from exc
        wrong = [output.name for output in self.outputs if (output.stride is None) != output.flat]
        if wrong:
            raise ArtifactError(f"outputs {', '.join(wrong)}: a map needs a stride, {LOGITS} and {EMBEDDING} have none")
        object.__setattr__(self, "task", "classification" if self.num_classes else "features")
        if self.labels is not None and len(self.labels) != self.num_classes:
            raise ArtifactError(f"{counted(len(self.labels), 'label')} for {counted(self.num_classes, 'class')}")
        if self.preprocessing is not None and len(self.preprocessing.mean) != self.channels:
            raise ArtifactError(
                f"preprocessing for {counted(len(self.preprocessing.mean), 'channel')}, and {self.channels}"
            )
        block = self.extra.get("map_block")
        if block is not None:
            check(MAP_NUMBERS, block, "map_block")
        made_for, targets = self._target, [recipe.target for recipe in recipes(self.precision)]
        if made_for not in targets:
            told = " or ".join(target.value if target is not None else "none" for target in targets)
            raise ArtifactError(
                f"int8_target {made_for.value if made_for is not None else 'none'} in a record of "
                f"{self.precision.value}; needed: {told}; export it again"
            )
        unknown = sorted(set(self.assumed) - set(ASSUMABLE))
        if unknown or not all(isinstance(value, str) for value in self.assumed.values()):
            raise ArtifactError(f"assumed: {unknown or 'values that are not text'}; known: {', '.join(ASSUMABLE)}")

    def _check_input(self) -> None:
        pixels, takes = self.input_kind is not InputKind.FLOAT, self.preprocessing
        if "uint8" in {own.dtype for own in self.outputs} or (self.input.dtype == "uint8") != pixels:
            raise ArtifactError(f"tensors of uint8, and an input of {self.input_kind.value}; needed: uint8 of pictures")
        if pixels and (self.input != pixel_input() or takes is None or not takes.takes_pictures):
            raise ArtifactError(
                f"input {self.input} of {self.input_kind.value}; needed: {pixel_input()}, and a transform"
            )

    def check_tensors(self, inputs: _Shapes, outputs: _Shapes, path: Path) -> None:
        """Refuse a graph whose inputs and outputs are not those of the record.

        Raises:
            ArtifactError: They are not.
        """
        for found, said in ((inputs, (self.input,)), (outputs, self.outputs)):
            if [(name, tuple(shape)) for name, shape in found.items()] != [(spec.name, spec.shape) for spec in said]:
                raise ArtifactError(f"{path}: its record describes another network than its graph; export it again")

    @property
    def num_classes(self) -> int:
        """Number of logits an image gets; 0 where it gets none."""
        return next((int(output.shape[1]) for output in self.outputs if output.name == LOGITS), 0)

    def taking(self, kind: InputKind) -> ArtifactInfo:
        """The record of the same network behind what makes its input from pictures, which is still to be verified."""
        if kind is InputKind.FLOAT:
            return self
        return replace(self, input=pixel_input(), input_kind=kind, verification=None)

    @property
    def takes(self) -> str:
        """What goes in, in words."""
        if self.input_kind is InputKind.FLOAT:
            return counted(self.channels, "channel")
        if self.resizes:
            return f"uint8 pictures in RGB, resized in the file{f'; {self.levels}' if self.levels is not None else ''}"
        return f"uint8 pictures in RGB{', resized before' if self.image_size is not None else ''}"

    @property
    def channels(self) -> int:
        """Of what goes into the network itself."""
        if self.input_kind is InputKind.FLOAT:
            return int(self.input.shape[1])
        assert self.preprocessing is not None  # checked above
        return len(self.preprocessing.mean)

    def input_shape(self, batch: int, height: int, width: int) -> tuple[int, int, int, int]:
        """Shape of an input of so many images of a size."""
        if self.input_kind is InputKind.FLOAT:
            return batch, self.channels, height, width
        return batch, height, width, PIXEL_CHANNELS

    def input_sizes(self, shape: Sequence[int]) -> tuple[int, int, int]:
        """(batch, height, width) of an input of a shape."""
        first = 2 if self.input_kind is InputKind.FLOAT else 1
        return shape[0], shape[first], shape[first + 1]

    def network_sizes(self, batch: int, height: int, width: int) -> tuple[int, int, int]:
        """(batch, height, width) of what goes into the network itself for an input of these sizes."""
        size = self.image_size if self.resizes else None
        return (batch, height, width) if size is None else (batch, size.height, size.width)

    @property
    def resizes(self) -> bool:
        """Whether the file resizes pictures itself."""
        return self.input_kind is InputKind.PIXELS and self.image_size is not None

    @property
    def map_block(self) -> int | None:
        """Numbers of a large map that are alive at a time at most; None where maps are computed whole."""
        block: Any = self.extra.get("map_block")  # checked above
        return block

    @property
    def taps(self) -> Taps:
        """What is taken of the network."""
        return Taps(tuple(output.name for output in self.outputs), self.feature_norm or FeatureNorm.NONE)

    @property
    def image_size(self) -> ImageSize | None:
        """Size that pictures are brought to; None where they come at their own, or the caller makes the input."""
        return self.preprocessing.size if self.preprocessing is not None else None

    @property
    def recipe(self) -> Recipe:
        """How its precision is made, judged and run."""
        return recipe_of(self.precision, self._target)

    @property
    def _target(self) -> Int8Target | None:
        return self.precision_plan.int8_target if self.precision_plan is not None else None

    def label(self, index: int) -> str:
        """Name of a class, or ``"class 7"`` where names are not known."""
        return self.labels[index] if self.labels is not None else f"class {index}"

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; the inverse of :meth:`from_dict`."""
        return {"schema": SCHEMA, **plain(self)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> ArtifactInfo:
        """Read what :meth:`to_dict` gave.

        Raises:
            ArtifactError: A field is missing or of the wrong kind, or a later version wrote it.
        """
        schema = values.get("schema")
        if type(schema) is not int or schema != SCHEMA:
            earlier = isinstance(schema, int) and schema < SCHEMA
            step = "export the checkpoint again" if earlier else "upgrade rest_deploy"
            raise ArtifactError(f"metadata of schema {shown(schema)}; this version reads {SCHEMA}; {step}")
        try:
            return read(cls, {name: value for name, value in values.items() if name != "schema"})
        except ConfigError as exc:
            raise ArtifactError(f"metadata cannot be read: {exc}") from exc

    def to_json(self) -> str:
        """Compact JSON text."""
        return json.dumps(self.to_dict(), separators=(",", ":"), ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str, path: str | Path, *, beside: str | None = None) -> ArtifactInfo:
        """Read JSON text found in ``path``.

        Args:
            text: The record.
            path: For errors.
            beside: Name of an entry that may stand among the record's and is none of it.

        Raises:
            ArtifactError: Names the path.
        """
        try:
            values = load_json(text)
        except ValueError as exc:
            raise ArtifactError(f"{path}: metadata is not JSON: {one_line(exc)}") from exc
        try:
            if not isinstance(values, dict):
                raise ArtifactError("metadata is not a JSON object")
            return cls.from_dict({name: value for name, value in values.items() if name != beside})
        except ArtifactError as exc:
            raise ArtifactError(f"{path}: {exc}") from exc
