"""ResTv2 (arXiv 2204.07366) without PyTorch: its configs, its operations, its memory, and the family that it is."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from rest_deploy.errors import CheckpointError, ConfigError
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
from rest_deploy.specs import NUM_HEADS, FeatureNorm, Precision
from rest_deploy.values import Whole, hold, read

if TYPE_CHECKING:
    from torch import Tensor

    from rest_deploy.models.checkpoint import LoadedWeights
    from rest_deploy.models.restv2 import DeployResTv2, ResTv2

_MLP_RATIO = 4


@dataclass(frozen=True)
class ResTv2Config:
    """Hyper-parameters of a ResTv2 (arXiv 2204.07366, table 1), one entry per stage where a tuple.

    Args:
        embed_dims: Channels of each stage; the first must be even, as the stem works at half of it.
        depths: Blocks in each stage.
        num_heads: Attention heads; each must divide its stage's channels.
        sr_ratios: Spatial reduction of keys and values; 1 means none, any other must be even.
        num_classes: Outputs of the head; 0 for none.
        in_channels: Channels of the image.

    Raises:
        ConfigError: A value is out of range, or the tuples are not four long.
    """

    embed_dims: Annotated[tuple[Annotated[int, Whole(1, 1 << 16)], ...], OF_STAGES] = (96, 192, 384, 768)
    depths: Annotated[tuple[Annotated[int, Whole(1, MAX_BLOCKS)], ...], OF_STAGES] = (1, 2, 6, 2)
    num_heads: NUM_HEADS = (1, 2, 4, 8)
    sr_ratios: Annotated[tuple[Annotated[int, Whole(1, 1 << 10)], ...], OF_STAGES] = (8, 4, 2, 1)
    num_classes: Annotated[int, Whole(0, 1 << 24)] = 1000
    in_channels: Annotated[int, Whole(1, 1 << 16)] = 3

    # The same in all networks of the family.
    norm_eps: ClassVar[float] = 1e-6
    qk_scale: ClassVar[None] = None  # one over the square root of a head's channels

    def __post_init__(self) -> None:
        hold(self)
        check_stages(self.embed_dims, self.num_heads, self.sr_ratios)

    def hidden_dim(self, stage: int) -> int:
        """Hidden channels of the MLP in stage 0 to 3."""
        return _MLP_RATIO * self.embed_dims[stage]

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; the inverse of :meth:`from_dict`."""
        return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> ResTv2Config:
        """Read what :meth:`to_dict` gave, lists as tuples.

        Raises:
            ConfigError: An unknown field, or a value out of range.
        """
        return read(cls, dict(values))


_WIDE = (128, 256, 512, 1024)
_MANY = (2, 4, 8, 16)

#: The published variants (arXiv 2204.07366, table 1).
CONFIGS: Mapping[str, ResTv2Config] = MappingProxyType(
    {
        "restv2_tiny": ResTv2Config(),
        "restv2_small": ResTv2Config(depths=(1, 2, 12, 2)),
        "restv2_base": ResTv2Config(depths=(1, 3, 16, 3)),
        "restv2_large": ResTv2Config(_WIDE, (2, 3, 16, 2), _MANY),
    }
)
#: Widths that published networks have -> their heads.
_HEADS: Mapping[tuple[int, ...], tuple[int, ...]] = {c.embed_dims: c.num_heads for c in CONFIGS.values()}


#: Maps of queries x keys at a time in PyTorch: what is scaled of the product, and the softmax.
_PYTORCH_MAPS = 2


# Checkpoints


def infer(loaded: LoadedWeights, num_heads: Sequence[int] | None) -> ResTv2Config:
    """The config that weights have; heads are in none of their shapes.

    Raises:
        CheckpointError, KeyError, ValueError, IndexError, ZeroDivisionError: As of a family's ``read``.
    """
    from rest_deploy.models.stages_checkpoints import count_blocks, count_classes

    weights = loaded.state_dict
    stages = [f"stage{stage}." for stage in range(1, STAGES + 1)]
    widths = tuple(weights[f"{stage}0.norm1.weight"].shape[0] for stage in stages)
    return ResTv2Config(
        embed_dims=widths,
        depths=tuple(count_blocks(weights, stage) for stage in stages),
        num_heads=tuple(num_heads) if num_heads is not None else _heads_of(widths, loaded),
        sr_ratios=tuple(
            _reduction(weights, f"{stage}0.attn.up.0.weight", width)
            for stage, width in zip(stages, widths, strict=True)
        ),
        num_classes=count_classes(weights),
        in_channels=weights["stem.proj.0.weight"].shape[1],
    )


def _reduction(weights: Mapping[str, Tensor], name: str, width: int) -> int:
    """Of the values, whose way up has its square times their channels."""
    channels = weights[name].shape[0]
    ratio = math.isqrt(channels // width)
    if ratio**2 * width != channels:
        raise ValueError(f"{name} has {channels} channels; needed: a square times {width}")
    return ratio


def _heads_of(widths: tuple[int, ...], loaded: LoadedWeights) -> tuple[int, ...]:
    """Heads of published networks, where only one of them has these widths.

    The authors' detectors have the widths of the large classifier with the heads of the others; their stages end in
    norms of their own.
    """
    from rest_deploy.models.stages_checkpoints import heads_in, heads_wanted

    heads = _HEADS.get(widths)
    norms = sorted({name.partition(".")[0] for name in loaded.state_dict if re.match(r"norm_[1-4]\.", name)})
    if heads is None or (norms and widths == _WIDE):
        beside = f" with a {norms[0]}" if norms else ""
        why = f"heads of a ResTv2 of widths {spaced(widths)}{beside} are not known"
        raise CheckpointError(
            f"{loaded.source}: {why}, and no shape of its weights tells them; say how many each stage has, as it was "
            f"trained: {heads_wanted(CONFIGS.values())}{heads_in(loaded.evidence.settings)}"
        )
    return heads


class ResTv2Family(StagesFamily[ResTv2Config]):
    """ResTv2."""

    name = "restv2"
    title = "ResTv2"
    config = ResTv2Config
    variants = CONFIGS
    anchors = ("patch_2.proj.weight", "stem.proj.0.weight")  # the second remains where a file lost the first
    beginnings = frozenset("stem patch_2 patch_3 patch_4 stage1 stage2 stage3 stage4 norm head".split())  # noqa: SIM905
    operators = frozenset(
        "Add Cast Constant Conv DepthToSpace Div Erf Gelu Gemm Identity LayerNormalization MatMul Mul Pad ReduceMean "  # noqa: SIM905
        "Relu Reshape Shape Sigmoid Slice Softmax Transpose".split()
    )
    attributes = ("num_heads", "scale", "sr_ratio", "upscale_factor")
    operator_modules: ClassVar[Mapping[str, tuple[str, Mapping[str, Any]]]] = {"pos.sigmoid": ("Sigmoid", {})}
    #: As in the authors' Detectron2 code, and in their mmseg code: a norm is on what leaves, and raw maps go on.
    stage_norms: ClassVar[Mapping[tuple[str, ...], FeatureNorm]] = {
        ("norm_1.0", "norm_2.0", "norm_3.0", "norm_4.0"): FeatureNorm.OUTPUTS,
        ("norm_1", "norm_2", "norm_3", "norm_4"): FeatureNorm.OUTPUTS,
    }

    call_overhead: ClassVar[Mapping[str, float]] = {"onnx": 1.06, "pytorch": 1.06, "float64": 1.06}
    # What the block began with, the values that went up, the queries; in PyTorch all that its call holds to its end.
    call_around: ClassVar[Mapping[str, int]] = {"onnx": 3, "pytorch": 8, "float64": 8}
    # In float64 nine numbers for each of the smaller map that the second convolution takes.
    call_stem: ClassVar[Mapping[str, int]] = {"onnx": 2, "pytorch": 3, "float64": 4}
    engine_around, engine_first = 3.5, 8

    def network(self) -> type[ResTv2]:
        from rest_deploy.models.restv2 import ResTv2

        return ResTv2

    def to_deploy(self, model: ResTv2) -> DeployResTv2:
        from rest_deploy.models.restv2 import to_deploy

        return to_deploy(model)

    def stem_products(self, dim: int, half: int, quarter: int) -> int:
        return quarter * dim**2

    def block_products(self, config: ResTv2Config, stage: StageSize, ratio: int) -> int:
        """Of the values' way up again."""
        return 9 * stage.keys * stage.dim * ratio**2

    def attention_numbers(self, stage: StageSize, precision: Precision, format: str) -> int:
        copies = recipe_of(precision).attention_maps[0] if format == "onnx" else _PYTORCH_MAPS
        return stage.attention * copies

    def read(self, loaded: LoadedWeights, num_heads: Sequence[int] | None) -> tuple[ResTv2Config, str]:
        config = infer(loaded, num_heads)
        evidence = loaded.evidence
        gelu = evidence.kind("stage1.0.mlp.act")
        told = [evidence.attribute("stage1.0.norm1", "eps"), evidence.attribute("stage1.0.attn", "scale")]
        if gelu and not gelu.startswith("__torch__.") and all(isinstance(value, float) for value in told):
            return config, ""
        heads = "" if num_heads is not None else f"heads {spaced(config.num_heads)}, "
        return config, (
            f"{heads}LayerNorm eps {config.norm_eps:g}, logits scaled by 1/sqrt(head channels), exact GELU: those of "
            "the authors' networks, which weights do not tell"
        )

    def fit(
        self, config: ResTv2Config, name: str | None, loaded: LoadedWeights, num_heads: Sequence[int] | None
    ) -> ResTv2Config:
        """A config that was asked for tells the heads."""
        if num_heads is not None and tuple(num_heads) != config.num_heads:
            raise ConfigError(f"num_heads {spaced(num_heads)}: the model that was named has {spaced(config.num_heads)}")
        return config

    def flags(self, config: ResTv2Config) -> Mapping[str, Any] | None:
        return {"num_heads": config.num_heads}
