"""What this process may use: cores within a container's quota, memory within its limits."""

from __future__ import annotations

import os
import sys
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from rest_deploy import machine

MonkeyPatch = pytest.MonkeyPatch
LINUX = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="only Linux has /proc")


class Kernel:
    """Files of the kernel, in a folder; those of the processors under ``cpu``, of the cgroups under ``fs``."""

    def __init__(self, folder: Path, monkeypatch: MonkeyPatch) -> None:
        self.folder = folder
        for name, file in (
            ("_CPUINFO", "cpuinfo"), ("_PROCESSORS", "cpu"), ("_MEMINFO", "meminfo"), ("_STATUS", "status"),
            ("_CGROUPS", "cgroup"), ("_CGROUP_MOUNT", "fs"),
        ):  # fmt: skip
            monkeypatch.setattr(machine, name, folder / file)

    def write(self, name: str, text: object) -> None:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{text}\n")


@pytest.fixture
def kernel(monkeypatch: MonkeyPatch, tmp_path: Path) -> Kernel:
    """A Linux on processors 0 and 12 with 1000 KiB left, no cgroups, no limit of its own; it tells nothing else."""
    made = Kernel(tmp_path, monkeypatch)
    made.write("meminfo", "MemTotal:       9000 kB\nMemFree:         10 kB\nMemAvailable:  1000 kB")
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {12, 0}, raising=False)
    _limit_address_space(monkeypatch, -1)
    return made


def _limit_address_space(monkeypatch: MonkeyPatch, limit: int) -> None:
    fake: Any = SimpleNamespace(RLIMIT_AS=9, RLIM_INFINITY=-1, getrlimit=lambda kind: {9: (limit, -1)}[kind])
    monkeypatch.setitem(sys.modules, "resource", fake)


# Cores.


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("processor\t: 0\nmodel name\t: Intel(R) Xeon(R) CPU @ 2.70GHz\nflags\t: fpu avx2 avx512_vnni amx_int8",
         "Intel(R) Xeon(R) CPU @ 2.70GHz (avx2, avx512_vnni, amx_int8)"),
        ("model name\t: Old\nflags\t\t: fpu sse2 myavx2", "Old (instruction sets unknown)"),
        ("processor\t: 0\nFeatures\t: fp asimd asimddp i8mm\n", " (asimddp, i8mm)"),
    ],
    ids=["Intel", "old", "ARM, which has no name"],
)  # fmt: skip
def test_the_cpu_in_words(kernel: Kernel, text: str, wanted: str) -> None:
    kernel.write("cpuinfo", text)
    assert machine.describe_cpu().endswith(wanted)


@pytest.mark.parametrize(
    ("siblings", "cores"),
    [
        ({0: "0", 1: "1", 2: "2"}, 3),
        ({0: "0-1", 1: "0-1", 2: "2-3", 3: "2-3"}, 2),
        ({0: "0,4", 4: "0,4", 1: "1,5"}, 2),  # one of the two threads of core 1 is not ours
        ({3: "3,7"}, 1),
        ({0: None, 1: None}, 2),  # a container that hides the topology
        ({}, 1),
    ],
)
def test_threads_of_one_core_count_once(
    kernel: Kernel, monkeypatch: MonkeyPatch, siblings: dict[int, str | None], cores: int
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(siblings))
    for number, text in siblings.items():
        if text is not None:
            kernel.write(f"cpu/cpu{number}/topology/thread_siblings_list", text)
    assert machine.physical_cores() == cores


@pytest.mark.parametrize(("count", "cores"), [(6, 6), (None, 1)])
def test_a_system_without_affinity(kernel: Kernel, monkeypatch: MonkeyPatch, count: int | None, cores: int) -> None:
    """As macOS and Windows."""
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: count)
    monkeypatch.setattr("platform.processor", lambda: "arm")
    assert (machine.describe_cpu(), machine.affinity(), machine.physical_cores()) == ("arm", (), cores)


@pytest.mark.parametrize(
    ("cores", "quota", "usable"),
    [(8, None, 8), (8, 4.0, 4), (8, 1.9, 1), (8, 0.5, 1), (8, 0.001, 1), (2, 16.0, 2), (4, 4.0, 4), (1, None, 1)],
)
def test_threads_are_at_most_the_quota(monkeypatch: MonkeyPatch, cores: int, quota: float | None, usable: int) -> None:
    monkeypatch.setattr(machine, "physical_cores", lambda: cores)
    monkeypatch.setattr(machine, "cpu_quota", lambda: quota)
    assert machine.usable_cores() == usable


def test_this_machine_has_usable_cores() -> None:
    assert 1 <= machine.usable_cores() <= machine.physical_cores() <= (os.cpu_count() or 1)


@pytest.mark.parametrize(
    ("text", "cores"),
    [
        ("150000 100000", 1.5),
        ("50000 100000", 0.5),
        ("max 100000", None),
        ("-1 100000", None),
        ("", None),
        ("1 0", None),
    ],
)
def test_a_quota_as_the_kernel_writes_it(kernel: Kernel, text: str, cores: float | None) -> None:
    kernel.write("cgroup", "0::/")
    kernel.write("fs/cpu.max", text)
    assert machine.cpu_quota() == cores


def test_the_smallest_quota_of_all_above_holds(kernel: Kernel) -> None:
    kernel.write("cgroup", "0::/kubepods/pod7/abc")
    assert machine.cpu_quota() is None
    kernel.write("fs/kubepods/pod7/abc/cpu.max", "max 100000")
    kernel.write("fs/kubepods/pod7/cpu.max", "200000 100000")
    kernel.write("fs/kubepods/cpu.max", "3200000 100000")
    assert machine.cpu_quota() == 2


def test_inside_a_container_the_mount_is_the_own_cgroup(kernel: Kernel) -> None:
    kernel.write("cgroup", "0::/docker/of-the-host")
    kernel.write("fs/cpu.max", "75000 100000")
    assert machine.cpu_quota() == 0.75


def test_a_quota_of_version_1(kernel: Kernel) -> None:
    kernel.write("cgroup", "4:memory:/a\n3:cpu,cpuacct:/docker/x\n1:name=systemd:/")
    kernel.write("fs/cpu,cpuacct/docker/x/cpu.cfs_quota_us", -1)
    kernel.write("fs/cpu,cpuacct/docker/x/cpu.cfs_period_us", 100000)
    assert machine.cpu_quota() is None
    kernel.write("fs/cpu,cpuacct/docker/x/cpu.cfs_quota_us", 300000)
    assert machine.cpu_quota() == 3


# Memory.


def test_what_the_machine_has_left(kernel: Kernel) -> None:
    assert machine.cpu_quota() is None  # no cgroups
    assert machine.available_bytes() == 1000 << 10


def test_the_tightest_cgroup_of_all_above_holds(kernel: Kernel) -> None:
    kernel.write("cgroup", "0::/pods/a/b")
    kernel.write("fs/pods/a/b/memory.max", "max")
    kernel.write("fs/pods/a/b/memory.current", 10)
    kernel.write("fs/pods/a/memory.max", 500_000)
    kernel.write("fs/pods/a/memory.current", 300_000)
    kernel.write("fs/pods/memory.max", 900_000)
    kernel.write("fs/pods/memory.current", 400_000)
    assert machine.available_bytes() == 200_000
    kernel.write("fs/pods/a/memory.stat", "file 70000\ninactive_file 50000\ntotal_inactive_file 7")
    assert machine.available_bytes() == 250_000  # cache that would be given up


def test_memory_of_a_container_of_version_1(kernel: Kernel) -> None:
    kernel.write("cgroup", "4:memory:/docker/x\n3:cpu,cpuacct:/docker/x")
    kernel.write("fs/memory/memory.limit_in_bytes", 700_000)
    kernel.write("fs/memory/memory.usage_in_bytes", 600_000)
    kernel.write("fs/memory/memory.stat", "inactive_file 7\ntotal_inactive_file 1000")
    assert machine.available_bytes() == 101_000
    kernel.write("fs/memory/memory.limit_in_bytes", 9223372036854771712)  # none
    assert machine.available_bytes() == 1000 << 10


def test_a_cgroup_past_its_limit_leaves_nothing(kernel: Kernel) -> None:
    kernel.write("cgroup", "0::/")
    kernel.write("fs/memory.max", 100)
    kernel.write("fs/memory.current", 200)
    assert machine.available_bytes() == 0


def test_a_limited_address_space(kernel: Kernel, monkeypatch: MonkeyPatch) -> None:
    kernel.write("status", "Name:\tpython\nVmPeak:\t  999999 kB\nVmSize:\t  888888 kB\nVmRSS:\t   30000 kB")
    _limit_address_space(monkeypatch, (888888 << 10) + 4096)
    assert machine.available_bytes() == 4096


def test_a_system_that_does_not_tell(kernel: Kernel, monkeypatch: MonkeyPatch) -> None:
    (kernel.folder / "meminfo").unlink()
    assert machine.available_bytes() is None
    monkeypatch.setitem(sys.modules, "resource", None)
    assert machine.available_bytes() is None


def test_a_task_may_take_a_share_of_what_is_free(kernel: Kernel, monkeypatch: MonkeyPatch) -> None:
    assert machine.room_bytes() == int(machine.SHARE * (1000 << 10))
    monkeypatch.setattr(machine, "available_bytes", lambda: None)
    assert machine.room_bytes() is None


def test_what_fits() -> None:
    """What is usual does always, and all where nothing is known."""
    free = 10 * machine.USUAL
    most = int(machine.SHARE * free)
    assert [machine.fits(needed, free) for needed in (1, most, most + 1)] == [True, True, False]
    assert [machine.fits(needed, 0) for needed in (machine.USUAL, machine.USUAL + 1)] == [True, False]
    assert machine.fits(1 << 60, None)


@LINUX
@pytest.mark.parametrize(
    ("free", "threads"),
    [(None, 6), (0, 0), (5 << 28, 0), ((5 << 28) + 64, 1), (9 << 28, 1), (11 << 28, 2), (1 << 40, 6)],
)
def test_threads_for_images_leave_the_share_of_a_task(monkeypatch: MonkeyPatch, free: int | None, threads: int) -> None:
    monkeypatch.setattr(machine, "usable_cores", lambda: 6)
    monkeypatch.setattr(machine, "available_bytes", lambda: free)
    assert machine.threads_for_images() == threads
    assert free is None or threads * machine.USUAL + machine.SHARE * free <= free


def test_this_process_may_take_some() -> None:
    assert 0 < (machine.available_bytes() or 0) < os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def test_a_module_is_imported_later_where_no_thread_can_be_had(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    with machine.importing("json"):
        ran = True
    assert ran
