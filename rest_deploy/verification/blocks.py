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
from rest_deploy.models.family import family_named, operators_of
from rest_deploy.recipes import Limits
from rest_deploy.verification.figures import Outputs, ValueFigures, Values, largest_errors, measure_values
from rest_deploy.verification.limits import ValueVerdict, judge_values
from rest_deploy.verification.reference import Case

if TYPE_CHECKING:
    import onnx

    from rest_deploy.models.reference import BlockRun

#: Operators whose results are weights and sizes, which blocks may share.
_NO_OUTPUTS = frozenset({"Constant", "Shape", "Gather", "Concat", "DequantizeLinear"})


@dataclass(frozen=True)
class BlockComparison:
    """All blocks by the authors' names, in order, on the images of a case, what is allowed of them, and whether the
    last gives the logits.
    """

    case: Case
    blocks: Mapping[str, ValueFigures]
    limits: Limits
    classifies: bool = True

    @property
    def verdicts(self) -> dict[str, ValueVerdict]:
        """The judgement of each."""
        last = list(self.blocks)[-1] if self.classifies else None
        return {name: judge_values(figures, self.limits, largest=name == last) for name, figures in self.blocks.items()}

    @property
    def first_over_limit(self) -> str | None:
        """The block at which the difference begins; None where all are within the limits."""
        return next((name for name, verdict in self.verdicts.items() if not verdict.passed), None)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        judged = self.verdicts
        rows = [{"block": name, **asdict(own), **asdict(judged[name])} for name, own in self.blocks.items()]
        return {"case": str(self.case), "first_over_limit": self.first_over_limit, "rows": rows}


def compare_blocks(
    case: Case, ours: Outputs, exact: Outputs, baseline: Outputs | None, limits: Limits, *, classifies: bool = True
) -> BlockComparison:
    """Measure blocks of one name against each other.

    Raises:
        VerificationError: They have different blocks, or outputs of different shapes.
    """
    if list(ours) != list(exact):
        raise VerificationError(f"the artifact has the blocks {', '.join(ours)}, the reference {', '.join(exact)}")
    lost, found = largest_errors(baseline, exact), dict[str, ValueFigures]()
    for name, values in exact.items():
        try:
            found[name] = measure_values(ours[name], values, lost[name] if lost is not None else None)
        except VerificationError as exc:
            raise VerificationError(f"block {name}: {exc}") from exc
    return BlockComparison(case, found, limits, classifies)


def onnx_blocks(path: Path, threads: int | None = None) -> BlockRun:
    """The blocks of an ONNX file of ours on the CPU, computed as its recipe says, every Q/DQ pair as written.

    Raises:
        VerificationError: Its nodes do not tell the blocks that they belong to.
    """
    import onnx

    from rest_deploy.export.blockwise import whole
    from rest_deploy.export.cpu_session import CpuSession

    file = read_checked(path, operators_of)
    model, family = whole(onnx.load_model_from_string(bytes(file.content))), family_named(file.info.family)
    values, given = _block_outputs(model), {value.name for value in model.graph.output}
    if len(values) < 2:
        raise VerificationError(f"{path}: its nodes are not named by their blocks; export it again")
    session = CpuSession(file.info.recipe.emulate(model), list(values.values()), threads)

    def run(batch: NDArray[np.float32]) -> dict[str, Values]:
        outputs = session.run(batch)
        return {
            family.block_name(piece): _positions(outputs[name], family.channels_last and name not in given)
            for piece, name in values.items()
        }

    return run


def _positions(output: Values, channels_last: bool) -> Values:
    """A map of either layout -> (B, H*W, C); others as they are."""
    if output.ndim != 4:
        return output
    output = output if channels_last else np.moveaxis(output, 1, 3)
    return output.reshape(output.shape[0], -1, output.shape[3])


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
