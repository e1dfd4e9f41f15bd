"""TensorRT's progress monitor: how far a build is, and the way to cancel it."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import Any

from rest_deploy.export.formats import Progress
from rest_deploy.nvidia import Library


@dataclass
class _Phase:
    name: str
    parent: str | None
    steps: int
    done: int = 0


class BuildProgress:
    """What the monitor's callbacks tell; they come from several threads, and must not raise.

    Args:
        report: Where to tell it; None for nowhere.
    """

    def __init__(self, report: Progress | None = None) -> None:
        self._report = report
        self._phases: dict[str, _Phase] = {}
        self._lock = threading.Lock()
        self._cancelled = threading.Event()
        self._best = 0.0

    @property
    def cancelled(self) -> bool:
        """Whether :meth:`cancel` was called."""
        return self._cancelled.is_set()

    def cancel(self) -> None:
        """Have TensorRT stop at its next step."""
        self._cancelled.set()

    def start(self, name: str, parent: str | None, steps: int) -> None:
        """A phase begins; its steps are those of its parent's current one."""
        with self._lock:
            self._phases[name] = _Phase(name, parent, max(1, steps))
        self._tell(name)

    def step(self, name: str, index: int) -> bool:
        """A step of a phase is done; whether to go on."""
        with self._lock:
            if name in self._phases:
                self._phases[name].done = index + 1
        self._tell(name)
        return not self.cancelled

    def finish(self, name: str) -> None:
        """A phase ends, whether it was done or not."""
        with self._lock:
            self._phases.pop(name, None)

    def _tell(self, name: str) -> None:
        if self._report is None:
            return
        with self._lock:
            self._best = max(self._best, self._fraction())  # phases may repeat; a bar that goes back tells nothing
            best = self._best
        try:
            self._report(best, name)
        except Exception:  # a callback that raises would end the process within TensorRT
            self._report = None

    def _fraction(self) -> float:
        """Done steps of the outermost phase, and of the phases within its current step."""
        roots = [phase for phase in self._phases.values() if phase.parent is None or phase.parent not in self._phases]
        return self._share(roots[0]) if roots else 0.0

    def _share(self, phase: _Phase) -> float:
        within = [self._share(child) for child in self._phases.values() if child.parent == phase.name != child.name]
        return min(1.0, (phase.done + min(1.0, max(within, default=0.0))) / phase.steps)


def progress_monitor(library: Library, progress: BuildProgress) -> Any:
    """A progress monitor of TensorRT that tells ``progress``; it must outlive the build."""
    base: Any = library.api.IProgressMonitor

    class Monitor(base):  # known only when the library is
        def __init__(self) -> None:
            base.__init__(self)

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            progress.start(phase_name, parent_phase, num_steps)

        def phase_finish(self, phase_name: str) -> None:
            progress.finish(phase_name)

        def step_complete(self, phase_name: str, step: int) -> bool:
            return progress.step(phase_name, step)

    return Monitor()
