"""The CPU quota of a container, as both versions of cgroups tell it."""

from __future__ import annotations

from pathlib import Path

import pytest

from rest_deploy.machine import quota


@pytest.fixture
def system(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setattr(quota, "_CGROUPS", tmp_path / "cgroup")
    monkeypatch.setattr(quota, "_MOUNT", tmp_path / "fs")
    return tmp_path


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


@pytest.mark.parametrize(
    ("text", "cores"),
    [("150000 100000\n", 1.5), ("50000 100000", 0.5), ("max 100000\n", None), ("-1 100000", None), ("", None),
     ("1 0", None)],
)  # fmt: skip
def test_a_quota_as_the_kernel_writes_it(text: str, cores: float | None) -> None:
    assert quota.parse_quota(text) == cores


def test_the_smallest_of_all_above_holds(system: Path) -> None:
    (system / "cgroup").write_text("0::/kubepods/pod7/abc\n")
    assert quota.cpu_quota() is None
    _write(system / "fs" / "kubepods" / "pod7" / "abc" / "cpu.max", "max 100000\n")
    _write(system / "fs" / "kubepods" / "pod7" / "cpu.max", "200000 100000\n")
    _write(system / "fs" / "kubepods" / "cpu.max", "3200000 100000\n")
    assert quota.cpu_quota() == 2


def test_inside_a_container_the_mount_is_the_own_cgroup(system: Path) -> None:
    (system / "cgroup").write_text("0::/docker/of-the-host\n")
    _write(system / "fs" / "cpu.max", "75000 100000\n")
    assert quota.cpu_quota() == 0.75


def test_version_1(system: Path) -> None:
    (system / "cgroup").write_text("4:memory:/a\n3:cpu,cpuacct:/docker/x\n1:name=systemd:/\n")
    folder = system / "fs" / "cpu,cpuacct" / "docker" / "x"
    _write(folder / "cpu.cfs_quota_us", "-1\n")
    _write(folder / "cpu.cfs_period_us", "100000\n")
    assert quota.cpu_quota() is None
    _write(folder / "cpu.cfs_quota_us", "300000\n")
    assert quota.cpu_quota() == 3


def test_no_cgroups(system: Path) -> None:
    assert quota.cpu_quota() is None
