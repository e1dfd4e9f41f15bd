"""Artifacts that are served."""

from __future__ import annotations

from pathlib import Path

import pytest

from rest_deploy import export


@pytest.fixture(scope="session")
def tiny_features(tmp_path_factory: pytest.TempPathFactory, tiny_checkpoint: Path) -> Path:
    """The tiny model's file that gives a map and an embedding, not verified."""
    output = tmp_path_factory.mktemp("tiny_features") / "maps.onnx"
    return export(None, output, checkpoint=tiny_checkpoint, features="stage2,embedding", verify=False)
