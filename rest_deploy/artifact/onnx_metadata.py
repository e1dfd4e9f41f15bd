"""The metadata of an ONNX file, read and written without the onnx package and without touching its weights.

An ONNX file is one protobuf message, ``ModelProto`` (github.com/onnx/onnx, onnx/onnx.proto): a row of fields, each a
tag, then a number or a length and as many bytes. Fields other than ``metadata_props`` are skipped over, and one
appended to the end of a file is a field like any other.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import BinaryIO

from rest_deploy.errors import ArtifactError

_METADATA_PROPS = 14  # field number in ModelProto
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5  # protobuf wire types
_MAX_ENTRY = 16 << 20  # bytes; labels of a thousand classes take 22 KiB


def read_onnx_metadata(path: str | Path) -> dict[str, str]:
    """Key-value metadata of an ONNX file.

    Raises:
        ArtifactError: The file is missing, empty, or no protobuf message.
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            if size == 0:
                raise ArtifactError(f"{path}: empty file; export it again")
            return _read_props(file, size)
    except (EOFError, UnicodeDecodeError) as exc:
        raise ArtifactError(f"{path}: damaged, truncated or no ONNX file ({exc}); export it again") from exc
    except OSError as exc:
        raise ArtifactError(f"{path}: cannot be read: {exc.strerror}") from exc


def stamp(path: str | Path, graph_bytes: int, key: str, value: str) -> None:
    """Set the one metadata entry behind the graph of an ONNX file; the graph's bytes stay as they are.

    Args:
        path: The file.
        graph_bytes: Length of the file without the entry; what follows is cut off.
        key, value: The entry.
    """
    entry = _field(1, key.encode()) + _field(2, value.encode())
    with Path(path).open("rb+") as file:
        file.truncate(graph_bytes)
        file.seek(0, os.SEEK_END)
        file.write(_field(_METADATA_PROPS, entry))


def _field(number: int, content: bytes) -> bytes:
    return _varint(number * 8 + _BYTES) + _varint(len(content)) + content


def _varint(value: int) -> bytes:
    parts = bytearray()
    while value > 0x7F:
        parts.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes(parts) + bytes([value])


def _read_props(file: BinaryIO, end: int) -> dict[str, str]:
    props = {}
    while file.tell() < end:
        number, content = _read_field(file, end, wanted=_METADATA_PROPS)
        if number == _METADATA_PROPS and content is not None:
            key, value = _read_entry(content)
            props[key] = value
    return props


def _read_field(file: BinaryIO, end: int, wanted: int) -> tuple[int, bytes | None]:
    """One field: its number, and its bytes where it is the wanted one."""
    number, kind = divmod(_read_varint(file), 8)
    if number == 0:
        raise EOFError("field number 0")
    if kind == _VARINT:
        _read_varint(file)
        return number, None
    if kind not in (_BYTES, _FIXED64, _FIXED32):
        raise EOFError(f"wire type {kind}")
    length = _read_varint(file) if kind == _BYTES else 8 if kind == _FIXED64 else 4
    if file.tell() + length > end:
        raise EOFError("a field reaches past the end")
    if number != wanted or kind != _BYTES:
        file.seek(length, os.SEEK_CUR)
        return number, None
    if length > _MAX_ENTRY:
        raise EOFError(f"a metadata entry of {length} bytes")
    return number, file.read(length)


def _read_varint(file: BinaryIO) -> int:
    value = 0
    for shift in range(0, 70, 7):
        byte = file.read(1)
        if not byte:
            raise EOFError("it ends within a number")
        value |= (byte[0] & 0x7F) << shift
        if byte[0] < 0x80:
            return value
    raise EOFError("a number of more than 64 bits")


def _read_entry(content: bytes) -> tuple[str, str]:
    """``StringStringEntryProto``: key = 1, value = 2."""
    parts = {1: b"", 2: b""}
    position = 0
    while position < len(content):
        number, kind = divmod(content[position], 8)
        length, position = _varint_at(content, position + 1)
        if number not in parts or kind != _BYTES or position + length > len(content):
            raise EOFError("a metadata entry that is none")
        parts[number] = content[position : position + length]
        position += length
    return parts[1].decode(), parts[2].decode()


def _varint_at(content: bytes, position: int) -> tuple[int, int]:
    value = shift = 0
    while position < len(content) and shift < 70:
        byte = content[position]
        value |= (byte & 0x7F) << shift
        position, shift = position + 1, shift + 7
        if byte < 0x80:
            return value, position
    raise EOFError("a metadata entry that ends within a number")
