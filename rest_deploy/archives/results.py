"""Rows of answers in a file that is whole or not there, and what keeps them until then.

    results.jsonl            the rows, once all are there; .parquet likewise
    results.jsonl.part       the rows so far, in order, as JSON lines
    results.jsonl.run.json   what they are of; it stays beside the results, as --resume reads it

They stand beside a local output. Of one elsewhere, as s3://bucket/results.parquet, the last two are in the current
folder.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from rest_deploy.archives.sources import Item, Shard, is_uri
from rest_deploy.artifact.files import check_writable, replacing
from rest_deploy.artifact.workspace import alone
from rest_deploy.errors import ConfigError, ExportError, ImageError, MissingPackageError, one_line, unseen
from rest_deploy.predictor import Prediction
from rest_deploy.values import load_json

JSONL, PARQUET = ".jsonl", ".parquet"
PART, TOLD = ".part", ".run.json"
_GROUP = 8 << 20  # bytes of rows, as JSON, in a row group of Parquet
_SHOWN = 16  # characters in a message, as of a SHA-256
#: Of a row. In names and labels each quotation mark stands behind a backslash.
_NO_ERROR = b'"error": null, '
Record = Mapping[str, Any]


def row(item: Item, answer: list[Prediction] | ImageError) -> bytes:
    """A row as a line of JSON: exact scores, and no predictions where there is an error."""
    if isinstance(answer, ImageError):  # which begins with what the row says: the path, the name, or "image"
        path, name = re.escape(item.path[:200]), re.escape(item.name)
        error = re.sub(rf"^(?:{path}.*?|{name}|image(?: \d+ of the list)?): ", "", str(answer))
        made: dict[str, Any] = {"image": item.name, "error": error, "predictions": []}
    else:
        made = {"image": item.name, "error": None, "predictions": answer}
    return json.dumps(made).encode("ascii") + b"\n"


@dataclass(frozen=True)
class Output:
    """Where results go.

    Args:
        path: ``.jsonl`` or ``.parquet``: a path, or a URI that pyarrow's file systems reach.
        shard: Which part of the images they are of; None for all.

    Raises:
        ConfigError: Neither suffix.
        MissingPackageError: It needs pyarrow.
    """

    path: str
    shard: Shard | None = None

    def __post_init__(self) -> None:
        if not self.path.endswith((JSONL, PARQUET)):
            raise ConfigError(f"--output {self.path}: accepted: a name that ends in {JSONL} or {PARQUET}")
        if self.remote or self.path.endswith(PARQUET):
            _pyarrow()

    @property
    def remote(self) -> bool:
        """Whether it is a URI."""
        return is_uri(self.path)

    @property
    def target(self) -> str:
        """The path with the shard in it, as results-00003-of-00016.parquet."""
        if self.shard is None:
            return self.path
        stem, suffix = os.path.splitext(self.path)
        return f"{stem}-{self.shard.number:05}-of-{self.shard.count:05}{suffix}"

    def beside(self, suffix: str) -> Path:
        """A file that goes with it."""
        return Path(f"{self.target.rpartition('/')[2] if self.remote else self.target}{suffix}")

    def owns(self, path: str) -> bool:
        """Whether a file is of these results or of another shard of them, or goes with them."""
        stem, suffix = os.path.splitext(self.path.rpartition("/")[2] if self.remote else os.path.abspath(self.path))
        shard, beside = r"(-\d{5}-of-\d{5})?", "|".join(map(re.escape, ("", PART, TOLD)))
        folder, name = os.path.split(os.path.abspath(stem))
        given, last = os.path.split(path)
        own = re.fullmatch(f"{re.escape(name)}{shard}{re.escape(suffix)}({beside})", last)
        return own is not None and os.path.realpath(given) == os.path.realpath(folder)

    def exists(self) -> bool:
        """Whether the results are there.

        Raises:
            ExportError: Its file system cannot be asked.
        """
        if not self.remote:
            if why := unseen(self.target):
                raise ExportError(f"--output {self.target}: {why}")
            return os.path.exists(self.target)
        import pyarrow.fs

        with self._reached():
            system, path = pyarrow.fs.FileSystem.from_uri(self.target)
            return bool(system.get_file_info(path).type != pyarrow.fs.FileType.NotFound)

    def check(self) -> None:
        """Try whether results can be written elsewhere, before any are made.

        Raises:
            ExportError: They cannot be.
        """
        if not self.remote:
            return  # rows_of has looked
        import pyarrow.fs

        with self._reached():
            system, path = pyarrow.fs.FileSystem.from_uri(self.target)
            trial = f"{path}.rest-trial"
            try:
                with system.open_output_stream(trial) as file:
                    file.write(b"\n")
            except BaseException:
                with suppress(OSError):
                    system.delete_file(trial)
                raise
            system.delete_file(trial)

    def write(self, rows: Path) -> None:
        """Make the results of the rows, whole or not at all.

        Raises:
            ExportError: They cannot be written.
        """
        if not self.remote:
            with replacing(self.target) as temporary, temporary.open("wb") as file:
                self._write(rows, file)
            return
        import pyarrow.fs

        with self._reached():
            system, path = pyarrow.fs.FileSystem.from_uri(self.target)
            part = f"{path}.rest-part"  # no name of ours, which may be there too
            try:
                with system.open_output_stream(part) as file:
                    self._write(rows, file)
                system.move(part, path)
            except BaseException:
                with suppress(OSError):
                    system.delete_file(part)
                raise

    @contextmanager
    def _reached(self) -> Iterator[None]:
        try:
            yield
        except (OSError, _pyarrow().ArrowException) as exc:
            raise ExportError(f"{self.target}: cannot be reached or written: {one_line(exc)}") from exc

    def _write(self, rows: Path, file: Any) -> None:
        with rows.open("rb") as source:
            groups: Iterable[list[bytes]] = iter(lambda: source.readlines(_GROUP), [])
            if self.path.endswith(JSONL):
                for lines in groups:
                    file.write(b"".join(lines))
                return
            pa = _pyarrow()
            import pyarrow.parquet

            prediction = pa.struct({"label": pa.string(), "index": pa.int64(), "score": pa.float64()})
            schema = pa.schema({"image": pa.string(), "error": pa.string(), "predictions": pa.list_(prediction)})
            with pyarrow.parquet.ParquetWriter(file, schema) as writer:
                for lines in groups:
                    writer.write_table(pa.Table.from_pylist([json.loads(line) for line in lines], schema))


def _pyarrow() -> Any:
    try:
        import pyarrow
    except ModuleNotFoundError as exc:
        raise MissingPackageError("pyarrow", f"write {PARQUET} files and to other file systems", "archives") from exc
    return pyarrow


class Rows:
    """The rows of an output until all are there.

    Args:
        output: Where they go.
        file: Of the rows so far.
        resume: Whether to go on from them, or to leave results that are there.

    Raises:
        ConfigError: There are rows or results, and ``resume`` is not given.
        ExportError: The results could not be written.
    """

    def __init__(self, output: Output, file: IO[bytes], *, resume: bool) -> None:
        self._output, self._file, self._path = output, file, output.beside(PART)
        self._told = output.beside(TOLD)
        #: Whether the results are there already.
        self.finished = output.exists()
        self.images = self.failed = 0
        self._begun = bool(file.seek(0, os.SEEK_END))
        if (self.finished or self._begun) and not resume:
            what, go_on = (output.target, "leave it") if self.finished else (str(self._path), "go on with it")
            raise ConfigError(f"{what}: is there already; give --resume to {go_on}, or delete it to begin anew")
        if not self.finished:
            output.check()

    def begin(self, record: Record) -> None:
        """Note what the rows are of.

        Raises:
            ConfigError: Rows or results are there, and they are of something else.
            ExportError: It cannot be written.
        """
        if not self.finished and not self._begun:
            with replacing(self._told) as temporary:
                temporary.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
            return
        what = self._output.target if self.finished else str(self._path)
        anew = f"delete {what} to begin anew"
        try:
            found = load_json(self._told.read_text(encoding="utf-8"))
        except (OSError, ValueError) as exc:
            raise ConfigError(f"{what}: {self._told}, which says what it is of: {one_line(exc)}; {anew}") from exc
        found = found if isinstance(found, dict) else {}
        for key in (key for key in record if found.get(key) != record[key]):
            was, now = ("the default" if of.get(key) is None else str(of[key])[:_SHOWN] for of in (found, record))
            raise ConfigError(f"{what}: is of a run with {key} {was}, this one has {now}; give it as then, or {anew}")
        if self.finished:
            self._file.truncate(0)  # of a process that ended between the results and the removal of this file

    def kept(self, blocks: Iterable[Sequence[Item]]) -> int:
        """Blocks whose rows are there and whole. What follows them is cut off: a process was killed as it wrote it."""
        self._file.seek(0)
        count = end = 0
        for block in blocks:
            lines = [self._file.readline() for _ in block]
            if not all(_is_of(line, item) for line, item in zip(lines, block, strict=True)):
                break
            self._count(b"".join(lines))
            count, end = count + 1, self._file.tell()
        self._file.truncate(end)
        return count

    def append(self, lines: bytes) -> None:
        """Add the rows of a block.

        Raises:
            ExportError: They cannot be written.
        """
        try:
            self._file.write(lines)
            self._file.flush()
            os.fsync(self._file.fileno())
        except OSError as exc:
            step = "make room, then go on with --resume"
            raise ExportError(f"{self._path}: cannot be written: {exc.strerror}; {step}") from exc
        self._count(lines)

    def finish(self) -> None:
        """Make the results of the rows.

        Raises:
            ExportError: They cannot be written.
        """
        self._output.write(self._path)
        self._file.truncate(0)  # so that the file is removed

    def _count(self, lines: bytes) -> None:
        rows = lines.count(b"\n")
        self.images += rows
        self.failed += rows - lines.count(_NO_ERROR)


@contextmanager
def rows_of(output: Output, *, resume: bool) -> Iterator[Rows]:
    """The rows of an output, which other processes cannot work on meanwhile.

    Raises:
        ConfigError: As of :class:`Rows`, or another process is at work on this output.
        ExportError: The folder cannot be written to.
    """
    path = output.beside(PART)
    if not output.remote:
        check_writable(output.target)
    check_writable(path)
    try:
        with alone(path) as file:
            try:
                yield Rows(output, file, resume=resume)
            finally:
                if not file.seek(0, os.SEEK_END):
                    path.unlink(missing_ok=True)
    except BlockingIOError as exc:
        raise ConfigError(f"{path}: another process is at work on it; wait for it, or give another --output") from exc


def _is_of(line: bytes, item: Item) -> bool:
    """Whether a line is a whole row of an image."""
    try:
        return line.endswith(b"\n") and json.loads(line)["image"] == item.name
    except (ValueError, TypeError, KeyError):
        return False
