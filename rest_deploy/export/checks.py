"""What must hold of every exported graph; and onnxsim, kept only where its result is still that graph."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping, Sequence, Set
from typing import Any, TypeAlias

import numpy as np
import onnx
import onnxsim
from numpy.typing import NDArray
from onnx import numpy_helper

from rest_deploy.errors import ExportError, one_line
from rest_deploy.export.blockwise import blockwise, light, with_block
from rest_deploy.export.cpu_session import CpuSession
from rest_deploy.models.network import Structure

#: Passes of onnxsim that would harm the graph. ``fuse_matmul_add_bias_into_gemm_batched`` turns a product and its bias
#: into Reshape, Gemm and Reshape with sizes computed at run time, where channels are few; runtimes do as well without.
#: ``fuse_consecutive_reduce`` takes the mean over keys and then over queries in one go. ONNX Runtime adds those, up to
#: 17 million squares, one after the other: at 1024 pixels the logits' error grew from 9e-6 to 2e-4 (golden weights).
#: ``fuse_qkv`` makes one product of two and splits it again, where heads do not interact: no runtime gains by it.
_SKIPPED = ["fuse_matmul_add_bias_into_gemm_batched", "fuse_consecutive_reduce", "fuse_qkv"]

_log = logging.getLogger(__name__)

#: (batch, height, width) at which both graphs are run; neither is a traced size.
_SIZES = ((2, 33, 49), (1, 80, 64))

#: Numbers of a block with which even these images have several in every stage.
_SMALL_BLOCK = 64

#: Largest difference of an output, relative to its largest value or 1. Folding constants changes at most the rounding.
_TOLERANCE = 1e-4

#: By how many units in the last place images are changed, and how often, to see what rounding does to a graph. A number
#: that is rounded to another of 255 levels changes many behind it: INT8 of the golden weights moves by up to half of
#: the largest logit, FP32 by some 1e-5.
_NUDGE, _NUDGES = 8, 3

#: What a graph gives for images of a few sizes: output's name -> its values.
Answers: TypeAlias = "Sequence[Mapping[str, NDArray[Any]]]"


def check_graph(model: onnx.ModelProto, structure: Structure, operators: Set[str]) -> None:
    """Check a graph against the structure of the deploy form.

    Args:
        model: The graph.
        structure: Of the deploy form.
        operators: That graphs of its family may have.

    Raises:
        ExportError: It is not valid ONNX, has other operators, a normalisation taken apart, or a size baked in.
    """
    try:
        onnx.checker.check_model(light(model))  # which copies it
    except onnx.checker.ValidationError as exc:
        raise ExportError(f"the graph is not valid ONNX: {str(exc).splitlines()[0]}") from exc
    counts = Counter(node.op_type for node in model.graph.node)
    strange = sorted(set(counts) - operators)
    if strange:
        raise ExportError(f"the graph has operators that the deploy form does not have: {', '.join(strange)}")
    for operator, needed in structure.counts.items():
        if counts[operator] != needed:
            raise ExportError(
                f"the graph has {counts[operator]} {operator} nodes, the deploy form {needed}; each must be one node"
            )
    _check_sizes(model, structure)


def _check_sizes(model: onnx.ModelProto, structure: Structure) -> None:
    """A constant shape must be one of those that leave batch, height, width and the number of tokens open, a map is cut
    where a size that is read says so, and gets channels at their end alone.
    """
    allowed = [list(shape) for shape in structure.reshapes]
    constants = {
        tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer if tensor.data_type == 7
    }
    for node in model.graph.node:
        if node.op_type == "Constant" and node.attribute[0].name in ("value", "value_ints"):
            value = onnx.helper.get_attribute_value(node.attribute[0])
            constants[node.output[0]] = numpy_helper.to_array(value) if isinstance(value, onnx.TensorProto) else value
    weights = {tensor.name for tensor in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "Reshape" and node.input[1] in constants and node.input[0] not in weights | set(constants):
            shape = [int(size) for size in constants[node.input[1]]]
            if shape not in allowed:
                raise ExportError(f"node {node.name} reshapes to {shape}: a size of the traced image is baked in")
        if node.op_type == "Slice" and node.input[2] in constants and node.input[0] not in weights | set(constants):
            ends = [int(size) for size in constants[node.input[2]]]
            raise ExportError(f"node {node.name} cuts at {ends}: a size of the traced image is baked in")
        if node.op_type == "Pad" and any(list(constants.get(node.input[1], [1, 1]))[:-1]):
            raise ExportError(f"node {node.name} pads more than the end of the channels: a size may be baked in")


def answers(model: onnx.ModelProto, nudge: int | None = None) -> Answers:
    """What a graph gives, for others of the same function to be compared with.

    Args:
        model: The graph.
        nudge: Seed of changes to its images in their last places; None for none.
    """
    rng = np.random.default_rng(0)
    channels = model.graph.input[0].type.tensor_type.shape.dim[1].dim_value
    dtype = onnx.helper.tensor_dtype_to_np_dtype(model.graph.input[0].type.tensor_type.elem_type)
    session = CpuSession(model, quick=True)
    batches = [rng.standard_normal((n, channels, h, w)).astype(dtype) for n, h, w in _SIZES]
    if nudge is not None and np.issubdtype(dtype, np.floating):  # whole levels have no last place
        step, drawn = _NUDGE * np.finfo(dtype).eps, np.random.default_rng(nudge)
        batches = [(batch * (1 + step * drawn.uniform(-1, 1, batch.shape))).astype(dtype) for batch in batches]
    return [session.run(batch) for batch in batches]


def simplify(
    model: onnx.ModelProto, structure: Structure, operators: Set[str], wanted: Answers
) -> tuple[onnx.ModelProto, str | None]:
    """Simplify a graph, and keep the result only where it holds.

    Args:
        model: A graph that passed :func:`check_graph`.
        structure, operators: As there, for the check of the result.
        wanted: What the graph gives.

    Returns:
        The simplified graph and None, or the graph as it was and why.
    """
    try:
        simplified, _ = onnxsim.simplify(model, skipped_optimizers=_SKIPPED)
    except Exception as exc:  # onnxsim's native part raises RuntimeError, its Python part much else
        return model, f"onnxsim failed: {one_line(exc)}"
    _name_fused(simplified, model)
    try:
        check_graph(simplified, structure, operators)
        _require_as_many_reductions(model, simplified)
        differences = _largest_differences(wanted, answers(simplified))
    except ExportError as exc:
        return model, f"onnxsim broke the graph: {exc}"
    for name, difference in differences.items():
        if not difference <= _TOLERANCE:
            return model, f"onnxsim changed the {name} by {difference:.2g} (relative; allowed {_TOLERANCE:g})"
    _log.info("onnxsim: %d nodes -> %d", len(model.graph.node), len(simplified.graph.node))
    return simplified, None


def _name_fused(simplified: onnx.ModelProto, model: onnx.ModelProto) -> None:
    """Name nodes that onnxsim fused, as Gelu from opset 20 on, by the module of what took their input before: a plan of
    precisions finds nodes by their modules.
    """
    takers = {node.input[0]: node.name for node in reversed(model.graph.node) if node.input}
    for node in simplified.graph.node:
        if "/" not in node.name and node.input and node.input[0] in takers:
            node.name = f"{takers[node.input[0]].partition('/')[0]}/{node.name}"


def checked_blockwise(model: onnx.ModelProto, tolerance: float, wanted: Answers) -> onnx.ModelProto:
    """Give the large maps of a graph both ways (``blockwise.py``), and check them in many blocks.

    Args:
        model: In any precision.
        tolerance: Largest difference of an output, relative to its largest value or 1. What rounding makes of the
            graph is allowed too: in INT8 that hides small faults, which the same blocks show in FP32.
        wanted: What the graph gives.

    Raises:
        ExportError: They differ by more, or an attention is not of the form that is known.
    """
    if not any(node.op_type == "Softmax" for node in model.graph.node):
        return model  # a network without attention
    both = blockwise(model)
    try:
        onnx.checker.check_model(light(both))
    except onnx.checker.ValidationError as exc:
        raise ExportError(f"the graph in blocks is not valid ONNX: {str(exc).splitlines()[0]}") from exc
    differences = _largest_differences(wanted, answers(with_block(both, _SMALL_BLOCK)))
    if all(difference <= tolerance for difference in differences.values()):
        return both
    noise = [_largest_differences(wanted, answers(model, nudge)) for nudge in range(_NUDGES)]
    for name, difference in differences.items():
        allowed = max(tolerance, *(own[name] for own in noise))
        if not difference <= allowed:
            changed = f"blocks changed the {name} by {difference:.2g}"
            raise ExportError(f"{changed} (relative; allowed {allowed:.2g}); export with --no-blockwise")
    return both


def _require_as_many_reductions(one: onnx.ModelProto, other: onnx.ModelProto) -> None:
    before, after = (sum(node.op_type == "ReduceMean" for node in model.graph.node) for model in (one, other))
    if after != before:
        raise ExportError(f"{before} ReduceMean nodes became {after}; sums in one go lose accuracy at large sizes")


def _largest_differences(wanted: Answers, given: Answers) -> dict[str, float]:
    """Of each output from what was wanted."""
    differences: dict[str, list[float]] = {}
    for before, after in zip(wanted, given, strict=True):
        for name, a in before.items():
            if name not in after or a.shape != (b := after[name]).shape:
                found = {own: values.shape for own, values in after.items()}
                raise ExportError(f"outputs {found} instead of {name} of shape {a.shape}")
            differences.setdefault(name, []).append(np.abs(a - b).max() / max(1.0, np.abs(a).max()))
    return {name: float(np.max(values)) for name, values in differences.items()}  # NaN stays NaN
