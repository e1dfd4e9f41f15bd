"""What else went on while something was measured: other processes, a hypervisor that took time, throttling."""

from __future__ import annotations

import os
import time
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, TypeVar

from rest_deploy.machine.cpu import affinity

_STAT = Path("/proc/stat")
_PROCESSORS = Path("/sys/devices/system/cpu")
#: Columns of a processor in /proc/stat, proc(5); guest and guest_nice come after, and are part of user and nice.
_BUSY, _IDLE, _STOLEN = ("user", "nice", "system", "irq", "softirq"), ("idle", "iowait"), ("steal",)
_COLUMNS = ("user", "nice", "system", "idle", "iowait", "irq", "softirq", "steal")


_N = TypeVar("_N", int, float)


class Spent(NamedTuple):
    """Seconds of some processors together since the machine was started."""

    busy_s: float
    idle_s: float
    stolen_s: float


@dataclass(frozen=True)
class CpuTimes:
    """Counters at a moment; two of them make a :class:`Load`.

    Args:
        wall_s: Seconds of a clock.
        processors: That this process may run on; all, by number, where the system does not tell.
        own_s: CPU seconds of this process and all its threads, without its children.
        spent: Seconds of these processors together; None where the system does not tell.
        involuntary_switches: How often this process was put aside for another; None likewise.
        throttles: How often a processor was slowed down for its heat; None likewise.
    """

    wall_s: float
    processors: tuple[int, ...]
    own_s: float
    spent: Spent | None
    involuntary_switches: int | None
    throttles: int | None

    @classmethod
    def now(cls) -> CpuTimes:
        """The counters as they stand."""
        processors = affinity() or tuple(range(os.cpu_count() or 1))
        return cls(
            wall_s=time.monotonic(),
            processors=processors,
            own_s=time.process_time_ns() / 1e9,
            spent=_read_spent(processors),
            involuntary_switches=_involuntary_switches(),
            throttles=_throttles(processors),
        )


@dataclass(frozen=True)
class Load:
    """Shares of the time of the processors that this process may run on, 0 to 1; None where the system does not tell.

    The kernel counts in ticks of mostly 10 ms: over a second of two processors a share is known to about 0.01.

    Args:
        stolen: Taken by the hypervisor for other machines.
        others: Used by other processes, this one's children among them.
        own: Used by this process.
        involuntary_switches: How often this process was put aside for another.
        throttled: How often one of the processors was slowed down for its heat.
    """

    stolen: float | None
    others: float | None
    own: float | None
    involuntary_switches: int | None
    throttled: int | None


def between(before: CpuTimes, after: CpuTimes) -> Load:
    """The load from one moment to a later one."""
    own_s = after.own_s - before.own_s
    offered_s = (after.wall_s - before.wall_s) * len(after.processors)
    stolen, others = _shares(before, after, own_s)
    return Load(
        stolen=stolen,
        others=others,
        own=own_s / offered_s if offered_s > 0 else None,
        involuntary_switches=_increase(before.involuntary_switches, after.involuntary_switches),
        throttled=_increase(before.throttles, after.throttles),
    )


def parse_stat(text: str, processors: Collection[int], ticks_a_second: int) -> Spent | None:
    """Seconds of some processors, out of the text of /proc/stat; None where it does not tell of them."""
    names = {f"cpu{number}" for number in processors}
    ticks = dict.fromkeys(_COLUMNS, 0)
    found = False
    for line in text.splitlines():
        name, *values = line.split()[: len(_COLUMNS) + 1] or [""]
        if name in names and len(values) == len(_COLUMNS) and all(value.isdecimal() for value in values):
            found = True
            for column, value in zip(_COLUMNS, values, strict=True):
                ticks[column] += int(value)
    if not found:
        return None
    return Spent(*(sum(ticks[column] for column in kind) / ticks_a_second for kind in (_BUSY, _IDLE, _STOLEN)))


def _shares(before: CpuTimes, after: CpuTimes, own_s: float) -> tuple[float | None, float | None]:
    """Shares of the hypervisor and of other processes; None where they cannot be told, or no tick has gone by."""
    if before.spent is None or after.spent is None or before.processors != after.processors:
        return None, None
    busy, idle, stolen = (_increase(*pair) or 0.0 for pair in zip(before.spent, after.spent, strict=True))
    total = busy + idle + stolen
    if total <= 0:
        return None, None
    return stolen / total, max(0.0, busy - own_s) / total


def _increase(before: _N | None, after: _N | None) -> _N | None:
    """How much a counter has grown; the kernel lets that of iowait shrink at times."""
    return None if before is None or after is None else max(after - before, type(after)(0))


def _read_spent(processors: Collection[int]) -> Spent | None:
    try:
        return parse_stat(_STAT.read_text(), processors, os.sysconf("SC_CLK_TCK"))
    except OSError:
        return None


def _involuntary_switches() -> int | None:
    try:
        import resource
    except ImportError:  # Windows
        return None
    return resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw


def _throttles(processors: Collection[int]) -> int | None:
    counts = []
    for number in processors:
        try:
            counts.append(int((_PROCESSORS / f"cpu{number}" / "thermal_throttle" / "core_throttle_count").read_text()))
        except (OSError, ValueError):
            continue
    return sum(counts) if counts else None
