"""ResTv2 as its authors wrote it (arXiv 2204.07366), for any image size, and its deploy form.

Parameter names are the authors' (github.com/wofmanaf/ResT), so their checkpoints load strictly. The one difference:
each token grid is what its convolution yields, and the values' way up is cut to it, so that sizes other than multiples
of 32 work. On those the two are the same.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rest_deploy.models.network import Pool, Structure, merge_heads, split_heads
from rest_deploy.models.restv2_family import ResTv2Config
from rest_deploy.models.stages import (
    DeployStages,
    FourStages,
    PixelAttention,
    Softmax,
    by_queries,
    deploy_stages,
    fold,
    linear_like,
    queries_and_keys,
    to_map,
    to_tokens,
)
from rest_deploy.models.stages_family import Grid

EPS = ResTv2Config.norm_eps


class Stem(nn.Module):
    """(B, in_channels, H, W) -> (B, dim, ceil(H/4), ceil(W/4))."""

    def __init__(self, in_channels: int, dim: int) -> None:
        super().__init__()
        hidden = dim // 2
        self.proj = nn.Sequential(
            nn.Conv2d(in_channels, hidden, kernel_size=3, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(hidden),
            nn.ReLU(),
            nn.Conv2d(hidden, dim, kernel_size=3, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(dim),
            nn.ReLU(),
            nn.Conv2d(dim, dim, kernel_size=1),
        )
        self.pos = PixelAttention(dim)
        self.norm = nn.LayerNorm(dim, eps=EPS)

    def forward(self, x: Tensor) -> Tensor:
        return _over_channels(self.norm, self.pos(self.proj(x)))


class PatchEmbed(nn.Module):
    """(B, in_dim, H, W) -> (B, dim, ceil(H/2), ceil(W/2)): an overlapping convolution opens stages 2 to 4."""

    def __init__(self, in_dim: int, dim: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(in_dim, dim, kernel_size=3, stride=2, padding=1)
        self.pos = PixelAttention(dim)
        self.norm = nn.LayerNorm(dim, eps=EPS)

    def forward(self, x: Tensor) -> Tensor:
        return _over_channels(self.norm, self.pos(self.proj(x)))


def _over_channels(norm: nn.LayerNorm, x: Tensor) -> Tensor:
    """(B, C, H, W) -> the same, normalised at each pixel."""
    return norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class Attention(nn.Module):
    """(B, N, C), (H, W) with H*W == N -> (B, N, C): EMSA version 2 (section 3.2), whose values also go up directly."""

    def __init__(self, dim: int, num_heads: int, sr_ratio: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.scale = (dim // num_heads) ** -0.5
        self.q = nn.Linear(dim, dim)
        self.kv = nn.Linear(dim, 2 * dim)
        self.sr_ratio = sr_ratio
        if sr_ratio > 1:
            self.sr = nn.Conv2d(dim, dim, kernel_size=sr_ratio + 1, stride=sr_ratio, padding=sr_ratio // 2, groups=dim)
            self.sr_norm = nn.LayerNorm(dim, eps=EPS)
        self.up = nn.Sequential(
            nn.Conv2d(dim, sr_ratio**2 * dim, kernel_size=3, padding=1, groups=dim), nn.PixelShuffle(sr_ratio)
        )
        self.up_norm = nn.LayerNorm(dim, eps=EPS)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor, grid: Grid) -> Tensor:
        q = self.q(x).unflatten(2, (self.num_heads, -1)).transpose(1, 2)  # (B, heads, N, C/heads)
        reduced = grid
        if self.sr_ratio > 1:
            context = self.sr(to_map(x, grid))  # (B, C, ceil(H/s), ceil(W/s))
            reduced = (context.shape[2], context.shape[3])
            x = self.sr_norm(to_tokens(context))  # (B, K, C)
        keys, values = self.kv(x).chunk(2, dim=-1)
        k, v = (y.unflatten(2, (self.num_heads, -1)).transpose(1, 2) for y in (keys, values))  # (B, heads, K, C/heads)
        mixed = by_queries(lambda some: ((some @ k.transpose(-2, -1)) * self.scale).softmax(dim=-1) @ v, q, k, v)
        mixed = mixed.transpose(1, 2).flatten(2)  # (B, N, C)
        up = self.up(to_map(values, reduced))[:, :, : grid[0], : grid[1]]  # (B, C, H, W)
        return self.proj(mixed + self.up_norm(to_tokens(up)))


class ResTv2(FourStages):
    """(B, in_channels, H, W) -> (B, num_classes) logits, any height and width from 1 pixel up."""

    openings = ("stem", "patch_2", "patch_3", "patch_4")
    config: ResTv2Config

    def __init__(self, config: ResTv2Config) -> None:
        super().__init__(
            config, Stem(config.in_channels, config.embed_dims[0]), PatchEmbed, partial(_attention, config)
        )
        self.apply(_init_weights)


def _attention(config: ResTv2Config, stage: int) -> Attention:
    return Attention(config.embed_dims[stage], config.num_heads[stage], config.sr_ratios[stage])


def _init_weights(module: nn.Module) -> None:
    """The authors' initialisation; biases of convolutions are zero too."""
    if isinstance(module, (nn.Linear, nn.Conv2d)):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


# The deploy form


def shuffle_like(x: Tensor, ratio: int, like: Tensor) -> Tensor:
    """(B, s²C, h, w) -> (B, H, W, C), the shape of the map ``like``, with h = ceil(H/s), w = ceil(W/s).

    Channel ``c s² + a s + b`` of a position (i, j) is channel c of the pixel (s i + a, s j + b). One of the operations
    that read sizes (``network.py``): while it is traced, it is opaque.
    """
    if torch.compiler.is_exporting():
        return _shuffle_like(x, ratio, like)
    return F.pixel_shuffle(x, ratio)[:, :, : like.shape[1], : like.shape[2]].permute(0, 2, 3, 1)


@torch.library.custom_op("rest_deploy::shuffle_like", mutates_args=())
def _shuffle_like(x: Tensor, ratio: int, like: Tensor) -> Tensor:
    return shuffle_like(x, ratio, like).clone(memory_format=torch.contiguous_format)


@_shuffle_like.register_fake
def _(x: Tensor, ratio: int, like: Tensor) -> Tensor:
    return x.new_empty(like.shape)


def _shuffle_like_in_onnx(x: Any, ratio: int, like: Any) -> Any:
    """DepthToSpace, a cut to the grid, and channels to the end."""
    from onnxscript import opset18

    op: Any = opset18
    if ratio > 1:
        grid = op.Shape(like, start=1, end=3)
        x = op.DepthToSpace(x, blocksize=ratio, mode="CRD")
        x = op.Slice(x, op.Constant(value_ints=[0, 0]), grid, op.Constant(value_ints=[2, 3]))
    return op.Transpose(x, perm=[0, 2, 3, 1])


class DeployStem(nn.Module):
    """(B, in_channels, H, W) image -> (B, ceil(H/4), ceil(W/4), C) map."""

    def __init__(self, stem: Stem) -> None:
        super().__init__()
        layers: Any = stem.proj
        conv1, norm1, _, conv2, norm2, _, self.conv3 = layers
        self.conv1, self.conv2 = fold(conv1, norm1), fold(conv2, norm2)  # (1)
        self.pos, self.norm = stem.pos, stem.norm

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv2(self.conv1(x).relu()).relu()
        return self.norm(self.pos(self.conv3(x)).permute(0, 2, 3, 1))


class DeployEmbed(nn.Module):
    """(B, H, W, C_in) map -> (B, ceil(H/2), ceil(W/2), C) map."""

    def __init__(self, embed: PatchEmbed) -> None:
        super().__init__()
        self.conv, self.pos, self.norm = embed.proj, embed.pos, embed.norm

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.pos(self.conv(x.permute(0, 3, 1, 2))).permute(0, 2, 3, 1))


class DeployAttention(nn.Module):
    """(B, H, W, C) map -> (B, H, W, C) map."""

    def __init__(self, norm: nn.LayerNorm, attn: Attention) -> None:
        super().__init__()
        self.norm = norm
        self.num_heads, self.sr_ratio = attn.num_heads, attn.sr_ratio
        _, v_weight = attn.kv.weight.double().chunk(2)
        _, v_bias = attn.kv.bias.double().chunk(2)
        proj_weight = attn.proj.weight.double()
        self.q, self.k = queries_and_keys(attn)
        self.v = linear_like(attn.q, v_weight, v_bias)  # kept, as the way up sees it at the border
        self.softmax = Softmax()
        self.up, self.up_norm = attn.up[0], _without_bias(attn.up_norm)
        self.proj = linear_like(
            attn.proj, proj_weight, attn.proj.bias.double() + proj_weight @ attn.up_norm.bias.double()
        )  # (6)
        self.sr = attn.sr if attn.sr_ratio > 1 else None
        self.sr_norm = attn.sr_norm if attn.sr_ratio > 1 else None

    def extra_repr(self) -> str:
        return f"num_heads={self.num_heads}"

    def forward(self, x: Tensor) -> Tensor:
        tokens = context = self.norm(x)
        if self.sr is not None and self.sr_norm is not None:
            context = self.sr_norm(self.sr(tokens.permute(0, 3, 1, 2)).permute(0, 2, 3, 1))  # (B, h, w, C)
        values = self.v(context)  # (B, h, w, C)
        q = split_heads(self.q(tokens), self.num_heads)  # (B, heads, N, C/heads); (5): one more, as the keys
        k = split_heads(self.k(context), self.num_heads)  # (B, heads, K, C/heads)
        v = split_heads(values, self.num_heads)  # (B, heads, K, C/heads)
        mixed = by_queries(lambda some: self.softmax(some @ k.transpose(2, 3)) @ v, q, k, v)  # (B, heads, N, C/heads)
        mixed = merge_heads(mixed, x)  # (B, H, W, C)
        up = shuffle_like(self.up(values.permute(0, 3, 1, 2)), self.sr_ratio, x)  # (B, H, W, C)
        return x + self.proj(mixed + self.up_norm(up))


def _without_bias(norm: nn.LayerNorm) -> nn.LayerNorm:
    new = nn.LayerNorm(norm.normalized_shape, norm.eps, bias=False, dtype=norm.weight.dtype, device=norm.weight.device)
    new.weight.data.copy_(norm.weight)
    return new


class DeployResTv2(DeployStages):
    """(B, in_channels, H, W) -> (B, num_classes) logits: the pieces in order, by name."""

    fp32_modules = (nn.LayerNorm, Pool, Softmax)

    def structure(self) -> Structure:
        known = super().structure()
        shuffles = sum(attn.sr_ratio > 1 for attn in self.attentions())
        return replace(known, counts={**known.counts, "DepthToSpace": shuffles, "Slice": shuffles})

    def translations(self) -> Mapping[Any, Callable[..., Any]]:
        return {torch.ops.rest_deploy.shuffle_like.default: _shuffle_like_in_onnx}


def to_deploy(model: ResTv2) -> DeployResTv2:
    """The deploy form of a ResTv2, by :func:`deploy_stages`."""
    return deploy_stages(model, DeployResTv2, DeployStem, DeployEmbed, DeployAttention)
