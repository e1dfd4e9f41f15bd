"""What this process may use of the machine: cores within a container's quota, memory within its limits.

Opening a Predictor loads this module, so it uses only the standard library. psutil does not know cgroups.
"""

from __future__ import annotations

import importlib
import logging
import os
import platform
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from rest_deploy.errors import PredictorError, RestDeployError

_log = logging.getLogger(__name__)
#: Instruction sets that affect 8-bit products, by their names in Linux.
_RELEVANT = ("avx2", "avx512f", "avx_vnni", "avx512_vnni", "amx_int8", "asimddp", "i8mm")
_PROCESSORS, _CPUINFO = Path("/sys/devices/system/cpu"), Path("/proc/cpuinfo")
_MEMINFO, _STATUS = Path("/proc/meminfo"), Path("/proc/self/status")
_CGROUPS, _CGROUP_MOUNT = Path("/proc/self/cgroup"), Path("/sys/fs/cgroup")
#: For each version of cgroups: limit, usage, and the entry of memory.stat for file cache that the kernel drops first.
_MEMORY_FILES = (
    ("memory.max", "memory.current", "inactive_file"),
    ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
)
_KIB = 2**10
#: Share of the free memory that one task may take: an estimate can be a tenth too low, and other tasks run too.
SHARE = 0.8
#: Bytes that a usual image may take. Below, free memory is not read, because reading it takes time.
USUAL = 1 << 28


def kernel_text(path: Path) -> str:
    """Text of a kernel file; empty if it cannot be read."""
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""


# Cores.


def describe_cpu() -> str:
    """The CPU and its instruction sets that affect 8-bit products, as far as the system reports them."""
    text = kernel_text(_CPUINFO)
    if not text:
        return platform.processor() or platform.machine()
    name = re.search(r"^model name\s*: (.*)$", text, re.MULTILINE)
    flags = re.search(r"^(?:flags|Features)\s*: (.*)$", text, re.MULTILINE)
    has = set(flags[1].split()) if flags else set()
    words = [flag for flag in _RELEVANT if flag in has]
    return f"{name[1] if name else platform.machine()} ({', '.join(words) or 'instruction sets unknown'})"


def affinity() -> tuple[int, ...]:
    """Numbers of the processors that this process may use; empty if the system has no such limit."""
    return tuple(sorted(os.sched_getaffinity(0))) if hasattr(os, "sched_getaffinity") else ()


def physical_cores() -> int:
    """Physical cores among the processors that this process may use; all processors outside of Linux."""
    if not hasattr(os, "sched_getaffinity"):
        return os.cpu_count() or 1
    siblings = (
        kernel_text(_PROCESSORS / f"cpu{number}/topology/thread_siblings_list") or number for number in affinity()
    )
    return max(1, len(set(siblings)))


def usable_cores() -> int:
    """Default number of CPU threads of a network, at least 1.

    Physical cores of the affinity, at most the whole cores of the cgroup's quota. More threads than the quota do harm:
    while some of them spin, the kernel stops all of them for the rest of the period.
    """
    cores, quota = physical_cores(), cpu_quota()
    return cores if quota is None else max(1, min(cores, int(quota)))


def cpu_quota() -> float | None:
    """CPU time that this process may use, in cores, such as 1.5; None without a limit.

    The smallest quota of its cgroup and of all above it, because all of them apply.
    """
    quotas = [_quota(folder) for folder in _cgroup_folders("cpu")]
    return min((quota for quota in quotas if quota is not None), default=None)


def _quota(folder: Path) -> float | None:
    # version 2 has "150000 100000", microseconds of each period, or "max 100000"; version 1 two files, -1 for no limit
    first_version = (kernel_text(folder / f"cpu.cfs_{name}_us") for name in ("quota", "period"))
    text = kernel_text(folder / "cpu.max") or " ".join(first_version)
    match = re.fullmatch(r"(\d+)\s+([1-9]\d*)", text)
    return int(match[1]) / int(match[2]) if match else None


def _cgroup_folders(controller: str) -> Iterator[Path]:
    """Folders of the cgroups that limit this process, both versions, from /proc/self/cgroup (cgroups(7)).

    In a container the path may be the host's, and its own cgroup is the mount itself. So some folders do not exist.
    """
    for controllers, path in re.findall(r"^\d+:([^:]*):(.*)$", kernel_text(_CGROUPS), re.MULTILINE):
        if not controllers:
            mounts = [_CGROUP_MOUNT, _CGROUP_MOUNT / "unified"]
        elif controller in controllers.split(","):
            mounts = [_CGROUP_MOUNT / controllers, _CGROUP_MOUNT / controller]
        else:
            continue
        within = Path(path.lstrip("/"))
        for mount in mounts:
            yield from (mount / above for above in (within, *within.parents))


# Memory.


def available_bytes() -> int | None:
    """Bytes of memory that this process may still take, at least 0; None if the system does not report it.

    The smallest of what is left of the machine, of each cgroup above this process, and of its own address space if that
    is limited (``ulimit -v``). File cache that the kernel can drop counts as free.
    """
    bounds = [_number(_MEMINFO, r"^MemAvailable:\s*(\d+) kB$", _KIB), _left_of_the_address_space()]
    bounds += [_left_of_a_cgroup(folder) for folder in _cgroup_folders("memory")]
    known = [bound for bound in bounds if bound is not None]
    return max(0, min(known)) if known else None


def room_bytes() -> int | None:
    """Bytes that one task may take at this moment: a share of those that are free; None if they are not known."""
    free = available_bytes()
    return int(SHARE * free) if free is not None else None


def fits(needed: int, free: int | None) -> bool:
    """Whether a task of so many bytes is let run; ``free`` is None where it is not known how many are free."""
    return needed <= USUAL or free is None or needed <= SHARE * free


@contextmanager
def importing(module: str) -> Iterator[None]:
    """Import a module in a thread beside the block, which reads a file or starts a runtime and leaves Python idle.

    What is wrong with the module is told where it is needed: this only says so in the log.
    """

    def load() -> None:
        try:
            importlib.import_module(module)
        except Exception:  # whatever its code does
            _log.debug("%s does not load", module, exc_info=True)

    thread = threading.Thread(target=load, name=f"rest_deploy-{module}")
    with suppress(RuntimeError):  # no thread is to be had: it is imported where it is needed
        thread.start()
    try:
        yield
    finally:
        if thread.ident is not None:
            thread.join()


def threads_for_images() -> int:
    """Threads that may turn usual images into inputs while something else runs: one for each usable core.

    Fewer where memory is short, down to 0: together they fit into what :data:`SHARE` leaves of it, so that a task that
    was found to fit still does.
    """
    cores, free = usable_cores(), available_bytes()
    return cores if free is None else min(cores, int((1 - SHARE) * free) // USUAL)


def check_memory(
    needed: int, what: str, refusal: type[RestDeployError], advice: str | Callable[[], str], *, usual: int = USUAL
) -> None:
    """Refuse a task that would take more memory than is free.

    Args:
        needed: Bytes that the task takes.
        what: The task, as it reads before "would take".
        refusal: The error if this task needs too much.
        advice: What to do then; a function is called only then.
        usual: Bytes of a usual task. If even they are not free, the machine is at fault, not this task.

    Raises:
        PredictorError: Too little memory is free for any task.
        RestDeployError: ``refusal``: too little memory is free for this task.
    """
    if needed <= USUAL or (free := available_bytes()) is None or fits(needed, free):
        return
    takes = f"{what} would take about {needed / 2**30:.1f} GiB, and {free / 2**30:.1f} GiB are free"
    if usual > SHARE * free:
        raise PredictorError(f"{takes} now, not enough memory for any image; run less on this machine at a time")
    raise refusal(f"{takes}: {advice if isinstance(advice, str) else advice()}")


def _left_of_a_cgroup(folder: Path) -> int | None:
    for limit_name, usage_name, cache in _MEMORY_FILES:
        limit, usage = (_number(folder / name, r"\A(\d+)\Z") for name in (limit_name, usage_name))
        if limit is not None and usage is not None:  # without a limit it is max, or a number larger than any memory
            return limit - usage + (_number(folder / "memory.stat", rf"^{cache} (\d+)$") or 0)
    return None


def _left_of_the_address_space() -> int | None:
    try:
        import resource
    except ImportError:  # Windows
        return None
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    used = _number(_STATUS, r"^VmSize:\s*(\d+) kB$", _KIB)
    return limit - used if limit != resource.RLIM_INFINITY and used is not None else None


def _number(path: Path, pattern: str, unit: int = 1) -> int | None:
    match = re.search(pattern, kernel_text(path), re.MULTILINE)
    return int(match[1]) * unit if match else None
