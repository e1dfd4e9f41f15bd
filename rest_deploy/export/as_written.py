"""The model exported as its authors wrote it, by PyTorch's TorchScript exporter: what ours is measured against."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import BinaryIO

import torch

from rest_deploy.models.reference import torch_threads

AXES = {"image": {0: "batch", 2: "height", 3: "width"}, "logits": {0: "batch"}}
_OPSET = 17  # the last that this exporter writes without a warning of its own


def export_as_written(model: torch.nn.Module, target: Path | BinaryIO, channels: int = 3) -> None:
    """Write ``model`` as ONNX with dynamic batch, height and width.

    Nobody should deploy it: its InstanceNormalization loses the accuracy (docs/deploy-form.md).

    Args:
        model: (B, channels, H, W) -> (B, classes), on the CPU.
        target: File to write.
        channels: Of its input.
    """
    with warnings.catch_warnings(), torch_threads():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            model,
            (torch.zeros(2, channels, 96, 160),),
            str(target) if isinstance(target, Path) else target,  # type: ignore[arg-type]  # it writes to either
            dynamo=False,
            input_names=["image"],
            output_names=["logits"],
            dynamic_axes=AXES,
            opset_version=_OPSET,
        )
