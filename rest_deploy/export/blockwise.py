"""Attention in blocks of queries, in the graph itself, so that memory grows with an image and not with its square.

The maps of queries x keys are by far the largest values of the network. A query needs all keys and no other query, so
that queries can go through attention a block at a time. Where heads interact, the InstanceNorm over a whole map is one
factor a head, of the mean square of all of its rows (docs/deploy-form.md, 4): a block gives its part of the product and
the mean squares of its rows, and the factor of all rows multiplies the whole product at the end.

A graph has both ways of each attention, in the branches of an ``If``: as it was traced, where a map is small, as a
single block costs time and saves nothing; and by a ``Scan`` over blocks. Which one is taken is computed from the size
of the image, when it runs.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from rest_deploy.errors import ExportError

#: Numbers of the maps of all heads and images that one block has at most, where a query does not have more: 16 MiB in
#: float32. Measured with 1, 2, 4, 8 and 16 million on two cores (docs/benchmarks.md).
BLOCK = 1 << 22
#: Name of the weight that holds it.
BLOCK_NAME = "attention_block"
_ONE, _ZERO, _AXIS, _KEPT = (f"attention_{word}" for word in ("one", "zero", "axis", "kept"))
#: What sizes of blocks are computed with. Queries are the axis 2 of (B, heads, N, C/heads); in a shape 0 keeps a size,
#: and -1 takes what is left.
_SIZES = {BLOCK_NAME: [BLOCK], _ONE: [1], _ZERO: [0], _AXIS: [2], _KEPT: [0, 0, -1]}
_IN_BLOCKS, _WHOLE = "then_branch", "else_branch"


def blockwise(model: onnx.ModelProto) -> onnx.ModelProto:
    """Give each attention of a graph both ways, by blocks of queries where its maps are large.

    Args:
        model: In any precision; each Softmax of it is that of an attention.

    Returns:
        A new graph of the same function.

    Raises:
        ExportError: An attention is not of the form that is known.
    """
    both = onnx.ModelProto()
    both.CopyFrom(model)
    graph = both.graph
    values = {value.name: value for value in onnx.shape_inference.infer_shapes(model).graph.value_info}
    declared = {value.name for value in graph.value_info}
    flow = _Flow(graph)
    attentions = {own.end.output[0]: own for own in map(flow.attention, flow.softmaxes)}
    moved = {name for own in attentions.values() for node in own.nodes for name in node.output}
    nodes: list[onnx.NodeProto] = []
    for node in graph.node:
        if node.output[0] in attentions:
            nodes += _Ways(attentions[node.output[0]], values, declared).nodes()
        elif node.output[0] not in moved:
            nodes.append(node)
    sizes = [numpy_helper.from_array(np.array(numbers, np.int64), name) for name, numbers in _SIZES.items()]
    kept = [value for value in graph.value_info if value.name not in moved]
    _replace(graph, nodes, kept, [*graph.initializer, *sizes])
    return both


def with_block(model: onnx.ModelProto, numbers: int) -> onnx.ModelProto:
    """A graph of both ways with other blocks, for tests: so many numbers of maps at a time."""
    other = onnx.ModelProto()
    other.CopyFrom(model)
    (size,) = (tensor for tensor in other.graph.initializer if tensor.name == BLOCK_NAME)
    size.CopyFrom(numpy_helper.from_array(np.array([numbers], np.int64), BLOCK_NAME))
    return other


def whole(model: onnx.ModelProto) -> onnx.ModelProto:
    """The graph with each attention as it was traced alone: the inverse of :func:`blockwise`."""
    made = onnx.ModelProto()
    made.CopyFrom(model)
    graph = made.graph
    nodes: list[onnx.NodeProto] = []
    values = list(graph.value_info)
    for node in graph.node:
        if node.op_type != "If":
            nodes.append(node)
            continue
        branch = next(attribute.g for attribute in node.attribute if attribute.name == _WHOLE)
        names = {branch.output[0].name: node.output[0]}
        nodes += [_renamed(inner, names, inner.name) for inner in branch.node]
        values += branch.value_info
    used, live = {value.name for value in graph.output}, list[onnx.NodeProto]()
    for node in reversed(nodes):  # without what chose a way
        if used.intersection(node.output):
            live.insert(0, node)
            used.update(node.input)
    _replace(graph, live, values, [tensor for tensor in graph.initializer if tensor.name not in _SIZES])
    return made


def _replace(
    graph: onnx.GraphProto,
    nodes: Iterable[onnx.NodeProto],
    values: Iterable[onnx.ValueInfoProto],
    weights: Iterable[onnx.TensorProto],
) -> None:
    """Give a graph other nodes, shapes and weights, which may be its own."""
    made = onnx.GraphProto(node=nodes, value_info=values, initializer=weights)  # copies of them
    for field in ("node", "value_info", "initializer"):
        graph.ClearField(field)
    graph.MergeFrom(made)


def _renamed(node: onnx.NodeProto, names: Mapping[str, str], own: str) -> onnx.NodeProto:
    copy = onnx.NodeProto()
    copy.CopyFrom(node)
    copy.name = own
    copy.input[:] = [names.get(name, name) for name in node.input]
    copy.output[:] = [names.get(name, name) for name in node.output]
    return copy


def _set(node: onnx.NodeProto, attributes: Mapping[str, Any]) -> None:
    node.attribute.extend(helper.make_attribute(name, value) for name, value in attributes.items())


@dataclass(frozen=True)
class _Attention:
    """One attention, from the product of queries and keys to that with the values.

    Args:
        nodes: All of it, in order.
        start, end: The two products.
        rows: Where heads interact, the mean squares of rows, one a query; else empty.
        factor: What hangs on them: the nodes from the mean over queries to the factor of a head, in order.
        scaled: Product of the values and the factor; None where there is none.
    """

    nodes: list[onnx.NodeProto]
    start: onnx.NodeProto
    end: onnx.NodeProto
    rows: str
    factor: list[onnx.NodeProto]
    scaled: onnx.NodeProto | None


class _Flow:
    """What makes each value of a graph, and what takes it."""

    def __init__(self, graph: onnx.GraphProto) -> None:
        self._nodes = list(graph.node)
        self._constant = {tensor.name for tensor in graph.initializer}
        self._constant |= {node.output[0] for node in graph.node if node.op_type == "Constant"}
        self._maker = {name: node for node in graph.node for name in node.output}
        self._takers: dict[str, list[onnx.NodeProto]] = {}
        for node in graph.node:
            for name in node.input:
                self._takers.setdefault(name, []).append(node)
        self.softmaxes = [node for node in graph.node if node.op_type == "Softmax"]

    def attention(self, softmax: onnx.NodeProto) -> _Attention:
        """That around a softmax.

        Raises:
            ExportError: It is not of the form that is known.
        """
        start = softmax
        while not self._is_product(start):
            taken = [name for name in start.input if name not in self._constant]
            start = self._known(self._maker.get(taken[0]) if taken else None, softmax)
        end = softmax
        while not self._is_product(end):
            end = self._known(next(iter(self._takers.get(end.output[0], ())), None), softmax)
        after, before = self._after(start), self._before(end)
        inside = [node for node in self._nodes if node.output[0] in after & before]
        tail = [node for node in inside if node.op_type == "ReduceMean" and self._over_rows(node)]
        if not tail:
            return _Attention(inside, start, end, "", [], None)
        hanging = self._after(tail[0])
        late = [node for node in inside if node.output[0] in hanging and node is not end]
        scaled = self._known(self._maker.get(end.input[1]), softmax)
        if len(tail) != 1 or late[-1] is not scaled or scaled.op_type != "Mul" or late[-2].output[0] != scaled.input[1]:
            self._known(None, softmax)
        return _Attention(inside, start, end, tail[0].input[0], late[:-1], scaled)

    def _known(self, node: onnx.NodeProto | None, softmax: onnx.NodeProto) -> onnx.NodeProto:
        if node is None:
            raise ExportError(f"{softmax.name} is not in an attention of the form that goes in blocks of queries")
        return node

    def _is_product(self, node: onnx.NodeProto) -> bool:
        return node.op_type == "MatMul" and not self._constant.intersection(node.input)

    def _over_rows(self, node: onnx.NodeProto) -> bool:
        maker = self._maker.get(node.input[0])
        return maker is not None and maker.op_type == "ReduceMean"

    def _after(self, node: onnx.NodeProto) -> set[str]:
        """Values that a node makes, and all that is made of them."""
        found, waiting = set[str](), [node]
        while waiting:
            one = waiting.pop()
            if one.output[0] not in found:
                found.update(one.output)
                waiting += [taker for name in one.output for taker in self._takers.get(name, ())]
        return found

    def _before(self, node: onnx.NodeProto) -> set[str]:
        """Values that a node makes, and all that it is made of."""
        found, waiting = set[str](), [node]
        while waiting:
            one = waiting.pop()
            if one.output[0] not in found:
                found.update(one.output)
                waiting += [self._maker[name] for name in one.input if name in self._maker]
        return found


class _Ways:
    """Writes both ways of an attention.

    Args:
        own: It.
        values: Types of values of the graph, by name.
        declared: Names of those that the graph is to say.
    """

    def __init__(self, own: _Attention, values: Mapping[str, onnx.ValueInfoProto], declared: set[str]) -> None:
        self._own, self._values, self._declared = own, values, declared
        self._module = own.end.name.partition("/")[0]
        self._made: list[onnx.NodeProto] = []

    def nodes(self) -> list[onnx.NodeProto]:
        """What computes which way is taken, and the ``If``."""
        queries, keys = self._own.start.input
        images, heads, rows = (self._size(queries, axis) for axis in (0, 1, 2))
        query = self._node("Mul", self._node("Mul", images, heads), self._size(keys, 3))
        numbers = self._node("Mul", query, rows)
        large = self._node("Greater", numbers, BLOCK_NAME)
        outer, self._made = self._made, []
        branches = {_IN_BLOCKS: self._in_blocks(numbers, rows), _WHOLE: self._whole()}
        outer.append(helper.make_node("If", [large], self._own.end.output, f"{self._module}/node_ways", **branches))
        return outer

    def _whole(self) -> onnx.GraphProto:
        (output,) = self._own.end.output
        names = {output: f"{output}/whole"}
        nodes = [_renamed(node, names, node.name) for node in self._own.nodes]
        values = [self._values[name] for node in self._own.nodes for name in node.output if name in self._declared]
        return helper.make_graph(nodes, "whole", [], [self._typed(output, names[output])], value_info=values)

    def _in_blocks(self, numbers: str, queries: str) -> onnx.GraphProto:
        own, (q, _), (output,) = self._own, self._own.start.input, self._own.end.output
        wanted = self._ceil(numbers, BLOCK_NAME)
        rows = self._ceil(queries, wanted)  # of a block, all as equal as can be
        missing = self._node("Sub", self._node("Mul", self._ceil(queries, rows), rows), queries)
        again = self._node("Slice", q, _ZERO, missing, _AXIS)  # queries that fill the last block up; cut off below
        width = self._size(q, 3)
        full = self._node("Concat", q, again, axis=2)
        blocks = self._node("Reshape", full, self._node("Concat", _KEPT, rows, width, axis=0))
        blocks = self._node("Transpose", blocks, perm=[2, 0, 1, 3, 4])  # a Scan goes along the first axis
        given = [output, own.rows] if own.rows else [output]
        made = [f"{name}/blocks" for name in given]
        scan = helper.make_node("Scan", [blocks], made, f"{self._module}/node_scan")
        _set(scan, {"body": self._body(given), "num_scan_inputs": 1})
        self._made.append(scan)
        result = self._joined(made[0], width, queries)
        if own.scaled is not None:
            names = {own.rows: self._joined(made[1], _ONE, queries)}
            for node in own.factor:
                names[node.output[0]] = f"{node.output[0]}/joined"
                self._made.append(_renamed(node, names, f"{node.name}/joined"))
            result = self._node("Mul", result, names[own.scaled.input[1]])
        nodes, self._made = self._made, []
        return helper.make_graph(nodes, "in_blocks", [], [self._typed(output, result)])

    def _body(self, given: list[str]) -> onnx.GraphProto:
        """What is done with a block of queries."""
        own = self._own
        late = {node.output[0] for node in own.factor}
        inside = [node for node in own.nodes if node is not own.scaled and node.output[0] not in late]
        names = {name: f"{name}/block" for node in inside for name in node.output}
        queries = f"{own.start.input[0]}/block"
        nodes = []
        for node in inside:
            copy = _renamed(node, names, f"{node.name}/block")
            if node is own.start:
                copy.input[0] = queries
            if node is own.end and own.scaled is not None:
                copy.input[1] = own.scaled.input[0]
            nodes.append(copy)
        values = []
        for name in filter(self._declared.__contains__, names):
            value = onnx.ValueInfoProto()
            value.CopyFrom(self._values[name])
            value.name = names[name]
            value.type.tensor_type.shape.dim[2].dim_param += "_block"
            values.append(value)
        outputs = [self._typed(name, names[name]) for name in given]
        return helper.make_graph(nodes, "block", [self._typed(own.start.input[0], queries)], outputs, value_info=values)

    def _joined(self, blocks: str, width: str, queries: str) -> str:
        """(blocks, B, heads, rows, width) -> (B, heads, N, width)."""
        blocks = self._node("Transpose", blocks, perm=[1, 2, 0, 3, 4])
        together = self._node("Reshape", blocks, self._node("Concat", _KEPT, width, axis=0))
        return self._node("Slice", together, _ZERO, queries, _AXIS)

    def _ceil(self, number: str, by: str) -> str:
        """Quotient of two whole numbers, rounded up."""
        return self._node("Div", self._node("Add", number, self._node("Sub", by, _ONE)), by)

    def _size(self, name: str, axis: int) -> str:
        return self._node("Shape", name, start=axis, end=axis + 1)

    def _typed(self, name: str, new: str) -> onnx.ValueInfoProto:
        """A value of the type of another, of any shape."""
        return helper.make_tensor_value_info(new, self._values[name].type.tensor_type.elem_type, None)

    def _node(self, operator: str, *inputs: str, **attributes: Any) -> str:
        """Add a node; the name of its output."""
        self._count += 1
        output = f"{self._module}/blocks_{self._count}"
        node = helper.make_node(operator, inputs, [output], f"{self._module}/node_blocks_{self._count}")
        _set(node, attributes)
        self._made.append(node)
        return output

    _count = 0
