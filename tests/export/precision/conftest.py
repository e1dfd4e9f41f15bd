"""The tiny network as a graph with its plans."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from rest_deploy.export.blockwise import whole
from rest_deploy.models.deploy import DeployResT, to_deploy
from rest_deploy.models.rest import ResT
from rest_deploy.recipes import recipe_of
from rest_deploy.specs import Precision
from rest_deploy.verification import candidate_of


@pytest.fixture(scope="session")
def tiny_deploy(tiny_model: ResT) -> DeployResT:
    return to_deploy(tiny_model)


@pytest.fixture
def tiny_graph(tiny_onnx: Path) -> onnx.ModelProto:
    return whole(onnx.load(str(tiny_onnx)))


def run_of(model: onnx.ModelProto) -> Callable[[NDArray[np.float32]], Any]:
    """A graph as a function that gives logits, every half value rounded; one in FP32 as it is."""
    run = candidate_of(model, recipe_of(Precision.FP16))
    return lambda batch: run(batch)["logits"]
