"""ResT (arXiv 2105.13677) without PyTorch: its configs, its operations, its memory, and the family that it is."""

from __future__ import annotations

import functools
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from rest_deploy.artifact.profile import InputSize
from rest_deploy.errors import ConfigError
from rest_deploy.machine import describe_cpu
from rest_deploy.models.family import Family
from rest_deploy.recipes import recipe_of
from rest_deploy.specs import BATCH, FACTOR, NUM_HEADS, FeatureNorm, ImageSize, Precision, Preprocessing
from rest_deploy.values import Many, Real, Whole, check, hold, shown

if TYPE_CHECKING:
    from rest_deploy.models.checkpoint import LoadedWeights
    from rest_deploy.models.deploy import DeployResT
    from rest_deploy.models.evidence import Evidence, Setting
    from rest_deploy.models.rest import ResT
    from rest_deploy.models.restv2_family import ResTv2Config

STAGES = 4
_STAGES = Many(STAGES, STAGES)
MAX_BLOCKS = 1000  # of a stage; rest_large has 18
_RARE = frozenset({"apply_transform", "qk_scale", "norm_eps"})


@dataclass(frozen=True)
class ResTConfig:
    """Hyper-parameters of a ResT (arXiv 2105.13677, table 1), one entry per stage where a tuple.

    Args:
        embed_dims: Channels of each stage; the first must be even, as the stem works at half of it.
        depths: Blocks in each stage.
        num_heads: Attention heads; each must divide its stage's channels.
        mlp_ratios: Hidden channels of the MLP, as a multiple of the stage's channels.
        sr_ratios: Spatial reduction of keys and values; 1 means none, any other must be even.
        num_classes: Outputs of the head.
        in_channels: Channels of the image.
        apply_transform: Whether the heads of a stage with several interact, through a 1x1 convolution across their
            logits and an InstanceNorm of their attention (the authors' name for it). All published networks do.
        qk_scale: Factor of the logits; None for one over the square root of a head's channels.
        norm_eps: Of the LayerNorms, but for the one on reduced tokens, which the authors leave at 1e-5.

    Raises:
        ConfigError: A value is out of range, or the tuples are not four long.
    """

    # The most that a field may be is far beyond any network, and within what a machine counts and builds.
    embed_dims: Annotated[tuple[Annotated[int, Whole(1, 1 << 16)], ...], _STAGES] = (64, 128, 256, 512)
    depths: Annotated[tuple[Annotated[int, Whole(1, MAX_BLOCKS)], ...], _STAGES] = (2, 2, 2, 2)
    num_heads: NUM_HEADS = (1, 2, 4, 8)
    mlp_ratios: Annotated[tuple[Annotated[float, Real(0, 1 << 10, over=True)], ...], _STAGES] = (4.0, 4.0, 4.0, 4.0)
    sr_ratios: Annotated[tuple[Annotated[int, Whole(1, 1 << 10)], ...], _STAGES] = (8, 4, 2, 1)
    num_classes: Annotated[int, Whole(0, 1 << 24)] = 1000
    in_channels: Annotated[int, Whole(1, 1 << 16)] = 3
    apply_transform: bool = True
    qk_scale: Annotated[float, FACTOR] | None = None
    norm_eps: Annotated[float, FACTOR] = 1e-5

    def __post_init__(self) -> None:
        hold(self)
        check_stages(self.embed_dims, self.num_heads, self.sr_ratios)
        for stage, (width, ratio) in enumerate(zip(self.embed_dims, self.mlp_ratios, strict=True), 1):
            if width * ratio < 1:
                raise ConfigError(f"stage {stage}: mlp_ratios gives {ratio} x {width} channels; at least 1 is needed")

    def interacts(self, stage: int) -> bool:
        """Whether the heads of stage 0 to 3 interact."""
        return self.apply_transform and self.num_heads[stage] > 1

    def hidden_dim(self, stage: int) -> int:
        """Hidden channels of the MLP in stage 0 to 3, rounded down as the authors do."""
        return int(self.embed_dims[stage] * self.mlp_ratios[stage])

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; the inverse of :meth:`from_dict`. What few networks change is there if it is."""
        usual = {field.name: field.default for field in fields(self) if field.name in _RARE}
        values = {key: value for key, value in asdict(self).items() if key not in usual or value != usual[key]}
        return {key: list(value) if isinstance(value, tuple) else value for key, value in values.items()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> ResTConfig:
        """Read what :meth:`to_dict` gave, lists as tuples.

        Raises:
            ConfigError: An unknown field, or a value out of range.
        """
        unknown = sorted(set(values) - {field.name for field in fields(cls)})
        if unknown:
            raise ConfigError(
                f"unknown model config fields {shown(unknown)}; known: {[field.name for field in fields(cls)]}"
            )
        return cls(**values)


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


_WIDE = (96, 192, 384, 768)

#: The published variants (arXiv 2105.13677, table 1).
CONFIGS: Mapping[str, ResTConfig] = MappingProxyType(
    {
        "rest_lite": ResTConfig(),
        "rest_small": ResTConfig(depths=(2, 2, 6, 2)),
        "rest_base": ResTConfig(embed_dims=_WIDE, depths=(2, 2, 6, 2)),
        "rest_large": ResTConfig(embed_dims=_WIDE, depths=(2, 2, 18, 2)),
    }
)


# Operations

Grid = tuple[int, int]


def count_flops(config: ResTConfig, batch: int, size: ImageSize) -> int:
    """Floating-point operations of one run of the network as its authors wrote it (arXiv 2105.13677, section 3).

    Two for each multiply-add of convolutions (the depthwise ones too; taps on padding count), of linear layers, of the
    products of queries with keys and of attention with values, and of the 1x1 convolution that mixes heads. That is
    the convention of ``torch.utils.flop_counter.FlopCounterMode``, whose figure is the same. Biases, norms, softmax,
    GELU, sigmoid, sums and means are not counted.

    The authors give 1.4, 1.9, 4.3 and 7.9 G "FLOPs" at 224x224 (README of github.com/wofmanaf/ResT): multiply-adds, by
    a counter that they do not name. Half of this figure is 6 to 10 % more than that.

    Args:
        config: Of the network.
        batch: Images, 1 or more.
        size: Of the images, from 1x1 up.

    Raises:
        ConfigError: ``batch`` is no whole number of at least 1.
    """
    batch = check(BATCH, batch, "batch")
    hidden = config.embed_dims[0] // 2
    grid = grid_after((size.height, size.width), 3, 2)
    multiply_adds = convolution(grid, config.in_channels, hidden, 3) + convolution(grid, hidden, hidden, 3)
    for stage, channels in enumerate((hidden, *config.embed_dims[:-1])):
        grid = grid_after(grid, 3, 2)
        multiply_adds += embedding(config.embed_dims[stage], grid, channels)
        multiply_adds += config.depths[stage] * _block(config, stage, grid)
    multiply_adds += config.embed_dims[-1] * config.num_classes
    return 2 * batch * multiply_adds


def grid_after(grid: Grid, kernel: int, stride: int) -> Grid:
    """What a convolution of odd kernel, padded by half of it, makes of a map."""
    height, width = ((length + 2 * (kernel // 2) - kernel) // stride + 1 for length in grid)
    return height, width


def convolution(grid: Grid, in_channels: int, out_channels: int, kernel: int) -> int:
    """Multiply-adds of a convolution that yields ``grid``; of a depthwise one, with one channel in."""
    return grid[0] * grid[1] * in_channels * out_channels * kernel**2


def embedding(channels: int, grid: Grid, in_channels: int) -> int:
    """Multiply-adds of the convolution into a stage, and of its position code (section 3.3)."""
    return convolution(grid, in_channels, channels, 3) + convolution(grid, 1, channels, 3)


def _block(config: ResTConfig, stage: int, grid: Grid) -> int:
    """Multiply-adds of attention over reduced keys (section 3.2) and MLP, of one block."""
    channels, heads, reduction = config.embed_dims[stage], config.num_heads[stage], config.sr_ratios[stage]
    reduced, total = grid, 0
    if reduction > 1:
        reduced = grid_after(grid, reduction + 1, reduction)
        total += convolution(reduced, 1, channels, reduction + 1)
    queries, keys = grid[0] * grid[1], reduced[0] * reduced[1]
    total += 2 * channels**2 * (queries + keys)  # q and the projection; k and v
    total += 2 * channels * queries * keys  # queries with keys, attention with values
    if config.interacts(stage):
        total += heads**2 * queries * keys  # the mixing of heads
    return total + 2 * queries * channels * config.hidden_dim(stage)


# Memory

_FLOAT = 4
#: PyTorch 2.13 on the CPU: with one head the product, what is scaled of it and the softmax. With several it mixes heads
#: by a convolution, for which oneDNN lays the product and the result out in blocks of channels, beside the plain
#: product. Blocks are as wide as the CPU's vectors; measured with AVX2 only.
_PYTORCH_ONE_HEAD, _BLOCK, _WIDE_BLOCK = 3, 8, 16
#: What each takes beside the maps: packed factors, partial sums, what is lost between pieces; and maps of the stem.
_OVERHEAD, _STEM_MAPS = {"onnx": 1.06, "pytorch": 1.15}, {"onnx": 2, "pytorch": 3}


#: Measured with TensorRT-RTX 1.7: scratch memory of a layer at the smallest sizes, which stands beside this many maps
#: of the first stage, and scratch memory beside the widest point.
_SCRATCH_BYTES, _SCRATCH_MAPS, _BESIDE_BYTES = 16 << 20, 5, 6 << 20


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


def stage_sizes(config: ResTConfig | ResTv2Config, height: int, width: int) -> Iterator[StageSize]:
    """The stages of a network at an image of (height, width), in order."""
    height, width = -(-height // 4), -(-width // 4)
    stages = zip(config.embed_dims, config.num_heads, config.sr_ratios, strict=True)
    for stage, (dim, heads, ratio) in enumerate(stages):
        if stage:
            height, width = -(-height // 2), -(-width // 2)
        keys = -(-height // ratio) * -(-width // ratio)
        yield StageSize(height * width, keys, dim, config.hidden_dim(stage), heads)


@functools.cache
def _channels_a_block() -> int:
    return _WIDE_BLOCK if "avx512f" in describe_cpu() else _BLOCK


def _maps_in_onnxruntime(stage: StageSize, precision: Precision) -> int:
    return stage.attention * recipe_of(precision).attention_maps[stage.heads > 1]


def _maps_in_pytorch(stage: StageSize) -> int:
    if stage.heads == 1:
        return _PYTORCH_ONE_HEAD * stage.attention
    blocked = -(-stage.heads // _channels_a_block()) * _channels_a_block()
    return stage.tokens * stage.keys * (stage.heads + 2 * blocked)


def block_name(piece: str) -> str:
    """A piece of the deploy form by the name of the authors' module."""
    return re.sub(r"^stage(\d+)_(\d+)$", r"stage\1.\2", piece)


def heads_in_module(evidence: Evidence) -> tuple[int, ...] | None:
    """Heads of each stage, as a module of the authors' classes says them; None where none does."""
    found = [evidence.attribute(f"stage{stage}.0.attn", "num_heads") for stage in range(1, STAGES + 1)]
    return tuple(found) if all(isinstance(heads, int) for heads in found) else None


class ResTFamily(Family[ResTConfig]):
    """ResT. What its weights and settings tell of it is read in ``rest_checkpoints.py``."""

    name = "rest"
    title = "ResT"
    config = ResTConfig
    variants = CONFIGS
    anchors = ("patch_embed_2.conv.weight", "stem.conv1.weight")  # ResNets in detectors have the second
    beginnings = frozenset(
        [
            "stem",
            "patch_embed_2",
            "patch_embed_3",
            "patch_embed_4",
            "stage1",
            "stage2",
            "stage3",
            "stage4",
            "norm",
            "head",
        ]
    )
    operators = frozenset(
        "Add Cast Constant Conv Div Erf Gelu Gemm Identity LayerNormalization MatMul Mul Reciprocal ReduceMean Relu "  # noqa: SIM905
        "Reshape Shape Sigmoid Softmax Sqrt Sub Transpose".split()
    )
    attributes = ("num_heads", "scale", "sr_ratio")
    operator_modules: ClassVar[Mapping[str, tuple[str, Mapping[str, Any]]]] = {
        "stem.act": ("ReLU", {}),
        "pos.sigmoid": ("Sigmoid", {}),
        "attn.transform_norm": ("InstanceNorm2d", {"eps": 1e-5, "affine": False, "track_running_stats": False}),
    }
    settings = frozenset(
        "qk_scale norm_layer norm_eps layer_norm_eps layernorm_eps ln_eps act_layer hidden_act activation act act_fn "  # noqa: SIM905
        "act_type num_heads heads".split()
    )
    unused_modules = frozenset({"avg_pool"})
    #: As in the authors' Detectron2 code: the next stage takes the map with its norm.
    stage_norms: ClassVar[Mapping[tuple[str, ...], FeatureNorm]] = {
        ("norm1", "norm2", "norm3", "norm"): FeatureNorm.CHAIN
    }

    def network(self) -> type[ResT]:
        from rest_deploy.models.rest import ResT

        return ResT

    def to_deploy(self, model: ResT) -> DeployResT:
        from rest_deploy.models.deploy import to_deploy

        return to_deploy(model)

    def preprocessing_at(self, size: ImageSize | None) -> Preprocessing:
        return self.preprocessing if size is None else Preprocessing.for_size(size)

    def block_name(self, piece: str) -> str:
        return block_name(piece)

    def stage_channels(self, config: ResTConfig) -> tuple[int, ...]:
        return config.embed_dims

    def flops(self, config: ResTConfig, batch: int, size: ImageSize) -> int:
        return count_flops(config, batch, size)

    def call_bytes(
        self, config: ResTConfig, batch: int, height: int, width: int, *, precision: Precision, format: str
    ) -> int:
        """Between 0.9 and 1.6 of what was measured, from a gigabyte up (tests/models/test_memory.py)."""
        stem = -(-height // 2) * -(-width // 2) * (config.embed_dims[0] // 2)
        widest = 0.0
        for stage in stage_sizes(config, height, width):
            maps = _maps_in_pytorch(stage) if format == "pytorch" else _maps_in_onnxruntime(stage, precision)
            around = 3 * stage.tokens * stage.dim
            mlp = stage.tokens * (2 * stage.dim + 2 * stage.hidden)
            widest = max(widest, _OVERHEAD[format] * maps + around, mlp)
        return int(batch * _FLOAT * (height * width * config.in_channels + _STEM_MAPS[format] * stem + widest))

    def engine_bytes(self, config: ResTConfig, largest: InputSize, precision: Precision) -> int:
        """Within 15% of what TensorRT-RTX 1.7 tells of FP32 engines from 1x224x224 to 1x1024x1024 and from 16x224x224
        to 8x640x640 (tests/export/engine/test_memory.py).

        What is alive at the widest point of a block: the attention map before and after softmax beside three maps of
        tokens, or in the MLP its hidden layer before and after GELU beside two.
        """
        stages = list(stage_sizes(config, largest.size.height, largest.size.width))
        first = stages[0].tokens * stages[0].dim
        widest = max(
            max(2 * stage.attention + 3 * stage.tokens * stage.dim, 2 * stage.tokens * (stage.dim + stage.hidden))
            for stage in stages
        )
        number = largest.batch * recipe_of(precision).engine_bytes
        return max(_SCRATCH_BYTES + _SCRATCH_MAPS * first * number, _BESIDE_BYTES + widest * number)

    def read(self, loaded: LoadedWeights, num_heads: Sequence[int] | None) -> tuple[ResTConfig, str]:
        from rest_deploy.models import rest_checkpoints

        return rest_checkpoints.read(loaded, num_heads)

    def heads(self, evidence: Evidence) -> tuple[int, ...] | None:
        return heads_in_module(evidence)

    def fit(
        self, config: ResTConfig, name: str | None, loaded: LoadedWeights, num_heads: Sequence[int] | None
    ) -> ResTConfig:
        from rest_deploy.models import rest_checkpoints

        return rest_checkpoints.fit(config, name, loaded, num_heads)

    def filled(self, config: ResTConfig, missing: Collection[str]) -> tuple[list[str], str]:
        """The authors' class has all biases of queries, keys and values or none."""
        biases = [name for name in missing if name.endswith((".attn.q.bias", ".attn.kv.bias"))]
        if len(biases) != 2 * sum(config.depths):
            return [], ""
        return biases, f"{len(biases)} biases of queries, keys and values, trained without (qkv_bias=False): 0"

    def contradictions(self, config: ResTConfig, settings: Iterable[Setting]) -> Iterator[str]:
        from rest_deploy.models import rest_checkpoints

        return rest_checkpoints.contradictions(config, settings)

    def flags(self, config: ResTConfig) -> Mapping[str, Any] | None:
        """What neither shapes nor heads tell has no flag."""
        rare = (config.qk_scale, config.norm_eps) != (ResTConfig.qk_scale, ResTConfig.norm_eps)
        return None if rare else {"num_heads": config.num_heads}
