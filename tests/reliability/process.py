"""What this process holds, as Linux tells it."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path


def resident() -> int:
    """Bytes of memory in use."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) << 10
    raise RuntimeError("no VmRSS in /proc/self/status")


def open_files() -> int:
    """File handles, that of the listing left out."""
    return len(os.listdir("/proc/self/fd")) - 1


def threads() -> int:
    """Threads, Python's and others'; one that has been joined may still be listed, as exiting, and is left out."""
    exiting = 0x4  # PF_EXITING of Linux's sched.h
    count = 0
    for task in Path("/proc/self/task").iterdir():
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # gone since it was listed
            # After the name, which may hold anything and ends at the last ")": the state, five numbers, the flags.
            flags = int((task / "stat").read_text().rpartition(")")[2].split()[6])
            count += not flags & exiting
    return count
