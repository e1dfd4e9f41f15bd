"""The CPU: its name and instruction sets, the cores that this process may use, and their clocks."""

from __future__ import annotations

import os
import platform
import re
from pathlib import Path

from rest_deploy.machine.quota import cpu_quota

#: Instruction sets that bear on 8-bit products, as Linux names them.
_RELEVANT = ("avx2", "avx512f", "avx_vnni", "avx512_vnni", "amx_int8", "asimddp", "i8mm")
_CPUINFO = Path("/proc/cpuinfo")
_PROCESSORS = Path("/sys/devices/system/cpu")


def describe_cpu() -> str:
    """The CPU and those of its instruction sets that bear on 8-bit products, as far as the system tells."""
    text = _cpuinfo()
    if text is None:
        return platform.processor() or platform.machine()
    name = re.search(r"^model name\s*: (.*)$", text, re.MULTILINE)
    flags = re.search(r"^(?:flags|Features)\s*: (.*)$", text, re.MULTILINE)
    has = set(flags[1].split()) if flags else set()
    words = [flag for flag in _RELEVANT if flag in has]
    return f"{name[1] if name else platform.machine()} ({', '.join(words) or 'no instruction sets told'})"


def affinity() -> tuple[int, ...]:
    """Processors that this process may run on, by number; empty where the system does not tell."""
    return tuple(sorted(os.sched_getaffinity(0))) if hasattr(os, "sched_getaffinity") else ()


def physical_cores() -> int:
    """Physical cores among the processors that this process may run on; all of them where Linux does not tell."""
    processors = affinity()
    if not hasattr(os, "sched_getaffinity"):
        return os.cpu_count() or 1
    cores = set()
    for processor in processors:
        siblings = _PROCESSORS / f"cpu{processor}" / "topology" / "thread_siblings_list"
        try:
            cores.add(siblings.read_text().strip())
        except OSError:
            cores.add(str(processor))
    return max(1, len(cores))


def usable_cores() -> int:
    """CPU threads that a network is given where nobody says how many, everywhere: at least 1.

    Physical cores of the affinity, at most the whole cores of the cgroup's quota. Threads past the quota are not merely
    idle: while some of them spin, the kernel stops all of them for the rest of the period.
    """
    cores, quota = physical_cores(), cpu_quota()
    return cores if quota is None else max(1, min(cores, int(quota)))


def clocks_mhz() -> list[float]:
    """Clock of each processor of the affinity at this moment, in MHz; empty where the system does not tell."""
    told = parse_clocks(_cpuinfo() or "")
    clocks = [told.get(number) or _scaled_mhz(number) for number in affinity()]
    return [clock for clock in clocks if clock is not None]


def parse_clocks(cpuinfo: str) -> dict[int, float]:
    """Clocks in the text of /proc/cpuinfo, by processor, in MHz; those that it gives as 0 are left out."""
    clocks = {}
    processor = -1
    for key, value in re.findall(r"^(processor|cpu MHz)[ \t]*:[ \t]*(\d+(?:\.\d+)?)[ \t]*$", cpuinfo, re.MULTILINE):
        if key == "processor":
            processor = int(float(value))
        elif float(value) > 0:
            clocks[processor] = float(value)
    return clocks


def governor() -> str | None:
    """What sets the clocks of the affinity's processors, as ``performance``; None where the system does not tell."""
    told = {_read(_cpufreq(number, "scaling_governor")) for number in affinity()}
    return ", ".join(sorted(name for name in told if name)) or None


def _scaled_mhz(processor: int) -> float | None:
    text = _read(_cpufreq(processor, "scaling_cur_freq"))
    return int(text) / 1000 if text is not None and text.isdecimal() else None  # in kHz


def _cpufreq(processor: int, name: str) -> Path:
    return _PROCESSORS / f"cpu{processor}" / "cpufreq" / name


def _cpuinfo() -> str | None:
    return _read(_CPUINFO)


def _read(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return None
