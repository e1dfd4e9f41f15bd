"""Was the precision built that was asked for? Judged by the layers that the build's own log tells of."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from rest_deploy.errors import ExportError
from rest_deploy.export.engine.layers import Layer
from rest_deploy.specs import Precision

_NARROW = {Precision.FP16: "fp16", Precision.INT8: "int8"}
_NAMED_AT_MOST = 3
_CAST = "/cast:"  # in the names of casts that export/precision/half.py writes


def prove(layers: Sequence[Layer], precision: Precision, fp32_nodes: Collection[str] = ()) -> None:
    """Refuse an engine whose layers are not in the precision that was asked for.

    Args:
        layers: Of the build.
        precision: Asked for.
        fp32_nodes: ONNX nodes that must stay in FP32 though the rest is narrower, as an attention core. A layer that
            TensorRT fused with a cast at its edge has tensors of both types, or where it took in the casts at both
            edges none in FP32 and the casts among its nodes; either counts as FP32.

    Raises:
        ExportError: The log tells of no layers; FP32 was asked and a layer is narrower; FP16 or INT8 was asked and no
            layer computes in it; or a layer of ``fp32_nodes`` has no FP32 tensor.
    """
    if not any(layer.datatype for layer in layers):
        raise ExportError("the build's log tells of no layers, so its precision cannot be proved; no engine was kept")
    if precision is Precision.FP32:
        narrow = [layer for layer in layers if layer.numbers - {"fp32"}]
        if narrow:
            raise ExportError(f"fp32 was asked for, and TensorRT built {_named(narrow)}; no engine was kept")
        return
    wanted = _NARROW[precision]
    if not any(layer.datatype == wanted for layer in layers):
        raise ExportError(
            f"{precision.value} was asked for, and of {len(layers)} layers TensorRT built none in it; "
            "no engine was kept; leave the precision out, or rebuild for a target that has it"
        )
    kept = frozenset(fp32_nodes)
    narrow = [layer for layer in layers if kept.intersection(layer.nodes) and not _may_be_fp32(layer)]
    if narrow:
        raise ExportError(f"FP32 was asked for parts of the network, and TensorRT built {_named(narrow)}")


def _may_be_fp32(layer: Layer) -> bool:
    return "fp32" in (layer.data or {"fp32"}) or any(_CAST in node for node in layer.nodes)


def _named(layers: Sequence[Layer]) -> str:
    """A few of them, with their types."""
    named = [f"{layer.name} in {', '.join(sorted(layer.numbers))}" for layer in layers[:_NAMED_AT_MOST]]
    more = len(layers) - len(named)
    return "; ".join(named) + (f"; and {more} more" if more > 0 else "")
