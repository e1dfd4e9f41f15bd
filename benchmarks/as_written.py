"""The baseline: the model exported as its authors wrote it, by PyTorch's TorchScript exporter."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import BinaryIO

import torch

from rest_deploy.models.rest import ResT

AXES = {"image": {0: "batch", 2: "height", 3: "width"}, "logits": {0: "batch"}}


def export_as_written(model: torch.nn.Module, target: Path | BinaryIO, channels: int = 3) -> None:
    """Write ``model`` as ONNX (opset 17) with dynamic batch, height and width."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            model,
            (torch.zeros(2, channels, 96, 160),),
            str(target) if isinstance(target, Path) else target,
            dynamo=False,
            input_names=["image"],
            output_names=["logits"],
            dynamic_axes=AXES,
            opset_version=17,
        )


def write_both(model: ResT, folder: Path) -> tuple[Path, Path]:
    """A model as we export it, and as written; both files."""
    from rest_deploy.export.onnx_exporter import OnnxConfig, export
    from rest_deploy.models.deploy import to_deploy
    from rest_deploy.specs import TensorSpec

    config = model.config
    ours, theirs = folder / "ours.onnx", folder / "as_written.onnx"
    image = TensorSpec("image", "float32", ("batch", config.in_channels, "height", "width"))
    export(to_deploy(model), image, TensorSpec("logits", "float32", ("batch", config.num_classes)), ours, OnnxConfig())
    export_as_written(model, theirs, config.in_channels)
    return ours, theirs
