"""What the families of ResT and ResTv2 have in common, without PyTorch: four stages, their sizes, their memory."""

from __future__ import annotations

import re
from abc import abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Protocol, TypeVar

from rest_deploy.artifact.profile import InputSize
from rest_deploy.errors import ConfigError
from rest_deploy.models.family import MLP_WEIGHT, WHOLE_BLOCKS, Family, NetworkConfig
from rest_deploy.recipes import recipe_of
from rest_deploy.specs import BATCH, ImageSize, Precision, Preprocessing
from rest_deploy.values import Many, check

if TYPE_CHECKING:
    from rest_deploy.models.evidence import Evidence, Setting

STAGES = 4
OF_STAGES = Many(STAGES, STAGES)
MAX_BLOCKS = 1000  # of a stage; rest_large has 18
#: Names of settings of a training (``stages_checkpoints.py``): the eps of LayerNorms; the activation of the MLPs, those
#: that can only be that, and with those that may be of another thing; heads.
EPS = frozenset({"norm_eps", "layer_norm_eps", "layernorm_eps", "ln_eps"})
OWN_ACTIVATIONS = frozenset({"act_layer", "hidden_act"})
ACTIVATIONS = OWN_ACTIVATIONS | {"activation", "act", "act_fn", "act_type"}
HEADS = frozenset({"num_heads", "heads"})
#: Bytes of a number.
_NUMBER = {"onnx": 4, "pytorch": 4, "float64": 8}
#: In PyTorch: numbers that the maps of queries x keys of all heads and images have at most where attention is computed
#: as the authors wrote it, those of an image of 1024x1024 and one head. Above that queries go in blocks of so many
#: numbers, where one query does not have more: 8 MiB in float64, in which the reference computes. With more than that a
#: block leaves the caches, and takes twice the time, as a whole map does.
TORCH_WHOLE, TORCH_BLOCK = 1 << 26, 1 << 20
#: By format, what is kept of blocks. Of those of PyTorch by malloc: glibc trims its heap above twice the largest
#: threshold of mmap, 32 MiB. Of ONNX Runtime's by its arena, between maps of other sizes.
_KEPT_BYTES = {"onnx": 35 << 20, "pytorch": 64 << 20, "float64": 64 << 20}
#: Maps of tokens around an attention in blocks.
_AROUND_BLOCKS = 4
#: Measured with TensorRT-RTX 1.7: scratch memory of a layer at the smallest sizes, and beside the widest point.
_SCRATCH_BYTES, _BESIDE_BYTES = 16 << 20, 6 << 20


class StagesConfig(NetworkConfig, Protocol):
    """Hyper-parameters of four stages, as :class:`~rest_deploy.models.rest_family.ResTConfig` explains them."""

    @property
    def embed_dims(self) -> tuple[int, ...]: ...
    @property
    def depths(self) -> tuple[int, ...]: ...
    @property
    def num_heads(self) -> tuple[int, ...]: ...
    @property
    def sr_ratios(self) -> tuple[int, ...]: ...
    @property
    def qk_scale(self) -> float | None: ...
    @property
    def norm_eps(self) -> float: ...
    def hidden_dim(self, stage: int) -> int:
        """Hidden channels of the MLP in stage 0 to 3."""


def check_stages(embed_dims: Sequence[int], num_heads: Sequence[int], sr_ratios: Sequence[int]) -> None:
    """Refuse stages that no network of the authors' can have.

    Raises:
        ConfigError: Says which.
    """
    if any(ratio > 1 and ratio % 2 for ratio in sr_ratios):
        raise ConfigError(
            f"sr_ratios is {sr_ratios!r}; each must be 1 or even: with kernel s+1 and padding s//2 an odd "
            "reduction has no output on the smallest grids"
        )
    if embed_dims[0] % 2:
        raise ConfigError(f"embed_dims[0] is {embed_dims[0]}; it must be even: the stem works at half of it")
    for stage, (width, heads) in enumerate(zip(embed_dims, num_heads, strict=True), 1):
        if width % heads:
            raise ConfigError(f"stage {stage} has {width} channels, which {heads} heads do not divide")


# Sizes

Grid = tuple[int, int]


@dataclass(frozen=True)
class StageSize:
    """One stage at one image.

    Args:
        tokens, keys: Of the queries and, after the reduction, of the keys.
        dim, hidden: Channels of a token, and of it inside the MLP.
        heads: Attention heads.
    """

    tokens: int
    keys: int
    dim: int
    hidden: int
    heads: int

    @property
    def attention(self) -> int:
        """Numbers in the maps of queries x keys of all heads."""
        return self.heads * self.tokens * self.keys


def stage_sizes(config: StagesConfig, height: int, width: int) -> Iterator[StageSize]:
    """The stages of a network at an image of (height, width), in order."""
    height, width = -(-height // 4), -(-width // 4)
    stages = zip(config.embed_dims, config.num_heads, config.sr_ratios, strict=True)
    for stage, (dim, heads, ratio) in enumerate(stages):
        if stage:
            height, width = -(-height // 2), -(-width // 2)
        keys = -(-height // ratio) * -(-width // ratio)
        yield StageSize(height * width, keys, dim, config.hidden_dim(stage), heads)


def _share(row: int, rows: int, block: int) -> float:
    """Of a map of so many rows of so many numbers, that a block is; it has one row at least."""
    return max(block, row) / (row * rows)


C = TypeVar("C", bound=StagesConfig)


class StagesFamily(Family[C]):
    """A family of four stages. It says what its stem and its blocks compute beside what all of them do, the maps of
    queries x keys of a stage, and what is alive beside them.
    """

    settings = frozenset({"qk_scale", "norm_layer", *EPS, *ACTIVATIONS, *HEADS})
    #: By format: what a call takes beside its maps of queries x keys, as their multiple; maps of tokens beside those.
    call_overhead: ClassVar[Mapping[str, float]]
    call_around: ClassVar[Mapping[str, int]]
    #: Maps of the stem that are alive at a time.
    call_stem: ClassVar[Mapping[str, int]]
    #: Maps of tokens that an engine has beside two of queries x keys; maps of the first stage beside scratch memory.
    engine_around: ClassVar[float]
    engine_first: ClassVar[int]

    @abstractmethod
    def stem_products(self, dim: int, half: int, quarter: int) -> int:
        """Multiply-adds of the stem for an image, but for its first convolution and its position code.

        Args:
            dim: Channels that it ends with; it begins with half of them.
            half, quarter: Positions of its maps at a half and a quarter of the image's sides.
        """

    @abstractmethod
    def block_products(self, config: C, stage: StageSize, ratio: int) -> int:
        """Multiply-adds of a block for an image, but for attention over reduced keys and the MLP.

        Args:
            config: Of the network.
            stage: The stage of the block.
            ratio: Its reduction of keys and values.
        """

    @abstractmethod
    def attention_numbers(self, stage: StageSize, precision: Precision, format: str) -> int:
        """Numbers in the maps of queries x keys that are alive at a time on the CPU."""

    def preprocessing_at(self, size: ImageSize | None) -> Preprocessing:
        return self.preprocessing if size is None else Preprocessing.for_size(size)

    def block_name(self, piece: str) -> str:
        return re.sub(r"^stage(\d+)_(\d+)$", r"stage\1.\2", piece)

    def stage_channels(self, config: C) -> tuple[int, ...]:
        return config.embed_dims

    def flops(self, config: C, batch: int, size: ImageSize) -> int:
        """Two for each multiply-add of convolutions (taps on padding count), linear layers and products of matrices.

        Of the network as its authors wrote it; the deploy form has a few less. That is the convention of
        ``torch.utils.flop_counter.FlopCounterMode``, whose figure is the same. Biases, norms, softmax, GELU, sigmoid,
        sums and means are not counted. Half of it is what ResTv2's authors give at 224x224, and 6 to 10 % more than
        what ResT's give, whose counter has no name (README of github.com/wofmanaf/ResT).

        Raises:
            ConfigError: ``batch`` is no whole number of at least 1.
        """
        batch = check(BATCH, batch, "batch")
        sizes, hidden = list(stage_sizes(config, size.height, size.width)), config.embed_dims[0] // 2
        half = -(-size.height // 2) * -(-size.width // 2)
        total = 9 * half * config.in_channels * hidden + self.stem_products(2 * hidden, half, sizes[0].tokens)
        stages = zip(sizes, (hidden, *config.embed_dims), config.depths, config.sr_ratios, strict=False)
        for stage, entry, depth, ratio in stages:
            tokens, keys, dim = stage.tokens, stage.keys, stage.dim
            block = 2 * dim**2 * (tokens + keys) + 2 * dim * tokens * keys  # linear layers, queries x keys x values
            block += 2 * tokens * dim * stage.hidden + self.block_products(config, stage, ratio)
            if ratio > 1:
                block += keys * dim * (ratio + 1) ** 2
            total += 9 * tokens * dim * (entry + 1) + depth * block  # the convolution into it, its position code
        return 2 * batch * (total + config.embed_dims[-1] * config.num_classes)

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
        """Between 0.9 and 1.6 of what was measured, from a gigabyte up; in blocks between 0.8 and 1.25
        (tests/models/test_memory.py).
        """
        stem = self.call_stem[format] * -(-height // 2) * -(-width // 2) * (config.embed_dims[0] // 2)
        widest, blocks = 0.0, False
        for stage in stage_sizes(config, height, width):
            maps, hidden = self._at_a_time(stage, batch, precision, format, block)
            numbers = maps * self.call_overhead[format] * self.attention_numbers(stage, precision, format)
            around = self.call_around[format] if maps == 1 else _AROUND_BLOCKS
            mlp = stage.tokens * (2 * stage.dim + hidden * 2 * stage.hidden)
            widest = max(widest, numbers + around * stage.tokens * stage.dim, mlp)
            blocks |= min(maps, hidden) < 1
        apart = format == "float64" or (format == "onnx" and blocks)  # so large that it is given back, or used again
        most = max(stem, widest) if apart else stem + widest
        own = batch * _NUMBER[format] * (height * width * config.in_channels + most)
        return int(own) + (_KEPT_BYTES[format] if blocks else 0)

    def _at_a_time(
        self, stage: StageSize, batch: int, precision: Precision, format: str, block: int | None
    ) -> tuple[float, float]:
        """Shares of its maps of queries x keys, and of the hidden map of its MLP, that are alive at a time."""
        row = batch * stage.heads * stage.keys
        if format != "onnx":
            large = row * stage.tokens > TORCH_WHOLE
            return _share(row, stage.tokens, TORCH_BLOCK) if large else 1.0, 1.0
        if block is None:
            return 1.0, 1.0
        light = precision is Precision.FP32 and stage.dim * stage.hidden <= MLP_WEIGHT
        parts = ((row, stage.tokens, True), (stage.hidden, batch * stage.tokens, light))
        maps, hidden = (
            _share(one, rows, block) if able and one * rows > WHOLE_BLOCKS * block else 1.0 for one, rows, able in parts
        )
        return maps, hidden

    def engine_bytes(self, config: C, largest: InputSize, precision: Precision) -> int:
        """Within 15% (ResT) and 20% (ResTv2) of what TensorRT-RTX 1.7 tells of FP32 engines from 1x224x224 to
        1x1024x1024 and from 16x224x224 to 8x640x640 (tests/export/engine/test_memory.py).

        What is alive at the widest point of a block: the attention map before and after softmax beside maps of tokens,
        or in the MLP its hidden layer before and after GELU beside two.
        """
        stages = list(stage_sizes(config, largest.size.height, largest.size.width))
        first = stages[0].tokens * stages[0].dim
        widest = max(
            max(
                2 * stage.attention + self.engine_around * stage.tokens * stage.dim,
                2 * stage.tokens * (stage.dim + stage.hidden),
            )
            for stage in stages
        )
        number = largest.batch * recipe_of(precision).engine_bytes
        return int(max(_SCRATCH_BYTES + self.engine_first * first * number, _BESIDE_BYTES + widest * number))

    def heads(self, evidence: Evidence) -> tuple[int, ...] | None:
        found = [evidence.attribute(f"stage{stage}.0.attn", "num_heads") for stage in range(1, STAGES + 1)]
        return tuple(found) if all(isinstance(heads, int) for heads in found) else None

    def contradictions(self, config: C, settings: Iterable[Setting]) -> Iterator[str]:
        from rest_deploy.models.stages_checkpoints import contradictions

        return contradictions(config, settings)
