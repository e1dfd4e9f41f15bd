"""An artifact as the function that is to be measured: what the machine that it is made for would compute."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from rest_deploy.artifact.info import ArtifactInfo
from rest_deploy.artifact.onnx_file import read_checked
from rest_deploy.runtimes.registry import open_runtime, read_info
from rest_deploy.verification.reference import Run

if TYPE_CHECKING:
    import onnx


#: Of which onnx.reference knows Q/DQ pairs; what is in our files means the same in it.
_EVALUATOR_OPSET = 19


@contextmanager
def open_candidate(
    path: str | Path, device: str | None = None, threads: int | None = None
) -> Iterator[tuple[Run, ArtifactInfo]]:
    """Open an artifact for measuring.

    ONNX files with half values are computed with each of them rounded where the device is the CPU, whose own runtime
    does not round (``export/precision/rounding.py``).

    Args:
        path: What :class:`Predictor` opens.
        device: Where it runs.
        threads: CPU threads of a call; None for each core that may be used.

    Yields:
        float32 (B, channels, H, W) -> (B, classes), and its record.
    """
    info = read_info(path)
    if rounds_halves(info, device):
        import onnx

        file = read_checked(path)
        yield candidate_of(onnx.load_model_from_string(bytes(file.content)), threads), file.info
        return
    with open_runtime(path, device, threads) as runtime:
        yield runtime.run, runtime.info


def rounds_halves(info: ArtifactInfo, device: str | None) -> bool:
    """Whether an artifact is computed with its half values rounded: ONNX files that hold some, on the CPU."""
    return info.format == "onnx" and info.holds_halves and device in (None, "cpu")


def reference_evaluator_of(path: str | Path) -> Run:
    """An ONNX file as ``onnx.reference`` computes it, every node rounded as written; slow."""
    import onnx
    from onnx.reference import ReferenceEvaluator

    file = read_checked(path)
    model = onnx.load_model_from_string(bytes(file.content))
    entry = model.opset_import[0]
    entry.version = max(entry.version, _EVALUATOR_OPSET)
    evaluator: Any = ReferenceEvaluator(model)
    (name,) = (value.name for value in model.graph.input)
    dtype = file.info.input.dtype

    def run(batch: NDArray[np.float32]) -> NDArray[np.float32]:
        with np.errstate(over="ignore", invalid="ignore"):  # its Sigmoid tries both of two formulas
            logits: NDArray[np.float32] = evaluator.run(None, {name: batch.astype(dtype)})[0].astype(np.float32)
        return logits

    return run


def candidate_of(model: onnx.ModelProto, threads: int | None = None) -> Run:
    """A graph as a function, every half value rounded, every Q/DQ pair as written.

    Raises:
        ExportError: ONNX Runtime does not load it, or later does not run it.
    """
    from rest_deploy.export.cpu_session import CpuSession
    from rest_deploy.export.precision.rounding import with_explicit_rounding

    session = CpuSession(with_explicit_rounding(model), threads=threads)
    return lambda batch: session.run(batch)[0]
