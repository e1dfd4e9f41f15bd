"""``verify``: an artifact against the checkpoint it was made from."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rest_deploy.errors import ConfigError, MissingPackageError
from rest_deploy.verification.candidate import open_candidate
from rest_deploy.verification.cases import CASES, Case, cases_within
from rest_deploy.verification.comparison import Comparison
from rest_deploy.verification.reference import Reference


def verify(
    artifact: str | Path,
    reference: str | Path,
    *,
    device: str | None = None,
    cases: Sequence[Case] | None = None,
    seed: int = 0,
) -> Comparison:
    """Compare an artifact with the checkpoint it was made from, on synthetic images of many sizes.

    On the CPU, ONNX files in FP16, and INT8 ones for TensorRT, are computed with every half value rounded, as a GPU
    would hold it; ONNX Runtime itself does not round there.

    Args:
        artifact: What :class:`Predictor` opens.
        reference: ``.pth``, ``.pt`` or ``.safetensors`` checkpoint.
        device: Where the artifact runs; None for the CPU, of an engine for the first GPU. The reference runs on the
            CPU.
        cases: Batches and sizes; None for :data:`CASES`, of an engine for those that it accepts.
        seed: Of the images.

    Returns:
        The figures; ``passed`` and ``failures`` judge them.

    Raises:
        ConfigError: The two are of different shapes.
        RestDeployError: One of them cannot be opened.
    """
    if cases is not None and not cases:
        raise ConfigError("no cases were given; a comparison needs at least one")
    try:
        from rest_deploy.models.factory import load_model
        from rest_deploy.models.reference import reference_runs
    except ModuleNotFoundError as exc:
        raise MissingPackageError(exc.name or "torch", "run the reference", "export") from exc
    with open_candidate(artifact, device) as (run, info):
        model = load_model(None, reference).model
        config = model.config
        if (config.in_channels, config.num_classes) != (info.input.shape[1], info.num_classes):
            raise ConfigError(
                f"{artifact} has {info.input.shape[1]} channels and {info.num_classes} classes, "
                f"{reference} {config.in_channels} and {config.num_classes}; give the checkpoint it was made from"
            )
        exact, yardstick = reference_runs(model, info.precision)
        if cases is None:
            cases = CASES if info.engine is None else cases_within(info.engine.profiles)
        known = Reference(exact, yardstick, channels=config.in_channels, cases=cases, seed=seed)
        plan = info.precision_plan
        return known.compare(run, info.precision, spread=plan.spread if plan is not None else None)
