"""The tiny network as a graph with its plans."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest
from torch import nn

from rest_deploy.models.deploy import to_deploy
from rest_deploy.models.rest import ResT


@pytest.fixture(scope="session")
def tiny_deploy(tiny_model: ResT) -> nn.Sequential:
    return to_deploy(tiny_model)


@pytest.fixture
def tiny_graph(tiny_onnx: Path) -> onnx.ModelProto:
    return onnx.load(str(tiny_onnx))
