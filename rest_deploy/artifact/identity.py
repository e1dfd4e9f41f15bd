"""The identity of a file: the SHA-256 of its content, and a value that changes when it is replaced."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import BinaryIO

#: Looks at what is replaced each time it is looked at, before it is given up.
LOOKS = 10
_BLOCK = 1 << 20

State = tuple[int, int, int] | None


def sha256_of(path: str | Path) -> str:
    """SHA-256 of a file, in hex."""
    with Path(path).open("rb") as file:
        return sha256_of_rest(file)


def sha256_of_rest(file: BinaryIO) -> str:
    """SHA-256 of what follows in an open file, in hex."""
    digest = hashlib.sha256()
    while block := file.read(_BLOCK):
        digest.update(block)
    return digest.hexdigest()


def state_of(path: Path) -> State:
    """A value that changes when a file is replaced or written to; None if there is no file."""
    try:
        status = path.stat()
    except OSError:  # what reads it says why
        return None
    return status.st_ino, status.st_size, status.st_mtime_ns
