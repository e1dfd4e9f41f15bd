"""The network in ONNX: the graph of each kind of piece, copied for every piece, with the piece's own weights."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Mapping

import onnx
from onnx import numpy_helper
from torch import nn

from rest_deploy.errors import ExportError
from rest_deploy.models.network import DeployForm

_PREFIX = "kinds."
#: Metadata in which torch.onnx writes the modules around a node, from the outermost, as a list in Python.
_SCOPES = "pkg.torch.onnx.name_scopes"


def assemble(kinds_model: onnx.ModelProto, deploy: DeployForm, kinds: Mapping[str, int]) -> onnx.ModelProto:
    """Put the pieces of a network together.

    Args:
        kinds_model: A graph with one input and one output for each kind; the parameters of kind 3 are ``kinds.3.*``.
        deploy: The network, whose parameters the pieces get.
        kinds: Name of each piece, in order -> number of its kind.

    Returns:
        A graph with the input of the first piece and the network's outputs in their order. Names of nodes begin with
        the path of their module, names of values with that of their piece, as ``stage3_2.attn.q/node_MatMul_1`` and
        ``stage3_2/linear``.

    Raises:
        ExportError: A weight of a piece has no place in the graph of its kind, or the other way round.
    """
    source = kinds_model.graph
    model = onnx.ModelProto()
    model.CopyFrom(kinds_model)
    model.ClearField("graph")
    graph = model.graph
    graph.name = source.name
    nodes = {kind: _nodes_of(source, kind) for kind in set(kinds.values())}
    values: dict[str, str] = {}  # piece -> what it gives
    sources = deploy.sources()
    for name, kind in kinds.items():
        entry, leave, source_piece = source.input[kind].name, source.output[kind].name, sources[name]
        names = _Names(name, kind, {entry: values[source_piece] if source_piece else f"{name}/{entry}"})
        if not source_piece:
            graph.input.append(_renamed(source.input[kind], names[entry]))
        for node in nodes[kind]:
            copy = graph.node.add()
            copy.CopyFrom(node)
            copy.name = f"{_module(node, name)}/{node.name}"
            copy.input[:] = [names[other] for other in node.input]
            copy.output[:] = [names[other] for other in node.output]
        values[name] = names[leave]
        graph.initializer.extend(_weights(source, deploy.get_submodule(name), nodes[kind], names))
    for piece in deploy.givers().values():
        graph.output.append(_renamed(source.output[kinds[piece]], values[piece]))
    return model


def _module(node: onnx.NodeProto, piece: str) -> str:
    """Path of the module that a node comes from, in a piece: ``"stage3_2.attn.q"``.

    A constant that kinds share tells a module of another piece; its place in that is its place in this.
    """
    for entry in node.metadata_props:
        if entry.key == _SCOPES:
            path = [scope for scope in ast.literal_eval(entry.value) if scope.startswith(_PREFIX)][-1]
            _, dot, inner = path.removeprefix(_PREFIX).partition(".")
            return piece + dot + inner
    raise ExportError(f"torch.onnx tells no module of node {node.name}; install a version that does, such as 2.13")


class _Names(dict[str, str]):
    """Names in the graph of a kind -> names in the network. Parameters take their names in the deploy form."""

    def __init__(self, piece: str, kind: int, known: dict[str, str]) -> None:
        super().__init__({"": "", **known})  # ONNX calls an input that is left out ""
        self._piece, self._parameters = piece, f"{_PREFIX}{kind}."

    def __missing__(self, name: str) -> str:
        own = name.removeprefix(self._parameters)
        self[name] = f"{self._piece}.{own}" if own != name else f"{self._piece}/{name}"
        return self[name]


def _nodes_of(graph: onnx.GraphProto, kind: int) -> list[onnx.NodeProto]:
    """Nodes that a kind's output needs, in order."""
    makers = {output: node for node in graph.node for output in node.output}
    waiting, needed = [graph.output[kind].name], set()
    while waiting:
        node = makers.get(waiting.pop())
        if node is not None and node.output[0] not in needed:
            needed.add(node.output[0])
            waiting.extend(node.input)
    return [node for node in graph.node if node.output[0] in needed]


def _weights(
    graph: onnx.GraphProto, piece: nn.Module, nodes: Iterable[onnx.NodeProto], names: Mapping[str, str]
) -> list[onnx.TensorProto]:
    used = {name for node in nodes for name in node.input}
    parameters = {key: value.detach().cpu().numpy() for key, value in piece.state_dict().items()}
    placed = []
    for tensor in graph.initializer:
        if tensor.name not in used:
            continue
        key = tensor.name.removeprefix(_PREFIX).partition(".")[2] if tensor.name.startswith(_PREFIX) else None
        if key is not None and key not in parameters:
            raise ExportError(f"the graph needs a weight {tensor.name} that the model does not have")
        values = parameters.pop(key) if key is not None else numpy_helper.to_array(tensor)
        placed.append(numpy_helper.from_array(values, names[tensor.name]))
    if parameters:
        raise ExportError(f"the graph has no place for the weights {', '.join(parameters)}")
    return placed


def _renamed(value: onnx.ValueInfoProto, name: str) -> onnx.ValueInfoProto:
    copy = onnx.ValueInfoProto()
    copy.CopyFrom(value)
    copy.name = name
    return copy
