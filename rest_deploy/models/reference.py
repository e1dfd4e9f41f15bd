"""A model as plain functions of arrays, for measuring artifacts against it."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

Run = Callable[[NDArray[np.float32]], NDArray[np.floating[Any]]]


def reference_runs(model: nn.Module) -> tuple[Run, Run]:
    """The model on the CPU in float64 and in float32, each a function of a float32 batch. It is left as it was."""
    return _run_in(model, torch.float64), _run_in(model, torch.float32)


def _run_in(model: nn.Module, dtype: torch.dtype) -> Run:
    module = copy.deepcopy(model).to(device="cpu", dtype=dtype)

    def run(batch: NDArray[np.float32]) -> NDArray[np.floating[Any]]:
        with torch.inference_mode():
            output: NDArray[np.floating[Any]] = module(torch.from_numpy(batch).to(dtype)).numpy()
            return output

    return run
