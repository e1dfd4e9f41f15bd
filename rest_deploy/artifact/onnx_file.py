"""An ONNX file of ours: the graph, behind it its record and its seal, both entries of the model's metadata.

It is read once, into memory that nobody else writes to: the bytes that were checked are those that a runtime is handed.
The seal is the SHA-256 of all that comes before it; a flipped bit in the weights or in the record is found by it, and a
graph that was exchanged under its record. It is no signature: whoever wants to can compute a SHA-256 too
(``onnx_graph.py``).
"""

from __future__ import annotations

import functools
import hashlib
import os
import stat
import threading
from collections.abc import Callable, Iterator, Mapping, Set
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rest_deploy.artifact.info import METADATA_KEY, ArtifactInfo
from rest_deploy.artifact.onnx_encoding import (
    Refused,
    bytes_field,
    read_model,
    text_entry,
    with_blocks_of,
    without_blocks,
    without_weights,
)
from rest_deploy.artifact.onnx_graph import refuse_hostile
from rest_deploy.errors import ArtifactError, ConfigError, PredictorError, no_file

SEAL_KEY = "rest_deploy_sha256"
OperatorsOf = Callable[[ArtifactInfo], Set[str]]
_MAX_BYTES = (1 << 31) - 1  # of a protobuf message


class OnnxFile:
    """A file that has been read, and what it says of itself.

    Args:
        path: Where it lies.

    Attributes:
        content: All of it, as it was when it was read.
        info: Its record.

    Raises:
        ArtifactError: It is missing, unreadable, no ONNX file, or was not made by rest-export.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.content = _read(self.path)
        self._model = _model_of(self.content, path)
        entries = dict(_metadata(self._model))
        if METADATA_KEY not in entries:
            raise ArtifactError(
                f"{path}: an ONNX file that rest-export did not make; export the checkpoint with rest-export"
            )
        try:
            self.info = ArtifactInfo.from_json(entries[METADATA_KEY], self.path)
        except ArtifactError as exc:
            raise ArtifactError(
                f"{exc}; the file is damaged, or of another version of rest_deploy: export it again"
            ) from exc

    def check_seal(self) -> None:
        """Make sure that the file is as it was when it was made.

        Raises:
            ArtifactError: It is not.
        """
        sealed = len(self.content) - _SEAL_BYTES
        if sealed < 0 or self.content[sealed:] != _seal(memoryview(self.content)[:sealed]):
            raise ArtifactError(
                f"{self.path}: it is not as it was when it was made (damaged, changed since, or from before files were "
                "sealed); export it again"
            )

    def check_graph(self, operators_of: OperatorsOf) -> None:
        """Make sure that all that is in the file is what rest-export could have written.

        Args:
            operators_of: Record -> operators that the graphs of its family may have in FP32.

        Raises:
            ArtifactError: It is not.
        """
        try:
            if [key for key, _ in _metadata(self._model)] != [METADATA_KEY, SEAL_KEY]:
                raise Refused("other metadata than its record and its seal")
            refuse_hostile(self.content, self._model, operators_of(self.info))
        except ConfigError as exc:
            raise ArtifactError(f"{self.path}: metadata cannot be read: {exc}; export it again") from exc
        except (Refused, UnicodeDecodeError) as exc:
            raise ArtifactError(
                f"{self.path}: refused: it has {exc}, as no file of rest-export; export the checkpoint again"
            ) from exc

    def without_weights(self, place: str) -> bytes:
        """Its graph for a runtime that takes large weights out of ``content``: as external data of this name.

        It must have been checked: see :meth:`check_graph`.
        """
        return without_weights(self.content, self._model, place)

    def with_blocks_of(self, numbers: int) -> tuple[bytes, Callable[[str], bytes]]:
        """Its bytes with other blocks of large maps, and what :meth:`without_weights` is of these.

        It must have been checked: see :meth:`check_graph`.
        """
        content = with_blocks_of(self.content, self._model, numbers)
        return content, functools.partial(without_weights, content, self._model)

    def without_blocks(self) -> tuple[bytes, Callable[[str], bytes]]:
        """Its bytes with each large map as it was traced alone, and what :meth:`without_weights` is of these.

        It must have been checked: see :meth:`check_graph`.
        """
        content = without_blocks(self.content, self._model)
        return content, functools.partial(without_weights, content, read_model(content))

    @contextmanager
    def checking_seal(self) -> Iterator[None]:
        """Check the seal beside the block that opens the file; one after the other a start takes a tenth longer.

        Raises:
            ArtifactError: As :meth:`check_seal`; where the block found an error of the file too, the seal's.
        """
        broken: list[ArtifactError] = []

        def check() -> None:
            try:
                self.check_seal()
            except ArtifactError as exc:
                broken.append(exc)

        thread = threading.Thread(target=check, name="rest_deploy-seal")
        try:
            thread.start()
        except RuntimeError:  # no thread is to be had
            self.check_seal()
            yield
            return
        try:
            yield
        except ArtifactError as exc:
            thread.join()
            if broken:
                raise broken.pop() from exc  # kept here, its frames would keep each other, and with them the file
            raise
        finally:
            thread.join()
        if broken:
            raise broken.pop()


def sealed_info(path: Path) -> ArtifactInfo:
    """The record of a file, once the file has been found to be as it was made; nothing heavy is loaded.

    Raises:
        ArtifactError: The file is missing, damaged or not ours.
    """
    file = OnnxFile(path)
    file.check_seal()
    return file.info


def read_checked(path: str | Path, operators_of: OperatorsOf) -> OnnxFile:
    """A file that is as it was when it was made, and as rest-export makes them.

    Args:
        path: Where it lies.
        operators_of: As of :meth:`OnnxFile.check_graph`.

    Raises:
        ArtifactError: It is not, or cannot be read.
    """
    file = OnnxFile(path)
    file.check_seal()
    file.check_graph(operators_of)
    return file


def write_record(path: str | Path, info: ArtifactInfo, *, graph: str | Path | None = None) -> None:
    """Write a record behind the graph of an ONNX file, in place of one that is there, and seal the file.

    Args:
        path: File to write.
        info: The record.
        graph: File whose graph it is; None for ``path`` itself.

    Raises:
        ArtifactError: The file cannot be read, or has other metadata than a record.
        OSError: It cannot be written.
    """
    source = path if graph is None else graph
    content = _read(Path(source))
    metadata = _metadata(_model_of(content, source))
    if [key for key, _ in metadata] not in ([], [METADATA_KEY, SEAL_KEY]):
        raise ArtifactError(
            f"{source}: it has metadata already: {', '.join(str(key) for key, _ in metadata)}; remove it"
        )
    size = sum(len(_entry(key, value)) for key, value in metadata)
    Path(path).write_bytes(sealed(content[: len(content) - size], info.to_json()))


def sealed(graph: bytes, record: str) -> bytes:
    """A file: a model without metadata, its record and its seal."""
    content = graph + _entry(METADATA_KEY, record)
    return content + _seal(content)


def _model_of(content: bytes, path: str | Path) -> dict[str, Any]:
    try:
        return read_model(content)
    except (Refused, UnicodeDecodeError) as exc:
        raise ArtifactError(f"{path}: damaged, truncated, or not made by rest-export ({exc}); export it again") from exc


def _metadata(model: Mapping[str, Any]) -> list[tuple[str, str]]:
    return [(entry.get("key", ""), entry.get("value", "")) for entry in model.get("metadata_props", ())]


def _seal(content: bytes | memoryview) -> bytes:
    """The last entry of a file: the SHA-256 of what stands before it."""
    return _entry(SEAL_KEY, hashlib.sha256(content).hexdigest())


def _entry(key: str, value: str) -> bytes:
    """An entry of ``metadata_props`` as it stands in a file."""
    return bytes_field(14, text_entry(key, value))


_SEAL_BYTES = len(_seal(b""))


def _read_only(path: str, flags: int) -> int:
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))  # a pipe is not waited for


def _read(path: Path) -> bytes:
    """What a file holds that is one, and of a size that an ONNX file can have."""
    try:
        with open(path, "rb", opener=_read_only) as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise ArtifactError(f"{path}: {no_file(path)}")
            if status.st_size == 0:
                raise ArtifactError(f"{path}: empty file; export it again")
            if status.st_size > _MAX_BYTES:
                raise ArtifactError(
                    f"{path}: {status.st_size:,} bytes; an ONNX file has at most {_MAX_BYTES:,}; export it again"
                )
            return file.read(status.st_size + 1)  # no more is asked for than there is: Python has it ready at once
    except IsADirectoryError as exc:
        raise ArtifactError(f"{path}: {no_file(path)}") from exc
    except FileNotFoundError as exc:
        make = f"make it: rest-export --checkpoint CHECKPOINT --output {path}"
        raise ArtifactError(f"{path}: {no_file(path)}; {make}") from exc
    except OSError as exc:
        raise ArtifactError(f"{path}: cannot be read: {exc.strerror}") from exc
    except MemoryError as exc:
        raise PredictorError(f"{path}: not enough memory to read its {status.st_size:,} bytes") from exc
    except ValueError as exc:  # a name with a null in it
        raise ArtifactError(f"{str(path)!r}: cannot be read: {exc}") from exc
