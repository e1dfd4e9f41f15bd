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
from rest_deploy.machine import memory, quota

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


class Kernel:
    """Files of the kernel that tell of memory, in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def write(self, name: str, text: object) -> None:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{text}\n")


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Kernel:
    """A machine with 1000 KiB left, no cgroups and no limit of its own."""
    monkeypatch.setattr(memory, "_MEMINFO", tmp_path / "meminfo")
    monkeypatch.setattr(memory, "_STATUS", tmp_path / "status")
    monkeypatch.setattr(quota, "_CGROUPS", tmp_path / "cgroup")
    monkeypatch.setattr(quota, "_MOUNT", tmp_path / "fs")
    _limit_address_space(monkeypatch, -1)
    made = Kernel(tmp_path)
    made.write("meminfo", "MemTotal:       9000 kB\nMemFree:         10 kB\nMemAvailable:  1000 kB")
    return made


def _limit_address_space(monkeypatch: pytest.MonkeyPatch, limit: int) -> None:
    fake = SimpleNamespace(RLIMIT_AS=9, RLIM_INFINITY=-1, getrlimit=lambda kind: {9: (limit, -1)}[kind])
    monkeypatch.setitem(sys.modules, "resource", fake)  # type: ignore[arg-type]


def test_what_the_machine_has_left(kernel: Kernel) -> None:
    assert memory.available_bytes() == 1000 << 10


def test_the_tightest_cgroup_of_all_above_holds(kernel: Kernel) -> None:
    kernel.write("cgroup", "0::/pods/a/b")
    kernel.write("fs/pods/a/b/memory.max", "max")
    kernel.write("fs/pods/a/b/memory.current", 10)
    kernel.write("fs/pods/a/memory.max", 500_000)
    kernel.write("fs/pods/a/memory.current", 300_000)
    kernel.write("fs/pods/memory.max", 900_000)
    kernel.write("fs/pods/memory.current", 400_000)
    assert memory.available_bytes() == 200_000
    kernel.write("fs/pods/a/memory.stat", "file 70000\ninactive_file 50000\ntotal_inactive_file 7")
    assert memory.available_bytes() == 250_000  # cache that would be given up


def test_a_container_of_version_1(kernel: Kernel) -> None:
    kernel.write("cgroup", "4:memory:/docker/x\n3:cpu,cpuacct:/docker/x")
    kernel.write("fs/memory/memory.limit_in_bytes", 700_000)
    kernel.write("fs/memory/memory.usage_in_bytes", 600_000)
    kernel.write("fs/memory/memory.stat", "inactive_file 7\ntotal_inactive_file 1000")
    assert memory.available_bytes() == 101_000
    kernel.write("fs/memory/memory.limit_in_bytes", 9223372036854771712)  # none
    assert memory.available_bytes() == 1000 << 10


def test_a_cgroup_past_its_limit_leaves_nothing(kernel: Kernel) -> None:
    kernel.write("cgroup", "0::/")
    kernel.write("fs/memory.max", 100)
    kernel.write("fs/memory.current", 200)
    assert memory.available_bytes() == 0


def test_a_limited_address_space(kernel: Kernel, monkeypatch: pytest.MonkeyPatch) -> None:
    kernel.write("status", STATUS)
    _limit_address_space(monkeypatch, (888888 << 10) + 4096)
    assert memory.available_bytes() == 4096


def test_a_system_that_does_not_tell(kernel: Kernel, monkeypatch: pytest.MonkeyPatch) -> None:
    (kernel.folder / "meminfo").unlink()
    assert memory.available_bytes() is None
    monkeypatch.setitem(sys.modules, "resource", None)
    assert memory.available_bytes() is None


@LINUX
def test_this_process_may_take_some() -> None:
    assert 0 < (memory.available_bytes() or 0) < (memory.total_mib() or 0) << 20
