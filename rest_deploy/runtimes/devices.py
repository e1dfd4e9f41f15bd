"""Devices by name, and the CPU cores that this process may use."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from rest_deploy.errors import DeviceError


@dataclass(frozen=True)
class Device:
    """``cpu``, or ``cuda`` with the number of a GPU."""

    kind: str
    index: int = 0

    @classmethod
    def parse(cls, text: str) -> Device:
        """Read ``"cpu"``, ``"cuda"`` or ``"cuda:1"``.

        Raises:
            DeviceError: Anything else.
        """
        match = re.fullmatch(r"cpu|cuda(?::(\d{1,3}))?", text)
        if not match:
            raise DeviceError(f"device {text!r}; accepted: cpu, cuda, cuda:0, cuda:1, ...")
        return cls("cuda" if text.startswith("cuda") else "cpu", int(match[1] or 0))

    def __str__(self) -> str:
        return self.kind if self.kind == "cpu" else f"{self.kind}:{self.index}"


def physical_cores() -> int:
    """Physical cores among the processors that this process may run on; all of them where Linux does not tell."""
    if not hasattr(os, "sched_getaffinity"):
        return os.cpu_count() or 1
    processors = os.sched_getaffinity(0)
    cores = set()
    for processor in processors:
        siblings = Path(f"/sys/devices/system/cpu/cpu{processor}/topology/thread_siblings_list")
        try:
            cores.add(siblings.read_text().strip())
        except OSError:
            cores.add(str(processor))
    return max(1, len(cores))
