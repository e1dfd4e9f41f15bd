"""The graph of an ONNX file, as it must be before a runtime is handed it: of the form that rest-export writes.

What an ONNX file could do otherwise (name files of the machine as weights, nest graphs in graphs, expand functions into
billions of nodes, go round in circles, announce tensors of terabytes) is refused before any of it is done. A seal does
not help there (``onnx_seal.py``): whoever makes such a file can seal it.

Field numbers are those of onnx/onnx.proto (github.com/onnx/onnx).
"""

from __future__ import annotations

import io
import math
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from rest_deploy.artifact.onnx_metadata import open_onnx
from rest_deploy.artifact.onnx_seal import refuse_unsealed
from rest_deploy.artifact.wire import BYTES, fields, read_varint
from rest_deploy.errors import ArtifactError

#: The operators of the deploy form. None of them takes a size, but for Reshape, whose sizes the exporter looks at.
OPERATORS = frozenset(
    "Add Cast Constant Conv Div Erf Gelu Gemm Identity LayerNormalization MatMul Mul Reciprocal ReduceMean Relu "  # noqa: SIM905
    "Reshape Shape Sigmoid Softmax Sqrt Sub Transpose".split()
)
#: What INT8 files have beside them.
INT8_OPERATORS = frozenset({"DequantizeLinear", "DynamicQuantizeLinear", "MatMulInteger", "QuantizeLinear"})
#: Of a graph; rest_large in INT8 has under 3,000.
MAX_NODES = 100_000
_MAX_RANK = 8
_MAX_EDGES = 16
_MAX_PACKED = 8192  # bytes of numbers in a list
_MAX_NODE_BYTES = 64 << 20  # of a constant, where it was not made an initializer
_DOMAINS = (b"", b"ai.onnx")
#: Attributes of convolutions -> least and largest; a reduction by 2048 pads by 1024.
_LIMITS = {
    b"pads": (0, 1024),
    b"strides": (1, 4096),
    b"kernel_shape": (1, 4096),
    b"dilations": (1, 64),
    b"group": (1, 1 << 20),
}
#: Operators whose output may be larger than all of their inputs together.
_WIDENING = frozenset({b"Add", b"Sub", b"Mul", b"Div", b"MatMul", b"MatMulInteger", b"Gemm", b"Conv"})
# field numbers of ModelProto, GraphProto, NodeProto, AttributeProto, TensorProto, ValueInfoProto
_GRAPH, _OPSET_IMPORT, _TRAINING_INFO, _FUNCTIONS = 7, 8, 20, 25
_MESSAGES = frozenset({_GRAPH, _OPSET_IMPORT, _TRAINING_INFO, _FUNCTIONS})
_NODE, _INITIALIZER, _INPUT, _SPARSE_INITIALIZER = 1, 5, 11, 15
_NODE_INPUT, _NODE_OUTPUT, _OP_TYPE, _ATTRIBUTE, _DOMAIN = 1, 2, 4, 5, 7
_ATTRIBUTE_NAME, _ATTRIBUTE_INTEGER, _ATTRIBUTE_TENSOR, _ATTRIBUTE_INTEGERS = 1, 3, 5, 8
#: A graph, tensors, graphs, sparse tensors, types: what no operator of ours takes.
_NESTED = frozenset({6, 10, 11, 14, 15, 22, 23})
_DIMS, _TENSOR_NAME, _EXTERNAL_DATA, _DATA_LOCATION = 1, 8, 13, 14


def check_graph_of(path: str | Path) -> None:
    """Make sure that the graph of an ONNX file is one that rest-export could have written.

    Raises:
        ArtifactError: It is not, or cannot be read.
    """
    with open_onnx(path) as (file, size):
        _refuse_hostile(path, file, size)


def read_checked(path: str | Path) -> bytes:
    """The bytes of an ONNX file for which :func:`~rest_deploy.artifact.onnx_seal.check_seal` and
    :func:`check_graph_of` hold.

    Raises:
        ArtifactError: One of them does not, or the file cannot be read.
    """
    with open_onnx(path) as (file, _):
        content = file.read()
        for refuse in (refuse_unsealed, _refuse_hostile):
            refuse(path, io.BytesIO(content), len(content))
    return content


def _refuse_hostile(path: str | Path, file: BinaryIO, size: int) -> None:
    why = _what_is_wrong(file, size)
    if why:
        raise ArtifactError(f"{path}: refused: it has {why}, as no file of rest-export; export the checkpoint again")


def _what_is_wrong(file: BinaryIO, end: int) -> str | None:
    """What there is in a model that there may not be; None where nothing is."""
    graphs = 0
    for number, kind, length in fields(file, end):
        if number in _MESSAGES and kind != BYTES:
            raise EOFError(f"field {number} is no message")
        if number in (_TRAINING_INFO, _FUNCTIONS):
            return "functions or training graphs"
        if number == _OPSET_IMPORT and (domain := _content(file.read(length), 1)) not in _DOMAINS:
            return f"operators of {_shown(domain)}"
        if number == _GRAPH:
            graphs += 1
            why = "two graphs" if graphs > 1 else _wrong_in_graph(file, file.tell() + length)
            if why:
                return why
    return None if graphs else "no graph"


def _wrong_in_graph(file: BinaryIO, end: int) -> str | None:
    nodes: list[_Node] = []
    constants, known = set[bytes](), {b""}  # an input that is left out has no name
    for number, kind, length in fields(file, end):
        why = None
        if number == _SPARSE_INITIALIZER:
            why = "sparse weights"
        elif number == _NODE and kind == BYTES:
            why = f"a node of {length:,} bytes" if length > _MAX_NODE_BYTES else None
            if why is None:
                node = _read_node(file.read(length))
                why = node.wrong
                nodes.append(node)
        elif number == _INITIALIZER and kind == BYTES:
            why, name = _read_tensor(file, file.tell() + length)
            constants.add(name)
        elif number == _INPUT and kind == BYTES:
            known.add(_content(file.read(length), 1))
        if len(nodes) > MAX_NODES or len(constants) > MAX_NODES:
            why = f"more than {MAX_NODES:,} nodes"
        if why:
            return why
    return _wrong_in_order(nodes, known, constants)


def _wrong_in_order(nodes: list[_Node], known: set[bytes], constants: set[bytes]) -> str | None:
    """What is wrong with nodes one after the other; ONNX has them in the order of their computation.

    Args:
        nodes: All of them.
        known: Names of the inputs of the graph.
        constants: Names of its weights.
    """
    known |= constants
    for node in nodes:
        if not known.issuperset(node.inputs):
            return "a node whose input nothing before it makes"
        if not known.isdisjoint(node.outputs):
            return "two values of one name"
        known.update(node.outputs)
        if constants.issuperset(filter(None, node.inputs)):
            if node.operator in _WIDENING:  # two vectors of a few bytes make a matrix of terabytes
                return f"{_shown(node.operator)} of constants alone"
            constants.update(node.outputs)
    return None


@dataclass(frozen=True)
class _Node:
    """A node's operator, the names of its inputs and outputs, and what is wrong with it alone."""

    operator: bytes
    inputs: list[bytes]
    outputs: list[bytes]
    wrong: str | None


def _read_node(content: bytes) -> _Node:
    file, inputs, outputs, operator, wrong = io.BytesIO(content), [], [], b"", None
    for number, kind, length in fields(file, len(content)):
        if kind != BYTES:
            continue
        if number == _NODE_INPUT:
            inputs.append(file.read(length))
        elif number == _NODE_OUTPUT:
            outputs.append(file.read(length))
        elif number == _OP_TYPE:
            operator = file.read(length)
        elif number == _DOMAIN and file.read(length) not in _DOMAINS:
            wrong = "operators of another domain"
        elif number == _ATTRIBUTE:
            wrong = wrong or _wrong_in_attribute(file, file.tell() + length)
        if len(inputs) + len(outputs) > _MAX_EDGES:
            return _Node(operator, inputs, outputs, f"a node of more than {_MAX_EDGES} inputs and outputs")
    if operator.decode(errors="replace") not in OPERATORS | INT8_OPERATORS:
        wrong = f"the operator {_shown(operator)}"
    return _Node(operator, inputs, outputs, wrong)


def _wrong_in_attribute(file: BinaryIO, end: int) -> str | None:
    name, numbers = b"", list[int]()
    for number, kind, value in fields(file, end):
        if number in _NESTED:
            return "graphs or several tensors in an attribute"
        if number == _ATTRIBUTE_TENSOR and kind == BYTES:
            why, _ = _read_tensor(file, file.tell() + value)
            if why:
                return why
        elif number == _ATTRIBUTE_NAME and kind == BYTES:
            name = file.read(value)
        elif number in (_ATTRIBUTE_INTEGER, _ATTRIBUTE_INTEGERS):
            numbers += _integers(file, kind, value)
    low, high = _LIMITS.get(name, (0, 1 << 64))
    if not all(low <= number <= high for number in numbers):  # a negative one is above 2 ** 63
        return f"{name.decode()} of {max(numbers):.3g}"
    return None


def _integers(file: BinaryIO, kind: int, value: int) -> list[int]:
    """Numbers of a repeated field: one, or all of them packed."""
    if kind != BYTES:
        return [value]
    if value > _MAX_PACKED:
        raise EOFError(f"{value:,} bytes of sizes")
    return _packed(file.read(value))


def _read_tensor(file: BinaryIO, end: int) -> tuple[str | None, bytes]:
    """What is wrong with a tensor, and its name."""
    dims, name, size = list[int](), b"", end - file.tell()
    for number, kind, value in fields(file, end):
        if number == _DIMS:
            dims += _integers(file, kind, value)
            if len(dims) > _MAX_RANK:
                return f"a tensor of more than {_MAX_RANK} sizes", name
        elif number == _EXTERNAL_DATA or (number == _DATA_LOCATION and value != 0):
            return "weights in other files", name
        elif number == _TENSOR_NAME and kind == BYTES:
            name = file.read(value)
    if math.prod(dims) > size:  # each value takes a byte at least
        return f"a tensor of {math.prod(dims):.3g} values in {size:,} bytes", name
    return None, name


def _shown(name: bytes) -> str:
    return repr(name[:40].decode(errors="replace"))


def _packed(content: bytes) -> list[int]:
    file, values = io.BytesIO(content), []
    while file.tell() < len(content):
        values.append(read_varint(file))
    return values


def _content(content: bytes, wanted: int) -> bytes:
    """Bytes of one field of a message; none where it is left out."""
    file, found = io.BytesIO(content), b""
    for number, kind, length in fields(file, len(content)):
        if number == wanted and kind == BYTES:
            found = file.read(length)
    return found
