"""The metadata of an ONNX file, read and written without the onnx package and without touching its weights.

An ONNX file is one protobuf message, ``ModelProto`` (github.com/onnx/onnx, onnx/onnx.proto). Fields other than
``metadata_props`` are skipped over, and one appended to the end of a file is a field like any other.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from rest_deploy.artifact.wire import BYTES, bytes_field, fields, size_of
from rest_deploy.errors import ArtifactError

_METADATA_PROPS = 14  # field number in ModelProto
_MAX_ENTRY = 16 << 20  # bytes; labels of a thousand classes take 22 KiB
_MAX_ENTRIES = 1000


def read_onnx_metadata(path: str | Path) -> dict[str, str]:
    """Key-value metadata of an ONNX file.

    Raises:
        ArtifactError: The file is missing, empty, or no protobuf message.
    """
    with open_onnx(path) as (file, size):
        return _read_props(file, size)


@contextmanager
def open_onnx(path: str | Path) -> Iterator[tuple[BinaryIO, int]]:
    """Open an ONNX file to read it as a protobuf message; its size is given too.

    Raises:
        ArtifactError: The file is missing, empty, or the block finds that it is no protobuf message.
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            size = size_of(file)
            if size == 0:
                raise ArtifactError(f"{path}: empty file; export it again")
            yield file, size
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
    with Path(path).open("rb+") as file:
        file.truncate(graph_bytes)
        file.seek(0, os.SEEK_END)
        file.write(metadata_entry(key, value))


def metadata_entry(key: str, value: str) -> bytes:
    """An entry as it stands in a file."""
    return bytes_field(_METADATA_PROPS, bytes_field(1, key.encode()) + bytes_field(2, value.encode()))


def _read_props(file: BinaryIO, end: int) -> dict[str, str]:
    props: dict[str, str] = {}
    for number, kind, length in fields(file, end):
        if number == _METADATA_PROPS and kind == BYTES:
            if length > _MAX_ENTRY or len(props) == _MAX_ENTRIES:
                raise EOFError(f"a metadata entry of {length} bytes, after {len(props)} others")
            key, value = _read_entry(file, file.tell() + length)
            props[key] = value
    return props


def _read_entry(file: BinaryIO, end: int) -> tuple[str, str]:
    """``StringStringEntryProto``: key = 1, value = 2."""
    parts = {1: b"", 2: b""}
    for number, kind, length in fields(file, end):
        if number not in parts or kind != BYTES:
            raise EOFError("a metadata entry that is none")
        parts[number] = file.read(length)
    return parts[1].decode(), parts[2].decode()
