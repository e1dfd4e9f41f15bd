"""Memory: of the machine, what this process may still take of it, and the most that it has had."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable
from pathlib import Path

from rest_deploy.errors import DeviceError, PredictorError, RestDeployError
from rest_deploy.machine.quota import cgroup_folders

_STATUS, _MEMINFO = Path("/proc/self/status"), Path("/proc/meminfo")
#: Limit, usage, and the entry of memory.stat that tells of file cache which the kernel gives up first; by version.
_LIMITS = (
    ("memory.max", "memory.current", "inactive_file"),
    ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
)
_KIB, _MIB = 2**10, 2**20
#: Of the free memory, what one piece of work may take: an estimate can be a tenth too low, and others work as well.
SHARE = 0.8
#: Bytes that work on a usual image may take. Of them it is not asked whether they are free, which takes longer.
USUAL = 1 << 28


def total_mib() -> int | None:
    """Memory of the machine in MiB; None where the system does not tell."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // _MIB
    except (AttributeError, ValueError, OSError):  # Windows; names that a system does not know
        return None


def available_bytes() -> int | None:
    """Memory that this process may still take, in bytes, at least 0; None where the system does not tell.

    The smallest of what the machine has left, of what each cgroup above this process leaves it, and of what is left of
    its own address space where that is limited (``ulimit -v``). Cache of files that would be given up counts as free.
    """
    bounds = [_left_of_the_machine(), _left_of_the_address_space()]
    bounds += [_left_of_a_cgroup(folder) for folder in cgroup_folders("memory")]
    known = [bound for bound in bounds if bound is not None]
    return max(0, min(known)) if known else None


def check_memory(
    needed: int, what: str, refusal: type[RestDeployError], advice: str | Callable[[], str], *, usual: int = USUAL
) -> None:
    """Refuse work that would take more memory than is free.

    Args:
        needed: Bytes that it takes.
        what: Of whom, and what it is, as it reads before "would take".
        refusal: The error where it alone asks for too much.
        advice: What to do about that; what is called says it only where it has come to that.
        usual: Bytes that usual work takes. Where not even they are free it is the machine's fault, and not that of
            what is worked on.

    Raises:
        PredictorError: Too little is free for anything.
        RestDeployError: ``refusal``: too little is free for this.
    """
    if needed <= USUAL or (free := available_bytes()) is None or needed <= SHARE * free:
        return
    takes = f"{what} would take about {needed / 2**30:.1f} GiB, and {free / 2**30:.1f} GiB are free"
    if usual > SHARE * free:
        raise PredictorError(f"{takes} now, not enough memory for any image: let the machine do less at a time")
    raise refusal(f"{takes}: {advice if isinstance(advice, str) else advice()}")


def _left_of_the_machine() -> int | None:
    return _entry(_MEMINFO, r"^MemAvailable:\s*(\d+) kB$", _KIB)


def _left_of_a_cgroup(folder: Path) -> int | None:
    for limit_name, usage_name, cache in _LIMITS:
        limit, usage = (_entry(folder / name, r"\A(\d+)$") for name in (limit_name, usage_name))
        if limit is not None and usage is not None:  # no limit is written max, or a number beyond any memory
            return limit - usage + (_entry(folder / "memory.stat", rf"^{cache} (\d+)$") or 0)
    return None


def _left_of_the_address_space() -> int | None:
    try:
        import resource
    except ImportError:
        return None
    limit, used = resource.getrlimit(resource.RLIMIT_AS)[0], _entry(_STATUS, r"^VmSize:\s*(\d+) kB$", _KIB)
    return limit - used if limit != resource.RLIM_INFINITY and used is not None else None


def _entry(path: Path, pattern: str, unit: int = 1) -> int | None:
    """A number in a file of the kernel; None where there is no such file or entry."""
    try:
        match = re.search(pattern, path.read_text(encoding="utf-8", errors="replace"), re.MULTILINE)
    except OSError:
        return None
    return int(match[1]) * unit if match else None


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
