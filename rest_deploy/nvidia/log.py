"""What TensorRT tells only its logger, kept, so that a failure can be raised with its reason.

Its calls report failure by None, False or -1.
"""

from __future__ import annotations

import logging
import re
import threading
import traceback
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from rest_deploy.errors import RestDeployError, one_line
from rest_deploy.nvidia.library import Library

_log = logging.getLogger(__name__)

_FAILURES = frozenset({"ERROR", "INTERNAL_ERROR"})
_LEVELS = {"WARNING": logging.WARNING, "INFO": logging.INFO, "VERBOSE": logging.DEBUG}

#: Said of every object that is let go of on a machine without a GPU; never the reason of a failure.
_SPURIOUS = re.compile(r"^.*catchCudaError.*cudaError (?:35|100)\b.*$", re.MULTILINE)
#: Warned of where a second object lives in the process with a logger of its own, which is heard all the same.
_ANOTHER_LOGGER = re.compile(r"^The logger passed into create\w+ differs")
#: Lines by which the ONNX parser frames a message that the parser's own errors say better.
_FRAME = re.compile(r"^ModelImporter\.cpp:\d+: (?:---|While parsing)")


def readable(message: str) -> str:
    """A message as one line, without the CUDA noise of a machine without a GPU."""
    return " ".join(_SPURIOUS.sub("", message).split())


class _Record(NamedTuple):
    number: int
    severity: str
    message: str


class TensorRTLog:
    """Messages of one TensorRT object and of those it makes, in order.

    Args:
        library: Whose logger is made; ``logger`` is what TensorRT takes.
        keep: Latest messages to keep; None for all.
    """

    def __init__(self, library: Library, keep: int | None = None) -> None:
        self.library = library
        self._records: deque[_Record] = deque(maxlen=keep)
        self._count = 0
        self._lock = threading.Lock()
        self.logger = _logger_class(library.api)(self._take)

    def _take(self, severity: str, message: str) -> None:
        with self._lock:  # TensorRT logs from several threads
            self._records.append(_Record(self._count, severity, message))
            self._count += 1
        if severity not in _FAILURES:
            _log.log(_LEVELS.get(severity, logging.DEBUG), "%s: %s", self.library, message)

    def mark(self) -> int:
        """A place in the log, from which :meth:`reasons` can be asked."""
        with self._lock:
            return self._count

    def _since(self, start: int) -> list[_Record]:
        with self._lock:
            return [record for record in self._records if record.number >= start]

    def messages(self, start: int = 0) -> list[str]:
        """All messages from a place on, of every severity."""
        return [record.message for record in self._since(start)]

    def reasons(self, start: int = 0) -> str:
        """The errors from a place on, as one line; without the CUDA noise of a machine without a GPU."""
        failures = [record.message for record in self._since(start) if record.severity in _FAILURES]
        told = [readable(message) for message in failures if not _FRAME.search(message)]
        return "; ".join(dict.fromkeys(filter(None, told))) or f"{self.library} gave no reason"

    def warnings(self) -> tuple[str, ...]:
        """Its warnings, each once."""
        told = [" ".join(record.message.split()) for record in self._since(0) if record.severity == "WARNING"]
        return tuple(dict.fromkeys(line for line in told if not _ANOTHER_LOGGER.search(line)))

    def attempt(self, what: str, error: type[RestDeployError], function: Callable[..., Any], *arguments: Any) -> Any:
        """Call a function of TensorRT and give what it gives, unless that is None, False or -1, or it raises.

        Its bindings raise TypeError for a constructor that gave a null pointer, RuntimeError for some failures.

        Args:
            what: What is tried, as it reads after "could not".
            error: What to raise.
            function, arguments: The call.

        Raises:
            RestDeployError: Of the class ``error``, with the reasons out of the log.
        """
        start = self.mark()
        try:
            value = function(*arguments)
        except (TypeError, RuntimeError) as exc:
            raise error(f"{self.library} could not {what}: {self.reasons(start)} ({one_line(exc)})") from exc
        return self.require(value, what, error, start)

    def require(self, value: Any, what: str, error: type[RestDeployError], start: int = 0) -> Any:
        """Give back what a call gave, unless it is None, False or -1.

        Args:
            value: What was given.
            what: What was tried, as it reads after "could not".
            error: What to raise.
            start: Place in the log before the call.

        Raises:
            RestDeployError: Of the class ``error``, with the reasons out of the log.
        """
        if value is None or value is False or (type(value) is int and value == -1):
            raise error(f"{self.library} could not {what}: {self.reasons(start)}")
        return value


@contextmanager
def frames_let_go() -> Iterator[None]:
    """Where the block fails, let its ended frames go of TensorRT's objects at once.

    The exception would keep them, and where it is part of a cycle, as any that is kept in a variable, until Python's
    collector comes by. That may be while TensorRT logs, holding a lock that the end of one of its objects takes too:
    the process then stands still for good (seen with TensorRT-RTX 1.7.1).
    """
    try:
        yield
    except BaseException as exc:
        failed: BaseException | None = exc
        while failed is not None:
            traceback.clear_frames(failed.__traceback__)
            failed = failed.__cause__ or failed.__context__
        raise


def _logger_class(trt: Any) -> Any:
    base: Any = trt.ILogger

    class Logger(base):  # known only when the library is
        def __init__(self, take: Any) -> None:
            base.__init__(self)
            self._take = take

        def log(self, severity: Any, message: str) -> None:
            self._take(severity.name, message)

    return Logger
