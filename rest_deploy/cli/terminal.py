"""What all commands share: exit codes, one-line errors, clean text, how far they are."""

from __future__ import annotations

import argparse
import contextlib
import errno
import logging
import os
import shlex
import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from rest_deploy.cli.process import BROKEN_PIPE, INTERRUPTED, interruptions, lost, standard_streams
from rest_deploy.errors import RestDeployError

OK, FAILED = 0, 1  # 2, wrong usage, is argparse's own
#: What an artifact may be beside a file, for helps.
ON_A_SERVER = "a model on a Triton server, http://HOST:8000/NAME or grpc://HOST:8001/NAME"
LINE_EVERY_S = 60.0  # of progress that nobody watches, as in the log of a job


def command(
    main: Callable[[argparse.Namespace], int],
    make_parser: Callable[[], argparse.ArgumentParser],
    is_asked_for: Callable[[argparse.Namespace], bool] = lambda _: True,
) -> Callable[..., int]:
    """A command's entry point: our errors become one line on stderr and exit code 1, with no traceback.

    Whether stdout can be written does not change what the command makes. Where what is printed is what was asked for,
    and cannot be written, the exit code is 1; where its reader went away, as head does, 141 and no line.

    Args:
        main: The parsed arguments -> exit code. ``command_line`` among them is the command as it was typed.
        make_parser: Makes the parser.
        is_asked_for: Whether what is printed is what was asked for, or only tells of files that were.
    """

    def run(argv: Sequence[str] | None = None) -> int:
        asked = True

        def work() -> int:
            nonlocal asked
            arguments = _parsed(make_parser(), argv)
            asked = is_asked_for(arguments)
            verbose = getattr(arguments, "verbose", False)
            logging.basicConfig(level=logging.ERROR, format="%(message)s", stream=sys.stderr)
            logging.getLogger("rest_deploy").setLevel(logging.INFO if verbose else logging.ERROR)
            if not verbose:
                warnings.simplefilter("ignore")  # of third parties; ours are errors or notes
            with _terminating():
                return main(arguments)

        with standard_streams():
            try:
                return _once_printed(exit_code(work), asked=asked)
            except SystemExit as exc:  # of argparse, or by SIGTERM
                raise SystemExit(_once_printed(exc.code, asked=asked)) from None

    return run


def _parsed(made: argparse.ArgumentParser, argv: Sequence[str] | None) -> argparse.Namespace:
    words = sys.argv[1:] if argv is None else list(argv)
    if "" in words:  # of a shell variable that is not set; as a path it would be the current folder
        made.error("one of the arguments is empty")
    arguments = made.parse_args(words)
    arguments.command_line = shlex.join([made.prog, *words])
    return arguments


def exit_code(work: Callable[[], int]) -> int:
    """Run a command's work; returns the exit code. An error becomes one line on stderr."""
    told: str | None
    try:
        return work()
    except RestDeployError as exc:
        if logging.getLogger("rest_deploy").isEnabledFor(logging.INFO):
            logging.getLogger(__name__).exception("where it happened:")
        told = str(exc)
    except (OSError, MemoryError, UnicodeError, ImportError) as exc:
        # of the machine, not of the request: a disk, a limit
        told = f"{type(exc).__name__}: {exc}"
    except KeyboardInterrupt:
        told = None
    if told is None or interruptions:
        print("interrupted", file=sys.stderr)
        return INTERRUPTED
    print(f"error: {clean(told)}", file=sys.stderr)
    return FAILED


def _once_printed(code: Any, *, asked: bool) -> Any:
    """The exit code, once it is known whether what was printed could be written."""
    why = lost(sys.stdout)
    if why is None:
        return code
    if isinstance(why, BrokenPipeError):
        return code or (BROKEN_PIPE if asked else OK)
    if asked:
        print(f"error: standard output cannot be written to: {why.strerror}", file=sys.stderr)
        return code or FAILED
    if why.errno != errno.EBADF:  # who closes it wants to hear nothing
        print(f"warning: standard output cannot be written to: {why.strerror}", file=sys.stderr)
    return code


@contextlib.contextmanager
def _terminating() -> Iterator[None]:
    """Let SIGTERM, and a terminal that is closed, end the command as an exception does: what it made, and a server that
    it started, would stay else. Under nohup, which ignores the latter, it goes on.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    signals = [signal.SIGTERM, *([signal.SIGHUP] if hasattr(signal, "SIGHUP") else [])]
    before = {own: signal.getsignal(own) for own in signals}
    for own, handler in before.items():
        if handler is not signal.SIG_IGN:
            signal.signal(own, lambda number, _: sys.exit(128 + number))
    try:
        yield
    finally:
        for own, handler in before.items():
            signal.signal(own, handler)


def failed(failures: Sequence[str]) -> int:
    """The exit code of work that may fail in parts; a line on stderr says the first failure."""
    if not failures:
        return OK
    more = f" (and {len(failures) - 1} more)" if len(failures) > 1 else ""
    print(f"error: {clean(failures[0])}{more}", file=sys.stderr)
    return FAILED


def parser(name: str, description: str) -> argparse.ArgumentParser:
    """A parser with what every command has."""
    made = argparse.ArgumentParser(prog=name, description=description)
    made.add_argument("--version", action=_Version, nargs=0, help="print the version and exit")
    made.add_argument("--verbose", action="store_true", help="print each step, and where an error happened")
    return made


class _Version(argparse.Action):
    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        import importlib.metadata  # slow to load, and every command would wait for it

        print(f"rest-deploy {importlib.metadata.version('rest-deploy')}")
        parser.exit()


def clean(text: str) -> str:
    """Text fit for a terminal: one line, control characters shown as escapes instead of obeyed."""
    line = " ".join(text.split())
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in line)


@contextlib.contextmanager
def progress_display(what: str, clock: Callable[[], float] = time.monotonic) -> Iterator[Callable[[float, str], None]]:
    """Show on stderr how far something is: a bar with the time that is left where a person watches, elsewhere lines.

    The bar is there from the first report of something that is not done, and is wiped at the end. It needs rich, which
    the extras export and bench bring; without it, on a dumb terminal and with ``--verbose``, whose lines tell as
    much, there is a line a minute as there is in the log of a job.

    Args:
        what: Is going on.
        clock: Seconds.

    Yields:
        A function of the share of a step that is done, 0 to 1, and the name of the step; a share that falls begins
        another step. It may be called from any thread.
    """
    with contextlib.ExitStack() as ended:
        watched = sys.stderr.isatty() and os.environ.get("TERM") != "dumb"
        verbose = logging.getLogger("rest_deploy").isEnabledFor(logging.INFO)
        yield (watched and not verbose and _bar(what, ended)) or _lines(what, clock)


def _lines(what: str, clock: Callable[[], float]) -> Callable[[float, str], None]:
    said = clock()

    def report(share: float, step: str) -> None:
        nonlocal said
        if clock() - said >= LINE_EVERY_S:
            said = clock()
            print(f"{what}: {share:.0%}, {clean(step)}", file=sys.stderr, flush=True)

    return report


def _bar(what: str, ended: contextlib.ExitStack) -> Callable[[float, str], None] | None:
    """A bar, or None where rich is not installed."""
    from importlib.util import find_spec

    if find_spec("rich") is None:
        return None
    lock, shown, last = threading.Lock(), None, (0.0, "")

    def report(share: float, step: str) -> None:
        nonlocal shown, last
        with lock:
            if shown is None and share < 1:
                shown = ended.enter_context(_rich_progress())
            if shown is None:
                return
            said = {"description": f"{what}: {clean(step)}", "total": 1.0 if share else None, "completed": share}
            another = share < last[0] or (not share and step != last[1]) or (share and not last[0])
            if another or not shown.task_ids:
                for task in shown.task_ids:
                    shown.remove_task(task)
                shown.add_task(**said)
            last = share, step
            shown.update(shown.task_ids[0], **said)
            shown.refresh()

    return report


def _rich_progress() -> Any:
    """How far, how long so far, how long still.

    It draws when something is reported and has no thread of its own: what is measured meanwhile is not disturbed, and
    standard error can be held back (``doctor/checks.py``).
    """
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        Progress,
        TaskProgressColumn,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )
    from rich.table import Column

    step = TextColumn("{task.description}", markup=False, table_column=Column(no_wrap=True, overflow="ellipsis"))
    bar, times = (BarColumn(20), TaskProgressColumn()), (TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn())
    console = Console(stderr=True)
    return Progress(step, *bar, *times, console=console, transient=True, auto_refresh=False, redirect_stdout=False)
