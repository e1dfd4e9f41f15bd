"""What a measurement was made on, and what else went on: planted figures, and what is not told."""

from __future__ import annotations

import importlib.metadata
import json
import math
import os
import subprocess
import sys
import threading
from collections import namedtuple
from collections.abc import Iterator, Mapping
from datetime import datetime, timezone
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import psutil
import pynvml
import pytest

from rest_deploy import environment, machine
from rest_deploy.environment import (
    CpuTimes,
    Load,
    between,
    clocks_mhz,
    describe_environment,
    governor,
    installed_version,
    peak_mib,
    query_gpus,
    speed_variables,
    total_mib,
)
from rest_deploy.errors import DeviceError, MissingPackageError, install
from rest_deploy.nvidia import find_gpu
from tests.standins.nvml import H100, FakeNvml

MonkeyPatch = pytest.MonkeyPatch
KEYS = [
    "created", "command", "os", "python", "cpu", "logical_cpus", "physical_cores", "affinity", "cpu_quota",
    "memory_mib", "clocks_mhz", "governor", "gpus", "gpus_note", "packages", "variables",
]  # fmt: skip
LINUX = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="only Linux has /proc")


def _numbers(value: Any) -> list[float]:
    if isinstance(value, dict):
        return [number for inner in value.values() for number in _numbers(inner)]
    if isinstance(value, list):
        return [number for inner in value for number in _numbers(inner)]
    return [value] if isinstance(value, (int, float)) else []


def test_the_record_of_this_machine(monkeypatch: MonkeyPatch) -> None:
    gpu = {"name": "a GPU", "driver": "1.2"}
    monkeypatch.setattr(environment, "query_gpus", lambda: ([gpu], None))
    told = describe_environment("rest-bench a.onnx")
    assert list(told) == KEYS
    assert json.loads(json.dumps(told)) == told
    assert all(map(math.isfinite, _numbers(told)))
    age = datetime.now(timezone.utc) - datetime.fromisoformat(told["created"])
    assert 0 <= age.total_seconds() < 60
    assert told["command"] == "rest-bench a.onnx"
    assert (told["gpus"], told["gpus_note"]) == ([gpu], None)
    assert told["python"] == ".".join(map(str, sys.version_info[:3]))
    assert {"numpy", "pillow", "rest-deploy"} <= set(told["packages"])
    assert None not in told["packages"].values()


def test_a_system_that_tells_nothing(monkeypatch: MonkeyPatch, tmp_path: Path) -> None:
    """As macOS and Windows, where there is no /proc and no affinity, without the extra bench."""
    for module in (machine, environment):
        for name in ("_CPUINFO", "_PROCESSORS", "_STATUS"):
            monkeypatch.setattr(module, name, tmp_path / "none")
    monkeypatch.setattr(machine, "_CGROUPS", tmp_path / "none")
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.delattr(os, "sysconf")
    for name in ("psutil", "pynvml"):
        monkeypatch.setitem(sys.modules, name, None)
    told = describe_environment()
    assert (told["command"], told["affinity"], told["cpu_quota"], told["memory_mib"]) == (None, [], None, None)
    assert (told["clocks_mhz"], told["governor"], told["gpus"]) == ([], None, [])
    assert told["gpus_note"].startswith("nvidia-ml-py is needed to ")


def test_variables_that_change_the_speed() -> None:
    found = speed_variables(
        {
            "OMP_NUM_THREADS": "2", "KMP_AFFINITY": "x" * 300, "GOMP_CPU_AFFINITY": "0-3", "ORT_X": "", "HOME": "/root",
            "PYTORCH_CUDA_ALLOC_CONF": "a\udcff", "TORCHINDUCTOR_MAX_AUTOTUNE": "1", "CUDA_VISIBLE_DEVICES": "",
            "MY_OMP_NUM_THREADS": "1", "OMP_NUM_THREADS_X": "1", "NVIDIA_TF32_OVERRIDE": "0", "TORCH_HOME": "/x",
        }
    )  # fmt: skip
    assert found == {
        "CUDA_VISIBLE_DEVICES": "", "GOMP_CPU_AFFINITY": "0-3", "KMP_AFFINITY": "x" * 200, "NVIDIA_TF32_OVERRIDE": "0",
        "OMP_NUM_THREADS": "2", "ORT_X": "", "PYTORCH_CUDA_ALLOC_CONF": "a\\udcff", "TORCHINDUCTOR_MAX_AUTOTUNE": "1",
    }  # fmt: skip
    assert list(found) == sorted(found)


def test_importing_it_loads_no_package_and_describing_none_that_it_describes() -> None:
    code = (
        "import sys; from rest_deploy.environment import describe_environment; before = set(sys.modules); "
        "describe_environment(); print([m for m in ('numpy', 'torch', 'onnxruntime', 'PIL') if m in sys.modules], "
        "[m for m in ('importlib.metadata', 'psutil', 'pynvml') if m in before])"
    )
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[] []"


# Versions.


def test_versions() -> None:
    assert installed_version("numpy") == np.__version__
    assert installed_version("no-such-package-of-anyone") is None


@pytest.mark.parametrize("error", [KeyError("Version"), TypeError("None"), OSError("gone"), None])
def test_metadata_that_cannot_be_read(monkeypatch: MonkeyPatch, error: Exception | None) -> None:
    """As versions of Python tell of a folder without its METADATA."""

    def version(name: str) -> None:
        if error is not None:
            raise error

    monkeypatch.setattr(importlib.metadata, "version", version)
    assert installed_version("numpy") is None


def test_what_an_uninstall_left_behind(tmp_path: Path, monkeypatch: MonkeyPatch) -> None:
    for name in ("leftover_pkg-1.2", "whole_pkg-3.4", "nameless-1"):
        (tmp_path / f"{name}.dist-info").mkdir()
    metadata = "Metadata-Version: 2.1\nName: whole-pkg\nVersion: 3.4\n"
    (tmp_path / "whole_pkg-3.4.dist-info" / "METADATA").write_text(metadata)
    (tmp_path / "nameless-1.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert [installed_version(name) for name in ("leftover-pkg", "whole-pkg", "nameless")] == [None, "3.4", None]


# Clocks.

CPUINFO = """processor\t: 0
model name\t: Intel(R) Xeon(R) Platinum 8481C CPU @ 2.70GHz
cpu MHz\t\t: 2700.125

processor\t: 1
cpu MHz\t\t: 3500.000

processor\t: 12
cpu MHz\t\t: 0.000
"""


@pytest.fixture
def system(monkeypatch: MonkeyPatch, tmp_path: Path) -> Path:
    """A Linux of this folder that runs this process on processors 0 and 12: a file ``cpuinfo``, a folder ``cpu``."""
    monkeypatch.setattr(environment, "_CPUINFO", tmp_path / "cpuinfo")
    monkeypatch.setattr(environment, "_PROCESSORS", tmp_path / "cpu")
    monkeypatch.setattr(environment, "affinity", lambda: (0, 12))
    return tmp_path


def _write(folder: Path, name: str, text: str, numbers: tuple[int, ...] = (0, 12)) -> None:
    for number in numbers:
        path = folder / "cpu" / f"cpu{number}" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def test_clocks_are_those_of_the_affinity_and_come_from_cpufreq_where_cpuinfo_has_none(system: Path) -> None:
    (system / "cpuinfo").write_text(CPUINFO)
    assert clocks_mhz() == [2700.125]
    _write(system, "cpufreq/scaling_cur_freq", "1800000\n")
    assert clocks_mhz() == [2700.125, 1800.0]
    (system / "cpuinfo").write_text("processor\t: 0\ncpu MHz\t\t: unknown\n\nprocessor\t: 12\nBogoMIPS\t: 243.75\n")
    assert clocks_mhz() == [1800.0, 1800.0]
    _write(system, "cpufreq/scaling_cur_freq", "<unknown>\n")
    assert clocks_mhz() == []


def test_the_governor(system: Path) -> None:
    assert governor() is None
    _write(system, "cpufreq/scaling_governor", "powersave\n")
    assert governor() == "powersave"
    _write(system, "cpufreq/scaling_governor", "performance\n", (12,))
    assert governor() == "performance, powersave"


# Memory.


def test_peak_in_mib(monkeypatch: MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "status").write_text("Name:\tpython\nVmPeak:\t  999999 kB\nVmHWM:\t   52224 kB\nVmRSS:\t   30000 kB\n")
    monkeypatch.setattr(environment, "_STATUS", tmp_path / "status")
    assert peak_mib() == 51


@pytest.mark.parametrize(("platform", "unit"), [("darwin", 2**20), ("freebsd14", 2**10)])
def test_without_proc_it_is_asked_of_getrusage(
    monkeypatch: MonkeyPatch, tmp_path: Path, platform: str, unit: int
) -> None:
    fake: Any = SimpleNamespace(RUSAGE_SELF=0, getrusage=lambda _: SimpleNamespace(ru_maxrss=70 * unit))
    monkeypatch.setattr(environment, "_STATUS", tmp_path / "none")
    monkeypatch.setattr(sys, "platform", platform)
    monkeypatch.setitem(sys.modules, "resource", fake)
    assert peak_mib() == 70


def test_windows_does_not_tell(monkeypatch: MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(environment, "_STATUS", tmp_path / "none")
    monkeypatch.setitem(sys.modules, "resource", None)
    monkeypatch.delattr(os, "sysconf")
    with pytest.raises(DeviceError):
        peak_mib()
    assert total_mib() is None


@LINUX
def test_a_peak_stays_after_the_memory_is_given_back() -> None:
    code = (
        "from rest_deploy.environment import peak_mib\nbefore = peak_mib()\nblock = bytearray(b'x') * (64 << 20)\n"
        "del block\nprint(before, peak_mib())"
    )
    before, after = map(float, subprocess.check_output([sys.executable, "-c", code], text=True).split())
    assert 60 < after - before < 80


@LINUX
def test_a_child_does_not_inherit_its_parents_peak() -> None:
    """As ru_maxrss would."""
    block = np.ones(200 << 17)  # 200 MiB, resident in this process
    code = "from rest_deploy.environment import peak_mib; print(peak_mib())"
    assert float(subprocess.check_output([sys.executable, "-c", code], text=True)) < 100
    assert block.nbytes == 200 << 20


def test_this_machine_has_memory() -> None:
    assert (total_mib() or 0) > peak_mib() > 1


# GPUs.

RECORD = {
    "name": "NVIDIA H100 80GB HBM3", "driver": "580.82.07", "memory_mib": 81559, "compute_capability": "9.0",
    "sm_clock_mhz": 1980, "max_sm_clock_mhz": 1980, "memory_clock_mhz": 2619, "temperature_c": 40, "power_w": 80.52,
    "throttle_reasons": "0x0000000000000001",
}  # fmt: skip
TEMPERATURE = f"nvmlDeviceGetTemperature {pynvml.NVML_TEMPERATURE_GPU}"
UNKNOWN = pynvml.NVMLError_FunctionNotFound()
#: An older driver, which does not know the newer names.
OLD_DRIVER: Mapping[str, Any] = H100 | {
    "nvmlDeviceGetTemperatureV 0": UNKNOWN, TEMPERATURE: 33,
    "nvmlDeviceGetCurrentClocksEventReasons": UNKNOWN, "nvmlDeviceGetCurrentClocksThrottleReasons": 2,
}  # fmt: skip


def test_gpus_are_described(monkeypatch: MonkeyPatch) -> None:
    fake = FakeNvml((H100, H100)).install(monkeypatch)
    gpus, note = query_gpus()
    assert (gpus, note) == ([RECORD, RECORD], None)
    assert list(gpus[0]) == list(RECORD)
    assert fake.starts == 0  # it was ended


def test_a_value_that_a_gpu_does_not_have_is_none(monkeypatch: MonkeyPatch) -> None:
    missing = dict.fromkeys(("nvmlDeviceGetMemoryInfo", "nvmlDeviceGetPowerUsage"), pynvml.NVMLError_NotSupported())
    FakeNvml([H100 | missing]).install(monkeypatch)
    assert query_gpus() == ([RECORD | {"memory_mib": None, "power_w": None}], None)


@pytest.mark.parametrize(
    ("function", "error", "name"),
    [
        ("nvmlDeviceGetName", pynvml.NVMLError_Unknown(), "name"),
        ("nvmlDeviceGetPowerUsage", pynvml.NVMLError_NoPermission(), "power_w"),
        ("nvmlDeviceGetMemoryInfo", UNKNOWN, "memory_mib"),
        ("nvmlDeviceGetCurrentClocksEventReasons", pynvml.NVMLError_GpuIsLost(), "throttle_reasons"),
    ],
)
def test_a_value_that_cannot_be_had_is_told(
    monkeypatch: MonkeyPatch, function: str, error: Exception, name: str
) -> None:
    fake = FakeNvml([H100, H100 | {function: error}]).install(monkeypatch)
    assert query_gpus() == ([RECORD, RECORD | {name: None}], f"NVML: GPU 1, {name}: {error}")
    assert fake.starts == 0


def test_an_older_driver_is_asked_by_older_names(monkeypatch: MonkeyPatch) -> None:
    FakeNvml([OLD_DRIVER]).install(monkeypatch)
    expected = RECORD | {"temperature_c": 33, "throttle_reasons": "0x0000000000000002"}
    assert query_gpus() == ([expected], None)


def test_a_driver_that_knows_none_of_the_names_is_told(monkeypatch: MonkeyPatch) -> None:
    FakeNvml([OLD_DRIVER | {"nvmlDeviceGetCurrentClocksThrottleReasons": UNKNOWN}]).install(monkeypatch)
    (gpu,), note = query_gpus()
    assert (gpu["temperature_c"], gpu["throttle_reasons"]) == (33, None)
    assert note == "NVML: GPU 0, throttle_reasons: Function Not Found"


def test_an_older_nvidia_ml_py_lacks_newer_functions(monkeypatch: MonkeyPatch) -> None:
    """As 12.560.30, the oldest that is allowed."""
    FakeNvml([OLD_DRIVER], unknown=["nvmlDeviceGetTemperatureV"]).install(monkeypatch)
    (gpu,), note = query_gpus()
    assert (gpu["temperature_c"], note) == (33, None)


@pytest.mark.parametrize(
    ("fake", "note"),
    [
        (FakeNvml(errors={"nvmlInit": pynvml.NVMLError_LibraryNotFound()}),
         "NVML does not start: NVML Shared Library Not Found"),
        (FakeNvml(errors={"nvmlInit": pynvml.NVMLError_DriverNotLoaded()}), "NVML does not start: Driver Not Loaded"),
        (FakeNvml(errors={"nvmlInit": pynvml.NVMLError_NoPermission()}), "NVML does not start: Insufficient Perm"),
        (FakeNvml(errors={"nvmlInit": pynvml.NVMLError_LibRmVersionMismatch()}), "NVML does not start: RM has"),
        (FakeNvml(errors={"nvmlDeviceGetCount": pynvml.NVMLError_Unknown()}), "NVML: number of GPUs: Unknown Error"),
        (FakeNvml([pynvml.NVMLError_NoPermission()]), "NVML: GPU 0: Insufficient Permissions"),
        (FakeNvml([pynvml.NVMLError_NotSupported()]), "NVML: GPU 0: Not Supported"),
        (FakeNvml([]), "NVML finds no GPU"),
        (FakeNvml(errors={"nvmlInit": ValueError("of\n ctypes")}), "nvidia-ml-py fails: ValueError: of ctypes"),
    ],
    ids=["no library", "no driver", "no rights", "two versions", "no count", "no handle", "odd", "none", "broken"],
)  # fmt: skip
def test_why_there_are_no_gpus(monkeypatch: MonkeyPatch, fake: FakeNvml, note: str) -> None:
    fake.install(monkeypatch)
    gpus, told = query_gpus()
    assert gpus == []
    assert told is not None
    assert told.startswith(note)
    assert fake.starts == 0


def test_a_gpu_that_is_lost_does_not_hide_the_others(monkeypatch: MonkeyPatch) -> None:
    FakeNvml([pynvml.NVMLError_GpuIsLost(), H100]).install(monkeypatch)
    assert query_gpus() == ([RECORD], "NVML: GPU 0: GPU is lost")


def test_a_shutdown_that_fails_is_told_beside_the_gpus(monkeypatch: MonkeyPatch) -> None:
    FakeNvml(errors={"nvmlShutdown": pynvml.NVMLError_Unknown()}).install(monkeypatch)
    assert query_gpus() == ([RECORD], "NVML: shutdown: Unknown Error")


@pytest.fixture
def hanging(monkeypatch: MonkeyPatch) -> Iterator[FakeNvml]:
    """A driver that does not answer while the test runs."""
    fake = FakeNvml().install(monkeypatch)
    fake.answers.clear()
    yield fake
    fake.answers.set()


def test_a_driver_that_hangs(hanging: FakeNvml, monkeypatch: MonkeyPatch) -> None:
    monkeypatch.setattr(environment, "_NVML_TIMEOUT_S", 0)
    assert query_gpus() == ([], "NVML did not answer within 0 s")


def test_without_nvidia_ml_py(monkeypatch: MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    gpus, note = query_gpus()
    assert gpus == []
    assert note is not None
    assert note.startswith("nvidia-ml-py is needed to ")
    assert note.endswith(install("bench"))


@pytest.mark.parametrize("statement", ["import no_such_module_of_anyone", "def", "raise OSError('libc')"])
def test_a_broken_nvidia_ml_py(monkeypatch: MonkeyPatch, tmp_path: Path, statement: str) -> None:
    """What it needs itself is not what rest-deploy tells to install."""
    monkeypatch.delitem(sys.modules, "pynvml")
    (tmp_path / "pynvml.py").write_text(statement)
    monkeypatch.syspath_prepend(tmp_path)
    gpus, note = query_gpus()
    assert gpus == []
    assert note is not None
    assert note.startswith("nvidia-ml-py fails: ")


def test_nvml_of_this_machine() -> None:
    gpus, note = query_gpus()
    assert all(list(gpu) == list(RECORD) for gpu in gpus)
    assert gpus or (note is not None and note.startswith("NVML"))


@pytest.mark.gpu
def test_nvml_and_cuda_describe_the_same_gpu(monkeypatch: MonkeyPatch) -> None:
    try:
        gpu = find_gpu(0)
    except (DeviceError, MissingPackageError) as exc:
        pytest.skip(str(exc))
    gpus, note = query_gpus()
    assert note is None
    same = [told for told in gpus if told["name"] == gpu.name]  # CUDA may number them in another order
    capability = f"{gpu.compute_capability.major}.{gpu.compute_capability.minor}"
    assert capability in [told["compute_capability"] for told in same]
    for told in same:
        assert told["memory_mib"] == pytest.approx(gpu.memory_bytes >> 20, rel=0.05)  # CUDA leaves out what is reserved
        assert 0 < told["sm_clock_mhz"] <= told["max_sm_clock_mhz"]
        assert told["memory_clock_mhz"] > 0
        assert 0 < told["temperature_c"] < 120
        assert told["power_w"] > 1
        assert int(told["throttle_reasons"], 16) >= 0


# What else went on.

#: A processor of Linux, as psutil has it.
Times = namedtuple("Times", "user nice system idle iowait irq softirq steal guest guest_nice")
BEFORE = {
    0: Times(10, 0.1, 2, 50, 0.5, 0.05, 0.15, 0.2, 0, 0), 1: Times(20, 0, 0, 30, 0, 0, 0, 0, 5, 0),
    10: Times(*[7] * 10),
}  # fmt: skip
#: A second later: processor 0 was 0.4 s busy, 0.45 idle, 0.15 stolen; 1 all of it busy.
AFTER = {
    0: Times(10.2, 0.15, 2.05, 50.4, 0.55, 0.08, 0.22, 0.35, 0, 0), 1: Times(21, 0, 0, 30, 0, 0, 0, 0, 6, 0),
    10: Times(*[70] * 10),
}  # fmt: skip


@pytest.fixture
def counters(monkeypatch: MonkeyPatch, system: Path) -> Path:
    """A Linux with processors 0, 1 and 10 online; this process may run on 0 and 1."""
    (system / "cpu").mkdir()
    (system / "cpu" / "online").write_text("0-1,10\n")
    monkeypatch.setattr(environment, "affinity", lambda: (0, 1))
    return system


def _now(monkeypatch: MonkeyPatch, times: Mapping[int, Any], own_s: float = 5) -> CpuTimes:
    monkeypatch.setattr(psutil, "cpu_times", lambda percpu: list(times.values()))
    return CpuTimes.now()._replace(own_s=own_s)


def test_seconds_are_summed_over_the_processors_of_the_affinity(monkeypatch: MonkeyPatch, counters: Path) -> None:
    found = _now(monkeypatch, BEFORE)
    assert (found.processors, found.throttles) == ((0, 1), None)
    assert found.spent == pytest.approx((32.3, 80.5, 0.2))
    monkeypatch.setattr(environment, "affinity", lambda: (10,))
    assert _now(monkeypatch, BEFORE).spent == pytest.approx((35, 14, 7))


def test_shares_between_two_moments(monkeypatch: MonkeyPatch, counters: Path) -> None:
    """Of 2 s 1.4 are busy, 0.15 stolen; 1.2 s of the busy time are this process's own."""
    found = between(_now(monkeypatch, BEFORE), _now(monkeypatch, AFTER, own_s=6.2))
    assert found == (pytest.approx(0.075), pytest.approx(0.1), None)


def test_own_time_beyond_the_ticks_makes_no_negative_share(monkeypatch: MonkeyPatch, counters: Path) -> None:
    """The kernel counts in ticks, the process's own clock does not."""
    assert between(_now(monkeypatch, BEFORE), _now(monkeypatch, AFTER, own_s=6.5)).others == 0


def test_a_counter_that_shrinks_counts_as_nothing(monkeypatch: MonkeyPatch, counters: Path) -> None:
    """As that of iowait may, proc(5)."""
    shrunk = BEFORE | {0: BEFORE[0]._replace(iowait=0, steal=1.2)}
    assert between(_now(monkeypatch, BEFORE), _now(monkeypatch, shrunk)).stolen == 1


def test_no_time_at_all(monkeypatch: MonkeyPatch, counters: Path) -> None:
    assert between(_now(monkeypatch, BEFORE), _now(monkeypatch, BEFORE)) == Load(None, None, None)


def test_another_affinity_in_between_makes_the_counters_no_pair(monkeypatch: MonkeyPatch, counters: Path) -> None:
    before = _now(monkeypatch, BEFORE)
    monkeypatch.setattr(environment, "affinity", lambda: (0,))
    assert between(before, _now(monkeypatch, AFTER)) == Load(None, None, None)


def test_processors_that_cannot_be_told_apart_are_not_guessed(monkeypatch: MonkeyPatch, counters: Path) -> None:
    """As in a container that lists its own."""
    (counters / "cpu" / "online").write_text("0-63\n")
    assert _now(monkeypatch, BEFORE).spent is None
    assert between(_now(monkeypatch, BEFORE), _now(monkeypatch, AFTER)) == Load(None, None, None)


def test_a_system_without_numbers_lists_all(monkeypatch: MonkeyPatch, counters: Path) -> None:
    """As macOS, which has neither an affinity nor most of the counters."""
    (counters / "cpu" / "online").unlink()
    monkeypatch.setattr(environment, "affinity", lambda: ())
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    mac = {number: SimpleNamespace(user=1, nice=0, system=2, idle=3) for number in (0, 1)}
    found = _now(monkeypatch, mac)
    assert (found.processors, found.spent) == ((0, 1), (6, 6, 0))


def test_a_system_without_proc(monkeypatch: MonkeyPatch, counters: Path) -> None:
    def fail(percpu: bool) -> None:
        raise FileNotFoundError("/proc/stat")

    monkeypatch.setattr(psutil, "cpu_times", fail)
    assert CpuTimes.now().spent is None


def test_throttling_is_summed_over_the_processors(monkeypatch: MonkeyPatch, counters: Path) -> None:
    for number, count in ((0, "4\n"), (1, "5\n"), (10, "100\n")):
        _write(counters, "thermal_throttle/core_throttle_count", count, (number,))
    before = _now(monkeypatch, BEFORE)
    assert before.throttles == 9
    _write(counters, "thermal_throttle/core_throttle_count", "7\n", (1,))
    assert between(before, _now(monkeypatch, AFTER)).throttled == 2


@LINUX
def test_this_process_is_seen() -> None:
    before = CpuTimes.now()
    while (after := CpuTimes.now()).own_s - before.own_s < 0.05:  # CPU time, which goes by only while this runs
        pass
    assert before.spent is not None
    assert after.spent is not None
    assert sum(after.spent) > sum(before.spent) > 0


def test_without_psutil(monkeypatch: MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "psutil", None)
    with pytest.raises(MissingPackageError) as caught:
        CpuTimes.now()
    assert (caught.value.package, caught.value.extra) == ("psutil", "bench")
    monkeypatch.delitem(sys.modules, "psutil")
    (tmp_path / "psutil.py").write_text("raise ImportError('_psutil_linux.so')")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(DeviceError, match=r"psutil is installed but does not load: _psutil_linux\.so"):
        CpuTimes.now()


def test_gpus_are_not_known_where_no_thread_can_be_had(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    assert query_gpus() == ([], "NVML was not asked: can't start new thread")
