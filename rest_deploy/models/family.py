"""Families of networks: what the rest of the package asks of one, and the row that each of them is.

A family is a class without PyTorch, so that a file is opened, and its memory told, where PyTorch is not installed. Its
network and its deploy form are imported when they are asked for.
"""

from __future__ import annotations

import functools
import importlib
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Protocol, TypeVar

from rest_deploy.artifact.profile import InputSize
from rest_deploy.errors import ConfigError
from rest_deploy.specs import FeatureNorm, ImageSize, InputKind, Precision, Preprocessing

if TYPE_CHECKING:
    from rest_deploy.artifact.info import ArtifactInfo
    from rest_deploy.models.checkpoint import LoadedWeights
    from rest_deploy.models.evidence import Evidence, Setting
    from rest_deploy.models.network import DeployForm, Network


class NetworkConfig(Protocol):
    """Hyper-parameters of a network: a frozen dataclass, checked when it is made."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    @property
    def num_classes(self) -> int:
        """Outputs of the head; 0 where there is none."""

    @property
    def in_channels(self) -> int:
        """Channels of the image."""

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Any:
        """The inverse of :meth:`to_dict`.

        Raises:
            ConfigError: An unknown field, or a value out of range.
        """


C = TypeVar("C", bound=NetworkConfig)


class Family(ABC, Generic[C]):
    """A kind of network. It says the first group of attributes; of the rest what differs from here."""

    #: What records call it, and people.
    name: ClassVar[str]
    title: ClassVar[str]
    #: Class of its configs.
    config: type[C]
    #: Name of each published variant -> its config.
    variants: Mapping[str, C]
    #: Names of weights by which a checkpoint is known: the first that occurs is looked for.
    anchors: ClassVar[tuple[str, ...]]
    #: How the names of its weights begin, up to the first dot.
    beginnings: ClassVar[frozenset[str]]
    #: ONNX operators that its graphs in FP32 may have. A file with another is not opened. None may take a size that a
    #: file could set (as Expand, Tile and Resize do), or hold a graph.
    operators: ClassVar[frozenset[str]]

    #: The weights of its classifier, one row a class.
    head: ClassVar[str] = "head.weight"
    #: The LayerNorm before it.
    final_norm: ClassVar[str] = "norm"
    #: Names of the LayerNorms over the maps of the four stages, as detectors and segmenters have them -> what these do
    #: with them.
    stage_norms: ClassVar[Mapping[tuple[str, ...], FeatureNorm]] = {}
    #: From a picture to the input, where neither a checkpoint nor the caller says it.
    preprocessing: ClassVar[Preprocessing] = Preprocessing()
    #: Whether maps between pieces of the deploy form are (B, H, W, C), or else (B, C, H, W).
    channels_last: ClassVar[bool] = True
    #: Attributes of its own modules that change what they compute, beside those of torch.nn's.
    attributes: ClassVar[tuple[str, ...]] = ()
    #: Modules of the authors' classes that ours has as operators: end of the name -> class in torch.nn, attributes.
    operator_modules: ClassVar[Mapping[str, tuple[str, Mapping[str, Any]]]] = {}
    #: Names of settings of a training that tell of the network.
    settings: ClassVar[frozenset[str]] = frozenset()
    #: Names of further modules of the authors' that compute nothing of the logits.
    unused_modules: ClassVar[frozenset[str]] = frozenset()

    @abstractmethod
    def network(self) -> type[Network]:
        """Class of the network as its authors wrote it, made of a config."""

    @abstractmethod
    def to_deploy(self, model: Any) -> DeployForm:
        """The deploy form of a model, in eval mode, sharing nothing with it."""

    @abstractmethod
    def flops(self, config: C, batch: int, size: ImageSize) -> int:
        """Floating-point operations of one run of the network as written, two for each multiply-add."""

    @abstractmethod
    def call_bytes(
        self,
        config: C,
        batch: int,
        height: int,
        width: int,
        *,
        precision: Precision,
        format: str,
        block: int | None = None,
    ) -> int:
        """As :func:`network_bytes`, in any format but OpenVINO's."""

    @abstractmethod
    def engine_bytes(self, config: C, largest: InputSize, precision: Precision) -> int:
        """Activation memory of an engine at its largest input, estimated before it is built."""

    @abstractmethod
    def read(self, loaded: LoadedWeights, num_heads: Sequence[int] | None) -> tuple[C, str]:
        """The config of weights, and what of it is assumed, in words; empty where all is known.

        Args:
            loaded: Weights by the authors' names, and what else tells of them.
            num_heads: Heads of each stage, where the module says them or they were given.

        Raises:
            CheckpointError: The weights leave open what was not given, or tell something else.
            KeyError, ValueError, IndexError, ZeroDivisionError: They are not of the family; the caller says so.
        """

    def stage_channels(self, config: C) -> tuple[int, ...]:
        """Channels of the maps that leave its four stages, at strides 4 to 32, of a network that is a ``FourStages``
        (``stages.py``); none where maps cannot be taken.
        """
        return ()

    def preprocessing_at(self, size: ImageSize | None) -> Preprocessing:
        """:attr:`preprocessing` at another size, if one is given."""
        return self.preprocessing if size is None else self.preprocessing.at(size)

    def block_name(self, piece: str) -> str:
        """A piece of the deploy form by the name of the authors' module: ``stage3_2`` is ResT's ``stage3.2``."""
        return piece

    def heads(self, evidence: Evidence) -> tuple[int, ...] | None:
        """Heads of each stage, as a module says them; None where none does."""
        return None

    def fit(self, config: C, name: str | None, loaded: LoadedWeights, num_heads: Sequence[int] | None) -> C:
        """A config that was asked for, by the name of a variant or as itself, with what the weights change of it.

        Raises:
            ConfigError: The heads that were given are not its own.
            CheckpointError: The weights lack what it needs.
        """
        if num_heads is not None:
            raise ConfigError(f"num_heads {spaced(num_heads)}: a {self.title} has none to give; leave --num-heads out")
        return config

    def filled(self, config: C, missing: Collection[str]) -> tuple[list[str], str]:
        """Weights that a checkpoint may leave out, which are then zero, and what was done, in words."""
        return [], ""

    def contradictions(self, config: C, settings: Iterable[Setting]) -> Iterator[str]:
        """Settings of a training that tell another network than this config, in words."""
        return iter(())

    def flags(self, config: C) -> Mapping[str, Any] | None:
        """Fields of an export's request that a checkpoint needs to be read as this config; None where none can."""
        return {}


#: Name in records -> module and class of a family. A new one is its own two files, and a row here.
_ROWS: dict[str, tuple[str, str]] = {
    "rest": ("rest_deploy.models.rest_family", "ResTFamily"),
    "restv2": ("rest_deploy.models.restv2_family", "ResTv2Family"),
}


class _Families(Mapping[str, Family[Any]]):
    """The rows, each imported when it is first asked for."""

    def __getitem__(self, name: str) -> Family[Any]:
        return _made(*_ROWS[name])

    def __iter__(self) -> Iterator[str]:
        return iter(_ROWS)

    def __len__(self) -> int:
        return len(_ROWS)


@functools.cache
def _made(module: str, name: str) -> Family[Any]:
    made: Family[Any] = getattr(importlib.import_module(module), name)()
    return made


FAMILIES: Mapping[str, Family[Any]] = _Families()


def titles() -> str:
    """Families for a message: ``"ResT"``."""
    return " or ".join(family.title for family in FAMILIES.values())


def family_named(name: str) -> Family[Any]:
    """The family of a record.

    Raises:
        ConfigError: No such family.
    """
    if name not in FAMILIES:
        raise ConfigError(f"unknown family {name!r}; known families: {', '.join(FAMILIES)}")
    return FAMILIES[name]


def is_config(value: object) -> bool:
    """Whether a value is the config of a network of any family."""
    return any(isinstance(value, family.config) for family in FAMILIES.values())


def family_of(config: object) -> Family[Any]:
    """The family of a config.

    Raises:
        ConfigError: It is none.
    """
    for family in FAMILIES.values():
        if isinstance(config, family.config):
            return family
    accepted = ", ".join(family.config.__name__ for family in FAMILIES.values())
    raise ConfigError(f"an object of type {type(config).__name__} is not a config of a network; accepted: {accepted}")


class Described(Protocol):
    """What says which network it is: the record of a file, what is benchmarked."""

    @property
    def family(self) -> str:
        """Name of its family."""

    @property
    def config(self) -> Mapping[str, Any]:
        """Its hyper-parameters, in plain values."""


def config_of(said: Described) -> Any:
    """The config that a record tells of.

    Raises:
        ConfigError: An unknown family or field, or a value out of range.
    """
    return family_named(said.family).config.from_dict(said.config)


def operators_of(said: Described) -> frozenset[str]:
    """ONNX operators that a file with this record may have.

    Raises:
        ConfigError: An unknown family.
    """
    return family_named(said.family).operators


def list_models() -> list[str]:
    """Names that :func:`create_model` and ``rest-export --model`` accept."""
    return [name for family in FAMILIES.values() for name in family.variants]


def get_config(name: str) -> Any:
    """Config of a published variant.

    Raises:
        ConfigError: No such variant.
    """
    for family in FAMILIES.values():
        if name in family.variants:
            return family.variants[name]
    raise ConfigError(f"unknown model {name!r}; known models: {', '.join(list_models())}")


def variant_of(config: NetworkConfig) -> str | None:
    """Name of the published variant that a config is, whatever its channels and classes are; None where it is none."""
    for name, known in family_of(config).variants.items():
        if replace(config, num_classes=known.num_classes, in_channels=known.in_channels) == known:
            return str(name)
    return None


def spaced(numbers: Iterable[int]) -> str:
    """Numbers as they stand behind a flag."""
    return " ".join(map(str, numbers))


# Memory

#: What others take, over ONNX Runtime without blocks. OpenVINO 2026.4.1: 2.8 to 3.4 were measured (digits at 1000x1000
#: and 1600x1600, rest_lite at 1000x1000). WebGPU in software, plugin 0.4.0 on SwiftShader, which keeps each buffer of a
#: call: 4.1 to 7.6 (digits at 2x448x448, 640x640, 800x800; more on a busy machine), 1.4 to 3.2 of rest_lite.
_TIMES = {"openvino": 3.4, "webgpu": 7.6}
#: Formats that run in this machine's memory.
_FORMATS = ("onnx", "pytorch", "float64", *_TIMES)
#: ONNX files compute large maps in blocks of rows (``export/blockwise.py``). Numbers of all heads and images that a
#: block has at most, where a row does not have more: 8 MiB in float32, with which products of 64 channels are nearly as
#: fast as the machine multiplies (docs/benchmarks.md). Maps of up to so many blocks are computed whole.
MAP_BLOCK, WHOLE_BLOCKS = 1 << 21, 3
#: Numbers in a weight of an MLP that has blocks, at most. A runtime holds the weights of both ways; where they are
#: larger the map is small, as channels double where tokens are quartered.
MLP_WEIGHT = (1 << 18) - 1


def network_bytes(
    config: NetworkConfig,
    batch: int,
    height: int,
    width: int,
    *,
    precision: Precision = Precision.FP32,
    format: str = "onnx",
    block: int | None = None,
) -> int:
    """Memory of one call on the CPU beside what an open network takes: its input, and all that is alive at its peak.

    Args:
        config: Of the network.
        batch: Images of the call.
        height, width: Of the images, in pixels.
        precision: Of the file.
        format: ``"onnx"`` in ONNX Runtime, ``"openvino"`` in OpenVINO, which has no blocks, ``"webgpu"`` in WebGPU in
            software, predicted as without them, ``"pytorch"`` for a checkpoint, ``"float64"`` for one as the reference.
        block: As a record's ``map_block``.

    Raises:
        ConfigError: The format is of no network that runs on the CPU.
    """
    if format not in _FORMATS:
        raise ConfigError(f"no estimate of memory for format {format!r}; there is one for: {', '.join(_FORMATS)}")
    if format in _TIMES:
        return int(_TIMES[format] * network_bytes(config, batch, height, width, precision=precision))
    return family_of(config).call_bytes(config, batch, height, width, precision=precision, format=format, block=block)


#: Bytes that a pixel of a picture takes in an engine that resizes it, as TensorRT-RTX tells: three copies in float32.
_ENGINE_PIXEL_BYTES = 3 * 3 * 4


def engine_bytes(info: ArtifactInfo, size: InputSize) -> int:
    """Memory of an engine's activations for an input of a size, as estimated.

    Args:
        info: Record of the engine, or of the ONNX file that it is built from.
        size: Of the input.
    """
    seen, config = InputSize.from_plain(info.network_sizes(*size.sizes)), config_of(info)
    pictures = _ENGINE_PIXEL_BYTES * math.prod(size.sizes) if info.input_kind is not InputKind.FLOAT else 0
    return pictures + family_of(config).engine_bytes(config, seen, info.precision)


def pixels_within(limit_bytes: int, call_bytes: Callable[[int, int, int], int]) -> int:
    """Pixels of the largest square image up to which each call takes at most so many bytes; 0 where one pixel does not.

    Sides are tried in steps of a sixteenth: where large maps begin to go in blocks, larger images take less memory.

    One of as many pixels and another shape takes about as much while its short side is some 32 pixels or more. A line
    of pixels takes a hundred times as much, as there is nothing to reduce across it: where shapes are not known, ask
    ``call_bytes`` of each.

    Args:
        limit_bytes: Largest memory of a call.
        call_bytes: Batch, height, width -> bytes that a call takes.
    """
    fits, does_not = 0, 1
    while call_bytes(1, does_not, does_not) <= limit_bytes:
        fits, does_not = does_not, does_not + max(1, does_not // 16)
    while does_not - fits > 1:
        side = (fits + does_not) // 2
        if call_bytes(1, side, side) <= limit_bytes:
            fits = side
        else:
            does_not = side
    return fits * fits
