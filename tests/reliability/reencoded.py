"""ONNX files written in other ways than the canonical one: the same fields to one parser, others to the next.

A message is taken apart by the descriptors of the onnx package, and put together again in another way.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

_VARINT, _FIXED64, _BYTES, _START_GROUP, _END_GROUP, _FIXED32 = range(6)


@dataclass(frozen=True)
class Piece:
    """A field of a message: its descriptor, its wire type, and a number, bytes, or the pieces of a message."""

    field: Any
    wire_type: int
    value: int | bytes | tuple[Piece, ...]


Pieces = tuple[Piece, ...]
#: Bytes of a piece, of whose content they are given.
Write = Callable[[Piece, bytes], bytes]


def take_apart(message: Any) -> Pieces:
    """The fields of a message of the onnx package, in the order of their numbers."""
    return tuple(_pieces(message))


def is_repeated(field: Any) -> bool:
    """Whether a field is; protobuf before 6.31, which the oldest tritonclient takes, says so by its label alone."""
    if hasattr(field, "is_repeated"):
        return bool(field.is_repeated)
    return bool(field.label == field.LABEL_REPEATED)


def _pieces(message: Any) -> Iterator[Piece]:
    for field, values in message.ListFields():
        for value in values if is_repeated(field) else [values]:
            if field.message_type:
                yield Piece(field, _BYTES, take_apart(value))
            elif field.type == field.TYPE_FLOAT:
                yield Piece(field, _FIXED32, struct.pack("<f", value))
            elif isinstance(value, int):
                yield Piece(field, _VARINT, value % (1 << 64))
            else:
                yield Piece(field, _BYTES, value.encode() if isinstance(value, str) else value)


def varint(value: int, padding: int = 0) -> bytes:
    """A number in seven bits a byte, and so many bytes more than it needs."""
    count = max(1, -(-value.bit_length() // 7)) + padding
    return bytes((value >> 7 * i & 0x7F) | (0x80 if i < count - 1 else 0) for i in range(count))


def canonical(piece: Piece, content: bytes) -> bytes:
    """As every writer has it."""
    return _tag(piece) + _length(piece, content) + content


def _tag(piece: Piece) -> bytes:
    return varint(piece.field.number << 3 | piece.wire_type)


def _length(piece: Piece, content: bytes) -> bytes:
    return varint(len(content)) if piece.wire_type == _BYTES else b""


def put_together(
    pieces: Iterable[Piece], write: Write = canonical, around: Callable[[list[bytes]], list[bytes]] = list
) -> bytes:
    """A message.

    Args:
        pieces: Its fields.
        write: How one is written.
        around: What is done with the fields of each message in it, once they are written.
    """
    written = []
    for piece in pieces:
        if isinstance(piece.value, int):
            content = varint(piece.value)
        elif isinstance(piece.value, bytes):
            content = piece.value
        else:
            content = put_together(piece.value, write, around)
        written.append(write(piece, content))
    return b"".join(around(written))


def _packed(pieces: Pieces) -> bytes:
    """Lists of numbers in one field, as another version of the schema has them."""

    def write(piece: Piece, content: bytes) -> bytes:
        if piece.wire_type != _VARINT or not is_repeated(piece.field):
            return canonical(piece, content)
        return varint(piece.field.number << 3 | _BYTES) + varint(len(content)) + content

    return put_together(pieces, write)


def _twice(pieces: Pieces) -> bytes:
    """One parser takes the first, another the last."""
    return put_together(
        pieces,
        lambda piece, content: (
            canonical(piece, content) * (1 if is_repeated(piece.field) or piece.field.message_type else 2)
        ),
    )


def _two_graphs(pieces: Pieces) -> bytes:
    """Which one parser joins, and of which another takes the last."""
    out = []
    for piece in pieces:
        if piece.field.name == "graph":
            assert isinstance(piece.value, tuple)
            half = len(piece.value) // 2
            out += [Piece(piece.field, _BYTES, piece.value[:half]), Piece(piece.field, _BYTES, piece.value[half:])]
        else:
            out.append(piece)
    return put_together(out)


def _numbers(change: Callable[[Piece, bytes], bytes]) -> Callable[[Pieces], bytes]:
    """Numbers alone written in another way."""
    return lambda pieces: put_together(
        pieces,
        lambda piece, content: change(piece, content) if piece.wire_type == _VARINT else canonical(piece, content),
    )


def _beyond_64_bits(piece: Piece, content: bytes) -> bytes:
    assert isinstance(piece.value, int)
    return _tag(piece) + varint(piece.value | 1 << 65)


def _enums_beyond_32_bits(piece: Piece, content: bytes) -> bytes:
    assert isinstance(piece.value, int)
    wide = piece.field.type in (piece.field.TYPE_INT32, piece.field.TYPE_ENUM)
    return _tag(piece) + varint(piece.value | (1 << 32 if wide else 0))


def _group(number: int, content: bytes) -> bytes:
    return varint(number << 3 | _START_GROUP) + content + varint(number << 3 | _END_GROUP)


#: What is done to a whole file, where parsers differ in what they see, or one is laxer than another.
WAYS: Mapping[str, Callable[[Pieces], bytes]] = {
    "tags of 33 bits": lambda pieces: put_together(
        pieces,
        lambda p, c: varint(p.field.number << 3 | p.wire_type | 1 << 32) + _length(p, c) + c,
    ),
    "tags of 33 bits for the fields of nodes": lambda pieces: put_together(
        pieces,
        lambda p, c: (
            varint(p.field.number << 3 | p.wire_type | 1 << 32) + _length(p, c) + c
            if p.field.containing_type.name == "NodeProto"
            else canonical(p, c)
        ),
    ),
    "tags of one byte more": lambda pieces: put_together(
        pieces, lambda p, c: varint(p.field.number << 3 | p.wire_type, 1) + _length(p, c) + c
    ),
    "tags of ten bytes": lambda pieces: put_together(
        pieces, lambda p, c: varint(p.field.number << 3 | p.wire_type, 10 - len(_tag(p))) + _length(p, c) + c
    ),
    "lengths of one byte more": lambda pieces: put_together(
        pieces, lambda p, c: _tag(p) + (varint(len(c), 1) if p.wire_type == _BYTES else b"") + c
    ),
    "numbers of one byte more": _numbers(lambda p, c: _tag(p) + c[:-1] + bytes([c[-1] | 0x80, 0])),
    "numbers beyond 64 bits": _numbers(_beyond_64_bits),
    "enums beyond 32 bits": _numbers(_enums_beyond_32_bits),
    "numbers of fixed size": _numbers(lambda p, c: varint(p.field.number << 3 | _FIXED64) + struct.pack("<Q", p.value)),
    "lists of numbers packed": _packed,
    "fields the other way round": lambda pieces: put_together(pieces, around=lambda written: written[::-1]),
    "each single field twice": _twice,
    "the graph in two": _two_graphs,
    "an empty graph first": lambda pieces: b"\x3a\x00" + put_together(pieces),
    "a field that nobody knows, at last": lambda pieces: put_together(
        pieces, around=lambda written: [*written, varint(1000 << 3 | _BYTES) + b"\x01x"]
    ),
    "a field that nobody knows, at first": lambda pieces: put_together(
        pieces, around=lambda written: [varint(1000 << 3 | _VARINT) + b"\x01", *written]
    ),
    "everything in groups": lambda pieces: put_together(pieces, lambda p, c: _group(p.field.number, c)),
    "a group around what there is": lambda pieces: put_together(
        pieces, around=lambda written: [_group(999, b"".join(written)), *written]
    ),
}
