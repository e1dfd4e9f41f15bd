"""Where a difference begins: the outputs of the blocks of two networks side by side."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from rest_deploy.artifact.onnx_file import read_checked
from rest_deploy.errors import VerificationError
from rest_deploy.verification.cases import Case
from rest_deploy.verification.comparison import Tolerance, limit

if TYPE_CHECKING:
    import onnx

    from rest_deploy.models.blocks import BlockRun

Outputs = Mapping[str, NDArray[np.floating[Any]]]

#: Operators whose results are weights and sizes, which blocks may share.
_NO_OUTPUTS = frozenset({"Constant", "Shape", "Gather", "Concat", "DequantizeLinear"})

_LOGITS = "head"  # the block whose output is the logits


@dataclass(frozen=True)
class BlockFigures:
    """One block's output against the reference's.

    Args:
        block: By the authors' name.
        max_error, rms_error: Largest and root mean squared difference.
        reference_error: Largest, of the yardstick in float32; None where there is none.
        scale: Largest absolute value of the reference's output.
        std: Its standard deviation.
    """

    block: str
    max_error: float
    rms_error: float
    reference_error: float | None
    scale: float
    std: float

    def judged_by(self, tolerance: Tolerance) -> str:
        """Name of the error that a tolerance judges, ``max_error`` or ``rms_error``."""
        return "max_error" if tolerance.block_rms is None or self.block == _LOGITS else "rms_error"

    def limit(self, tolerance: Tolerance) -> float:
        """What a tolerance allows of that error."""
        if self.judged_by(tolerance) == "rms_error":
            assert tolerance.block_rms is not None
            return tolerance.block_rms * self.std
        return limit(tolerance, self.reference_error, self.scale, self.std)

    def passes(self, tolerance: Tolerance) -> bool:
        """Whether that error is within it; one that is no number is not."""
        error: float = getattr(self, self.judged_by(tolerance))
        return error <= self.limit(tolerance)

    def to_dict(self, tolerance: Tolerance) -> dict[str, Any]:
        """Plain values for JSON, with the judgement."""
        judgement = {"judged_by": self.judged_by(tolerance), "limit": self.limit(tolerance)}
        return {**asdict(self), **judgement, "passed": self.passes(tolerance)}


@dataclass(frozen=True)
class BlockComparison:
    """All blocks, in order.

    Args:
        case: Of the images.
        rows: The figures.
        tolerance: What judges them.
    """

    case: Case
    rows: tuple[BlockFigures, ...]
    tolerance: Tolerance

    @property
    def first_past_tolerance(self) -> str | None:
        """The block at which the difference begins; None where all are within the tolerance."""
        return next((row.block for row in self.rows if not row.passes(self.tolerance)), None)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        rows = [row.to_dict(self.tolerance) for row in self.rows]
        return {"case": str(self.case), "first_past_tolerance": self.first_past_tolerance, "rows": rows}


def compare_blocks(
    case: Case, ours: Outputs, exact: Outputs, yardstick: Outputs | None, tolerance: Tolerance
) -> BlockComparison:
    """Measure blocks of one name against each other.

    Raises:
        VerificationError: They have different blocks, or outputs of different shapes.
    """
    if list(ours) != list(exact):
        raise VerificationError(f"the artifact has the blocks {', '.join(ours)}, the reference {', '.join(exact)}")
    rows = tuple(_figures(name, ours[name], exact[name], yardstick) for name in exact)
    return BlockComparison(case, rows, tolerance)


def _figures(
    name: str, ours: NDArray[np.floating[Any]], exact: NDArray[np.floating[Any]], yardstick: Outputs | None
) -> BlockFigures:
    if ours.shape != exact.shape:
        raise VerificationError(f"block {name} gives {ours.shape}, the reference's {exact.shape}")
    wide = exact.astype(np.float64, copy=False)
    with np.errstate(invalid="ignore", over="ignore"):
        error = np.abs(ours.astype(np.float64) - wide)
        own = float(np.abs(yardstick[name].astype(np.float64) - wide).max()) if yardstick is not None else None
        return BlockFigures(
            block=name,
            max_error=float(error.max()),
            rms_error=float(np.sqrt(np.square(error).mean())),
            reference_error=own,
            scale=float(np.abs(wide).max()),
            std=float(wide.std()),
        )


def onnx_blocks(path: Path, threads: int | None = None) -> BlockRun:
    """The blocks of an ONNX file of ours on the CPU, half values rounded, Q/DQ pairs as written.

    Raises:
        VerificationError: Its nodes do not tell the blocks that they belong to.
    """
    import onnx

    from rest_deploy.export.cpu_session import CpuSession
    from rest_deploy.export.precision.rounding import with_explicit_rounding
    from rest_deploy.models.blocks import block_name

    model = onnx.load_model_from_string(bytes(read_checked(path).content))
    values = _block_outputs(model)
    if len(values) < 2:
        raise VerificationError(f"{path}: its nodes are not named by their blocks; export it again")
    session = CpuSession(with_explicit_rounding(model), list(values.values()), threads)

    def run(batch: NDArray[np.float32]) -> dict[str, NDArray[np.floating[Any]]]:
        outputs = zip(values, session.run(batch), strict=True)
        return {block_name(piece): _positions(output) for piece, output in outputs}

    return run


def _positions(output: NDArray[np.floating[Any]]) -> NDArray[np.floating[Any]]:
    """(B, H, W, C) -> (B, H*W, C); others as they are."""
    return output.reshape(output.shape[0], -1, output.shape[3]) if output.ndim == 4 else output


def _block_outputs(model: onnx.ModelProto) -> dict[str, str]:
    """Piece of the deploy form -> the value that leaves it, in order.

    A node is named by its module (``export/assemble.py``). Constants are shared between pieces and leave none.
    """
    makers = {output: node for node in model.graph.node for output in node.output}
    leaving: dict[str, str] = {}
    for node in model.graph.node:
        for name in node.input:
            maker = makers.get(name)
            if maker is not None and maker.op_type not in _NO_OUTPUTS and _piece(maker) != _piece(node):
                leaving[_piece(maker)] = name
    for value in model.graph.output:
        leaving[_piece(makers[value.name])] = value.name
    order = dict.fromkeys(_piece(node) for node in model.graph.node if node.op_type not in _NO_OUTPUTS)
    return {piece: leaving[piece] for piece in order if piece in leaving}


def _piece(node: onnx.NodeProto) -> str:
    return str(node.name).partition("/")[0].partition(".")[0]
