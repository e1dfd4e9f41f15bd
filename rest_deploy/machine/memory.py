"""Memory: of the machine, and the most that this process has had."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

from rest_deploy.errors import DeviceError

_STATUS = Path("/proc/self/status")
_KIB, _MIB = 2**10, 2**20


def total_mib() -> int | None:
    """Memory of the machine in MiB; None where the system does not tell."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // _MIB
    except (AttributeError, ValueError, OSError):  # Windows; names that a system does not know
        return None


def peak_mib() -> float:
    """Peak resident memory of this process so far, in MiB.

    On Linux it is VmHWM, which begins anew with each program. ru_maxrss does not: a child inherits there what its
    parent had when it was started, over vfork and exec, so that a small child of a large process looks large.

    Raises:
        DeviceError: The system does not tell.
    """
    try:
        kib = parse_high_water_kib(_STATUS.read_text(encoding="utf-8", errors="replace"))
    except OSError:
        kib = None
    if kib is not None:
        return kib * _KIB / _MIB
    try:
        import resource
    except ImportError as exc:
        raise DeviceError("this system does not tell how much memory a process has had at most") from exc
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak * (1 if sys.platform == "darwin" else _KIB) / _MIB  # getrusage(2): in bytes on macOS, else in KiB


def parse_high_water_kib(status: str) -> int | None:
    """VmHWM in the text of /proc/self/status, in KiB (which it writes as kB); None where it is not there."""
    match = re.search(r"^VmHWM:\s*(\d+) kB$", status, re.MULTILINE)
    return int(match[1]) if match else None
