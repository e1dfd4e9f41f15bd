"""What each block of a network gives, for finding where two of them part."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from rest_deploy.models.deploy import to_deploy
from rest_deploy.models.rest import ResT

#: float32 (B, channels, H, W) -> block by the authors' name -> its output, (B, positions, channels) or (B, classes).
BlockRun = Callable[[NDArray[np.float32]], dict[str, NDArray[np.floating[Any]]]]

_PIECE = re.compile(r"stage(\d)_(\d+)$")


def block_name(piece: str) -> str:
    """A piece of the deploy form by the authors' name: ``stage3_2`` is their ``stage3.2``."""
    return _PIECE.sub(r"stage\1.\2", piece)


def as_written_blocks(model: ResT, dtype: torch.dtype) -> BlockRun:
    """The blocks of a model on the CPU as its authors wrote it; it is left as it was."""
    copied = copy.deepcopy(model).to(device="cpu", dtype=dtype)
    return _run_of(copied, dict(_blocks(copied)), dtype, channels_last=False)


def deploy_blocks(model: ResT, dtype: torch.dtype) -> BlockRun:
    """The blocks of a model's deploy form on the CPU."""
    deploy = to_deploy(model).to(dtype)
    return _run_of(deploy, {block_name(n): piece for n, piece in deploy.named_children()}, dtype, channels_last=True)


def _blocks(model: ResT) -> Iterator[tuple[str, nn.Module]]:
    for stage in range(1, 5):
        opening = "stem" if stage == 1 else f"patch_embed_{stage}"
        yield opening, getattr(model, opening)
        yield from ((f"stage{stage}.{i}", block) for i, block in enumerate(getattr(model, f"stage{stage}")))
    yield "head", model.head


def _run_of(network: nn.Module, blocks: dict[str, nn.Module], dtype: torch.dtype, *, channels_last: bool) -> BlockRun:
    def run(batch: NDArray[np.float32]) -> dict[str, NDArray[np.floating[Any]]]:
        seen: dict[str, NDArray[np.floating[Any]]] = {}

        def keep(name: str) -> Callable[[nn.Module, Any, Tensor], None]:
            def hook(_module: nn.Module, _inputs: Any, output: Tensor) -> None:
                seen[name] = _positions(output, channels_last).numpy()

            return hook

        handles = [module.register_forward_hook(keep(name)) for name, module in blocks.items()]
        try:
            with torch.inference_mode():
                network(torch.from_numpy(batch).to(dtype))
        finally:
            for handle in handles:
                handle.remove()
        return {name: seen[name] for name in blocks}

    return run


def _positions(output: Tensor, channels_last: bool) -> Tensor:
    """A map of either layout -> (B, positions, channels); other shapes as they are."""
    if output.ndim != 4:
        return output
    return output.flatten(1, 2) if channels_last else output.flatten(2).transpose(1, 2)
