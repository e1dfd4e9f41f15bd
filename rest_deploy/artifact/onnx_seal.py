"""The seal of an ONNX file of ours: the last entry of its metadata is the SHA-256 of all that comes before it.

A flipped bit in the weights or in the record is found by it, and a graph that was exchanged under its record. It is no
signature: whoever wants to can compute a SHA-256 too (``onnx_graph.py``).
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from rest_deploy.artifact.identity import sha256_of_first
from rest_deploy.artifact.info import METADATA_KEY, ArtifactInfo
from rest_deploy.artifact.onnx_metadata import metadata_entry, open_onnx, stamp
from rest_deploy.artifact.wire import size_of
from rest_deploy.errors import ArtifactError

SEAL_KEY = "rest_deploy_sha256"
_SEAL_BYTES = len(metadata_entry(SEAL_KEY, "0" * 64))


def write_record(path: str | Path, graph_bytes: int, info: ArtifactInfo) -> None:
    """Write a record behind the graph of an ONNX file, over one that is there, and seal the file.

    Args:
        path: The file.
        graph_bytes: Length of the file without the record.
        info: The record.
    """
    stamp(path, graph_bytes, METADATA_KEY, info.to_json())
    with Path(path).open("rb+") as file:
        file.write(_seal(file, size_of(file)))  # hashing leaves the file at its end


def check_seal(path: str | Path) -> None:
    """Make sure that an ONNX file is as it was when it was made.

    Raises:
        ArtifactError: It is not, or cannot be read.
    """
    with open_onnx(path) as (file, size):
        refuse_unsealed(path, file, size)


@contextmanager
def checking_seal(path: str | Path) -> Iterator[None]:
    """Check the seal of a file beside the block that opens it; one after the other a start takes a tenth longer.

    Raises:
        ArtifactError: As :func:`check_seal`; where the block found an error of the file too, the seal's.
    """
    broken: list[ArtifactError] = []

    def check() -> None:
        try:
            check_seal(path)
        except ArtifactError as exc:
            broken.append(exc)

    thread = threading.Thread(target=check, name="rest_deploy-seal")
    thread.start()
    try:
        yield
    except ArtifactError as exc:
        thread.join()
        if broken:
            raise broken[0] from exc
        raise
    finally:
        thread.join()
    if broken:
        raise broken[0]


def refuse_unsealed(path: str | Path, file: BinaryIO, size: int) -> None:
    """As :func:`check_seal`, of an open file of so many bytes that is named ``path`` in the error."""
    expected = _seal(file, max(0, size - _SEAL_BYTES))
    if file.read() != expected:
        raise ArtifactError(
            f"{path}: it is not as it was when it was made (damaged, changed since, or from before files were sealed); "
            "export it again"
        )


def _seal(file: BinaryIO, count: int) -> bytes:
    """The last entry of a file: the SHA-256 of its first so many bytes. The file is left behind them."""
    return metadata_entry(SEAL_KEY, sha256_of_first(file, count))
