"""What ResT and ResTv2 have in common: four stages of blocks, as their authors wrote them and as a deploy form.

Each stage is opened by a convolution that makes the map smaller, then its blocks work on the tokens of that map. The
networks differ in what opens a stage and in the attention of a block.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from itertools import pairwise
from typing import Any, ClassVar, TypeVar

import torch
from torch import Tensor, nn

from rest_deploy.models.network import DeployForm, Network, Pool, Structure, split_shape
from rest_deploy.models.stages_family import TORCH_BLOCK, TORCH_WHOLE, Grid, StagesConfig


def to_tokens(x: Tensor) -> Tensor:
    """(B, C, H, W) map -> (B, H*W, C) tokens, row by row."""
    return x.flatten(2).transpose(1, 2)


def to_map(x: Tensor, grid: Grid) -> Tensor:
    """(B, H*W, C) tokens -> (B, C, H, W) map."""
    return x.transpose(1, 2).reshape(x.shape[0], x.shape[2], *grid)


# Attention in blocks of queries
#
# The maps of queries x keys are by far the largest values of a network, and grow with the square of an image. A query
# needs all keys and no other query, so that they can be computed for some queries at a time.


def is_large(q: Tensor, k: Tensor, v: Tensor) -> bool:
    """Whether attention is to go in blocks: (B, heads, N, C/heads) queries, (B, heads, K, C/heads) keys and values.

    Never while the network is traced or compiled, which would take down the blocks of one size, nor where gradients are
    needed, which take all of the maps.
    """
    if torch.compiler.is_compiling() or torch.jit.is_tracing():  # type: ignore[attr-defined]  # not in its __all__
        return False
    if not isinstance(q, Tensor):  # but a proxy of torch.fx
        return False
    if torch.is_grad_enabled() and any(x.requires_grad for x in (q, k, v)):
        return False
    return q.shape[:3].numel() * k.shape[2] > TORCH_WHOLE


def in_blocks(attend: Callable[[Tensor], tuple[Tensor, ...]], q: Tensor, k: Tensor) -> list[Tensor]:
    """Give (B, heads, N, C/heads) queries a block at a time to ``attend``, and join what it gives along the queries.

    Args:
        attend: (B, heads, n, C/heads) queries -> any number of (B, heads, n, ...).
        q: All queries.
        k: (B, heads, K, C/heads) keys, by whose number blocks are as large as they are.
    """
    queries = max(1, TORCH_BLOCK // (q.shape[:2].numel() * k.shape[2]))
    joined: list[Tensor] = []
    for first in range(0, q.shape[2], queries):
        given = attend(q[:, :, first : first + queries])
        joined = joined or [part.new_empty((*part.shape[:2], q.shape[2], *part.shape[3:])) for part in given]
        for whole, part in zip(joined, given, strict=True):
            whole[:, :, first : first + queries] = part
    return joined


def by_queries(attend: Callable[[Tensor], Tensor], q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """What ``attend`` gives for all queries; in blocks where that is large.

    Args:
        attend: (B, heads, n, C/heads) queries -> (B, heads, n, C/heads), each query for itself.
        q, k, v: As of :func:`is_large`.
    """
    if not is_large(q, k, v):
        return attend(q)
    (joined,) = in_blocks(lambda some: (attend(some),), q, k)
    return joined


class PixelAttention(nn.Module):
    """(B, C, H, W) -> (B, C, H, W): position code as spatial attention (arXiv 2105.13677, section 3.3)."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.pa_conv = nn.Conv2d(dim, dim, kernel_size=3, padding=1, groups=dim)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.pa_conv(x).sigmoid()


class Mlp(nn.Module):
    """(B, N, C) -> (B, N, C) with exact GELU."""

    def __init__(self, dim: int, hidden_dim: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden_dim)
        self.act = nn.GELU()
        self.fc2 = nn.Linear(hidden_dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(self.act(self.fc1(x)))


class Block(nn.Module):
    """(B, N, C), (H, W) -> (B, N, C): pre-norm transformer block.

    Args:
        config: Of the network: widths, hidden channels and the eps of LayerNorms.
        stage: 0 to 3.
        attn: (B, N, C), (H, W) -> (B, N, C).
    """

    def __init__(self, config: StagesConfig, stage: int, attn: nn.Module) -> None:
        super().__init__()
        dim = config.embed_dims[stage]
        self.norm1 = nn.LayerNorm(dim, eps=config.norm_eps)
        self.attn = attn
        self.norm2 = nn.LayerNorm(dim, eps=config.norm_eps)
        self.mlp = Mlp(dim, config.hidden_dim(stage))

    def forward(self, x: Tensor, grid: Grid) -> Tensor:
        x = x + self.attn(self.norm1(x), grid)
        return x + self.mlp(self.norm2(x))


class FourStages(Network):
    """(B, in_channels, H, W) -> (B, num_classes) logits, any height and width from 1 pixel up.

    Args:
        config: Of the network.
        stem: Opens the first stage: (B, in_channels, H, W) -> (B, C1, ceil(H/4), ceil(W/4)).
        embed: (channels in, channels out) -> what opens a later stage, at half the height and width, rounded up.
        attention: Stage, 0 to 3 -> attention of one of its blocks.

    With ``num_classes`` 0 there is no head, and it gives what the head would take.
    """

    #: Names of what opens each stage.
    openings: ClassVar[tuple[str, str, str, str]]
    norm: nn.LayerNorm
    head: nn.Module

    def __init__(
        self,
        config: StagesConfig,
        stem: nn.Module,
        embed: Callable[[int, int], nn.Module],
        attention: Callable[[int], nn.Module],
    ) -> None:
        super().__init__()
        self.config = config
        dims, (first, *others) = config.embed_dims, self.openings
        self.add_module(first, stem)
        for name, (entry, leave) in zip(others, pairwise(dims), strict=True):
            self.add_module(name, embed(entry, leave))
        for stage, depth in enumerate(config.depths):
            blocks = nn.ModuleList(Block(config, stage, attention(stage)) for _ in range(depth))
            self.add_module(f"stage{stage + 1}", blocks)
        self.norm = nn.LayerNorm(dims[-1], eps=config.norm_eps)
        self.head = nn.Linear(dims[-1], config.num_classes) if config.num_classes else nn.Identity()

    def stages(self) -> Iterator[tuple[str, nn.Module, nn.ModuleList]]:
        """What opens each stage, by its name, and the blocks of the stage."""
        for stage, opening in enumerate(self.openings, 1):
            yield opening, getattr(self, opening), getattr(self, f"stage{stage}")

    def blocks(self) -> Iterator[tuple[str, nn.Module]]:
        for stage, (opening, module, blocks) in enumerate(self.stages(), 1):
            yield opening, module
            yield from ((f"stage{stage}.{i}", block) for i, block in enumerate(blocks))
        yield "head", self.head

    def forward_features(self, x: Tensor, chain: Mapping[int, nn.Module] | None = None, last: int = 4) -> list[Tensor]:
        """The (B, C, H, W) maps that leave the stages, before the final norm.

        Args:
            x: (B, in_channels, H, W).
            chain: Stage, 1 to 4 -> what its map goes through before it is taken, and before the next stage.
            last: The last stage that is run.
        """
        maps: list[Tensor] = []
        for stage, (_, opening, blocks) in enumerate(self.stages(), 1):
            x = opening(x)
            grid = (x.shape[2], x.shape[3])
            tokens = to_tokens(x)
            for block in blocks:
                tokens = block(tokens, grid)
            x = to_map(tokens, grid)
            if chain is not None and stage in chain:
                x = chain[stage](x)
            maps.append(x)
            if stage == last:
                break
        return maps

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.norm(to_tokens(self.forward_features(x)[-1]))
        return self.head(tokens.mean(dim=1))


# The deploy form


class Softmax(nn.Module):
    """(..., K) -> (..., K): rows that sum to one."""

    def forward(self, logits: Tensor) -> Tensor:
        return widened(logits).softmax(dim=-1).to(logits.dtype)


def widened(x: Tensor) -> Tensor:
    """In float32, unless it is wider."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


class DeployMlp(nn.Module):
    """(B, H, W, C) map -> (B, H, W, C) map."""

    def __init__(self, norm: nn.LayerNorm, mlp: Mlp) -> None:
        super().__init__()
        self.norm, self.fc1, self.act, self.fc2 = norm, mlp.fc1, mlp.act, mlp.fc2

    def forward(self, x: Tensor) -> Tensor:
        return x + self.fc2(self.act(self.fc1(self.norm(x))))


class DeployBlock(nn.Module):
    """(B, H, W, C) map -> (B, H, W, C) map."""

    def __init__(self, attn: nn.Module, mlp: DeployMlp) -> None:
        super().__init__()
        self.attn, self.mlp = attn, mlp

    def forward(self, x: Tensor) -> Tensor:
        return self.mlp(self.attn(x))


class DeployHead(nn.Module):
    """(B, H, W, C) map -> (B, num_classes) logits; without a head what it would take."""

    def __init__(self, norm: nn.LayerNorm, head: nn.Module) -> None:
        super().__init__()
        self.norm, self.pool, self.head = norm, Pool(), head

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.pool(self.norm(x)))


class DeployStages(DeployForm):
    """(B, in_channels, H, W) -> (B, num_classes) logits: the pieces in order, by name."""

    divided = (DeployBlock,)

    def attentions(self) -> list[Any]:
        """Attention of each block, in order."""
        return [piece.attn for piece in self if isinstance(piece, DeployBlock)]

    def structure(self) -> Structure:
        attentions = self.attentions()
        split = {split_shape(a.num_heads, linear.out_features) for a in attentions for linear in (a.k, a.v)}
        norms = sum(isinstance(module, nn.LayerNorm) for module in self.modules())
        counts = {"Softmax": len(attentions), "LayerNormalization": norms}
        return Structure(counts, tuple(sorted(split)))


class AppendOne(nn.Module):
    """(B, H, W, C) map -> (B, H, W, C + 1) map, whose last channel is 1: what a bias is a weight of."""

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.pad(x, (0, 1), value=1.0)


def queries_and_keys(attn: Any) -> tuple[nn.Module, nn.Linear]:
    """What makes queries of a block's tokens, and keys of its reduced tokens, both (B, H, W, C) -> (B, H, W, ...).

    Args:
        attn: Of either network, with ``q``, ``kv``, ``scale`` and ``num_heads``.
    """
    q_weight, q_bias = attn.q.weight.double() * attn.scale, attn.q.bias.double() * attn.scale  # (1)
    k_weight, _ = attn.kv.weight.double().chunk(2)  # (2): the softmax does not see a key's bias
    if attn.num_heads > 1:
        return linear_like(attn.q, q_weight, q_bias), linear_like(attn.q, k_weight)
    return AppendOne(), linear_like(attn.q, torch.cat([q_weight.T, q_bias[None]]) @ k_weight)  # (5)


D = TypeVar("D", bound=DeployStages)


@torch.no_grad()
def deploy_stages(
    model: FourStages,
    form: type[D],
    stem: Callable[[Any], nn.Module],
    embed: Callable[[Any], nn.Module],
    attention: Callable[[nn.LayerNorm, Any], nn.Module],
) -> D:
    """The deploy form of a model: the same function in eval mode, sharing nothing with it.

    Args:
        model: In any floating dtype; it stays as it was. Folding is done in float64 and rounded once.
        form: Class of the result.
        stem, embed: What opens a stage -> its piece of the deploy form.
        attention: LayerNorm and attention of a block -> what takes their place.
    """
    model = copy.deepcopy(model)
    deploy = form(model.config)
    for stage, (opening, module, blocks) in enumerate(model.stages(), 1):
        deploy.add_module(opening, stem(module) if stage == 1 else embed(module))
        for i, block in enumerate(blocks):
            mlp = DeployMlp(block.norm2, block.mlp)  # type: ignore[arg-type]
            deploy.add_module(f"stage{stage}_{i}", DeployBlock(attention(block.norm1, block.attn), mlp))  # type: ignore[arg-type]
    deploy.add_module("head", DeployHead(model.norm, model.head))
    return deploy.eval().requires_grad_(False)


def conv_like(conv: nn.Conv2d, weight: Tensor, bias: Tensor) -> nn.Conv2d:
    """A convolution of the same geometry with new weights, cast to the dtype of the old."""
    new = nn.utils.skip_init(
        nn.Conv2d, conv.in_channels, conv.out_channels, conv.kernel_size,
        stride=conv.stride, padding=conv.padding, groups=conv.groups,
        dtype=conv.weight.dtype, device=conv.weight.device,
    )  # fmt: skip
    _set(new, weight, bias)
    return new


def linear_like(linear: nn.Linear, weight: Tensor, bias: Tensor | None = None) -> nn.Linear:
    """A linear layer with new weights, cast to the dtype of the old."""
    out_features, in_features = weight.shape
    new = nn.utils.skip_init(
        nn.Linear, in_features, out_features, bias=bias is not None,
        dtype=linear.weight.dtype, device=linear.weight.device,
    )  # fmt: skip
    _set(new, weight, bias)
    return new


def _set(module: nn.Conv2d | nn.Linear, weight: Tensor, bias: Tensor | None) -> None:
    module.weight.data.copy_(weight)
    if bias is not None and module.bias is not None:
        module.bias.data.copy_(bias)


def fold(conv: nn.Conv2d, norm: nn.BatchNorm2d) -> nn.Conv2d:
    """One convolution for a convolution and the BatchNorm behind it, computed in float64."""
    if norm.running_mean is None or norm.running_var is None:
        raise TypeError("a BatchNorm without running statistics cannot be folded")
    gain = norm.weight.double() / (norm.running_var.double() + norm.eps).sqrt()
    bias = norm.bias.double() - norm.running_mean.double() * gain
    if conv.bias is not None:
        bias = bias + conv.bias.double() * gain
    return conv_like(conv, conv.weight.double() * gain[:, None, None, None], bias)
