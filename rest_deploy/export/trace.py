"""Deploy form -> traced program, proved to hold no size of the image it was traced with.

Tracing with symbolic batch, height and width costs several times as much (docs/deploy-form.md has the figures),
nearly all of it algebra on nested sizes. Here no operator of the traced graph takes a size
(``models/layout.py``), so the network is traced with plain sizes, twice, and both graphs must be the same graph:
a size that had got in would tell them apart.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx, nn

from rest_deploy.errors import ExportError

#: (batch, height, width) of the two traces. No two sizes agree at any stride, and none of them is 1.
TRACE_SIZES = ((2, 96, 160), (3, 33, 225))


def trace(deploy: nn.Module, in_channels: int) -> torch.export.ExportedProgram:
    """Trace a deploy form.

    Args:
        deploy: Module of float32 (B, in_channels, H, W) -> (B, num_classes), its sizes read by opaque operators only.
        in_channels: Channels of the image.

    Returns:
        The program of the first of ``TRACE_SIZES``; valid for every size.

    Raises:
        ExportError: Tracing failed, or the graphs of two sizes differ.
    """
    programs = []
    for batch, height, width in TRACE_SIZES:
        try:
            programs.append(torch.export.export(deploy, (torch.zeros(batch, in_channels, height, width),)))
        except Exception as exc:  # torch.export raises anything from RuntimeError to its own private types
            raise ExportError(f"torch.export could not trace the model: {_first_line(exc)}") from exc
    first, second = (_signature(program.graph) for program in programs)
    for ours, theirs in zip(first, second, strict=False):
        if ours != theirs:
            raise ExportError(f"the image size got into the traced graph: {ours} at one size, {theirs} at another")
    if len(first) != len(second):
        raise ExportError(f"the image size got into the traced graph: {len(first)} nodes at one size, {len(second)}")
    return programs[0]


def _signature(graph: fx.Graph) -> list[tuple[str, str, str, str]]:
    """Every node as text: what it does, and to what. Tensors are named by the node that made them."""
    return [(node.op, node.name, str(node.target), _arguments(node)) for node in graph.nodes]


def _arguments(node: fx.Node) -> str:
    def text(value: Any) -> str:
        if isinstance(value, Tensor):  # never in a node's arguments; a constant's values would be its size in disguise
            raise ExportError(f"node {node.name} holds a tensor constant")
        return repr(value)

    return repr(torch.utils._pytree.tree_map(text, (node.args, node.kwargs)))


def _first_line(exc: BaseException) -> str:
    return (str(exc).strip().splitlines() or [type(exc).__name__])[0]
