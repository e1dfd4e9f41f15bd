"""Which part of a network is computed in which precision, and what a recipe makes a graph of.

A node of an exported graph is named by its module and its own name, ``stage3_2.attn.q/node_MatMul_1``
(``export/assemble.py``). A part is a module that is lowered or kept as a whole; the node belongs to the smallest part
around it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import TYPE_CHECKING

from rest_deploy.errors import ExportError
from rest_deploy.export.precision.config import PrecisionConfig
from rest_deploy.models.family import family_of
from rest_deploy.specs import Precision

if TYPE_CHECKING:
    import onnx

    from rest_deploy.models.network import DeployForm


@dataclass(frozen=True)
class PrecisionPlan:
    """Precision of every part of a network.

    Args:
        parts: Part -> its precision, in the order of the network. What lies inside a part and is none itself belongs to
            it.
        declared: Parts that the deploy form declares as FP32, whatever the rest is in.
        half_io: Whether the graph's input and output are float16 too.
        blocks: Piece of the deploy form -> its name by the authors, where it has another.
    """

    parts: Mapping[str, Precision]
    declared: frozenset[str] = frozenset()
    half_io: bool = False
    blocks: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "parts", MappingProxyType(dict(self.parts)))

    def display(self, part: str) -> str:
        """A part by the authors' names: ``stage3_2.attn`` is ResT's ``stage3.2.attn``."""
        piece, dot, rest = part.partition(".")
        return f"{self.blocks.get(piece, piece)}{dot}{rest}"

    def part_of(self, node: str) -> str:
        """The part that a node belongs to.

        Raises:
            ExportError: None; a pass has renamed the node.
        """
        module = node.partition("/")[0]
        for around in _around(module):
            if around in self.parts:
                return around
        raise ExportError(f"node {node} belongs to no part of the network; export with --no-simplify")

    def of(self, node: str) -> Precision:
        """The precision of a node, by its name."""
        return self.parts[self.part_of(node)]

    def lowered(self) -> tuple[str, ...]:
        """Parts in less than FP32, in order."""
        return tuple(part for part, precision in self.parts.items() if precision is not Precision.FP32)

    def kept(self, precision: Precision) -> dict[str, Precision]:
        """Parts in another precision than the network's, those that are declared so left out."""
        return {p: own for p, own in self.parts.items() if own is not precision and p not in self.declared}

    def changed(self, parts: Iterable[str], precision: Precision) -> PrecisionPlan:
        """The plan with some parts in another precision."""
        return replace(self, parts={**self.parts, **dict.fromkeys(parts, precision)})


@dataclass(frozen=True)
class ConvertInput:
    """What the ``convert`` of a recipe (``recipes.py``) gets.

    Args:
        graph: FP32, transposes folded into the weights, every node named by its module.
        plan: All its parts in the precision asked for.
        config: How it is asked for.
        ranges: Names of values in the graph -> the largest absolute value of each, taken from images; only of a recipe
            that is calibrated.
        reduced_range: Whether INT8 weights have 7 bits: asked for, or needed on this CPU.
    """

    graph: onnx.ModelProto
    plan: PrecisionPlan
    config: PrecisionConfig
    ranges: Callable[[Sequence[str]], Mapping[str, float]]
    reduced_range: bool = False


#: Makes the graph of a plan, a new one; what the ``convert`` of a recipe gives.
Convert = Callable[[PrecisionPlan], "onnx.ModelProto"]


def plan_for(deploy: DeployForm, precision: Precision, *, half_io: bool = False) -> PrecisionPlan:
    """Everything in a precision but what the deploy form declares as FP32.

    Args:
        deploy: The deploy form, for the names and kinds of its modules.
        precision: Of the rest.
        half_io: Whether input and output are float16 too.
    """
    declared, name_of = tuple(deploy.in_fp32()), family_of(deploy.config).block_name
    parts = {}
    for part in deploy.parts():
        parts[part] = precision
        parts |= {name: Precision.FP32 for name in declared if f"{name}.".startswith(f"{part}.")}
    blocks = {piece: name_of(piece) for piece, _ in deploy.named_children()}
    return PrecisionPlan(parts, frozenset(declared), half_io, blocks)


def _around(module: str) -> Sequence[str]:
    """A module and those around it, from the inside."""
    words = module.split(".")
    return [".".join(words[:end]) for end in range(len(words), 0, -1)]
