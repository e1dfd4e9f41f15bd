"""ResT as its authors wrote it (arXiv 2105.13677), for any image size.

Parameter names are the authors' (github.com/wofmanaf/ResT), so their checkpoints load strictly. The one
difference: each token grid is what its convolution yields, not half of what went in, so that odd and tiny
sizes work. On multiples of 32 the two are the same.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn

from rest_deploy.models.rest_family import ResTConfig
from rest_deploy.models.stages import (
    FourStages,
    PixelAttention,
    by_queries,
    in_blocks,
    is_large,
    to_map,
    to_tokens,
    widened,
)
from rest_deploy.models.stages_family import Grid

INSTANCE_NORM_EPS = 1e-5


class Stem(nn.Module):
    """(B, in_channels, H, W) -> (B, dim, ceil(H/4), ceil(W/4))."""

    def __init__(self, in_channels: int, dim: int) -> None:
        super().__init__()
        hidden = dim // 2
        self.conv1 = nn.Conv2d(in_channels, hidden, kernel_size=3, stride=2, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(hidden)
        self.conv2 = nn.Conv2d(hidden, hidden, kernel_size=3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(hidden)
        self.conv3 = nn.Conv2d(hidden, dim, kernel_size=3, stride=2, padding=1, bias=False)
        self.pos = PixelAttention(dim)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm1(self.conv1(x)).relu()
        x = self.norm2(self.conv2(x)).relu()
        return self.pos(self.conv3(x))


class PatchEmbed(nn.Module):
    """(B, in_dim, H, W) -> (B, dim, ceil(H/2), ceil(W/2)): an overlapping convolution opens stages 2 to 4."""

    def __init__(self, in_dim: int, dim: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_dim, dim, kernel_size=3, stride=2, padding=1)
        self.norm = nn.BatchNorm2d(dim)
        self.pos = PixelAttention(dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.pos(self.norm(self.conv(x)))


class Attention(nn.Module):
    """(B, N, C), (H, W) with H*W == N -> (B, N, C): efficient multi-head self-attention (EMSA, section 3.2)."""

    def __init__(self, dim: int, num_heads: int, sr_ratio: int, *, interacts: bool, qk_scale: float | None) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.interacts = interacts
        self.scale = (dim // num_heads) ** -0.5 if qk_scale is None else qk_scale
        self.q = nn.Linear(dim, dim)
        self.kv = nn.Linear(dim, 2 * dim)
        self.proj = nn.Linear(dim, dim)
        self.sr_ratio = sr_ratio
        if sr_ratio > 1:
            self.sr = nn.Conv2d(dim, dim, kernel_size=sr_ratio + 1, stride=sr_ratio, padding=sr_ratio // 2, groups=dim)
            self.sr_norm = nn.LayerNorm(dim)
        if interacts:
            self.transform_conv = nn.Conv2d(num_heads, num_heads, kernel_size=1)

    def forward(self, x: Tensor, grid: Grid) -> Tensor:
        q = self.q(x).unflatten(2, (self.num_heads, -1)).transpose(1, 2)  # (B, heads, N, C/heads)
        if self.sr_ratio > 1:
            x = self.sr_norm(to_tokens(self.sr(to_map(x, grid))))  # (B, K, C)
        k, v = (
            self.kv(x).unflatten(2, (2, self.num_heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
        )  # (B, heads, K, C/heads)
        x = self._attend(q, k, v).transpose(1, 2).flatten(2)  # (B, N, C)
        return self.proj(x)

    def _attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """(B, heads, N, C/heads), twice (B, heads, K, C/heads) -> (B, heads, N, C/heads)."""
        if not self.interacts:
            return by_queries(lambda some: self._softmax(some, k) @ v, q, k, v)
        if is_large(q, k, v):
            return self._normalised_in_blocks(q, k, v)
        return _instance_norm(self._softmax(q, k)) @ v

    def _softmax(self, q: Tensor, k: Tensor) -> Tensor:
        """(B, heads, N, C/heads), (B, heads, K, C/heads) -> (B, heads, N, K)."""
        attn = (q @ k.transpose(-2, -1)) * self.scale
        if self.interacts:
            attn = self.transform_conv(attn)
        return attn.softmax(dim=-1)

    def _normalised_in_blocks(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """The InstanceNorm of a map that is never there as a whole: of it less 1/K, which is near its mean.

        With C = attn - 1/K it is (C - mean(C)) / sqrt(mean(C²) - mean(C)² + eps). Each row has its own mean: a sum of
        millions of small numbers in float32 loses most of them.
        """

        def attend(some: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            attn = widened(self._softmax(some, k)) - 1.0 / k.shape[2]  # (B, heads, n, K)
            return attn @ widened(v), attn.mean(dim=3, keepdim=True), (attn * attn).mean(dim=3, keepdim=True)

        mixed, means, squares = in_blocks(attend, q, k)  # (B, heads, N, C/heads) and twice (B, heads, N, 1)
        mean = means.mean(dim=2, keepdim=True)
        variance = squares.mean(dim=2, keepdim=True) - mean * mean
        centred = mixed - mean * widened(v).sum(dim=2, keepdim=True)
        return (centred * (variance + INSTANCE_NORM_EPS).rsqrt()).to(v.dtype)


def _instance_norm(x: Tensor) -> Tensor:
    """InstanceNorm2d without affine over (B, heads, N, K).

    The operator itself, since ``nn.InstanceNorm2d`` refuses a map of one element, which a 1x1 grid gives.
    """
    return torch.instance_norm(
        x, weight=None, bias=None, running_mean=None, running_var=None,
        use_input_stats=True, momentum=0.0, eps=INSTANCE_NORM_EPS, cudnn_enabled=torch.backends.cudnn.enabled,
    )  # fmt: skip


class ResT(FourStages):
    """(B, in_channels, H, W) -> (B, num_classes) logits, any height and width from 1 pixel up."""

    openings = ("stem", "patch_embed_2", "patch_embed_3", "patch_embed_4")
    config: ResTConfig

    def __init__(self, config: ResTConfig) -> None:
        super().__init__(
            config, Stem(config.in_channels, config.embed_dims[0]), PatchEmbed, partial(_attention, config)
        )
        self.apply(_init_weights)


def _attention(config: ResTConfig, stage: int) -> Attention:
    dim, heads, sr_ratio = config.embed_dims[stage], config.num_heads[stage], config.sr_ratios[stage]
    return Attention(dim, heads, sr_ratio, interacts=config.interacts(stage), qk_scale=config.qk_scale)


def _init_weights(module: nn.Module) -> None:
    """The authors' initialisation; biases of convolutions stay as PyTorch draws them."""
    if isinstance(module, (nn.Linear, nn.Conv2d)):
        nn.init.trunc_normal_(module.weight, std=0.02)
    if isinstance(module, nn.Linear):
        nn.init.zeros_(module.bias)
