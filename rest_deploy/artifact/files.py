"""Files that are whole or not there: written under a temporary name beside the target, then moved."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rest_deploy.errors import ExportError


def check_writable(path: str | Path) -> Path:
    """Make sure, before any work, that a file can be made at a path.

    Raises:
        ExportError: The folder is missing or not writable, or the path is a folder.
    """
    path = Path(path)
    folder = path.parent
    if path.is_dir():
        raise ExportError(f"{path}: is a folder; name the file to write, for example {path / 'model.onnx'}")
    if not folder.is_dir():
        raise ExportError(f"{path}: the folder {folder} does not exist; make it first")
    try:
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".part", dir=folder)
        os.close(handle)
        os.unlink(name)
    except OSError as exc:
        raise ExportError(f"{path}: the folder cannot be written to: {exc.strerror}") from exc
    return path


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Give a temporary path beside ``path``; move it there when the block ends well, remove it when it does not.

    The temporary name keeps the suffix of ``path``, as runtimes choose by it.

    Raises:
        ExportError: The file cannot be written or moved.
    """
    path = check_writable(path)
    try:
        with tempfile.TemporaryDirectory(prefix=f".{path.name}.", suffix=".part", dir=path.parent) as folder:
            temporary = Path(folder) / path.name
            yield temporary
            with temporary.open("rb+") as file:
                os.fsync(file.fileno())
            temporary.replace(path)
    except OSError as exc:
        raise ExportError(f"{path}: cannot be written: {exc.strerror or exc}") from exc
