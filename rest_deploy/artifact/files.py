"""Files that are whole or not there: written under a temporary name beside the target, then moved."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from rest_deploy.errors import ExportError


def distinct_names(paths: Sequence[Path]) -> list[str]:
    """Names of files; whole paths where two files have one name, and a number where one file comes twice."""
    names = [path.name for path in paths]
    if len(set(names)) < len(set(paths)):
        names = [str(path) for path in paths]
    seen: dict[str, int] = {}
    distinct = []
    for name in names:
        seen[name] = seen.get(name, 0) + 1
        distinct.append(name if seen[name] == 1 else f"{name} ({seen[name]})")
    return distinct


def check_writable(path: str | Path) -> Path:
    """Make sure, before any work, that a file can be made at a path.

    Raises:
        ExportError: The folder is missing or not writable, or the path is a folder.
    """
    path = Path(path)
    folder = path.parent
    if path.is_dir():
        raise ExportError(f"{path}: is a folder; name a file to write")
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
    with replacing_all([path]) as (temporary,):
        yield temporary


@contextmanager
def replacing_all(paths: Sequence[str | Path]) -> Iterator[tuple[Path, ...]]:
    """As :func:`replacing`, for files of one folder that belong together: all are moved, or none.

    Raises:
        ExportError: One of them cannot be written or moved.
    """
    targets = [check_writable(path) for path in paths]
    first = targets[0]
    try:
        with tempfile.TemporaryDirectory(prefix=f".{first.name}.", suffix=".part", dir=first.parent) as folder:
            temporaries = tuple(Path(folder) / target.name for target in targets)
            yield temporaries
            for temporary in temporaries:
                with temporary.open("rb+") as file:
                    os.fsync(file.fileno())
            _move_all(temporaries, targets, Path(folder))
    except OSError as exc:
        raise ExportError(f"{first}: cannot be written: {exc.strerror or exc}") from exc


def _move_all(temporaries: Sequence[Path], targets: Sequence[Path], folder: Path) -> None:
    """Move each file over its target; where one cannot be moved, put back what the others replaced."""
    before = {target: _second_name(target, folder) for target in targets if len(targets) > 1 and target.exists()}
    moved: list[Path] = []
    try:
        for temporary, target in zip(temporaries, targets, strict=True):
            temporary.replace(target)
            moved.append(target)
    except BaseException:
        for target in moved:
            if target in before:
                before[target].replace(target)
            else:
                target.unlink()
        raise


def _second_name(path: Path, folder: Path) -> Path:
    """Keep a file's content under another name, so that it survives being replaced."""
    kept = folder / f"{path.name}.before"
    try:
        os.link(path, kept)
    except OSError:  # a filesystem without hard links
        shutil.copy2(path, kept)
    return kept
