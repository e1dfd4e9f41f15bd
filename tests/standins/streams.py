"""Streams, events and graphs of the CUDA stand-in. Work that is queued runs when somebody waits for it, not before."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

Work = Callable[[], None]

#: What a piece of work takes on the clock that events read; a made-up time, always the same.
WORK_MS = 0.25


class Refused(Exception):
    """A function of CUDA gives back an error code; ``error`` is its ``cudaError_t``."""

    def __init__(self, error: Any) -> None:
        super().__init__(str(error))
        self.error = error


@dataclass
class Graph:
    """Work recorded from a stream, or such a graph made ready to launch."""

    work: list[Work] = field(default_factory=list)


@dataclass
class Capture:
    """A recording that is going on."""

    graph: Graph
    thread: int
    mode: Any
    invalid: bool = False


class Ticket(NamedTuple):
    """A place in a stream."""

    stream: Stream
    position: int

    @property
    def done(self) -> bool:
        """Whether all work up to here has run."""
        return self.stream.done >= self.position

    def wait(self) -> None:
        """Run all work up to here."""
        self.stream.run_until(self.position)


@dataclass(eq=False)
class Stream:
    """A queue of work.

    Args:
        device: Its number.
        blocking: Whether the null stream waits for it, and it for the null stream.
    """

    device: int
    blocking: bool
    capture: Capture | None = None
    done: int = 0
    clock_ms: float = 0.0
    _queue: deque[Work] = field(default_factory=deque)

    def here(self) -> Ticket:
        """The place after all that has been queued so far."""
        return Ticket(self, self.done + len(self._queue))

    def submit(self, work: Work) -> Ticket:
        """Queue work."""
        self._queue.append(work)
        return self.here()

    def run_until(self, position: int) -> None:
        """Run what has been queued, up to a place."""
        while self.done < position and self._queue:
            work = self._queue.popleft()
            self.done += 1
            self.clock_ms += WORK_MS
            work()


@dataclass(eq=False)
class Event:
    """A mark in a stream.

    Args:
        timed: Whether it keeps the time at which it was passed.
    """

    timed: bool
    ticket: Ticket | None = None
    time_ms: float | None = None
    captured: bool = False

    def record(self, stream: Stream) -> None:
        """Put the mark at the end of a stream."""

        def note() -> None:
            self.time_ms = stream.clock_ms

        self.time_ms = None
        self.ticket = stream.submit(note)
