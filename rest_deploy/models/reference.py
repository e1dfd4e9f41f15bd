"""A model as plain functions of arrays, for measuring artifacts against it."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from rest_deploy.models.deploy import to_deploy
from rest_deploy.models.rest import ResT
from rest_deploy.specs import Precision

Run = Callable[[NDArray[np.float32]], NDArray[np.floating[Any]]]


def reference_runs(model: ResT, precision: Precision = Precision.FP32) -> tuple[Run, Run]:
    """The model on the CPU in float64, and in float32 as the yardstick of a precision. It is left as it was.

    Args:
        model: As its authors wrote it.
        precision: What is to be measured. For FP32 the yardstick is the model as written; for less its deploy form, as
            that is what was narrowed, and the model as written can lose a thousand times as much.

    Returns:
        Two functions of a float32 batch.
    """
    yardstick = model if precision is Precision.FP32 else to_deploy(model)
    return _run_in(model, torch.float64), _run_in(yardstick, torch.float32)


def _run_in(model: nn.Module, dtype: torch.dtype) -> Run:
    module = copy.deepcopy(model).to(device="cpu", dtype=dtype)

    def run(batch: NDArray[np.float32]) -> NDArray[np.floating[Any]]:
        with torch.inference_mode():
            output: NDArray[np.floating[Any]] = module(torch.from_numpy(batch).to(dtype)).numpy()
            return output

    return run
