"""The files that baselines open, made from a config alone, or from a checkpoint."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from rest_deploy.benchmarking.contenders import BASELINES, PLAIN_ONNX, WEIGHTS, Contender
from rest_deploy.errors import ExportError, one_line
from rest_deploy.export.as_written import export_as_written
from rest_deploy.models.checkpoint import Card, save_checkpoint
from rest_deploy.models.config import ResTConfig
from rest_deploy.models.factory import load_model
from rest_deploy.models.rest import ResT


def write_files(of: Contender, names: Iterable[str], folder: Path, checkpoint: Path | None, seed: int) -> None:
    """Write what some baselines of a network open.

    Args:
        of: A contender of the network.
        names: Keys of :data:`BASELINES`.
        folder: To write into.
        checkpoint: Weights; None for random ones, which take as long.
        seed: Of random weights.

    Raises:
        CheckpointError: The checkpoint does not fit the network.
        ExportError: PyTorch could not export it.
    """
    model = load_model(ResTConfig.from_dict(of.config), checkpoint, seed=seed).model
    needed = {BASELINES[name].file for name in names}
    if WEIGHTS in needed:
        save_checkpoint(folder / WEIGHTS, model.state_dict(), Card(of.network))
    if PLAIN_ONNX in needed:
        _export(model, folder / PLAIN_ONNX, of.channels)


def _export(model: ResT, target: Path, channels: int) -> None:
    try:
        export_as_written(model, target, channels)
    except Exception as exc:  # torch.onnx raises its own types and whatever its translations raise
        raise ExportError(f"the baseline as-written: PyTorch could not export it: {one_line(exc)}") from exc
