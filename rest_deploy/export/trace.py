"""Deploy form -> traced program, proved to hold no size of the image it was traced with.

Tracing the whole network with symbolic batch, height and width takes many times as long (docs/deploy-form.md has the
figures), nearly all of it algebra on nested sizes, and the same again for every one of blocks that are alike. Here

- one piece of each kind is traced, with an input of its own; ``assemble.py`` makes the network of them;
- no operator of the traced graph takes a size (``models/network.py``), so the pieces are traced with plain sizes,
  twice, and both graphs must be the same graph: a size that had got in would tell them apart.
"""

from __future__ import annotations

import copy
import importlib
import os
import sys
import tempfile
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn

from rest_deploy.errors import ExportError, one_line
from rest_deploy.models.network import DeployForm

#: PyTorch imports it when it first traces. On being imported it looks whether torch.compile is being bisected, which
#: makes a folder TMPDIR/torchinductor_USER for good, and names it in the environment.
_BISECTOR, _CACHE = "torch._inductor.compiler_bisector", "TORCHINDUCTOR_CACHE_DIR"

#: (batch, height, width) of the two traces. No two sizes agree at any stride, and none of them is 1.
TRACE_SIZES = ((2, 96, 160), (3, 33, 225))


@dataclass(frozen=True)
class Trace:
    """One piece of each kind as a program, and which kind each piece of the network is.

    Args:
        program: Takes one map for each kind, gives one for each; the parameters of kind 3 are named ``kinds.3.*``.
        kinds: Name of each piece, in order -> number of its kind.
    """

    program: torch.export.ExportedProgram
    kinds: dict[str, int]


class Kinds(nn.Module):
    """One map for each kind of piece -> what each makes of its own."""

    def __init__(self, pieces: list[nn.Module]) -> None:
        super().__init__()
        self.kinds = nn.ModuleList(pieces)

    def forward(self, *maps: Tensor) -> tuple[Tensor, ...]:
        return tuple(piece(x) for piece, x in zip(self.kinds, maps, strict=True))


def trace(deploy: DeployForm, in_channels: int) -> Trace:
    """Trace the pieces of a network.

    Args:
        deploy: It, in float32, sizes read by opaque operators only.
        in_channels: Channels of the image.

    Returns:
        A trace that is valid for every size.

    Raises:
        ExportError: Tracing failed, or the graphs of two sizes differ.
    """
    _load_bisector()
    first: dict[Any, str] = {}
    kinds, pieces = {}, dict(deploy.named_children())
    for name, piece in pieces.items():
        kind = _kind(piece)
        first.setdefault(kind, name)
        kinds[name] = list(first).index(kind)
    module = Kinds([pieces[name] for name in first.values()]).eval()
    shadow = copy.deepcopy(deploy).to("meta")
    programs = [_trace_at(module, shadow, first.values(), (b, in_channels, h, w)) for b, h, w in TRACE_SIZES]
    _require_same(*programs)
    return Trace(programs[0], kinds)


def _load_bisector() -> None:
    """Import what makes a folder, with another one in its place that is removed."""
    if _BISECTOR in sys.modules or _CACHE in os.environ:
        return
    with tempfile.TemporaryDirectory(prefix="rest-export.") as folder:
        os.environ[_CACHE] = folder
        try:
            with suppress(ModuleNotFoundError):  # a PyTorch that has none makes no folder
                importlib.import_module(_BISECTOR)
        finally:
            os.environ.pop(_CACHE, None)


def _kind(piece: nn.Module) -> tuple[object, ...]:
    """Equal for pieces that differ in the values of their weights alone."""
    return type(piece), repr(piece), tuple((key, tuple(value.shape)) for key, value in piece.state_dict().items())


def _trace_at(
    module: Kinds, shadow: DeployForm, wanted: Iterable[str], shape: tuple[int, ...]
) -> torch.export.ExportedProgram:
    """Trace pieces with maps of the shapes that they get for images of a shape, by a network without numbers."""
    try:
        with torch.no_grad():
            with torch.device("meta"):
                shapes = {name: taken.shape for name, taken, _ in shadow.results(torch.empty(shape))}
            return torch.export.export(module, tuple(torch.zeros(shapes[name]) for name in wanted))
    except Exception as exc:  # torch.export raises anything from RuntimeError to its own private types
        raise ExportError(f"torch.export could not trace the model: {one_line(exc)}") from exc


def _require_same(one: torch.export.ExportedProgram, other: torch.export.ExportedProgram) -> None:
    first, second = _signature(one.graph), _signature(other.graph)
    for ours, theirs in zip(first, second, strict=False):
        if ours != theirs:
            raise ExportError(f"the image size got into the traced graph: {ours} at one size, {theirs} at another")
    if len(first) != len(second):
        raise ExportError(f"the image size got into the traced graph: {len(first)} nodes at one size, {len(second)}")
    for name, value in one.constants.items():
        twin = other.constants.get(name)
        if isinstance(value, Tensor) and not (isinstance(twin, Tensor) and torch.equal(value, twin)):
            raise ExportError(f"the image size got into the traced graph: constant {name} differs between two sizes")


def _signature(graph: fx.Graph) -> list[tuple[str, str, str, str]]:
    """Every node as text: what it does, and to what. Tensors are named by the node that made them."""
    return [(node.op, node.name, str(node.target), repr((node.args, node.kwargs))) for node in graph.nodes]
