"""The CPU: instruction sets, cores, clocks; and what is told where a system does not tell."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from rest_deploy.machine import cpu

INTEL = """processor\t: 0
model name\t: Intel(R) Xeon(R) Platinum 8481C CPU @ 2.70GHz
cpu MHz\t\t: 2700.125
flags\t\t: fpu vme avx2 avx512f avx512_vnni amx_int8 rdtscp

processor\t: 1
cpu MHz\t\t: 3500.000

processor\t: 12
cpu MHz\t\t: 0.000
"""
ARM = """processor\t: 0
BogoMIPS\t: 243.75
Features\t: fp asimd asimddp i8mm
CPU implementer\t: 0x41
"""


@pytest.fixture
def system(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A Linux of this folder, on two processors, that tells nothing yet: a file ``cpuinfo``, a folder ``cpu``."""
    monkeypatch.setattr(cpu, "_CPUINFO", tmp_path / "cpuinfo")
    monkeypatch.setattr(cpu, "_PROCESSORS", tmp_path / "cpu")
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {12, 0}, raising=False)
    return tmp_path


def _write(folder: Path, **files: str) -> None:
    for number in (0, 12):
        inner = folder / "cpu" / f"cpu{number}"
        for name, text in files.items():
            path = inner / ("topology" if name == "thread_siblings_list" else "cpufreq") / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        (INTEL, "Intel(R) Xeon(R) Platinum 8481C CPU @ 2.70GHz (avx2, avx512f, avx512_vnni, amx_int8)"),
        ("model name\t: Old\nflags\t\t: fpu sse2 myavx2\n", "Old (no instruction sets told)"),
    ],
)
def test_the_cpu_in_words(system: Path, text: str, wanted: str) -> None:
    (system / "cpuinfo").write_text(text)
    assert cpu.describe_cpu() == wanted


def test_a_cpu_without_a_name(system: Path) -> None:
    (system / "cpuinfo").write_text(ARM)
    assert cpu.describe_cpu().endswith(" (asimddp, i8mm)")


def test_clocks_as_linux_writes_them() -> None:
    assert cpu.parse_clocks(INTEL) == {0: 2700.125, 1: 3500.0}
    assert cpu.parse_clocks(ARM) == {}
    assert cpu.parse_clocks("processor\t: 0\ncpu MHz\t\t: unknown\n") == {}


def test_clocks_are_those_of_the_affinity_and_come_from_cpufreq_where_cpuinfo_has_none(system: Path) -> None:
    (system / "cpuinfo").write_text(INTEL)
    assert cpu.clocks_mhz() == [2700.125]
    _write(system, scaling_cur_freq="1800000\n")
    assert cpu.clocks_mhz() == [2700.125, 1800.0]
    (system / "cpuinfo").unlink()
    assert cpu.clocks_mhz() == [1800.0, 1800.0]
    _write(system, scaling_cur_freq="<unknown>\n")
    assert cpu.clocks_mhz() == []


def test_the_governor(system: Path) -> None:
    assert cpu.governor() is None
    _write(system, scaling_governor="powersave\n")
    assert cpu.governor() == "powersave"
    (system / "cpu" / "cpu12" / "cpufreq" / "scaling_governor").write_text("performance\n")
    assert cpu.governor() == "performance, powersave"


def test_threads_of_one_core_count_once(system: Path) -> None:
    assert cpu.physical_cores() == 2  # a container that hides the topology
    _write(system, thread_siblings_list="0,12\n")
    assert cpu.physical_cores() == 1


def test_a_system_that_tells_nothing(system: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As macOS and Windows."""
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: 6)
    monkeypatch.setattr("platform.processor", lambda: "arm")
    assert (cpu.describe_cpu(), cpu.affinity(), cpu.physical_cores()) == ("arm", (), 6)
    assert (cpu.clocks_mhz(), cpu.governor()) == ([], None)
