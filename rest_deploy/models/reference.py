"""A model and its blocks as functions of arrays, to measure artifacts against, and PyTorch's threads meanwhile."""

from __future__ import annotations

import contextlib
import copy
import os
import threading
from collections.abc import Callable, Collection
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from rest_deploy.machine import usable_cores
from rest_deploy.models.family import family_of
from rest_deploy.models.network import DeployForm, Network
from rest_deploy.specs import Precision

#: float32 (B, channels, H, W) -> outputs by name
Run = Callable[[NDArray[np.float32]], dict[str, NDArray[np.floating[Any]]]]
#: float32 (B, channels, H, W) -> block by the authors' name -> its output, (B, positions, channels) or (B, classes).
BlockRun = Callable[[NDArray[np.float32]], dict[str, NDArray[np.floating[Any]]]]


class torch_threads(contextlib.ContextDecorator):
    """PyTorch's CPU threads for the time of a run, in this thread; they are put back after it.

    PyTorch has one number for the process, and OpenMP beneath it another for each thread, which begins as the first is.
    So what is put back is what was there before the first of all runs that overlap.

    Args:
        count: How many; None takes PyTorch's own number, at most :func:`~rest_deploy.machine.usable_cores`.
    """

    #: Whether this process was forked: OpenMP would wait for threads that stayed in its parent; with one it needs none.
    forked: ClassVar[bool] = False
    _lock: ClassVar[threading.Lock] = threading.Lock()
    _inside: ClassVar[int] = 0
    _own: ClassVar[int] = 1

    def __init__(self, count: int | None = None) -> None:
        self._count, self._most = count, usable_cores()

    def __enter__(self) -> None:
        with self._lock:
            if not torch_threads._inside:
                torch_threads._own = torch.get_num_threads()
            torch_threads._inside += 1
            torch.set_num_threads(self._count or min(self._own, self._most))

    def __exit__(self, *_: object) -> None:
        with self._lock:
            torch_threads._inside -= 1
            torch.set_num_threads(self._own)


def _after_fork() -> None:
    torch_threads.forked, torch_threads._lock, torch_threads._inside = True, threading.Lock(), 0
    torch.set_num_threads(1)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def reference_runs(
    model: Network, precision: Precision = Precision.FP32, threads: int | None = None
) -> tuple[Run, Run]:
    """The model on the CPU in float64, and in float32 as the baseline of a precision. It is left as it was.

    Attention of large maps goes in blocks (``stages.py``), which is the same function. In float32 it loses less than
    the model as written does, so that limits that go by the baseline are tighter there, never looser.

    Args:
        model: As its authors wrote it.
        precision: What is to be measured. For FP32 the baseline is the model as written; for less its deploy form, as
            that is what the file is made from, and the model as written can lose a thousand times as much.
        threads: CPU threads of a call; None as of :class:`torch_threads`.

    Returns:
        Two functions of a float32 batch.
    """
    baseline = model if precision is Precision.FP32 else model.to_deploy()
    return _run_in(model, torch.float64, threads), _run_in(baseline, torch.float32, threads)


def _run_in(model: Network | DeployForm, dtype: torch.dtype, threads: int | None) -> Run:
    module = copy.deepcopy(model).to(device="cpu", dtype=dtype)

    @torch_threads(threads)
    def run(batch: NDArray[np.float32]) -> dict[str, NDArray[np.floating[Any]]]:
        with torch.inference_mode():
            outputs = module.outputs(torch.from_numpy(batch).to(dtype))
        return {name: values.numpy() for name, values in outputs.items()}

    return run


def as_written_blocks(model: Network, dtype: torch.dtype) -> BlockRun:
    """The blocks of a model on the CPU as its authors wrote it; it is left as it was."""
    copied = copy.deepcopy(model).to(device="cpu", dtype=dtype)
    return _blocks_in(copied, dict(copied.blocks()), dtype, channels_last=())


def deploy_blocks(model: Network, dtype: torch.dtype) -> BlockRun:
    """The blocks of a model's deploy form on the CPU."""
    family, deploy = family_of(model.config), model.to_deploy().to(dtype)
    pieces = {family.block_name(name): piece for name, piece in deploy.named_children()}
    given = {family.block_name(piece) for piece in deploy.givers().values()}
    return _blocks_in(deploy, pieces, dtype, channels_last=pieces.keys() - given if family.channels_last else ())


def _blocks_in(
    network: Network | DeployForm, blocks: dict[str, nn.Module], dtype: torch.dtype, *, channels_last: Collection[str]
) -> BlockRun:
    def run(batch: NDArray[np.float32]) -> dict[str, NDArray[np.floating[Any]]]:
        seen: dict[str, NDArray[np.floating[Any]]] = {}

        def keep(name: str) -> Callable[[nn.Module, Any, Tensor], None]:
            def hook(_module: nn.Module, _inputs: Any, output: Tensor) -> None:
                seen[name] = _positions(output, name in channels_last).numpy()

            return hook

        handles = [module.register_forward_hook(keep(name)) for name, module in blocks.items()]
        try:
            with torch.inference_mode():
                network.outputs(torch.from_numpy(batch).to(dtype))
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
