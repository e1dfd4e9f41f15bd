"""What every network is, as its authors wrote it and as a deploy form; its family says the rest."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from rest_deploy.models.family import NetworkConfig, family_of
from rest_deploy.specs import LOGITS, Taps


class Network(nn.Module, ABC):
    """float32 (B, in_channels, H, W) -> (B, num_classes) logits, any height and width from 1 pixel up.

    Parameters have the authors' names. It is made of its config, which it keeps. Maps can be taken of a
    :class:`~rest_deploy.models.stages.FourStages`.
    """

    config: NetworkConfig
    #: What is taken of it.
    taps: Taps = Taps()

    @abstractmethod
    def blocks(self) -> Iterator[tuple[str, nn.Module]]:
        """Parts by the authors' names, in order, one for each piece of the deploy form; the last gives the logits."""

    def outputs(self, x: Tensor) -> dict[str, Tensor]:
        """What is taken of it, by name."""
        return {LOGITS: self(x)}

    def to_deploy(self) -> DeployForm:
        """Its deploy form, in eval mode, sharing nothing with it."""
        return family_of(self.config).to_deploy(self)


@dataclass(frozen=True)
class Structure:
    """What is known of the graph of a deploy form before it is made.

    Args:
        counts: Operator -> how many nodes of it there are. A normalisation that was taken apart computes something else
            in half precision, and no runtime knows it any more.
        reshapes: Shapes that a node may reshape to as they stand: 0 keeps a size, -1 takes what is left.
    """

    counts: Mapping[str, int]
    reshapes: Iterable[tuple[int, ...]] = field(default=())


class Pool(nn.Module):
    """(B, H, W, C) map -> (B, C): its mean; of a map with the channels first, over the axes 2 and 3."""

    def __init__(self, axes: tuple[int, int] = (1, 2)) -> None:
        super().__init__()
        self.axes = axes

    def forward(self, x: Tensor) -> Tensor:
        return x.mean(dim=self.axes)


class ChannelNorm(nn.Module):
    """(B, C, H, W) map -> the same, normalised over its channels."""

    def __init__(self, norm: nn.LayerNorm) -> None:
        super().__init__()
        self.norm = norm

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class ChannelsFirst(nn.Module):
    """(B, H, W, C) map -> (B, C, H, W)."""

    def forward(self, x: Tensor) -> Tensor:
        return x.permute(0, 3, 1, 2)


class DeployForm(nn.Sequential, ABC):
    """The same function written for inference: pieces by name, which read sizes by opaque operators only.

    Between pieces go maps, all with the channels first or all with the channels last, as the family says. As a family
    makes it, it is a chain: the first piece takes the image, the last gives (B, num_classes) logits. Where more is
    taken of it (``taps.py``), some pieces take what another than the one before them gives. Pieces that differ in the
    values of their weights alone are traced once.

    Attributes:
        takes: Piece -> the piece whose result it takes, where that is not the one before it.
        gives: Output -> the piece that gives it, in order; empty where the last piece gives the logits.
    """

    #: Modules that stay in float32 where the rest of the network is in lower precision, beside those of this file.
    fp32_modules: ClassVar[tuple[type[nn.Module], ...]] = ()
    #: Pieces whose modules go to lower precision each by itself; others go as a whole.
    divided: ClassVar[tuple[type[nn.Module], ...]] = ()

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.config = config
        self.takes: dict[str, str] = {}
        self.gives: dict[str, str] = {}

    @abstractmethod
    def structure(self) -> Structure:
        """What its graph must look like."""

    def translations(self) -> Mapping[Any, Callable[..., Any]]:
        """Opaque operators of its own -> the function that writes each in ONNX (``export/translate.py``)."""
        return {}

    def sources(self) -> dict[str, str]:
        """Each piece, in order -> the piece whose result it takes; "" for the image."""
        names = [name for name, _ in self.named_children()]
        return {name: self.takes.get(name, before) for name, before in zip(names, ["", *names], strict=False)}

    def givers(self) -> dict[str, str]:
        """Each output, in order -> the piece that gives it."""
        return self.gives or {LOGITS: list(self.sources())[-1]}

    def results(self, x: Tensor) -> Iterator[tuple[str, Tensor, Tensor]]:
        """Run it: each piece's name, what it takes and what it gives."""
        sources = self.sources()
        made, waiting = {"": x}, Counter(sources.values())
        for name, source in sources.items():
            taken = made[source]
            given = self.get_submodule(name)(taken)
            waiting[source] -= 1
            if not waiting[source]:
                del made[source]
            if waiting[name]:
                made[name] = given
            yield name, taken, given

    def outputs(self, x: Tensor) -> dict[str, Tensor]:
        """What is taken of it, by name."""
        wanted = set(self.givers().values())
        made = {name: given for name, _, given in self.results(x) if name in wanted}
        return {output: made[piece] for output, piece in self.givers().items()}

    def forward(self, x: Tensor) -> Tensor:
        return self.outputs(x)[LOGITS]

    def parts(self) -> Iterator[str]:
        """Paths of what goes to lower precision as a whole, in order."""
        for name, piece in self.named_children():
            if isinstance(piece, self.divided):
                yield from (f"{name}.{part}" for part, _ in piece.named_children())
            else:
                yield name

    def in_fp32(self) -> Iterator[str]:
        """Paths of the modules that stay in float32."""
        kept = (nn.LayerNorm, Pool, ChannelNorm, ChannelsFirst, *self.fp32_modules)
        return (name for name, module in self.named_modules() if isinstance(module, kept))


# Operations between maps and heads, the only places where a network depends on the size of its image.
#
# Each of them is ordinary PyTorch when run. While ``torch.export`` traces, each is one opaque operator instead, so
# that no height, width or number of tokens enters the traced graph: the operators that remain (convolutions,
# products, normalisations) take none. The exporter translates the opaque ones into ONNX operators that read the
# sizes when they run (``export/translate.py``), and checks that no other operator with a size in it got through.


def split_shape(num_heads: int, channels: int) -> tuple[int, ...]:
    """What :func:`split_heads` reshapes to in ONNX, where 0 keeps a size and -1 takes what is left; with several heads
    these go before the tokens then.
    """
    return (0, 1, -1, channels) if num_heads == 1 else (0, -1, num_heads, channels // num_heads)


def split_heads(x: Tensor, num_heads: int) -> Tensor:
    """(B, H, W, C) map -> (B, num_heads, H*W, C/num_heads)."""
    if torch.compiler.is_exporting():
        return _split_heads(x, num_heads)
    return x.flatten(1, 2).unflatten(2, (num_heads, -1)).transpose(1, 2)


def merge_heads(x: Tensor, like: Tensor) -> Tensor:
    """(B, heads, H*W, C/heads) -> (B, H, W, C), the shape of the map ``like``."""
    if torch.compiler.is_exporting():
        return _merge_heads(x, like)
    return x.transpose(1, 2).reshape(like.shape)


def mix_heads(x: Tensor, weight: Tensor) -> Tensor:
    """(B, heads, N, K), (heads, heads) -> (B, heads, N, K): a linear map across heads.

    The same as a 1x1 convolution, which ONNX Runtime's CPU provider would pad from 2, 4 or 8 heads to 16 channels:
    measured at 2 heads, 16384 queries, 1024 keys, mixing took 76 ms as a convolution and 15 ms as this product.
    """
    if torch.compiler.is_exporting():
        return _mix_heads(x, weight)
    return (weight @ x.flatten(2)).view_as(x)


def subtract_uniform(probabilities: Tensor) -> Tensor:
    """(..., K) -> (..., K): minus 1/K, which is the mean of every row of a softmax over K entries."""
    if torch.compiler.is_exporting():
        return _subtract_uniform(probabilities)
    return probabilities - 1.0 / probabilities.shape[-1]


@torch.library.custom_op("rest_deploy::split_heads", mutates_args=())
def _split_heads(x: Tensor, num_heads: int) -> Tensor:
    return split_heads(x, num_heads).clone(
        memory_format=torch.contiguous_format
    )  # an operator's result may not be a view of its argument


@_split_heads.register_fake
def _(x: Tensor, num_heads: int) -> Tensor:
    return x.new_empty((x.shape[0], num_heads, x.shape[1] * x.shape[2], x.shape[3] // num_heads))


@torch.library.custom_op("rest_deploy::merge_heads", mutates_args=())
def _merge_heads(x: Tensor, like: Tensor) -> Tensor:
    return merge_heads(x, like).clone(memory_format=torch.contiguous_format)


@_merge_heads.register_fake
def _(x: Tensor, like: Tensor) -> Tensor:
    return x.new_empty(like.shape)


@torch.library.custom_op("rest_deploy::mix_heads", mutates_args=())
def _mix_heads(x: Tensor, weight: Tensor) -> Tensor:
    return mix_heads(x, weight)


@_mix_heads.register_fake
def _(x: Tensor, weight: Tensor) -> Tensor:
    return torch.empty_like(x)


@torch.library.custom_op("rest_deploy::subtract_uniform", mutates_args=())
def _subtract_uniform(probabilities: Tensor) -> Tensor:
    return subtract_uniform(probabilities)


@_subtract_uniform.register_fake
def _(probabilities: Tensor) -> Tensor:
    return torch.empty_like(probabilities)
