"""Protobuf's wire format (protobuf.dev/programming-guides/encoding), as much of it as ONNX files need.

A message is a row of fields: a tag, then a number, or a length and as many bytes. What is not wanted is skipped over,
so that a file of any size is read with little memory.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import BinaryIO

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5  # wire types


def fields(file: BinaryIO, end: int) -> Iterator[tuple[int, int, int]]:
    """The fields of a message that reaches from where the file is to ``end``.

    The file stands at a field's content when it is given, and may be moved: the next field is found all the same.

    Yields:
        (number of the field, wire type, value of a VARINT or else the number of bytes of the content).

    Raises:
        EOFError: There is no such row of fields; it says what there is.
    """
    after = file.tell()
    while (start := after) < end:
        head = file.read(2)
        if len(head) == 2 and 8 <= head[0] < 0x80 and head[1] < 0x80 and head[0] & 7 in (VARINT, BYTES):
            number, kind, value = head[0] >> 3, head[0] & 7, head[1]  # as most are: both numbers of one byte
            after = start + 2
        else:
            file.seek(start)
            number, kind, value = _read_tag(file)
            after = file.tell()
        after += value if kind != VARINT else 0
        if after > end:
            raise EOFError("a field reaches past the end" if kind != VARINT else f"a number at {start} does")
        yield number, kind, value
        file.seek(after)


def _read_tag(file: BinaryIO) -> tuple[int, int, int]:
    """What :func:`fields` yields of the field that begins where the file is."""
    number, kind = divmod(read_varint(file), 8)
    if number == 0:
        raise EOFError("field number 0")
    if kind in (VARINT, BYTES):
        return number, kind, read_varint(file)
    if kind in (FIXED64, FIXED32):
        return number, kind, 8 if kind == FIXED64 else 4
    raise EOFError(f"wire type {kind}")


def read_varint(file: BinaryIO) -> int:
    """A number of up to 64 bits, 7 of them in a byte.

    Raises:
        EOFError: There is none.
    """
    value = 0
    for shift in range(0, 70, 7):
        byte = file.read(1)
        if not byte:
            raise EOFError("it ends within a number")
        value |= (byte[0] & 0x7F) << shift
        if byte[0] < 0x80:
            return value
    raise EOFError("a number of more than 64 bits")


def bytes_field(number: int, content: bytes) -> bytes:
    """A field of bytes, text or a message."""
    return varint(number * 8 + BYTES) + varint(len(content)) + content


def varint(value: int) -> bytes:
    """A number as :func:`read_varint` reads it."""
    parts = bytearray()
    while value > 0x7F:
        parts.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes(parts) + bytes([value])


def size_of(file: BinaryIO) -> int:
    """Bytes of an open file."""
    return os.fstat(file.fileno()).st_size
