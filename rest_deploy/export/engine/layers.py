"""The layers that a build made, read out of its own log, and by them whether it built the precision asked for.

With detailed profiling TensorRT logs the engine's layers at the end of a build, a line each. TensorRT 10 and
TensorRT-RTX write a tensor's type in two ways::

    { Name: x, Location: Device, Dimensions: [1,3,8,8], Format/Datatype: Row major linear FP32 }
    { Name: x, Dimensions: [1,3,8,8], Strides: [...], Datatype: Float, Format: (Linear) Row major linear format }
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from rest_deploy.errors import ExportError
from rest_deploy.recipes import recipe_of
from rest_deploy.specs import Precision

_HEADING = "Layers:"
_LINE = re.compile(r"^Name: (.*?), LayerType: ([^,]*)", re.MULTILINE)
_BRACKET = re.compile(r"[\[\]]")
_TYPE = re.compile(r"Datatype: ([^,}]*)")
_NODE = re.compile(r"\[ONNX Layer: ([^\]]*)\]")
_PIECE = re.compile(r"(\w+)[\w.]*/")  # TensorRT writes "PWN(stem/x" and "Reformatting CopyNode for ... to stem/x" too

#: Words of TensorRT for datatypes -> ours.
_WORDS: Mapping[str, str] = MappingProxyType(
    {
        **dict.fromkeys(("fp32", "float", "float32"), "fp32"),
        **dict.fromkeys(("fp16", "half", "float16"), "fp16"),
        **dict.fromkeys(("bf16", "bfloat16"), "bf16"),
        **dict.fromkeys(("fp8", "float8", "e4m3"), "fp8"),
        **dict.fromkeys(("fp4", "float4", "e2m1"), "fp4"),
        **{name: name for name in ("int4", "int8", "uint8", "int32", "int64", "bool")},
    }
)
#: From the narrowest: what a layer computes in is the narrowest type of its inputs.
NUMBERS = ("int4", "fp4", "int8", "fp8", "fp16", "bf16", "fp32")
#: What sizes, indices and masks are kept in.
_INDICES = frozenset({"uint8", "int32", "int64", "bool"})
_NAMED_AT_MOST = 3
_CAST = "/cast:"  # in the names of casts that export/precision/half.py writes
#: In the name of a kernel that TensorRT made of several operators, which it names; what rounds to INT8 ends in RounCast
_CAST_INSIDE = re.compile(r"^__myl_\w*(?<!Roun)Cast")


@dataclass(frozen=True)
class Layer:
    """A layer of an engine.

    Args:
        name, kind: As TensorRT calls them.
        nodes: Names of the ONNX nodes it was made from; empty where TensorRT made it up.
        inputs, constants, outputs: Datatypes of its tensors, ``"fp32"``, ``"int8"``, ...
    """

    name: str
    kind: str
    nodes: tuple[str, ...]
    inputs: tuple[str, ...]
    constants: tuple[str, ...]
    outputs: tuple[str, ...]

    @property
    def numbers(self) -> frozenset[str]:
        """Datatypes of its tensors that hold image data or weights, unknown ones too; sizes and indices left out."""
        return frozenset(self.inputs + self.constants + self.outputs) - _INDICES

    @property
    def data(self) -> frozenset[str]:
        """Datatypes of the image data that goes in and out; its constants may be scalars of another type."""
        return frozenset(self.inputs + self.outputs) - _INDICES

    @property
    def datatype(self) -> str | None:
        """What it computes in: the narrowest type of its inputs, else of its outputs; None where it holds no data."""
        for tensors in (self.inputs, self.outputs):
            found = [datatype for datatype in NUMBERS if datatype in tensors]
            if found:
                return found[0]
        return None

    def stage(self, block_name: Callable[[str], str]) -> str:
        """Part of the network it belongs to, by the first of its nodes: ``"stage3"``, ``"head"``, or ``"other"``.

        Args:
            block_name: A piece of the deploy form -> its name by the authors, which begins with that of its stage.
        """
        pieces = (_PIECE.search(node) for node in self.nodes)
        return next((block_name(piece[1]).partition(".")[0] for piece in pieces if piece), "other")


def read_layers(messages: Sequence[str]) -> tuple[Layer, ...]:
    """Layers of the last engine that a build log tells of; none where it tells of none."""
    told = [message for message in messages if message.startswith(_HEADING)]
    if not told:
        return ()
    return tuple(_read(line) for line in told[-1].split("\n") if _LINE.match(line))


def histogram(layers: Sequence[Layer], block_name: Callable[[str], str]) -> dict[str, dict[str, int]]:
    """Stage -> datatype -> number of layers, in the order of the network; ``block_name`` as of a layer's stage."""
    counts: Mapping[str, Counter[str]] = defaultdict(Counter)
    for layer in layers:
        if layer.datatype is not None:
            counts[layer.stage(block_name)][layer.datatype] += 1
    return {stage: dict(count) for stage, count in counts.items()}


def _read(line: str) -> Layer:
    match = _LINE.match(line)
    assert match is not None  # read_layers has looked
    rest = line[match.end() :]
    nodes = tuple(_NODE.findall(rest)) or ((match[1],) if "/" in match[1] else ())
    return Layer(match[1], match[2], nodes, *(_types(rest, part) for part in ("Inputs", "Constants", "Outputs")))


def _types(text: str, part: str) -> tuple[str, ...]:
    """Datatypes of the tensors listed under a heading."""
    start = text.find(f", {part}: [")
    if start < 0:
        return ()
    listed = text[start + len(part) + 5 : _closing(text, start + len(part) + 4)]
    return tuple(_datatype(said) for said in _TYPE.findall(listed))


def _closing(text: str, opening: int) -> int:
    """Where the bracket that opens at a place is closed; names of tensors may hold brackets too, in pairs."""
    depth = 0
    for bracket in _BRACKET.finditer(text, opening):
        depth += 1 if bracket[0] == "[" else -1
        if depth == 0:
            return bracket.start()
    return len(text)


def _datatype(said: str) -> str:
    """Our name of a datatype; the word itself where it is none that is known, so that a proof stumbles over it."""
    words = re.findall(r"[a-z0-9]+", said.lower())
    return next((_WORDS[word] for word in words if word in _WORDS), " ".join(words) or "unknown")


def prove(layers: Sequence[Layer], precision: Precision, fp32_nodes: Collection[str] = ()) -> None:
    """Refuse an engine whose layers are not in the precision that was asked for.

    Args:
        layers: Of the build.
        precision: Asked for.
        fp32_nodes: ONNX nodes that must stay in FP32 though the rest is narrower, as an attention core. A layer that
            TensorRT fused with a cast at its edge has tensors of both types, or where it took in the casts at both
            edges none in FP32, and the casts among its nodes, or in its name beside weights in FP32; each counts as
            FP32.

    Raises:
        ExportError: The log tells of no layers; FP32 was asked and a layer is narrower; FP16 or INT8 was asked and no
            layer computes in it; or a layer of ``fp32_nodes`` has no FP32 tensor.
    """
    if not any(layer.datatype for layer in layers):
        raise ExportError("the build's log names no layers, so its precision cannot be proved; no engine was kept")
    if precision is Precision.FP32:
        narrow = [layer for layer in layers if layer.numbers - {"fp32"}]
        if narrow:
            raise ExportError(f"fp32 was asked for, and TensorRT built {_named(narrow)}; no engine was kept")
        return
    if not any(layer.datatype == recipe_of(precision).engine_type for layer in layers):
        raise ExportError(
            f"{precision.value} was asked for, and of {len(layers)} layers TensorRT built none in it; "
            "no engine was kept; leave the precision out, or rebuild for a target that has it"
        )
    kept = frozenset(fp32_nodes)
    narrow = [layer for layer in layers if kept.intersection(layer.nodes) and not _may_be_fp32(layer)]
    if narrow:
        raise ExportError(f"FP32 was asked for parts of the network, and TensorRT built {_named(narrow)}")


def _may_be_fp32(layer: Layer) -> bool:
    cast = _CAST_INSIDE.search(layer.name) is not None and "fp32" in layer.constants
    return cast or "fp32" in (layer.data or {"fp32"}) or any(_CAST in node for node in layer.nodes)


def _named(layers: Sequence[Layer]) -> str:
    """A few of them, with their types."""
    named = [f"{layer.name} in {', '.join(sorted(layer.numbers))}" for layer in layers[:_NAMED_AT_MOST]]
    more = len(layers) - len(named)
    return "; ".join(named) + (f"; and {more} more" if more > 0 else "")
