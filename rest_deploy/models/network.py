"""What every network is, as its authors wrote it and as a deploy form; its family says the rest."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from torch import nn

from rest_deploy.models.family import NetworkConfig


class Network(nn.Module):
    """float32 (B, in_channels, H, W) -> (B, num_classes) logits, any height and width from 1 pixel up.

    Parameters have the authors' names. It is made of its config, which it keeps.
    """

    config: NetworkConfig

    def blocks(self) -> Iterator[tuple[str, nn.Module]]:
        """Parts by the authors' names, in order, one for each piece of the deploy form; the last gives the logits."""
        raise NotImplementedError


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


class DeployForm(nn.Sequential):
    """The same function written for inference: a chain of pieces by name, which reads sizes by opaque operators only.

    Between pieces go maps, all with the channels first or all with the channels last, as the family says; the first
    piece takes the image, the last gives (B, num_classes) logits. Pieces that differ in the values of their weights
    alone are traced once.
    """

    #: Modules that are computed in float32 where the rest of the network is narrower.
    fp32_modules: ClassVar[tuple[type[nn.Module], ...]] = (nn.LayerNorm,)
    #: Pieces whose modules are narrowed each by itself; others are narrowed as a whole.
    divided: ClassVar[tuple[type[nn.Module], ...]] = ()

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.config = config

    def structure(self) -> Structure:
        """What its graph must look like."""
        raise NotImplementedError

    def translations(self) -> Mapping[Any, Callable[..., Any]]:
        """Opaque operators of its own -> the function that writes each in ONNX (``export/translate.py``)."""
        return {}

    def parts(self) -> Iterator[str]:
        """Paths of what is narrowed as a whole, in order."""
        for name, piece in self.named_children():
            if isinstance(piece, self.divided):
                yield from (f"{name}.{part}" for part, _ in piece.named_children())
            else:
                yield name

    def in_fp32(self) -> Iterator[str]:
        """Paths of the modules that stay in float32."""
        return (name for name, module in self.named_modules() if isinstance(module, self.fp32_modules))
