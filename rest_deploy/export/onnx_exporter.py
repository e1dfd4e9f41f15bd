"""Deploy form -> one ONNX file for any batch, height and width."""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
import torch

from rest_deploy.errors import ExportError, one_line
from rest_deploy.export.assemble import assemble
from rest_deploy.export.blockwise import inferred_shapes
from rest_deploy.export.checks import answers, check_graph, checked_blockwise, simplify
from rest_deploy.export.onnx_format import OnnxConfig
from rest_deploy.export.trace import trace
from rest_deploy.export.translate import TRANSLATIONS
from rest_deploy.models.family import MAP_BLOCK, family_of
from rest_deploy.models.network import DeployForm
from rest_deploy.specs import TensorSpec

_log = logging.getLogger(__name__)

#: Largest difference of an output between both ways of large maps, relative to its largest value or 1: rounding alone.
_SAME = 1e-4


@dataclass(frozen=True)
class OnnxNotes:
    """What there is to say of a written file.

    Args:
        opset, ir_version: Of the file.
        nodes: Of its graph.
        simplified: Whether it is onnxsim's result.
        not_simplified_why: Where that was asked for and is not so.
        map_block: Numbers of a large map that are alive at a time at most; None where maps are computed whole.
    """

    opset: int
    ir_version: int
    nodes: int
    simplified: bool
    not_simplified_why: str | None = None
    map_block: int | None = None


def export(
    deploy: DeployForm, image: TensorSpec, outputs: Sequence[TensorSpec], target: Path, config: OnnxConfig
) -> OnnxNotes:
    """Write a deploy form as ONNX.

    Args:
        deploy: In float32, on the CPU.
        image, outputs: Names and shapes of the input and the outputs.
        target: File to write, without metadata.
        config: How.

    Raises:
        ExportError: The network could not be traced or translated, or the graph is not what it must be.
    """
    family, structure = family_of(deploy.config), deploy.structure()
    kinds_model, kinds = _kinds_to_onnx(deploy, int(image.shape[1]), config.opset)
    model = free_sizes(assemble(kinds_model, deploy, kinds), family.name, image, outputs)
    check_graph(model, structure, family.operators)
    traced = answers(model) if config.simplify or config.blockwise else []
    why = None
    if config.simplify:
        model, why = simplify(model, structure, family.operators, traced)
        if why is not None:
            _log.warning("the graph is kept as traced: %s", why)
        declare(model, image, outputs)  # onnxsim gives sizes that two nodes share names of its own
    del model.metadata_props[:]  # onnxsim's notes
    _keep_shapes_at_softmaxes(model)
    nodes = len(model.graph.node)
    if config.blockwise:
        model = checked_blockwise(model, _SAME, traced)
    onnx.save(model, str(target))
    block = MAP_BLOCK if any(node.op_type == "If" for node in model.graph.node) else None
    return OnnxNotes(config.opset, model.ir_version, nodes, config.simplify and why is None, why, block)


def free_sizes(model: onnx.ModelProto, name: str, image: TensorSpec, outputs: Sequence[TensorSpec]) -> onnx.ModelProto:
    """Give the graph a name and the declared input and outputs, and no other shapes.

    Postcondition: the graph has one input and these outputs, with names, dtypes and shapes as declared; its nodes carry
    no traces of the exporter's source files.
    """
    model.graph.name = name
    for value, spec in zip((*model.graph.input, *model.graph.output), (image, *outputs), strict=True):
        _rename(model, value.name, spec.name)
        value.name = spec.name
    declare(model, image, outputs)
    del model.graph.value_info[:]
    del model.metadata_props[:]
    for node in model.graph.node:
        node.doc_string = ""
        del node.metadata_props[:]
    return model


def declare(model: onnx.ModelProto, image: TensorSpec, outputs: Sequence[TensorSpec]) -> None:
    """Write the shapes of the input and the outputs, which have their names already."""
    values = {value.name: value for value in (*model.graph.input, *model.graph.output)}
    for spec in (image, *outputs):
        values[spec.name].CopyFrom(onnx.helper.make_tensor_value_info(spec.name, onnx.TensorProto.FLOAT, spec.shape))


def _keep_shapes_at_softmaxes(model: onnx.ModelProto) -> None:
    """Leave the shapes of what goes into softmaxes and comes out of them, and no others.

    Where both have the same names of sizes, ONNX Runtime 1.32 computes one in place of the other: of maps of queries x
    keys, which nearly all memory of a call goes into, one is alive and not two (docs/benchmarks.md). Other shapes it
    infers anew, and reading them takes time whenever a file is opened.
    """
    maps = {name for node in model.graph.node if node.op_type == "Softmax" for name in (node.input[0], node.output[0])}
    inferred = inferred_shapes(model)
    del model.graph.value_info[:]
    model.graph.value_info.extend(value for value in inferred if value.name in maps)


def _rename(model: onnx.ModelProto, old: str, new: str) -> None:
    for node in model.graph.node:
        node.input[:] = [new if name == old else name for name in node.input]
        node.output[:] = [new if name == old else name for name in node.output]


def _kinds_to_onnx(deploy: DeployForm, channels: int, opset: int) -> tuple[onnx.ModelProto, dict[str, int]]:
    """The graph of each kind of piece, and which kind each piece is: what :func:`assemble` takes."""
    with _quiet():
        traced = trace(deploy, channels)
        try:
            exported = torch.onnx.export(
                traced.program,
                dynamo=True,
                opset_version=opset,
                custom_translation_table={**TRANSLATIONS, **deploy.translations()},
                optimize=False,  # onnxsim does that, and is checked
                verbose=False,
            )
        except Exception as exc:  # torch.onnx raises its own types and whatever its translations raise
            raise ExportError(f"torch.onnx could not translate the graph: {one_line(exc)}") from exc
    model: Any = exported.model_proto if exported is not None else None
    if model is None:
        raise ExportError("torch.onnx gave no graph")
    if model.opset_import[0].version != opset or len(model.opset_import) != 1 or len(model.functions):
        raise ExportError(f"torch.onnx gave operator sets {list(model.opset_import)}; asked for {opset} alone")
    model.ir_version = onnx.helper.find_min_ir_version_for(list(model.opset_import))
    model.producer_name, model.producer_version = "rest_deploy", ""
    return model, traced.kinds


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep torch.onnx from telling users of its lack of torchvision and of its own deprecations."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
