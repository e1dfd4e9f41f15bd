"""Architectures as data: the four published ResT variants, and the checks that a custom one must pass."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from types import MappingProxyType
from typing import Annotated, Any

from rest_deploy.errors import ConfigError
from rest_deploy.specs import FACTOR, NUM_HEADS
from rest_deploy.values import Many, Real, Whole, hold, shown

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
    num_classes: Annotated[int, Whole(1, 1 << 24)] = 1000
    in_channels: Annotated[int, Whole(1, 1 << 16)] = 3
    apply_transform: bool = True
    qk_scale: Annotated[float, FACTOR] | None = None
    norm_eps: Annotated[float, FACTOR] = 1e-5

    def __post_init__(self) -> None:
        hold(self)
        if any(ratio > 1 and ratio % 2 for ratio in self.sr_ratios):
            raise ConfigError(
                f"sr_ratios is {self.sr_ratios!r}; each must be 1 or even: with kernel s+1 and padding s//2 an odd "
                "reduction has no output on the smallest grids"
            )
        if self.embed_dims[0] % 2:
            raise ConfigError(f"embed_dims[0] is {self.embed_dims[0]}; it must be even: the stem works at half of it")
        for stage, (width, ratio) in enumerate(zip(self.embed_dims, self.mlp_ratios, strict=True), 1):
            if width * ratio < 1:
                raise ConfigError(f"stage {stage}: mlp_ratios gives {ratio} x {width} channels; at least 1 is needed")
        for stage, (width, heads) in enumerate(zip(self.embed_dims, self.num_heads, strict=True), 1):
            if width % heads:
                raise ConfigError(f"stage {stage} has {width} channels, which {heads} heads do not divide")

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


def list_models() -> list[str]:
    """Names that :func:`create_model` and ``rest-export --model`` accept."""
    return list(CONFIGS)


def get_config(name: str) -> ResTConfig:
    """Config of a published variant.

    Raises:
        ConfigError: No such variant.
    """
    try:
        return CONFIGS[name]
    except KeyError:
        raise ConfigError(f"unknown model {name!r}; known models: {', '.join(CONFIGS)}") from None
