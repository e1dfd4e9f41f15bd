"""The files that baselines open, made from a config alone, or from a checkpoint."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rest_deploy.benchmarking.contenders import PLAIN_ONNX, WEIGHTS, Contender
from rest_deploy.errors import one_line
from rest_deploy.export.as_written import export_as_written
from rest_deploy.models.checkpoint import save_checkpoint
from rest_deploy.models.config import ResTConfig
from rest_deploy.models.factory import load_model


def write_files(baselines: Sequence[Contender], folder: Path, checkpoint: Path | None, seed: int) -> dict[str, str]:
    """Write what the baselines of one network open.

    Args:
        baselines: Of one network.
        folder: To write into.
        checkpoint: Weights; None for random ones, which take as long.
        seed: Of random weights, where there is no checkpoint.

    Returns:
        Name of each file that PyTorch could not export -> why.

    Raises:
        CheckpointError: The checkpoint does not fit the network.
    """
    first = baselines[0]
    model = load_model(ResTConfig.from_dict(first.config), checkpoint, seed=seed if checkpoint is None else None).model
    needed = {Path(one.file).name for one in baselines}
    if WEIGHTS in needed:
        save_checkpoint(folder / WEIGHTS, model, name=first.network)
    if PLAIN_ONNX in needed:
        try:
            export_as_written(model, folder / PLAIN_ONNX, first.channels)
        except Exception as exc:  # torch.onnx raises its own types and whatever its translations raise
            return {PLAIN_ONNX: f"PyTorch could not export it: {one_line(exc)}"}
    return {}
