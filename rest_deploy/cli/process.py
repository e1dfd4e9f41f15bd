"""The process of a command: three standard streams, whatever it was started with, and an end without a traceback.

Loaded before anything else of a command, so it imports only what Python has loaded by then. What has to be right before
the packages load stands here; what is printed, and which exit code it gives, in ``terminal.py``.

- A stream that was closed leaves its number free. The next file that is opened gets it, an artifact that is being
  written among them, and whatever prints by number, as native libraries do, prints into that file.
- Python raises where a stream cannot be written, in the middle of the work, and once more when it flushes at its end.
- Ctrl-C while packages load is a traceback from somewhere inside of one of them.
"""

from __future__ import annotations

import contextlib
import errno
import gc
import importlib
import io
import os
import signal
import sys
from collections.abc import Callable, Iterator
from functools import partial
from types import FrameType
from typing import Any, TextIO

INTERRUPTED = 130  # 128 + SIGINT, as shells have it
BROKEN_PIPE = 141  # 128 + SIGPIPE, likewise
_STREAMS = 3
#: A folder that has a path, and in which nothing can be made.
_NOWHERE = "/proc/self/fdinfo"
#: Signals of Ctrl-C while the command worked.
interruptions: list[int] = []


def start(name: str) -> int:
    """Run a command that has the process to itself; returns its exit code.

    Args:
        name: Of a module of ``rest_deploy.cli`` with a ``main``.
    """
    _open_closed_streams()
    _guard()
    _leave_a_deleted_folder()
    # not where we were started with nohup
    interruptible = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    try:
        if interruptible:
            signal.signal(signal.SIGINT, _end)
        from rest_deploy.cli.terminal import exit_code

        def work() -> int:
            main: Callable[[], int] = importlib.import_module(f"rest_deploy.cli.{name}").main
            if interruptible:  # from here on there may be something to put away
                signal.signal(signal.SIGINT, _interrupt)
            return main()

        return exit_code(work)
    except KeyboardInterrupt:  # a second one, while the first was being told
        return INTERRUPTED
    finally:
        if interruptible:  # Python is about to end: no traceback from there either
            signal.signal(signal.SIGINT, signal.SIG_DFL)
        if name == "predict":  # nor a search of all that was loaded for garbage, which takes a twentieth of it;
            gc.freeze()  # what others load, as onnxsim, needs it, or lists what was left as leaked


rest_bench = partial(start, "bench")
rest_doctor = partial(start, "doctor")
rest_export = partial(start, "export")
rest_info = partial(start, "info")
rest_predict = partial(start, "predict")
rest_serve = partial(start, "serve")
rest_verify = partial(start, "verify")


def _end(*_: object) -> None:
    """End at once: nothing has been made yet, and packages that are loading turn exceptions into others."""
    with contextlib.suppress(OSError):
        os.write(2, b"interrupted\n")
    os._exit(INTERRUPTED)


def _interrupt(number: int, frame: FrameType | None) -> None:
    """As Python does, and keep it in mind: a package that is loading may make an error of its own of the exception."""
    interruptions.append(number)
    signal.default_int_handler(number, frame)


def _open_closed_streams() -> None:
    """Have something under the numbers 0, 1 and 2, before any file is opened."""
    for number in range(_STREAMS):
        try:
            os.fstat(number)
        except OSError:
            opened = os.open(os.devnull, os.O_RDWR)  # the lowest number that is free, which is this one
            os.set_inheritable(opened, True)


def _leave_a_deleted_folder() -> None:
    """Have a current folder: without one, oneMKL ends the process as PyTorch is imported, with exit code 2.

    Nothing can be read or made by a relative path there, as in the folder that was deleted.
    """
    try:
        os.getcwd()
    except FileNotFoundError:
        with contextlib.suppress(OSError):
            os.chdir(_NOWHERE)


class _Sink(io.RawIOBase):
    """What is under a standard stream: takes all that is written, and keeps the first error instead of raising it.

    Args:
        raw: The file; None where the stream is closed.
        name: Of the stream.
    """

    def __init__(self, raw: Any, name: str) -> None:
        super().__init__()
        self._raw = raw
        self.name = name
        self.lost: OSError | None = None

    def write(self, data: Any) -> int:
        size = memoryview(data).nbytes
        if self.lost is None:
            try:
                return self._written(data)
            except OSError as exc:
                self.lost = exc
        return size

    def _written(self, data: Any) -> int:
        if self._raw is None:
            raise OSError(errno.EBADF, "it is closed")
        while (count := self._raw.write(data)) is None:  # a pipe that is full, and that its owner made non-blocking
            import select

            select.select([], [self._raw], [])
        return int(count)

    def writable(self) -> bool:
        return True

    def isatty(self) -> bool:
        return self._raw is not None and bool(self._raw.isatty())

    def fileno(self) -> int:
        if self._raw is None:
            raise io.UnsupportedOperation("fileno")
        return int(self._raw.fileno())


@contextlib.contextmanager
def standard_streams() -> Iterator[None]:
    """Have ``sys.stdout`` and ``sys.stderr`` be there and never raise, where they are the process's own.

    Those that a caller has put in their place are the caller's.
    """
    before = sys.stdout, sys.stderr
    _guard()
    try:
        yield
    finally:
        for stream in (sys.stdout, sys.stderr):
            lost(stream)
        sys.stdout, sys.stderr = before


def lost(stream: TextIO) -> OSError | None:
    """Why something of what was printed has not been written; None where all of it has."""
    try:
        stream.flush()
    except OSError as exc:
        return exc
    raw = getattr(getattr(stream, "buffer", None), "raw", None)
    return raw.lost if isinstance(raw, _Sink) else None


def _guard() -> None:
    for name, own in (("stdout", sys.__stdout__), ("stderr", sys.__stderr__)):
        stream = getattr(sys, name)
        if stream is None:  # it was closed, or there is none, as under pythonw
            _replace(name, None, "utf-8", line_buffering=False)
        elif stream is own and isinstance(stream, io.TextIOWrapper):
            lines = stream.line_buffering or stream.write_through
            _replace(name, getattr(stream.buffer, "raw", stream.buffer), stream.encoding, line_buffering=lines)


def _replace(name: str, raw: Any, encoding: str, *, line_buffering: bool) -> None:
    if (before := getattr(sys, name)) is not None:
        with contextlib.suppress(OSError, ValueError):
            before.flush()  # of whoever printed before us
    file = io.BufferedWriter(_Sink(raw, f"<{name}>"))
    # labels and paths that the terminal cannot show
    setattr(sys, name, io.TextIOWrapper(file, encoding, errors="backslashreplace", line_buffering=line_buffering))
