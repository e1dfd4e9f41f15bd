"""Files that are whole or not there: written under a temporary name beside the target, flushed, then moved."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from rest_deploy.artifact.address import Place
from rest_deploy.artifact.workspace import workspace
from rest_deploy.errors import ExportError, unseen


def distinct_names(paths: Sequence[Place]) -> list[str]:
    """Names of artifacts; whole paths where two have one name, and a number where one comes twice."""
    names = [path.name for path in paths]
    if len(set(names)) < len(set(paths)):
        names = [str(path) for path in paths]
    seen: dict[str, int] = {}
    distinct = []
    for name in names:
        seen[name] = seen.get(name, 0) + 1
        distinct.append(name if seen[name] == 1 else f"{name} ({seen[name]})")
    return distinct


def bytes_of(path: Path) -> int:
    """Size of a file, or of all files of a folder."""
    return sum(file.stat().st_size for file in (path.rglob("*") if path.is_dir() else (path,)) if file.is_file())


def check_target(path: str | Path, *, folder: bool = False) -> Path:
    """Refuse a path at which nothing can be written: that of a folder, or in a folder that is missing.

    Args:
        path: Where.
        folder: Whether a folder is to be written; then anything at the path is refused.

    Raises:
        ExportError: The folder is missing, or the path is taken.
    """
    path = Path(path)
    if folder and os.path.lexists(path):  # which is False, not an error, for an impossible name
        raise ExportError(f"{path}: exists, and a folder is never written over; remove it, or name another")
    if os.path.isdir(path):
        raise ExportError(f"{path}: is a folder; name a file to write")
    if not os.path.isdir(path.parent):
        if why := unseen(path.parent):
            raise ExportError(f"{path.parent}: {why}; name another folder")
        raise ExportError(f"{path}: the folder {path.parent} does not exist; make it first")
    return path


def check_writable(path: str | Path, *, folder: bool = False) -> Path:
    """Make sure, before any work, that a file, or a folder, can be made at a path.

    Raises:
        ExportError: The folder is missing or not writable, or the path is taken.
    """
    path = check_target(path, folder=folder)
    try:
        with workspace(path.parent, path.name) as place:
            (place / path.name).touch()  # its name may be too long
    except OSError as exc:
        raise _not_writable(path, exc) from exc
    return path


def _not_writable(path: Path, exc: OSError) -> ExportError:
    if exc.errno == errno.ENAMETOOLONG:
        return ExportError(f"{path}: its name is too long for the file system, which takes some 255 bytes; shorten it")
    return ExportError(f"{path}: the folder cannot be written to: {exc.strerror}; name another folder")


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Give a temporary path beside ``path``; move it there when the block ends well, remove it when it does not.

    The temporary name is that of ``path`` in another folder, as runtimes choose by the suffix.

    Raises:
        ExportError: The file cannot be written or moved.
    """
    with workspace_of(path) as (target, folder):
        temporary = folder / target.name
        yield temporary
        flush(temporary)
        move(temporary, target)


@contextmanager
def making_folder(path: str | Path) -> Iterator[Path]:
    """Give an empty folder beside ``path``; move it there when the block ends well, remove it when it does not.

    Raises:
        ExportError: It cannot be written or moved, or ``path`` exists.
    """
    with workspace_of(path, folder=True) as (target, folder):
        made = folder / target.name
        made.mkdir()
        yield made
        for file in made.rglob("*"):
            if file.is_file():
                flush(file)
        check_target(target, folder=True)
        move(made, target)


@contextmanager
def workspace_of(path: str | Path, *, folder: bool = False) -> Iterator[tuple[Path, Path]]:
    """Give a target and a folder beside it to make it in, removed at the end.

    Raises:
        ExportError: The target cannot be written, or an OSError ended the block.
    """
    target = check_target(path, folder=folder)
    place: Path | None = None
    try:
        with workspace(target.parent, target.name) as place:
            yield target, place
    except OSError as exc:
        if place is None:
            raise _not_writable(target, exc) from exc
        other = exc.filename is not None and Path(os.fsdecode(exc.filename)).parent not in (place, target.parent)
        where = f" ({exc.filename})" if other else ""
        raise ExportError(f"{target}: cannot be written: {exc.strerror or exc}{where}") from exc


def flush(path: Path) -> None:
    """Flush a file to the disk, before it gets its name."""
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def move(source: Path, target: Path) -> None:
    """Rename a file over its target, and flush the folder to the disk."""
    source.replace(target)
    with suppress(OSError):  # moved is moved, also where a folder cannot be opened or flushed
        handle = os.open(target.parent, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
