"""What an ONNX file may hold: the fields, the encoding and the graph that rest-export writes, and nothing else.

What an ONNX file could do otherwise (name files of the machine as weights, nest graphs in graphs, expand functions into
billions of nodes, go round in circles, announce tensors of terabytes) is refused before a runtime sees it. A seal does
not help there (``onnx_file.py``): whoever makes such a file can seal it.

Two parsers of one file may see two graphs in it: one keeps more bits of a number, one takes the first of two fields and
one the last, one skips what the other knows. So only the canonical encoding is read, in which a message has one form
(protobuf.dev/programming-guides/encoding): numbers in as few bytes as they need, fields in the order of their numbers,
a single field once, and none that the table below does not have. What is read here is then what every parser reads.

Names and numbers of fields are those of onnx/onnx.proto (github.com/onnx/onnx).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from enum import Enum
from typing import Any, NamedTuple, TypeAlias

from rest_deploy.specs import MAP_NUMBERS, OPSETS
from rest_deploy.values import shown

#: What files have beside the operators of their family: in INT8, to choose the size of a block of a large map, and to
#: make the input from pictures.
_OPERATORS = frozenset(
    "DequantizeLinear DynamicQuantizeLinear MatMulInteger QuantizeLinear "  # noqa: SIM905
    "Add Concat Constant Div Greater If Max Mul Reshape Scan Shape Slice Sub Transpose "
    "Abs Cast Ceil CumSum Floor Gather Less MatMul Min Range Reciprocal ReduceSum Round Sin Split Squeeze Unsqueeze "
    "Where".split()
)
#: Of a graph; rest_large in INT8 has under 3,000.
MAX_NODES = 100_000
#: In one file; rest_large has under 40,000. Each takes a microsecond and some 200 bytes to read.
_MAX_FIELDS = 1 << 20
_DOMAINS = ("", "ai.onnx")
#: Attributes of convolutions, and of the shuffle -> least and largest; a reduction by 2048 pads by 1024.
_LIMITS = {
    "pads": (0, 1024),
    "strides": (1, 4096),
    "kernel_shape": (1, 4096),
    "dilations": (1, 64),
    "group": (1, 1 << 20),
    "blocksize": (1, 1024),
    "num_outputs": (1, 16),
}
#: What a Pad may add at an end of an axis.
_MOST_PAD = 1
#: Operators whose output may be larger than all of their inputs together.
_WIDENING = frozenset(
    "Add Sub Mul Div Max Min Greater Less Where MatMul MatMulInteger Gemm Conv Gather".split()  # noqa: SIM905
)
#: Numbers that such a one may make where no image is needed, unless it makes no more than it was given: of sizes, of
#: which there are a few.
_FEW = 16
_MOST_DIMS = 8
#: Names of the weights that hold the numbers of a block of a large map, and of the largest map that is computed whole.
BLOCK_SIZES = ("map_block", "map_whole")
#: Numbers of a Range that no image sets a bound to: pixels of a side that a picture is resized to.
_MOST_RANGE = 1 << 20
#: Numbers that all nodes together may make of constants alone, for each byte of a file: weights that it unpacks.
_MADE = 4
#: Operators whose inputs after the first are axes, sizes or places of axes. A runtime compares each with each.
_OF_AXES = frozenset("CumSum Pad ReduceMean ReduceSum Reshape Slice Split Squeeze Unsqueeze".split())  # noqa: SIM905
#: Operators that hold graphs -> the names of these.
_HOLDERS = {"If": {"then_branch", "else_branch"}, "Scan": {"body"}}
#: TensorProto.DataType -> bytes of a value: FLOAT, UINT8, INT8, INT32, INT64, FLOAT16, DOUBLE.
_ITEM_BYTES = {1: 4, 2: 1, 3: 1, 6: 4, 7: 8, 10: 2, 11: 8}
_FLOATS, _WHOLE = (1, 10, 11), 7
#: Operators that give floating-point numbers alone.
_FLOATING = frozenset("Ceil Conv Floor Gelu LayerNormalization Reciprocal Round Sigmoid Sin Softmax Sqrt".split())  # noqa: SIM905
#: AttributeProto.AttributeType -> the field that holds such a value.
_VALUE_OF = {1: "f", 2: "i", 3: "s", 4: "t", 5: "g", 6: "floats", 7: "ints"}
_EXTERNAL = "weights in other files"
_NESTED = "graphs or several tensors in an attribute"
_FUNCTIONS = "functions or training graphs"
#: Bytes from which a weight is handed over apart from its graph. A runtime looks into smaller ones: sizes, axes.
_APART = 1024


class Refused(ValueError):
    """What a file has that no file of rest-export has, in words that go on after "it has"."""


class _Kind(Enum):
    """A scalar, and the wire type that it is written with."""

    INT64 = "int64", 0
    INT32 = "int32", 0
    FLOAT = "float", 5
    TEXT = "text", 2
    BYTES = "bytes", 2


_INT64, _INT32, _FLOAT, _TEXT, _BYTES = _Kind  # where they are looked up for each field, that takes a third
#: The fields of a message by their tags; in place of one that is refused, what it is.
_Fields: TypeAlias = "Mapping[int, _Field | str]"


class _Field(NamedTuple):
    """A field of a message: its name, what it is, and how often it may stand (0 for a single one).

    Fields of which a message may have one alone (oneof) share their name.
    """

    name: str
    kind: _Kind | _Fields
    most: int = 0


def _message(numbered: Mapping[int, _Field | str]) -> _Fields:
    """Fields by tag, which is the number and the wire type in one, from fields by number."""
    table: dict[int, _Field | str] = {}
    for number, field in numbered.items():
        if isinstance(field, str):
            table.update({number << 3 | wire_type: field for wire_type in (0, 1, 2, 5)})
        else:
            wire_type = field.kind.value[1] if isinstance(field.kind, _Kind) else 2
            table[number << 3 | wire_type] = field
    return table


_DIMENSION = _message({1: _Field("size", _INT64), 2: _Field("size", _TEXT)})
_SHAPE = _message({1: _Field("dim", _DIMENSION, 8)})
_TENSOR_TYPE = _message({1: _Field("elem_type", _INT32), 2: _Field("shape", _SHAPE)})
_TYPE = _message({1: _Field("tensor_type", _TENSOR_TYPE)})
_VALUE_INFO = _message({1: _Field("name", _TEXT), 2: _Field("type", _TYPE)})
_TENSOR = _message(
    {
        1: _Field("dims", _INT64, 8),
        2: _Field("data_type", _INT32),
        8: _Field("name", _TEXT),
        9: _Field("raw_data", _BYTES),
        13: _EXTERNAL,
        14: _EXTERNAL,
    }
)


def _graph(inner: _Fields | None) -> _Fields:
    """A graph whose nodes may hold graphs of such fields; None for none."""
    attribute = _message(
        {
            1: _Field("name", _TEXT),
            2: _Field("f", _FLOAT),
            3: _Field("i", _INT64),
            4: _Field("s", _TEXT),
            5: _Field("t", _TENSOR),
            6: _Field("g", inner) if inner is not None else _NESTED,
            7: _Field("floats", _FLOAT, 1024),
            8: _Field("ints", _INT64, 1024),
            20: _Field("type", _INT32),
            **dict.fromkeys((10, 11, 14, 15, 22, 23), _NESTED),
        }
    )
    node = _message(
        {
            1: _Field("input", _TEXT, 16),
            2: _Field("output", _TEXT, 16),
            3: _Field("name", _TEXT),
            4: _Field("op_type", _TEXT),
            5: _Field("attribute", attribute, 32),
            6: _Field("doc_string", _TEXT),
            7: _Field("domain", _TEXT),
        }
    )
    return _message(
        {
            1: _Field("node", node, MAX_NODES),
            2: _Field("name", _TEXT),
            5: _Field("initializer", _TENSOR, MAX_NODES),
            10: _Field("doc_string", _TEXT),
            11: _Field("input", _VALUE_INFO, 1),
            12: _Field("output", _VALUE_INFO, 16),
            13: _Field("value_info", _VALUE_INFO, MAX_NODES),
            15: "sparse weights",
        }
    )


#: In it both ways of a large map, in one of these what is done with a block (``export/blockwise.py``); no deeper.
_GRAPH = _graph(_graph(_graph(None)))
_MODEL = _message(
    {
        1: _Field("ir_version", _INT64),
        2: _Field("producer_name", _TEXT),
        3: _Field("producer_version", _TEXT),
        4: _Field("domain", _TEXT),
        5: _Field("model_version", _INT64),
        6: _Field("doc_string", _TEXT),
        7: _Field("graph", _BYTES),
        8: _Field("opset_import", _message({1: _Field("domain", _TEXT), 2: _Field("version", _INT64)}), 100),
        14: _Field("metadata_props", _message({1: _Field("key", _TEXT), 2: _Field("value", _TEXT)}), 1000),
        20: _FUNCTIONS,
        25: _FUNCTIONS,
    }
)


class _Reader:
    """Reads messages of one file.

    Args:
        content: The file.
    """

    def __init__(self, content: bytes) -> None:
        self._content = content
        self._left = _MAX_FIELDS

    def message(self, at: int, end: int, fields: _Fields) -> dict[str, Any]:
        """What a message in these bytes of the file holds: name -> value, or values of what may stand several times.

        Numbers are ints, text is str, bytes are where they begin and end in the file; a float is its four bytes.

        Raises:
            Refused: It is not written canonically, or has more than the fields.
            UnicodeDecodeError: A text is none.
        """
        content, number = self._content, self.number  # all in one loop: a file of ours has 15,000 fields
        found, last, count = dict[str, Any](), 0, 0
        while at < end:
            tag, at = (content[at], at + 1) if content[at] < 0x80 else number(at, end)
            field = fields.get(tag)
            if type(field) is not _Field:
                raise Refused(field or f"an unknown field, number {tag >> 3} of wire type {tag & 7}")
            name, kind, most = field
            if tag < last:
                raise Refused(f"the field {name} out of order")
            last, count = tag, count + 1
            value: Any
            if kind is _INT64 or kind is _INT32:
                value, at = number(at, end)
                if kind is _INT32 and value >> 31:  # none of ours is negative
                    raise Refused(f"{name} of {value:.3g}")
                value -= value >> 63 << 64
            else:
                # nearly all lengths are short, and a call for each would take a fifth of the whole
                short = at < end and content[at] < 0x80 and kind is not _FLOAT
                length, start = (content[at], at + 1) if short else (4, at) if kind is _FLOAT else number(at, end)
                at = start + length
                if at > end:
                    raise Refused(f"the field {name} reaching past its end")
                value = content[start:at].decode() if kind is _TEXT else self._delimited(start, at, kind)
            if not most:
                if name in found:
                    raise Refused(f"the field {name} twice")
                found[name] = value
            else:
                values = found.setdefault(name, [])
                values.append(value)
                if len(values) > most:
                    raise Refused(f"more than {most:,} times {name}")
        self._left -= count
        if self._left < 0:
            raise Refused(f"more than {_MAX_FIELDS:,} fields")
        return found

    def _delimited(self, start: int, end: int, kind: _Kind | _Fields) -> Any:
        """The value of a field whose content these bytes are."""
        if kind is _BYTES:
            return start, end
        if kind is _FLOAT:
            return self._content[start:end]
        assert not isinstance(kind, _Kind)
        return self.message(start, end, kind)

    def number(self, at: int, end: int) -> tuple[int, int]:
        """A number of up to 64 bits, 7 of them in a byte, and where it ends."""
        value = 0
        for shift in range(0, 70, 7):
            if at >= end:
                raise Refused("a number that reaches past its end")
            byte = self._content[at]
            at += 1
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                if (byte == 0 and shift) or value >> 64:
                    raise Refused("a number of more bytes or bits than it has")
                return value, at
        raise Refused("a number of more than 64 bits")


def read_model(content: bytes) -> dict[str, Any]:
    """The fields of the model of a file; its graph is (begin, end) in the file, unread.

    Raises:
        Refused: It is no model in canonical encoding.
    """
    return _Reader(content).message(0, len(content), _MODEL)


def without_weights(content: bytes, model: Mapping[str, Any], place: str) -> bytes:
    """A file that was not refused, without its large weights: they are named as external data, at their places in it.

    Args:
        content: The file.
        model: What :func:`read_model` gave.
        place: What is external data's name for the file.
    """
    begin, end = model["graph"]
    reader, graph, copied = _Reader(content), bytearray(), begin
    for tag, at, start, stop in _fields(content, begin, end):
        if tag == _INITIALIZER:
            first, last = reader.message(start, stop, _TENSOR).get("raw_data", (0, 0))
            if last - first >= _APART:  # the last field of a tensor
                told = (("location", place), ("offset", str(first)), ("length", str(last - first)))
                kept = content[start : first - len(_head(9, last - first))]
                external = b"".join(bytes_field(13, text_entry(*entry)) for entry in told) + _EXTERNALLY
                graph += content[copied:at] + bytes_field(5, kept + external)
                copied = stop
    graph += content[copied:end]
    return content[: begin - len(_head(7, end - begin))] + bytes_field(7, bytes(graph)) + content[end:]


def without_blocks(content: bytes, model: Mapping[str, Any]) -> bytes:
    """A file that was not refused, with each large map as it was traced alone (``export/blockwise.py``).

    Args:
        content: The file.
        model: What :func:`read_model` gave.
    """
    begin, end = model["graph"]
    graph, shapes, copied = bytearray(), bytearray(), begin
    for tag, at, start, stop in _fields(content, begin, end):
        if tag != _NODE_FIELD:
            break
        branch = _branch(content, start, stop)
        if branch is None:
            if _CHOOSES in _text(content, start, stop, 3):  # which of both is taken: else it would be left on the CPU
                graph += content[copied:at]
                copied = stop
            continue
        graph += content[copied:at]
        copied = stop
        made, given = b"", _text(content, start, stop, 2)
        for number, field, first, last in _fields(content, *branch):
            if number == _NODE_FIELD:
                graph += content[field:last]
            elif number == _OUTPUT_FIELD:
                made = _text(content, first, last, 1)
            elif number == _SHAPE_FIELD:
                shapes += content[field:last]
        graph += bytes_field(1, bytes_field(1, made) + bytes_field(2, given) + bytes_field(4, b"Identity"))
    graph += content[copied:end] + shapes
    return content[: begin - len(_head(7, end - begin))] + bytes_field(7, bytes(graph)) + content[end:]


def with_blocks_of(content: bytes, model: Mapping[str, Any], numbers: int) -> bytes:
    """A file that was not refused, with other blocks of large maps: of so many numbers.

    Args:
        content: The file.
        model: What :func:`read_model` gave.
        numbers: Of a block, and of the largest map that is computed whole.
    """
    begin, end = model["graph"]
    reader, changed = _Reader(content), bytearray(content)
    for tag, _, start, stop in _fields(content, begin, end):
        if tag == _INITIALIZER:
            tensor = reader.message(start, stop, _TENSOR)
            if tensor.get("name") in BLOCK_SIZES:
                changed[slice(*tensor["raw_data"])] = numbers.to_bytes(_ITEM_BYTES[_WHOLE], "little")
    return bytes(changed)


def _branch(content: bytes, start: int, stop: int) -> tuple[int, int] | None:
    """Where the graph of a node begins and ends that is taken where its condition does not hold; None where there is
    none.
    """
    for tag, _, first, last in _fields(content, start, stop):
        if tag == _ATTRIBUTE_FIELD and _text(content, first, last, 1) == b"else_branch":
            found = next((one, two) for number, _, one, two in _fields(content, first, last) if number == 6 << 3 | 2)
            return found if _text(content, *found, 2) == _WHOLE_BRANCH else None
    return None


def _text(content: bytes, start: int, stop: int, number: int) -> bytes:
    """The first text field of a number in a message."""
    return next(content[first:last] for tag, _, first, last in _fields(content, start, stop) if tag == number << 3 | 2)


def _fields(content: bytes, at: int, end: int) -> Iterator[tuple[int, int, int, int]]:
    """The fields of a message that was not refused: tag, and where each begins, and its content, and where it ends."""
    reader = _Reader(content)
    while at < end:
        tag, start = reader.number(at, end)
        first = start
        if tag & 7 == 2:
            length, first = reader.number(start, end)
            stop = first + length
        else:
            stop = start + 4 if tag & 7 == 5 else reader.number(start, end)[1]
        yield tag, at, first, stop
        at = stop


def bytes_field(number: int, content: bytes) -> bytes:
    """A field that is text, bytes or a message, as it stands in a file."""
    return _head(number, len(content)) + content


def text_entry(key: str, value: str) -> bytes:
    """A ``StringStringEntryProto``: key = 1, value = 2."""
    return bytes_field(1, key.encode()) + bytes_field(2, value.encode())


def _head(number: int, size: int) -> bytes:
    """What stands before the content of such a field: its tag and its length."""
    length = bytearray()
    while size > 0x7F:
        length.append(size & 0x7F | 0x80)
        size >>= 7
    return bytes([number << 3 | 2, *length, size])


_INITIALIZER = 5 << 3 | 2
_NODE_FIELD, _OUTPUT_FIELD, _SHAPE_FIELD, _ATTRIBUTE_FIELD = (number << 3 | 2 for number in (1, 12, 13, 5))
#: In the names of nodes that compute the sizes of blocks.
_CHOOSES = b"/node_blocks_"
#: Name of the graph that computes a map as it was traced (``export/blockwise.py``).
_WHOLE_BRANCH = b"whole"
#: ``data_location = EXTERNAL`` of a tensor.
_EXTERNALLY = bytes([14 << 3, 1])


def refuse_hostile(content: bytes, model: Mapping[str, Any], operators: Set[str]) -> None:
    """Make sure that a model and its graph are ones that rest-export could have written.

    Args:
        content: The file.
        model: What :func:`read_model` gave.
        operators: Of the family in FP32.

    Raises:
        Refused: They are not.
    """
    opsets = model.get("opset_import", [])
    for opset in opsets:
        if opset.get("domain", "") not in _DOMAINS:
            raise Refused(f"operators of {shown(opset['domain'])}")
    if len(opsets) != 1 or opsets[0].get("version") not in OPSETS:
        raise Refused(f"the versions {[opset.get('version') for opset in opsets]} of ONNX's operators")
    if "graph" not in model:
        raise Refused("no graph")
    begin, end = model["graph"]
    graph = _Reader(content).message(begin, end, _GRAPH)
    _Examiner(content, operators | _OPERATORS).graph(graph, _Known({"": 0.0}, {}, {}))
    _refuse_division(content, graph, set())


class _Known(NamedTuple):
    """What is known of the values of a graph, and of those around it, by their names.

    Args:
        numbers: How many numbers one has at most; infinite where an image tells.
        sizes: Of constants of a few small whole numbers the largest.
        largest: Of what is a size the largest that it may be; infinite for a side of an image.
    """

    numbers: Mapping[str, float]
    sizes: Mapping[str, int]
    largest: Mapping[str, float]


class _Examiner:
    """Refuses a graph, and those in it, that hold what no file of ours has, or that ask for memory without end.

    Args:
        content: The file.
        operators: That it may have.
    """

    def __init__(self, content: bytes, operators: Set[str]) -> None:
        self._content, self._operators = content, operators
        self._left = float(_MADE * len(content))
        self._images = frozenset[str]()

    def graph(self, graph: Mapping[str, Any], around: _Known) -> float:
        """How many numbers one of the outputs of a graph has at most.

        Args:
            graph: It.
            around: Values of the graphs around it.
        """
        weights, inputs = graph.get("initializer", []), graph.get("input", [])
        for tensor in weights:
            _refuse_tensor(tensor)
        own = {_name(one): math.inf for one in inputs}
        own |= {_name(one): float(math.prod(one.get("dims", []))) for one in weights}
        if len(own) != len(inputs) + len(weights) or not own.keys().isdisjoint(around.numbers):
            raise Refused("two values of one name")
        if len(around.numbers) == 1:  # of the outermost
            self._images = frozenset(_name(one) for one in inputs if _of_any_size(one))
        small = {_name(one): size for one in weights if (size := self._size(one)) is not None}
        known, sizes, largest = {**around.numbers, **own}, {**around.sizes, **small}, {**around.largest, **small}
        for node in graph.get("node", []):  # ONNX has them in the order of their computation
            taken, given = node.get("input", []), node.get("output", [])
            if not known.keys() >= set(taken):
                raise Refused("a node whose input nothing before it makes")
            numbers = self._node(node, _Known(known, sizes, largest))
            if not math.isinf(numbers):
                self._left -= numbers
                if self._left < 0:
                    raise Refused(f"{shown(node.get('op_type', ''))} of constants alone that make more than the file")
            if not known.keys().isdisjoint(given) or len(set(given)) != len(given):
                raise Refused("two values of one name")
            known |= dict.fromkeys(given, numbers)
            if (
                node.get("op_type") == "Constant"
                and (size := self._size(node["attribute"][0].get("t", {}))) is not None
            ):
                sizes |= dict.fromkeys(given, size)
            if (most := self._largest(node, largest)) is not None:
                largest |= dict.fromkeys(given, most)
        outputs = [_name(one) for one in graph.get("output", [])]
        if not known.keys() >= set(outputs):
            raise Refused("an output that nothing makes")
        return max((known[name] for name in outputs), default=0.0)

    def _size(self, tensor: Mapping[str, Any]) -> int | None:
        """The largest of the sizes that a constant is; None where it is none, many, or one beyond all bounds."""
        begin, end = tensor.get("raw_data", (0, 0)) if tensor.get("data_type") == _WHOLE else (0, 0)
        item = _ITEM_BYTES[_WHOLE]
        if not 0 < end - begin <= _MOST_DIMS * item:
            return None
        numbers = [
            int.from_bytes(self._content[at : at + item], "little", signed=True) for at in range(begin, end, item)
        ]
        return max(numbers) if min(numbers) >= 0 and max(numbers) <= _MOST_RANGE else None

    def _largest(self, node: Mapping[str, Any], largest: Mapping[str, float]) -> float | None:
        """The largest size that a node gives; None where that is not known."""
        operator, taken = node.get("op_type", ""), node.get("input", [])
        if operator == "Shape" and self._images.issuperset(taken[:1]):
            return math.inf
        if operator not in ("Min", "Squeeze"):
            return None
        return min(
            (largest[name] for name in taken[: None if operator == "Min" else 1] if name in largest), default=None
        )

    def _node(self, node: Mapping[str, Any], known: _Known) -> float:
        """How many numbers a node makes at most."""
        operator, attributes = node.get("op_type", ""), node.get("attribute", ())
        if operator not in self._operators:
            raise Refused(f"the operator {shown(operator)}")
        if node.get("domain", "") not in _DOMAINS:
            raise Refused("operators of another domain")
        named = {_refuse_attribute(attribute): attribute for attribute in attributes}
        if len(named) != len(attributes):
            raise Refused(f"an attribute of {operator} twice")
        held = {name for name, attribute in named.items() if "g" in attribute}
        if held != _HOLDERS.get(operator, set()):
            raise Refused(_NESTED)
        taken = [known.numbers[name] for name in node.get("input", []) if name]
        if operator in _OF_AXES and max(taken[1:], default=0) > _MOST_DIMS:
            raise Refused(f"{shown(operator)} by more than {_MOST_DIMS} axes")
        if operator == "Constant" and (len(named) != 1 or not next(iter(named)).startswith("value")):
            raise Refused("a Constant of no value, or of several")
        if operator == "Cast" and named.get("to", {}).get("i") not in _ITEM_BYTES:
            raise Refused("a Cast to another type than tensors have")
        if held:
            return self._inner(operator, [named[name]["g"] for name in held], sum(taken), known)
        return _made(node, named, taken, known)

    def _inner(self, operator: str, graphs: Iterable[Mapping[str, Any]], taken: float, known: _Known) -> float:
        """How many numbers a node with graphs in it makes at most."""
        if operator == "Scan" and not math.isinf(taken):
            raise Refused("Scan of constants alone")
        made = max(self.graph(one, known) for one in graphs)
        return math.inf if operator == "Scan" else made


def _made(node: Mapping[str, Any], named: Mapping[str, Any], taken: Sequence[float], known: _Known) -> float:
    """How many numbers a node without graphs in it makes at most.

    Args:
        node: It.
        named: Its attributes.
        taken: How many numbers its inputs have at most.
        known: Of values before it.
    """
    operator, names = node.get("op_type", ""), node.get("input", [])
    made = sum(taken)
    if operator == "Shape":  # of a shape the shape is constant
        start, end = (
            int(named.get(name, {}).get("i", default)) for name, default in (("start", 0), ("end", _MOST_DIMS))
        )
        made = float(end - start if 0 <= start <= end <= _MOST_DIMS else _MOST_DIMS)
    elif operator == "Constant":
        made = float(max((_numbers(attribute) for attribute in named.values()), default=0))
    elif operator == "Range":
        if len(names) != 3 or names[0] not in known.sizes or names[1] not in known.largest:
            raise Refused("a Range of more than a size")
        if known.sizes.get(names[2], 0) < 1:
            raise Refused("a Range whose steps may be none")
        made = known.largest[names[1]]
    elif operator == "Pad":
        if known.sizes.get("".join(names[1:2]), math.inf) > _MOST_PAD:
            raise Refused("a Pad by more than a few numbers that it holds")
        if named.get("mode", {}).get("s", "constant") != "constant":  # older runtimes reflect what is not there
            raise Refused("a Pad of another mode than with a constant")
        if not math.isinf(known.numbers[names[0]]):
            raise Refused("'Pad' of constants alone")
    elif operator in _WIDENING and not math.isinf(made):
        made = math.prod(taken)
        if made > max([_FEW, *taken]):  # two vectors of a few bytes make a matrix of terabytes
            raise Refused(f"{shown(operator)} of constants alone")
    return made


def _of_any_size(image: Mapping[str, Any]) -> bool:
    """Whether the sides of an input are told by an image, or small."""
    dims = image.get("type", {}).get("tensor_type", {}).get("shape", {}).get("dim", [])
    return all(isinstance(dim.get("size", ""), str) or dim["size"] <= _MOST_RANGE for dim in dims)


def _refuse_division(content: bytes, graph: Mapping[str, Any], around: Set[str]) -> None:
    """Refuse a division by whole numbers that may be zero or negative: by those it ends the process.

    Args:
        content: The file.
        graph: A graph of it.
        around: Values of the graphs around it by which one may divide.
    """
    divisors = {*around, *(_name(one) for one in graph.get("initializer", []) if _divides(content, one))}
    for node in graph.get("node", []):
        operator, taken = node.get("op_type", ""), node.get("input", [])
        for attribute in node.get("attribute", ()):
            if "g" in attribute:
                _refuse_division(content, attribute["g"], divisors)
            elif operator == "Constant" and (
                attribute.keys() & {"f", "floats"} or _divides(content, attribute.get("t"))
            ):
                divisors.update(node.get("output", []))
        if operator == "Cast" and any(
            own.get("name") == "to" and own.get("i") in _FLOATS for own in node.get("attribute", ())
        ):
            divisors.update(node.get("output", []))
        if operator in _FLOATING or (operator == "Max" and not divisors.isdisjoint(taken)):  # at least what may divide
            divisors.update(node.get("output", []))
        elif operator == "Div" and not divisors.issuperset(taken[1:]):
            raise Refused("a division by values that may be zero")


def _one_number(content: bytes, tensor: Mapping[str, Any]) -> int | None:
    """The whole number that a tensor is; None where it is not one."""
    number = content[slice(*tensor.get("raw_data", (0, 0)))]
    return int.from_bytes(number, "little", signed=True) if len(number) == _ITEM_BYTES[_WHOLE] else None


def _divides(content: bytes, tensor: Mapping[str, Any] | None) -> bool:
    """Whether one may divide by a constant: by floating-point numbers, and by one whole number from 1 up."""
    if tensor is None or tensor.get("data_type") in _FLOATS:
        return tensor is not None
    number = _one_number(content, tensor) if tensor.get("data_type") == _WHOLE else None
    return number is not None and MAP_NUMBERS.low <= number <= MAP_NUMBERS.high


def _numbers(constant: Mapping[str, Any]) -> int:
    """How many numbers the value of a Constant has."""
    if "t" in constant:
        return math.prod(constant["t"].get("dims", []))
    return max(1, len(constant.get("ints", ())), len(constant.get("floats", ())))


def _refuse_attribute(attribute: Mapping[str, Any]) -> str:
    """The name of an attribute that may be."""
    name, kind = attribute.get("name", ""), _VALUE_OF.get(attribute.get("type", 0))
    if name.startswith("__"):  # of any name that begins so runtimes take any value, and make nothing of it
        raise Refused(f"the attribute {shown(name)}")
    if not attribute.keys() <= {"name", "type", kind} or kind is None:  # which of two a runtime would take, it knows
        raise Refused(f"a value of another type than it says in {shown(name)}")
    if kind == "t":
        _refuse_tensor(attribute.get("t", {}))
    elif name in _LIMITS:
        low, high = _LIMITS[name]
        numbers = attribute.get("ints", [attribute.get("i", 0)] if kind == "i" else [])
        if not all(low <= number <= high for number in numbers):
            raise Refused(f"{name} of {max(numbers, key=abs):.3g}")
    return str(name)


def _refuse_tensor(tensor: Mapping[str, Any]) -> None:
    if _name(tensor) in BLOCK_SIZES and (tensor.get("data_type"), tensor.get("dims")) != (_WHOLE, [1]):
        raise Refused(f"a size of blocks, {_name(tensor)}, that is not one whole number")
    dims, item = tensor.get("dims", []), _ITEM_BYTES.get(tensor.get("data_type", 0))
    if item is None:
        raise Refused(f"a tensor of data type {tensor.get('data_type', 0)}")
    begin, end = tensor.get("raw_data", (0, 0))
    if min(dims, default=0) < 0 or math.prod(dims) * item != end - begin:
        raise Refused(f"a tensor of {math.prod(dims):.3g} values in {end - begin:,} bytes")


def _name(value: Mapping[str, Any]) -> str:
    return str(value.get("name", ""))
