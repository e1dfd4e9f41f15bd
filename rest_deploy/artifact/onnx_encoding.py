"""How an ONNX file is written: the fields that rest-export writes, read in canonical form alone, and changed in place.

Two parsers of one file may see two graphs in it: one keeps more bits of a number, one takes the first of two fields and
one the last, one skips what the other knows. So only the canonical encoding is read, in which a message has one form
(protobuf.dev/programming-guides/encoding): numbers in as few bytes as they need, fields in the order of their numbers,
a single field once, and none that the table below does not have. What is read here is then what every parser reads.

Names and numbers of fields are those of onnx/onnx.proto (github.com/onnx/onnx).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from enum import Enum
from typing import Any, NamedTuple, TypeAlias

#: Of a graph; rest_large in INT8 has under 3,000.
MAX_NODES = 100_000
#: In one file; rest_large has under 40,000. Each takes a microsecond and some 200 bytes to read.
_MAX_FIELDS = 1 << 20
#: Names of the weights that hold the numbers of a block of a large map, and of the largest map that is computed whole.
BLOCK_SIZES = ("map_block", "map_whole")
_EXTERNAL = "weights in other files"
NESTED = "graphs or several tensors in an attribute"
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
            6: _Field("g", inner) if inner is not None else NESTED,
            7: _Field("floats", _FLOAT, 1024),
            8: _Field("ints", _INT64, 1024),
            20: _Field("type", _INT32),
            **dict.fromkeys((10, 11, 14, 15, 22, 23), NESTED),
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
GRAPH = _graph(_graph(_graph(None)))
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


class Reader:
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
    return Reader(content).message(0, len(content), _MODEL)


def without_weights(content: bytes, model: Mapping[str, Any], place: str) -> bytes:
    """A file that was not refused, without its large weights: they are named as external data, at their places in it.

    Args:
        content: The file.
        model: What :func:`read_model` gave.
        place: What is external data's name for the file.
    """
    begin, end = model["graph"]
    reader, graph, copied = Reader(content), bytearray(), begin
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
    reader, changed = Reader(content), bytearray(content)
    for tag, _, start, stop in _fields(content, begin, end):
        if tag == _INITIALIZER:
            tensor = reader.message(start, stop, _TENSOR)
            if tensor.get("name") in BLOCK_SIZES:
                changed[slice(*tensor["raw_data"])] = numbers.to_bytes(8, "little")  # int64
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
    reader = Reader(content)
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
