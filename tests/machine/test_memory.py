"""Memory of the machine and of this process, in MiB."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from rest_deploy.errors import DeviceError
from rest_deploy.machine import memory

STATUS = "Name:\tpython\nVmPeak:\t  999999 kB\nVmSize:\t  888888 kB\nVmHWM:\t   52224 kB\nVmRSS:\t   30000 kB\n"
LINUX = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="only Linux has /proc")


def test_the_high_water_mark_as_linux_writes_it() -> None:
    assert memory.parse_high_water_kib(STATUS) == 52224
    assert memory.parse_high_water_kib("Name:\tkthreadd\n") is None


def test_peak_in_mib(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "status").write_text(STATUS)
    monkeypatch.setattr(memory, "_STATUS", tmp_path / "status")
    assert memory.peak_mib() == 51


@pytest.mark.parametrize(("platform", "unit"), [("darwin", 2**20), ("freebsd14", 2**10)])
def test_without_proc_it_is_asked_of_getrusage(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, platform: str, unit: int
) -> None:
    fake = SimpleNamespace(RUSAGE_SELF=0, getrusage=lambda _: SimpleNamespace(ru_maxrss=70 * unit))
    monkeypatch.setattr(memory, "_STATUS", tmp_path / "none")
    monkeypatch.setattr(sys, "platform", platform)
    monkeypatch.setitem(sys.modules, "resource", fake)  # type: ignore[arg-type]
    assert memory.peak_mib() == 70


def test_windows_does_not_tell(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(memory, "_STATUS", tmp_path / "none")
    monkeypatch.setitem(sys.modules, "resource", None)
    monkeypatch.delattr(os, "sysconf")
    with pytest.raises(DeviceError, match="does not tell how much memory"):
        memory.peak_mib()
    assert memory.total_mib() is None


@LINUX
def test_a_peak_stays_after_the_memory_is_given_back() -> None:
    code = (
        "from rest_deploy.machine.memory import peak_mib\nbefore = peak_mib()\nblock = bytearray(b'x') * (64 << 20)\n"
        "del block\nprint(before, peak_mib())"
    )
    before, after = map(float, subprocess.check_output([sys.executable, "-c", code], text=True).split())
    assert 60 < after - before < 80


@LINUX
def test_a_child_does_not_inherit_its_parents_peak() -> None:
    """As ru_maxrss would."""
    block = np.ones(200 << 17)  # 200 MiB, resident in this process
    code = "from rest_deploy.machine.memory import peak_mib; print(peak_mib())"
    assert float(subprocess.check_output([sys.executable, "-c", code], text=True)) < 100
    assert block.nbytes == 200 << 20


def test_this_machine_has_memory() -> None:
    assert (memory.total_mib() or 0) > memory.peak_mib() > 1
