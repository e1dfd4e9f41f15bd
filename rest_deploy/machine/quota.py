"""The cgroups of this process, by which containers limit it, and how many cores' worth of time they leave it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

_CGROUPS = Path("/proc/self/cgroup")
_MOUNT = Path("/sys/fs/cgroup")


def cpu_quota() -> float | None:
    """Cores' worth of CPU time that this process may use, such as 1.5; None where nothing limits it or none is told.

    The smallest of its cgroup and of all above it, for each of them holds.
    """
    quotas = [_quota(folder) for folder in cgroup_folders("cpu")]
    return min((quota for quota in quotas if quota is not None), default=None)


def parse_quota(text: str) -> float | None:
    """Cores in the text of a cpu.max (``"150000 100000"``: microseconds of each period); None where it is ``max``."""
    match = re.fullmatch(r"(\d+) (\d+)", " ".join(text.split()))
    return int(match[1]) / int(match[2]) if match and int(match[2]) else None


def cgroup_folders(controller: str) -> Iterator[Path]:
    """Folders of the cgroups that limit this process, from /proc/self/cgroup (cgroups(7)), both versions.

    Inside a container its path may be the host's, and its own cgroup is what is mounted: folders that are not there
    are passed over by who reads them.

    Args:
        controller: What of, as ``"cpu"`` or ``"memory"``.
    """
    try:
        cgroups = _CGROUPS.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return
    for controllers, path in re.findall(r"^\d+:([^:]*):(.*)$", cgroups, re.MULTILINE):
        if not controllers:
            mounts = [_MOUNT, _MOUNT / "unified"]
        elif controller in controllers.split(","):
            mounts = [_MOUNT / controllers, _MOUNT / controller]
        else:
            continue
        within = Path(path.lstrip("/"))
        for mount in mounts:
            yield from (mount / above for above in (within, *within.parents))


def _quota(folder: Path) -> float | None:
    try:
        return parse_quota((folder / "cpu.max").read_text())
    except OSError:
        pass
    try:  # version 1; -1 is no limit
        quota, period = ((folder / f"cpu.cfs_{name}_us").read_text().strip() for name in ("quota", "period"))
    except OSError:
        return None
    return parse_quota(f"{quota} {period}")
