"""Large maps in blocks of rows, in the graph itself, so that memory grows with an image and not with its square.

The maps of queries x keys are by far the largest values of the network. A query needs all keys and no other query, so
that queries can go through attention a block at a time. Where heads interact, the InstanceNorm over a whole map is one
factor a head, of the mean square of all of its rows (docs/deploy-form.md, 4): a block gives its part of the product and
the mean squares of its rows, and the factor of all rows multiplies the whole product at the end. The next largest are
the hidden maps of the first MLPs, in which a token needs no other.

A graph has both ways of each of these, in the branches of an ``If``: as it was traced, where maps are small, as blocks
cost time there and save nothing; and by a ``Scan`` over blocks. Which one is taken is computed from the size of the
image, when it runs.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import onnx
from onnx import helper, numpy_helper

from rest_deploy.artifact.onnx_encoding import BLOCK_SIZES
from rest_deploy.errors import ExportError
from rest_deploy.models.family import MAP_BLOCK, MLP_WEIGHT, WHOLE_BLOCKS

BLOCK_NAME, WHOLE_NAME = BLOCK_SIZES
_ONE, _ZERO, _AXIS, _KEPT = (f"map_{word}" for word in ("one", "zero", "axis", "kept"))
#: What sizes of blocks are computed with. Rows are the axis 2 of (B, heads, N, C/heads); in a shape 0 keeps a size, and
#: -1 takes what is left.
_SIZES = {
    BLOCK_NAME: [MAP_BLOCK],
    WHOLE_NAME: [WHOLE_BLOCKS * MAP_BLOCK],
    _ONE: [1],
    _ZERO: [0],
    _AXIS: [2],
    _KEPT: [0, 0, -1],
}
#: Bytes from which a weight is none of those.
_SIZES_BYTES = 1024
_GELU, _RANK = ("Erf", "Gelu"), 4
_IN_BLOCKS, _WHOLE = "then_branch", "else_branch"
_TRACED = "whole"  # name of the graph in the latter
_Way: TypeAlias = "Callable[[onnx.NodeProto], onnx.NodeProto | None]"


def blockwise(model: onnx.ModelProto) -> onnx.ModelProto:
    """Give each attention of a graph, and the first MLPs in FP32, both ways, by blocks of rows where maps are large.

    Args:
        model: In any precision; each Softmax of it is that of an attention.

    Returns:
        A new graph of the same function.

    Raises:
        ExportError: An attention is not of the form that is known.
    """
    graph = model.graph
    values = {value.name: value for value in inferred_shapes(model)}
    declared = {value.name for value in graph.value_info}
    parts = {part.end.output[0]: part for part in _Flow(graph).parts()}
    moved = {name for part in parts.values() for node in part.nodes for name in node.output}
    nodes: list[onnx.NodeProto] = []
    chosen: dict[str, _Sizes] = {}
    for node in graph.node:
        if node.output[0] in parts:
            nodes += _Ways(parts[node.output[0]], values, declared).nodes(chosen)
        elif node.output[0] not in moved:
            nodes.append(node)
    sizes = dict(_SIZES)
    for part in parts.values():
        sizes |= part.sizes
    weights = [numpy_helper.from_array(np.array(numbers, np.int64), name) for name, numbers in sizes.items()]
    both = _with(model, nodes, [value for value in graph.value_info if value.name not in moved])
    both.graph.initializer.extend(weights)
    return both


def inferred_shapes(model: onnx.ModelProto) -> list[onnx.ValueInfoProto]:
    """Types and shapes of all values of a graph, as far as they can be told."""
    return list(onnx.shape_inference.infer_shapes(light(model)).graph.value_info)


def light(model: onnx.ModelProto) -> onnx.ModelProto:
    """The graph with all but its small weights, which are sizes, as inputs: what looks at a graph copies the others."""
    made = onnx.ModelProto(ir_version=model.ir_version, opset_import=model.opset_import)
    graph, own = made.graph, model.graph
    graph.name = own.name
    for kind in ("node", "input", "output", "value_info"):
        getattr(graph, kind).extend(getattr(own, kind))
    for tensor in own.initializer:
        if tensor.ByteSize() < _SIZES_BYTES:
            graph.initializer.append(tensor)
        else:
            graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
    return made


def with_block(model: onnx.ModelProto, numbers: int) -> onnx.ModelProto:
    """A graph of both ways with other blocks, to check it: so many numbers at a time, and of a map computed whole."""
    other = onnx.ModelProto()
    other.CopyFrom(model)
    for tensor in other.graph.initializer:
        if tensor.name in (BLOCK_NAME, WHOLE_NAME):
            tensor.CopyFrom(numpy_helper.from_array(np.array([numbers], np.int64), tensor.name))
    return other


def whole(model: onnx.ModelProto) -> onnx.ModelProto:
    """The graph with all as it was traced alone: the inverse of :func:`blockwise`."""
    graph = model.graph
    nodes: list[onnx.NodeProto] = []
    values = list(graph.value_info)
    for node in graph.node:
        branch = next((attribute.g for attribute in node.attribute if attribute.name == _WHOLE), None)
        if branch is None or branch.name != _TRACED:
            nodes.append(node)
            continue
        names = {branch.output[0].name: node.output[0]}
        nodes += [_renamed(inner, names, inner.name) for inner in branch.node]
        values += branch.value_info
    used, live = {value.name for value in graph.output}, list[onnx.NodeProto]()
    for node in reversed(nodes):  # without what chose a way
        if used.intersection(node.output):
            live.insert(0, node)
            used.update(node.input)
    made = _with(model, live, values)
    for i in reversed(range(len(graph.initializer))):
        if graph.initializer[i].name not in used:
            del made.graph.initializer[i]
    return made


def _with(
    model: onnx.ModelProto, nodes: Iterable[onnx.NodeProto], values: Iterable[onnx.ValueInfoProto]
) -> onnx.ModelProto:
    """The model with other nodes and shapes."""
    made = onnx.ModelProto()
    made.CopyFrom(model)
    for kind, others in (("node", nodes), ("value_info", values)):
        made.graph.ClearField(kind)
        getattr(made.graph, kind).extend(others)
    return made


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
class _Part:
    """A part of the network in which rows do not need each other: an attention from the product of queries and keys to
    that with the values, or an MLP.

    Args:
        nodes: All of it, in order.
        rows: Value that goes in in blocks: queries (B, heads, N, C/heads), or tokens (B, H, W, C).
        end: The last node.
        keys, values: Of an attention, the other factors of its products, (B, heads, C/heads, K) and (B, heads, K,
            C/heads), the latter before it is scaled; the queries may have more channels than the values.
        width, hidden: Of an MLP, channels of a token, and of it inside; 0 in an attention.
        squares: Where heads interact, the mean squares of a map's rows, one a query; else empty.
        factor: What hangs on them: the nodes from the mean over queries to the factor of a head, in order.
        scaled: Product of the values and the factor; None where there is none.
    """

    nodes: list[onnx.NodeProto]
    rows: str
    end: onnx.NodeProto
    keys: str = ""
    values: str = ""
    width: int = 0
    hidden: int = 0
    squares: str = ""
    factor: list[onnx.NodeProto] = field(default_factory=list)
    scaled: onnx.NodeProto | None = None

    @property
    def sizes(self) -> dict[str, list[int]]:
        """Weights that only an MLP needs: the shape of its tokens as queries of one head, its numbers of a row."""
        return (
            {f"map_of_{self.width}": [1, 1, -1, self.width], f"map_in_{self.hidden}": [self.hidden]}
            if self.width
            else {}
        )


class _Flow:
    """What makes each value of a graph, and what takes it."""

    def __init__(self, graph: onnx.GraphProto) -> None:
        self._nodes = list(graph.node)
        self._shapes = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
        self._constant = self._shapes.keys() | {node.output[0] for node in graph.node if node.op_type == "Constant"}
        self._maker = {name: node for node in graph.node for name in node.output}
        self._takers: dict[str, list[onnx.NodeProto]] = {}
        for node in graph.node:
            for name in node.input:
                self._takers.setdefault(name, []).append(node)

    def parts(self) -> Iterator[_Part]:
        """All that can go in blocks.

        Raises:
            ExportError: An attention is not of the form that is known.
        """
        for node in self._nodes:
            if node.op_type == "Softmax":
                yield self._attention(node)
            elif node.op_type in _GELU and (part := self._mlp(node)) is not None:
                yield part

    def _attention(self, softmax: onnx.NodeProto) -> _Part:
        start, end = (
            self._known(self._next(softmax, way, self._is_product), softmax) for way in (self._into, self._out)
        )
        inside = self._between(start, end)
        part = _Part(inside, start.input[0], end, keys=start.input[1], values=end.input[1])
        tail = [node for node in inside if node.op_type == "ReduceMean" and self._over_rows(node)]
        if not tail:
            return part
        hanging = self._after(tail[0])
        late = [node for node in inside if node.output[0] in hanging and node is not end]
        scaled = self._known(self._maker.get(end.input[1]), softmax)
        if len(tail) != 1 or late[-1] is not scaled or scaled.op_type != "Mul" or late[-2].output[0] != scaled.input[1]:
            self._known(None, softmax)
        values = scaled.input[0]
        return replace(part, values=values, squares=tail[0].input[0], factor=late[:-1], scaled=scaled)

    def _mlp(self, gelu: onnx.NodeProto) -> _Part | None:
        """That around a GELU; None where its weights are large, or its layers are not in FP32."""
        scope = gelu.name.partition("/")[0].rpartition(".")[0]
        first, second = (self._next(gelu, way, self._is_linear, scope) for way in (self._into, self._out))
        if first is None or second is None:
            return None
        width, hidden = self._weight(first)
        if width * hidden > MLP_WEIGHT:
            return None
        bias = self._out(second)  # which onnxsim leaves out if it is 0
        end = bias if bias is not None and self._constant.intersection(bias.input) else second
        return _Part(self._between(first, end), first.input[0], end, width=width, hidden=hidden)

    def _next(
        self, node: onnx.NodeProto, way: _Way, wanted: Callable[[onnx.NodeProto], bool], scope: str = ""
    ) -> onnx.NodeProto | None:
        """The nearest node of a kind in a module, before or after another; None where there is none."""
        found: onnx.NodeProto | None = node
        while found is not None and not wanted(found):
            found = way(found)
            if found is not None and not found.name.startswith(scope):
                return None
        return found

    def _into(self, node: onnx.NodeProto) -> onnx.NodeProto | None:
        taken = [name for name in node.input if name not in self._constant]
        return self._maker.get(taken[0]) if taken else None

    def _out(self, node: onnx.NodeProto) -> onnx.NodeProto | None:
        return next(iter(self._takers.get(node.output[0], ())), None)

    def _between(self, start: onnx.NodeProto, end: onnx.NodeProto) -> list[onnx.NodeProto]:
        """What is made of a node and goes into another, with both, in order."""
        both = self._after(start) & self._before(end)
        return [node for node in self._nodes if node.output[0] in both]

    def _known(self, node: onnx.NodeProto | None, softmax: onnx.NodeProto) -> onnx.NodeProto:
        if node is None:
            raise ExportError(f"{softmax.name} is not in an attention of the form that goes in blocks of queries")
        return node

    def _is_product(self, node: onnx.NodeProto) -> bool:
        return node.op_type == "MatMul" and not self._constant.intersection(node.input)

    def _is_linear(self, node: onnx.NodeProto) -> bool:
        return node.op_type == "MatMul" and bool(self._weight(node))

    def _weight(self, node: onnx.NodeProto) -> tuple[int, ...]:
        """Shape of the constant that a product takes, which only onnxsim turns; empty where it takes none."""
        turned = self._maker.get(node.input[1])
        if turned is not None and turned.op_type == "Transpose":
            return self._shapes.get(turned.input[0], ())[::-1]
        return self._shapes.get(node.input[1], ())

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


class _Sizes(NamedTuple):
    """Values of a graph: rows of a map, numbers of it, and whether they are too many for one block."""

    rows: str
    numbers: str
    large: str


class _Ways:
    """Writes both ways of a part.

    Args:
        own: It.
        values: Types of values of the graph, by name.
        declared: Names of those that the graph is to say.
    """

    def __init__(self, own: _Part, values: Mapping[str, onnx.ValueInfoProto], declared: set[str]) -> None:
        self._own, self._values, self._declared = own, values, declared
        self._module = own.end.name.partition("/")[0]
        self._made: list[onnx.NodeProto] = []

    def nodes(self, chosen: dict[str, _Sizes]) -> list[onnx.NodeProto]:
        """The ``If``, behind what computes which way is taken where that is not known yet.

        Args:
            chosen: What is known, by stage and kind of part, as blocks of a stage have the same sizes; is added to.
        """
        alike = re.sub(r"_\d+", "", self._module, count=1)
        if alike not in chosen:
            chosen[alike] = self._sizes()
        outer, self._made = self._made, []
        sizes = chosen[alike]
        branches = {_IN_BLOCKS: self._in_blocks(sizes), _WHOLE: self._whole()}
        name = f"{self._module}/node_ways"
        return [*outer, helper.make_node("If", [sizes.large], self._own.end.output, name, **branches)]

    def _sizes(self) -> _Sizes:
        own = self._own
        images, second, third = (self._size(own.rows, axis) for axis in range(3))
        if own.width:
            rows, row = self._product(images, second, third), f"map_in_{own.hidden}"
        else:
            rows, row = third, self._product(images, second, self._size(own.keys, 3))
        numbers = self._product(row, rows)
        return _Sizes(rows, numbers, self._node("Greater", numbers, WHOLE_NAME))

    def _whole(self) -> onnx.GraphProto:
        (output,) = self._own.end.output
        names = {output: f"{output}/whole"}
        nodes = [_renamed(node, names, node.name) for node in self._own.nodes]
        values = [self._values[name] for node in self._own.nodes for name in node.output if name in self._declared]
        return helper.make_graph(nodes, _TRACED, [], [self._typed(output, names[output])], value_info=values)

    def _in_blocks(self, sizes: _Sizes) -> onnx.GraphProto:
        own, (output,) = self._own, self._own.end.output
        count = sizes.rows
        queries = self._node("Reshape", own.rows, f"map_of_{own.width}") if own.width else own.rows
        rows = self._ceil(count, self._ceil(sizes.numbers, BLOCK_NAME))  # of a block, all as equal as can be; from 1 up
        missing = self._node("Sub", self._node("Mul", self._ceil(count, rows), rows), count)
        again = self._node("Slice", queries, _ZERO, missing, _AXIS)  # what fills the last block up; cut off below
        width = self._size(queries, 3)
        full = self._node("Concat", queries, again, axis=2)
        blocks = self._node("Reshape", full, self._node("Concat", _KEPT, rows, width, axis=0))
        blocks = self._node("Transpose", blocks, perm=[2, 0, 1, 3, 4])  # a Scan goes along the first axis
        given = [output, own.squares] if own.squares else [output]
        made = [f"{name}/blocks" for name in given]
        scan = helper.make_node("Scan", [blocks], made, f"{self._module}/node_scan")
        _set(scan, {"body": self._body(given), "num_scan_inputs": 1})
        self._made.append(scan)
        result = self._joined(made[0], self._size(own.values, 3) if own.values else width, count)
        if own.scaled is not None:
            names = {own.squares: self._joined(made[1], _ONE, count)}
            for node in own.factor:
                names[node.output[0]] = f"{node.output[0]}/joined"
                self._made.append(_renamed(node, names, f"{node.name}/joined"))
            result = self._node("Mul", result, names[own.scaled.input[1]])
        if own.width:
            result = self._node("Reshape", result, self._node("Shape", own.rows))
        nodes, self._made = self._made, []
        return helper.make_graph(nodes, "in_blocks", [], [self._typed(output, result)])

    def _body(self, given: list[str]) -> onnx.GraphProto:
        """What is done with a block."""
        own = self._own
        late = {node.output[0] for node in own.factor}
        inside = [node for node in own.nodes if node is not own.scaled and node.output[0] not in late]
        names = {name: f"{name}/block" for node in inside for name in node.output}
        names[own.rows] = f"{own.rows}/block"
        if own.scaled is not None:
            names[own.scaled.output[0]] = own.values  # not scaled yet
        nodes = [_renamed(node, names, f"{node.name}/block") for node in inside]
        values = []
        for name in [name for node in inside for name in node.output if name in self._declared]:
            if len(self._values[name].type.tensor_type.shape.dim) != _RANK:
                continue
            value = onnx.ValueInfoProto()
            value.CopyFrom(self._values[name])
            value.name = names[name]
            value.type.tensor_type.shape.dim[2].dim_param += "_block"
            values.append(value)
        outputs = [self._typed(name, names[name]) for name in given]
        return helper.make_graph(nodes, "block", [self._typed(own.rows, names[own.rows])], outputs, value_info=values)

    def _joined(self, blocks: str, width: str, queries: str) -> str:
        """(blocks, B, heads, rows, width) -> (B, heads, N, width)."""
        blocks = self._node("Transpose", blocks, perm=[1, 2, 0, 3, 4])
        together = self._node("Reshape", blocks, self._node("Concat", _KEPT, width, axis=0))
        return self._node("Slice", together, _ZERO, queries, _AXIS)

    def _ceil(self, number: str, by: str) -> str:
        """Quotient of two whole numbers, rounded up, and at least 1: what opens a file refuses to divide by others."""
        quotient = self._node("Div", self._node("Add", number, self._node("Sub", by, _ONE)), by)
        return self._node("Max", quotient, _ONE)

    def _product(self, *numbers: str) -> str:
        return functools.reduce(functools.partial(self._node, "Mul"), numbers)

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
