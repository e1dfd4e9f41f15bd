"""Folders for work in progress, each locked by the process that works in it.

A killed process leaves its folder, and its lock goes with it: whoever works in the same place next finds a folder that
nobody holds, and removes it. A process that lives holds its lock, so that exports side by side leave each other alone.
"""

from __future__ import annotations

import errno
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

if sys.platform != "win32":
    import fcntl

#: Of a folder of work in progress: ``.NAME.RANDOM.rest-part``.
SUFFIX = ".rest-part"
#: What file systems say that have no locks.
_NO_LOCKS = (errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL, errno.ENOLCK, errno.EBADF)
#: Seconds. A rename takes milliseconds, but minutes on a disk that has much else to write. There is an end, as whoever
#: waits may wait for its own parent: ``flock FOLDER rest-export``.
_PATIENCE, _PAUSE = 600.0, 0.002
_NAME_LENGTH = 40  # so that a name of 255 bytes, the most that file systems take, still has room for the rest


@contextmanager
def workspace(parent: str | Path, name: str) -> Iterator[Path]:
    """Make a folder, and remove it with all that is in it when the block ends, however it ends.

    What killed processes left in the same place is removed too.

    Args:
        parent: Where.
        name: Of what is being made, for those who see the folder.

    Raises:
        OSError: It cannot be made.
    """
    parent = Path(parent)
    remove_abandoned(parent)
    folder, handle = _make(parent, name)
    try:
        yield folder
    finally:
        try:
            shutil.rmtree(folder, ignore_errors=True)  # what was made is whole by now, or there is an error to tell
        finally:
            _close(handle)


def remove_abandoned(parent: Path) -> None:
    """Remove folders of work in progress that no process holds any more. What cannot be removed stays."""
    try:
        with os.scandir(parent) as entries:
            found = [Path(entry.path) for entry in entries if entry.name[0] == "." and entry.name.endswith(SUFFIX)]
    except OSError:  # a folder that may not be listed
        return
    for folder in found:
        try:
            handle = _lock(folder, wait=False)
        except OSError:  # in use, somebody else's, gone meanwhile, or on a file system that does not tell
            continue
        try:
            if handle is not None and os.fstat(handle).st_uid == os.geteuid():
                shutil.rmtree(folder, ignore_errors=True)
        finally:
            _close(handle)


@contextmanager
def holding(folder: Path) -> Iterator[None]:
    """Keep others who ask for it out of a folder, for the moment that a rename takes.

    Without effect on file systems that have no locks.

    Raises:
        OSError: Somebody has held it for ten minutes.
    """
    handle = None
    end = time.monotonic() + _PATIENCE
    while True:
        try:
            handle = _lock(Path(os.path.realpath(folder)), wait=False)
            break
        except BlockingIOError:
            if time.monotonic() > end:
                reason = f"another process has the folder {folder} locked; see lslocks"
                raise OSError(errno.EBUSY, reason) from None
            time.sleep(_PAUSE)
        except OSError:
            break
    try:
        yield
    finally:
        _close(handle)


@contextmanager
def alone(path: Path) -> Iterator[IO[bytes]]:
    """Open a file to read and to append to, made where there is none, that one process has at a time.

    Others are not kept out on file systems that have no locks.

    Raises:
        BlockingIOError: Another process has it.
        OSError: It cannot be opened.
    """
    with open(path, "a+b") as file:
        if sys.platform != "win32":
            try:
                fcntl.flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise
            except OSError as exc:
                if exc.errno not in _NO_LOCKS:
                    raise
            if not path.exists() or not os.path.samestat(os.fstat(file.fileno()), path.stat()):
                raise BlockingIOError(errno.EWOULDBLOCK, "another process has just removed it", str(path))
        yield file


def _make(parent: Path, name: str) -> tuple[Path, int | None]:
    """A new folder and its lock, None where the file system has none: nobody takes it for abandoned there."""
    while True:
        folder = Path(tempfile.mkdtemp(prefix=f".{name[:_NAME_LENGTH]}.", suffix=SUFFIX, dir=parent))
        try:
            handle = _lock(folder, wait=True)
        except FileNotFoundError:  # removed as abandoned by another process, before it was locked
            continue
        except OSError as exc:
            if exc.errno in _NO_LOCKS:
                return folder, None
            folder.rmdir()
            raise
        if handle is None or folder.exists():
            return folder, handle
        _close(handle)


def _lock(folder: Path, *, wait: bool) -> int | None:
    """An open folder that is locked until it is closed, or its process ends; None where Python has no such locks."""
    if sys.platform == "win32":
        return None
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BaseException:
        os.close(handle)
        raise
    return handle


def _close(handle: int | None) -> None:
    """Unlock first: a process that was forked meanwhile has the open folder too, and with it the lock."""
    if handle is not None and sys.platform != "win32":
        try:
            fcntl.flock(handle, fcntl.LOCK_UN)
        finally:
            os.close(handle)
