"""ResT (arXiv 2105.13677) without PyTorch: its configs, its operations, its memory, and the family that it is."""

from __future__ import annotations

import functools
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from rest_deploy.errors import CheckpointError, ConfigError
from rest_deploy.machine import describe_cpu
from rest_deploy.models.family import spaced
from rest_deploy.models.stages_family import (
    MAX_BLOCKS,
    OF_STAGES,
    STAGES,
    StagesFamily,
    StageSize,
    check_stages,
)
from rest_deploy.recipes import recipe_of
from rest_deploy.specs import FACTOR, NUM_HEADS, FeatureNorm, Precision
from rest_deploy.values import Real, Whole, hold, shown

if TYPE_CHECKING:
    from torch import Tensor

    from rest_deploy.models.checkpoint import LoadedWeights
    from rest_deploy.models.deploy import DeployResT
    from rest_deploy.models.rest import ResT

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
    embed_dims: Annotated[tuple[Annotated[int, Whole(1, 1 << 16)], ...], OF_STAGES] = (64, 128, 256, 512)
    depths: Annotated[tuple[Annotated[int, Whole(1, MAX_BLOCKS)], ...], OF_STAGES] = (2, 2, 2, 2)
    num_heads: NUM_HEADS = (1, 2, 4, 8)
    mlp_ratios: Annotated[tuple[Annotated[float, Real(0, 1 << 10, over=True)], ...], OF_STAGES] = (4.0, 4.0, 4.0, 4.0)
    sr_ratios: Annotated[tuple[Annotated[int, Whole(1, 1 << 10)], ...], OF_STAGES] = (8, 4, 2, 1)
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


# Checkpoints


def infer(loaded: LoadedWeights, num_heads: Sequence[int] | None) -> ResTConfig:
    """The config that weights have.

    Raises:
        CheckpointError, KeyError, ValueError, IndexError, ZeroDivisionError: As of a family's ``read``.
    """
    from rest_deploy.models.stages_checkpoints import count_blocks, count_classes

    weights = loaded.state_dict
    stages = [f"stage{stage}.0" for stage in range(1, STAGES + 1)]
    depths = [count_blocks(weights, f"stage{stage}.") for stage in range(1, STAGES + 1)]
    widths = [weights[f"{stage}.norm1.weight"].shape[0] for stage in stages]
    hidden = [weights[f"{stage}.mlp.fc1.weight"].shape[0] for stage in stages]
    reductions = [weights.get(f"{stage}.attn.sr.weight") for stage in stages]
    heads = _heads_of(loaded, stages, num_heads)
    return ResTConfig(
        embed_dims=tuple(widths),
        depths=tuple(depths),
        num_heads=heads,
        mlp_ratios=tuple(_ratio(h, w) for h, w in zip(hidden, widths, strict=True)),
        sr_ratios=tuple(1 if weight is None else weight.shape[-1] - 1 for weight in reductions),
        num_classes=count_classes(weights),
        in_channels=weights["stem.conv1.weight"].shape[1],
        apply_transform=_heads_interact(weights) or max(heads) == 1,
    )


def _heads_interact(weights: Mapping[str, Tensor]) -> bool:
    """Whether the heads of any stage go through a convolution across them."""
    return any(key.endswith(".attn.transform_conv.weight") for key in weights)


def _heads_of(loaded: LoadedWeights, stages: list[str], given: Sequence[int] | None) -> tuple[int, ...]:
    """Heads of each stage.

    The authors' class has the convolution in every stage of several heads or in none, so a stage without one has one
    head if another stage has one, and any number if none has.
    """
    from rest_deploy.models.stages_checkpoints import heads_in, heads_wanted

    weights = loaded.state_dict
    if not _heads_interact(weights):
        if given is None:
            raise CheckpointError(
                f"{loaded.source}: no block has attn.transform_conv, so its heads do not interact and the weights do "
                f"not tell how many there are; say how many each stage has, as it was trained: "
                f"{heads_wanted(CONFIGS.values())}{heads_in(loaded.evidence.settings)}"
            )
        return tuple(given)
    mixing = [weights.get(f"{stage}.attn.transform_conv.weight") for stage in stages]
    heads = tuple(1 if weight is None else weight.shape[0] for weight in mixing)
    if given is not None and tuple(given) != heads:
        raise CheckpointError(
            f"{loaded.source}: its attn.transform_conv is of {spaced(heads)} heads, {spaced(given)} were given; leave "
            "--num-heads out"
        )
    return heads


def _ratio(hidden: int, width: int) -> float:
    """A ratio from which the model, which rounds down, gets ``hidden`` channels again."""
    ratio = hidden / width
    return ratio if int(width * ratio) == hidden else (hidden + 0.5) / width


# Memory

#: PyTorch 2.13 on the CPU: with one head the product, what is scaled of it and the softmax. With several it mixes heads
#: by a convolution, for which oneDNN lays the product and the result out in blocks of channels, beside the plain
#: product. Blocks are as wide as the CPU's vectors; measured with AVX2 only.
_PYTORCH_ONE_HEAD, _BLOCK, _WIDE_BLOCK = 3, 8, 16
#: Without oneDNN, in float64: two in turn.
_FLOAT64_MAPS = 2


@functools.cache
def _channels_a_block() -> int:
    return _WIDE_BLOCK if "avx512f" in describe_cpu() else _BLOCK


def _maps_in_pytorch(stage: StageSize) -> int:
    if stage.heads == 1:
        return _PYTORCH_ONE_HEAD * stage.attention
    blocked = -(-stage.heads // _channels_a_block()) * _channels_a_block()
    return stage.tokens * stage.keys * (stage.heads + 2 * blocked)


class ResTFamily(StagesFamily[ResTConfig]):
    """ResT."""

    name = "rest"
    title = "ResT"
    config = ResTConfig
    variants = CONFIGS
    anchors = ("patch_embed_2.conv.weight", "stem.conv1.weight")  # ResNets in detectors have the second
    beginnings = frozenset(
        "stem patch_embed_2 patch_embed_3 patch_embed_4 stage1 stage2 stage3 stage4 norm head".split()  # noqa: SIM905
    )
    operators = frozenset(
        "Add Cast Constant Conv Div Erf Gelu Gemm Identity LayerNormalization MatMul Mul Pad Reciprocal ReduceMean "  # noqa: SIM905
        "Relu Reshape Shape Sigmoid Softmax Sqrt Sub Transpose".split()
    )
    attributes = ("num_heads", "scale", "sr_ratio")
    operator_modules: ClassVar[Mapping[str, tuple[str, Mapping[str, Any]]]] = {
        "stem.act": ("ReLU", {}),
        "pos.sigmoid": ("Sigmoid", {}),
        "attn.transform_norm": ("InstanceNorm2d", {"eps": 1e-5, "affine": False, "track_running_stats": False}),
    }
    unused_modules = frozenset({"avg_pool"})
    #: As in the authors' Detectron2 code: the next stage takes the map with its norm.
    stage_norms: ClassVar[Mapping[tuple[str, ...], FeatureNorm]] = {
        ("norm1", "norm2", "norm3", "norm"): FeatureNorm.CHAIN
    }

    # Packed factors, partial sums, what is lost between pieces.
    call_overhead: ClassVar[Mapping[str, float]] = {"onnx": 1.06, "pytorch": 1.15, "float64": 1.06}
    call_around: ClassVar[Mapping[str, int]] = {"onnx": 3, "pytorch": 3, "float64": 3}
    #: In float64, which oneDNN does not know, PyTorch lays out nine numbers for each that a convolution 3x3 takes.
    call_stem: ClassVar[Mapping[str, int]] = {"onnx": 2, "pytorch": 3, "float64": 11}
    engine_around, engine_first = 3, 5

    def network(self) -> type[ResT]:
        from rest_deploy.models.rest import ResT

        return ResT

    def to_deploy(self, model: ResT) -> DeployResT:
        from rest_deploy.models.deploy import to_deploy

        return to_deploy(model)

    def stem_products(self, dim: int, half: int, quarter: int) -> int:
        return 9 * half * (dim // 2) ** 2

    def block_products(self, config: ResTConfig, stage: StageSize, ratio: int) -> int:
        """Of the mixing of heads."""
        return stage.heads * stage.attention if config.apply_transform and stage.heads > 1 else 0

    def attention_numbers(self, stage: StageSize, precision: Precision, format: str) -> int:
        if format == "pytorch":
            return _maps_in_pytorch(stage)
        if format == "float64":
            return _FLOAT64_MAPS * stage.attention
        return stage.attention * recipe_of(precision).attention_maps[stage.heads > 1]

    def read(self, loaded: LoadedWeights, num_heads: Sequence[int] | None) -> tuple[ResTConfig, str]:
        config, evidence = infer(loaded, num_heads), loaded.evidence
        eps, scale = evidence.attribute("stage1.0.norm1", "eps"), evidence.attribute("stage1.0.attn", "scale")
        if isinstance(eps, float):
            config = replace(config, norm_eps=eps)
        if isinstance(scale, float) and not math.isclose(scale, (config.embed_dims[0] // config.num_heads[0]) ** -0.5):
            config = replace(config, qk_scale=scale)
        gelu = evidence.kind("stage1.0.mlp.act")
        if gelu and not gelu.startswith("__torch__.") and isinstance(eps, float) and isinstance(scale, float):
            return config, ""
        factor = "1/sqrt(head channels)" if config.qk_scale is None else f"{config.qk_scale:g}"
        return config, (
            f"LayerNorm eps {config.norm_eps:g}, logits scaled by {factor}, exact GELU: the authors' defaults, which "
            "weights do not tell"
        )

    def fit(
        self, config: ResTConfig, name: str | None, loaded: LoadedWeights, num_heads: Sequence[int] | None
    ) -> ResTConfig:
        """A published network's heads interact. Weights without that may be of its other parts, trained without it, and
        then nothing but its user knows their heads.
        """
        lacking = any(config.interacts(stage) for stage in range(STAGES)) and not _heads_interact(loaded.state_dict)
        if num_heads is not None and name is not None and lacking:
            config = replace(config, num_heads=tuple(num_heads), apply_transform=max(num_heads) == 1)
        elif lacking:
            from rest_deploy.models.stages_checkpoints import heads_in, heads_wanted

            way = heads_wanted(CONFIGS.values()) if name else "a ResTConfig with apply_transform=False"
            said = heads_in(loaded.evidence.settings)
            raise CheckpointError(
                f"{loaded.source}: no block has attn.transform_conv, through which the heads of "
                f"{name or 'this config'} interact; if it was trained without it, say so with the heads it had: "
                f"{way}{said}"
            )
        if num_heads is not None and tuple(num_heads) != config.num_heads:
            raise ConfigError(f"num_heads {spaced(num_heads)}: the model that was named has {spaced(config.num_heads)}")
        return config

    def filled(self, config: ResTConfig, missing: Collection[str]) -> tuple[list[str], str]:
        """The authors' class has all biases of queries, keys and values or none."""
        biases = [name for name in missing if name.endswith((".attn.q.bias", ".attn.kv.bias"))]
        if len(biases) != 2 * sum(config.depths):
            return [], ""
        return biases, f"{len(biases)} biases of queries, keys and values, trained without (qkv_bias=False): 0"

    def flags(self, config: ResTConfig) -> Mapping[str, Any] | None:
        """What neither shapes nor heads tell has no flag."""
        rare = (config.qk_scale, config.norm_eps) != (ResTConfig.qk_scale, ResTConfig.norm_eps)
        return None if rare else {"num_heads": config.num_heads}
