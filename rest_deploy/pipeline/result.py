"""What an export made, and the time it took."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from rest_deploy.artifact.info import ArtifactInfo
from rest_deploy.verification import Comparison

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ExportResult:
    """What was made.

    Args:
        path: The artifact.
        info: What it says of itself.
        comparison: Figures of the check, or None where it was skipped or could not be done here.
        seconds: Time of each step.
        notes: What the user should know.
    """

    path: Path
    info: ArtifactInfo
    comparison: Comparison | None
    seconds: dict[str, float] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


class Clock:
    """Seconds of named steps."""

    def __init__(self) -> None:
        self._seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, step: str) -> Iterator[None]:
        start = time.perf_counter()
        _log.info("%s ...", step)
        yield
        self._seconds[step] = time.perf_counter() - start

    def taken(self) -> dict[str, float]:
        """Steps since the last call."""
        taken, self._seconds = self._seconds, {}
        return taken
