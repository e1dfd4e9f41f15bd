"""What all commands share: exit codes, one-line errors, clean text, a progress line."""

from __future__ import annotations

import argparse
import contextlib
import io
import logging
import os
import shlex
import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Sequence

from rest_deploy.errors import RestDeployError

OK, FAILED = 0, 1  # 2, wrong usage, is argparse's own
_BAR_WIDTH = 30
LINE_EVERY_S = 60.0  # of progress that nobody watches, as in the log of a job
INTERRUPTED = 130  # 128 + SIGINT, as shells have it


def command(
    main: Callable[[argparse.Namespace], int], make_parser: Callable[[], argparse.ArgumentParser]
) -> Callable[..., int]:
    """A command's entry point: our errors become one line on stderr and exit code 1, with no traceback.

    Args:
        main: The parsed arguments -> exit code. ``command_line`` among them is the command as it was typed.
        make_parser: Makes the parser.
    """

    def run(argv: Sequence[str] | None = None) -> int:
        made = make_parser()
        words = sys.argv[1:] if argv is None else list(argv)
        if "" in words:  # of a shell variable that is not set; as a path it would be the current folder
            made.error("one of the arguments is empty")
        arguments = made.parse_args(words)
        arguments.command_line = shlex.join([made.prog, *words])
        verbose = getattr(arguments, "verbose", False)
        logging.basicConfig(level=logging.ERROR, format="%(message)s", stream=sys.stderr)
        logging.getLogger("rest_deploy").setLevel(logging.INFO if verbose else logging.ERROR)
        if not verbose:
            warnings.simplefilter("ignore")  # of third parties; ours are errors or notes
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, io.TextIOWrapper):
                stream.reconfigure(errors="backslashreplace")  # labels and paths that the terminal cannot show
        try:
            with _terminating():
                return main(arguments)
        except RestDeployError as exc:
            if verbose:
                logging.getLogger(__name__).exception("where it happened:")
            print(f"error: {clean(str(exc))}", file=sys.stderr)
        except (OSError, MemoryError, UnicodeError) as exc:
            if isinstance(exc, BrokenPipeError):  # the reader of our output went away, as head does
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            else:  # of the machine, not of the request: a disk, a limit
                print(f"error: {clean(f'{type(exc).__name__}: {exc}')}", file=sys.stderr)
        except KeyboardInterrupt:
            print("interrupted", file=sys.stderr)
            return INTERRUPTED
        return FAILED

    return run


@contextlib.contextmanager
def _terminating() -> Iterator[None]:
    """Let SIGTERM end the command as an exception does, so that temporary files are removed."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def parser(name: str, description: str) -> argparse.ArgumentParser:
    """A parser with what every command has."""
    made = argparse.ArgumentParser(prog=name, description=description)
    made.add_argument("--version", action=_Version, nargs=0, help="print the version and exit")
    made.add_argument("--verbose", action="store_true", help="tell each step, and where an error happened")
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
def progress_bar(what: str, clock: Callable[[], float] = time.monotonic) -> Iterator[Callable[[float, str], None]]:
    """Draw a bar on stderr, where a person is watching, and wipe it at the end; elsewhere print a line now and then.

    Args:
        what: Is going on.
        clock: Seconds.

    Yields:
        A function of the share that is done, 0 to 1, and the name of the phase; it may be called from any thread.
    """
    drawn, said = "", clock()

    def say(share: float, phase: str) -> None:
        nonlocal said
        if clock() - said >= LINE_EVERY_S:
            said = clock()
            print(f"{what}: {share:.0%}, {clean(phase)}", file=sys.stderr, flush=True)

    if not sys.stderr.isatty():
        yield say
        return

    def report(share: float, phase: str) -> None:
        nonlocal drawn
        filled = round(share * _BAR_WIDTH)
        line = f"{what} [{'#' * filled}{'.' * (_BAR_WIDTH - filled)}] {share:4.0%} {clean(phase)[:40]:40}"
        if line != drawn:
            drawn = line
            print(f"\r{line}", end="", file=sys.stderr, flush=True)

    try:
        yield report
    finally:
        if drawn:
            print(f"\r{' ' * len(drawn)}\r", end="", file=sys.stderr, flush=True)
