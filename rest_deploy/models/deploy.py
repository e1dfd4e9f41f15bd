"""The deploy form: the same function as :class:`ResT`, rewritten exactly, for inference.

Every step is an identity over the real numbers, so only rounding differs, and it differs for the better.
``docs/deploy-form.md`` derives each of them; the numbers below refer to it.

The form is a chain of pieces on channels-last maps. Blocks of one stage differ in their weights alone, which
is what lets the exporter trace one of them for all.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from rest_deploy.models.network import Pool, Structure, merge_heads, mix_heads, split_heads, subtract_uniform
from rest_deploy.models.rest import INSTANCE_NORM_EPS, Attention, PatchEmbed, ResT, Stem
from rest_deploy.models.stages import (
    DeployStages,
    PixelAttention,
    Softmax,
    by_queries,
    conv_like,
    deploy_stages,
    fold,
    in_blocks,
    is_large,
    linear_like,
    queries_and_keys,
    widened,
)


class DeployStem(nn.Module):
    """(B, in_channels, H, W) image -> (B, ceil(H/4), ceil(W/4), C) map."""

    def __init__(self, conv1: nn.Conv2d, conv2: nn.Conv2d, conv3: nn.Conv2d, pos: PixelAttention) -> None:
        super().__init__()
        self.conv1, self.conv2, self.conv3, self.pos = conv1, conv2, conv3, pos

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv2(self.conv1(x).relu()).relu()
        return self.pos(self.conv3(x)).permute(0, 2, 3, 1)


class DeployEmbed(nn.Module):
    """(B, H, W, C_in) map -> (B, ceil(H/2), ceil(W/2), C) map."""

    def __init__(self, conv: nn.Conv2d, pos: PixelAttention) -> None:
        super().__init__()
        self.conv, self.pos = conv, pos

    def forward(self, x: Tensor) -> Tensor:
        return self.pos(self.conv(x.permute(0, 3, 1, 2))).permute(0, 2, 3, 1)


class Centre(nn.Module):
    """(B, H, W, C) map -> the same, minus its mean over the map."""

    def forward(self, x: Tensor) -> Tensor:
        return x - x.mean(dim=(1, 2), keepdim=True)


class CentredSoftmax(nn.Module):
    """(B, heads, N, K) logits -> attention of the same shape whose rows sum to zero, and the factor (B, heads, 1, 1)
    by which an InstanceNorm would scale it.
    """

    def forward(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        attn, squares = self.rows(logits)
        return attn.to(logits.dtype), self.factor(squares).to(logits.dtype)

    def rows(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        """Logits of any queries -> their attention, and its mean square over the keys (B, heads, N, 1)."""
        attn = subtract_uniform(widened(logits).softmax(dim=-1))
        return attn, (attn * attn).mean(dim=3, keepdim=True)

    def factor(self, squares: Tensor) -> Tensor:
        """Mean squares of all queries -> the factor."""
        return (squares.mean(dim=2, keepdim=True) + INSTANCE_NORM_EPS).rsqrt()


class DeployAttention(nn.Module):
    """(B, H, W, C) map -> (B, H, W, C) map: EMSA with its normalisation as one scalar a head."""

    def __init__(self, norm: nn.LayerNorm, attn: Attention) -> None:
        super().__init__()
        self.norm = norm
        self.num_heads, self.interacts = attn.num_heads, attn.interacts
        _, v_weight = attn.kv.weight.double().chunk(2)
        _, v_bias = attn.kv.bias.double().chunk(2)
        proj_weight, proj_bias = attn.proj.weight.double(), attn.proj.bias.double()
        self.q, self.k = queries_and_keys(attn)
        if self.interacts:  # (4): a value's bias is centred away
            self.mix = nn.Parameter(
                attn.transform_conv.weight.data.flatten(1)
            )  # (heads, heads); (2): nor the mixing's bias
            self.centre, self.softmax = Centre(), CentredSoftmax()
        else:  # rows of each head's softmax sum to one, so a value's bias goes straight to the projection
            proj_bias = proj_bias + proj_weight @ v_bias
            self.softmax = Softmax()  # type: ignore[assignment]  # one of the two
        self.proj: nn.Module = nn.Identity()
        if self.num_heads == 1:  # (5)
            self.v = linear_like(attn.q, proj_weight @ v_weight, proj_bias)
        else:
            self.v, self.proj = linear_like(attn.q, v_weight), linear_like(attn.proj, proj_weight, proj_bias)
        self.sr = attn.sr if attn.sr_ratio > 1 else None
        self.sr_norm = attn.sr_norm if attn.sr_ratio > 1 else None

    def extra_repr(self) -> str:
        return f"num_heads={self.num_heads}"

    def forward(self, x: Tensor) -> Tensor:
        tokens = context = self.norm(x)
        if self.sr is not None and self.sr_norm is not None:
            context = self.sr_norm(self.sr(tokens.permute(0, 3, 1, 2)).permute(0, 2, 3, 1))  # (B, H/s, W/s, C), ceil
        if self.interacts:
            context = self.centre(context)  # (4); (2): softmax sees no shift of all keys
        q = split_heads(self.q(tokens), self.num_heads)  # (B, heads, N, C/heads); (5): one more, as the keys
        k = split_heads(self.k(context), self.num_heads)  # (B, heads, K, C/heads)
        v = split_heads(self.v(context), self.num_heads)  # (B, heads, K, C/heads)
        return x + self.proj(merge_heads(self._attend(q, k, v), x))

    def _attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """(B, heads, N, C/heads), twice (B, heads, K, C/heads) -> (B, heads, N, C/heads)."""
        if not self.interacts:
            return by_queries(lambda some: self.softmax(some @ k.transpose(2, 3)) @ v, q, k, v)
        if is_large(q, k, v):
            return self._normalised_in_blocks(q, k, v)
        attn, factor = self.softmax(mix_heads(q @ k.transpose(2, 3), self.mix))  # (3)
        return attn @ (v * factor)  # (4): rows of attn sum to zero, as do the columns of v

    def _normalised_in_blocks(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """The factor of a head is known when all rows are."""

        def attend(some: Tensor) -> tuple[Tensor, Tensor]:
            attn, squares = self.softmax.rows(mix_heads(some @ k.transpose(2, 3), self.mix))
            return attn @ widened(v), squares

        mixed, squares = in_blocks(attend, q, k)  # (B, heads, N, C/heads), (B, heads, N, 1)
        return (mixed * self.softmax.factor(squares)).to(v.dtype)


class DeployResT(DeployStages):
    """(B, in_channels, H, W) -> (B, num_classes) logits: the pieces in order, by name."""

    # From the softmax to the variance the numbers are as small as 1/N, and their squares; means and LayerNorms add up a
    # whole map or all channels. ``docs/precision.md`` has what each of them costs in half.
    fp32_modules = (nn.LayerNorm, Centre, Pool, CentredSoftmax, Softmax)

    def structure(self) -> Structure:
        known = super().structure()
        return replace(known, reshapes=((0, 0, -1), *known.reshapes))  # before and after the mixing of heads


def _without_bias(conv: nn.Conv2d) -> nn.Conv2d:
    """The convolution with a bias of zeros, which torch.onnx writes as a constant; no bias it writes as operators."""
    return conv_like(conv, conv.weight, torch.zeros(conv.out_channels))


def _deploy_stem(stem: Stem) -> DeployStem:
    return DeployStem(fold(stem.conv1, stem.norm1), fold(stem.conv2, stem.norm2), _without_bias(stem.conv3), stem.pos)


def _deploy_embed(embed: PatchEmbed) -> DeployEmbed:
    return DeployEmbed(fold(embed.conv, embed.norm), embed.pos)  # (1)


def to_deploy(model: ResT) -> DeployResT:
    """The deploy form of a ResT, by :func:`deploy_stages`."""
    return deploy_stages(model, DeployResT, _deploy_stem, _deploy_embed, DeployAttention)
