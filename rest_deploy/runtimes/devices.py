"""Devices by name."""

from __future__ import annotations

import re
from dataclasses import dataclass

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
