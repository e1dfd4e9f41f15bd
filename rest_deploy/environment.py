"""The machine of a measurement, and what else it did meanwhile, for the records of the commands."""

from __future__ import annotations

import contextlib
import os
import platform
import queue
import re
import sys
import threading
import time
from collections.abc import Callable, Mapping
from datetime import datetime, timezone
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from rest_deploy.errors import DeviceError, MissingPackageError, one_line
from rest_deploy.machine import affinity, cpu_quota, describe_cpu, kernel_text, physical_cores
from rest_deploy.runtimes.registry import RUNTIMES

#: Distributions whose version affects measurements, beside those that the runtimes name.
_PACKAGES = (
    *("rest-deploy", "numpy", "pillow", "onnx", "onnxsim", "onnxscript", "tensorrt-rtx-cu13-libs"),
    *("cuda-bindings", "safetensors"),
)
#: Environment variables that affect speed.
_VARIABLE = re.compile(
    r"OMP_NUM_THREADS|MKL_NUM_THREADS|OPENBLAS_NUM_THREADS|OPENBLAS_CORETYPE|CUDA_VISIBLE_DEVICES|CUDA_LAUNCH_BLOCKING"
    r"|NVIDIA_TF32_OVERRIDE|(?:KMP|GOMP|ORT|TORCHINDUCTOR|PYTORCH)_.*"
)
_LONGEST = 200
_CPUINFO, _STATUS = Path("/proc/cpuinfo"), Path("/proc/self/status")
_PROCESSORS = Path("/sys/devices/system/cpu")
_KIB, _MIB = 2**10, 2**20


def describe_environment(command: str | None = None) -> dict[str, Any]:
    """The machine, its packages and its settings, as plain values for JSON; unknown values are None.

    No described package is imported, except NVIDIA's nvidia-ml-py, which may take up to 10 seconds to answer.

    Args:
        command: The command line of the measurement.

    Returns:
        The object "environment" of a record: clocks in MHz, memory in MiB, ``affinity`` as numbers of processors,
        ``cpu_quota`` in cores, ``gpus`` and ``gpus_note`` from :func:`query_gpus`.
    """
    gpus, gpus_note = query_gpus()
    return {
        "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "command": command,
        "os": platform.platform(),
        "python": platform.python_version(),
        "cpu": describe_cpu(),
        "logical_cpus": os.cpu_count(),
        "physical_cores": physical_cores(),
        "affinity": list(affinity()),
        "cpu_quota": cpu_quota(),
        "memory_mib": total_mib(),
        "clocks_mhz": clocks_mhz(),
        "governor": governor(),
        "gpus": gpus,
        "gpus_note": gpus_note,
        "packages": {name: version for name in _packages() if (version := installed_version(name)) is not None},
        "variables": speed_variables(os.environ),
    }


def _packages() -> tuple[str, ...]:
    named = (name for row in RUNTIMES.values() for names in row.packages.values() for name in names)
    return tuple(dict.fromkeys((*_PACKAGES, *named)))


def installed_version(distribution: str) -> str | None:
    """Version of a distribution; None if it is not installed, or its metadata has no version."""
    import importlib.metadata  # slow to load; every command would wait

    try:
        version: object = importlib.metadata.version(distribution)
    except (importlib.metadata.PackageNotFoundError, KeyError, TypeError, OSError):
        return None  # TypeError and KeyError: a dist-info folder without its METADATA, by version of Python
    return version if isinstance(version, str) else None


def speed_variables(variables: Mapping[str, str]) -> dict[str, str]:
    """The variables that affect speed, in order of their names, each cut at 200 characters."""
    chosen = sorted(name for name in variables if _VARIABLE.fullmatch(name))
    # bytes that are not UTF-8 arrive as lone surrogates, which JSON files cannot hold
    return {name: variables[name][:_LONGEST].encode("utf-8", "backslashreplace").decode() for name in chosen}


# Clocks and memory. psutil gives clocks by frequency policy or by position, not by processor, and no peak memory on
# Linux. The size of memory is read without psutil, because rest-verify works without the extra bench.


def clocks_mhz() -> list[float]:
    """Current clock of each processor of the affinity, in MHz; empty if the system does not report it."""
    clocks = {}
    for block in kernel_text(_CPUINFO).split("\n\n"):
        number = re.search(r"^processor\s*: (\d+)$", block, re.MULTILINE)
        mhz = re.search(r"^cpu MHz\s*: (\d+(?:\.\d+)?)$", block, re.MULTILINE)
        if number and mhz:
            clocks[int(number[1])] = float(mhz[1])
    found = (clocks.get(number) or _scaled_mhz(number) for number in affinity())  # 0: unknown
    return [clock for clock in found if clock is not None]


def _scaled_mhz(processor: int) -> float | None:
    khz = kernel_text(_PROCESSORS / f"cpu{processor}/cpufreq/scaling_cur_freq")
    return int(khz) / 1000 if khz.isdecimal() else None


def governor() -> str | None:
    """Frequency governors of the affinity's processors, such as ``performance``; None if unknown."""
    names = {kernel_text(_PROCESSORS / f"cpu{number}/cpufreq/scaling_governor") for number in affinity()}
    return ", ".join(sorted(filter(None, names))) or None


def total_mib() -> int | None:
    """Memory of the machine in MiB; None if unknown."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // _MIB
    except (AttributeError, ValueError, OSError):  # Windows; names that a system does not know
        return None


def peak_mib() -> float:
    """Peak resident memory of this process so far, in MiB.

    On Linux it is VmHWM, which starts at zero for each program. ru_maxrss does not: a child inherits its parent's value
    over vfork and exec, so a small child of a large process looks large.

    Raises:
        DeviceError: The system does not report it.
    """
    kib = re.search(r"^VmHWM:\s*(\d+) kB$", kernel_text(_STATUS), re.MULTILINE)
    if kib is not None:
        return int(kib[1]) * _KIB / _MIB
    try:
        import resource
    except ImportError as exc:  # Windows
        raise DeviceError("this system does not report the peak memory of a process") from exc
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak * (1 if sys.platform == "darwin" else _KIB) / _MIB  # getrusage(2): in bytes on macOS, else in KiB


# GPUs.

_NVML_TIMEOUT_S = 10.0


class _Value(NamedTuple):
    """How a value of a GPU is read from NVML."""

    functions: tuple[str, ...]  # newest first: older drivers lack the first, newer ones may lack the last
    convert: Callable[[Any], Any]
    arguments: tuple[str, ...] = ()  # names of NVML's constants


#: Name in the record -> how it is read.
_VALUES: Mapping[str, _Value] = MappingProxyType(
    {
        "name": _Value(("nvmlDeviceGetName",), str),
        "memory_mib": _Value(("nvmlDeviceGetMemoryInfo",), lambda memory: memory.total // _MIB),
        "compute_capability": _Value(("nvmlDeviceGetCudaComputeCapability",), lambda pair: f"{pair[0]}.{pair[1]}"),
        "sm_clock_mhz": _Value(("nvmlDeviceGetClockInfo",), int, ("NVML_CLOCK_SM",)),
        "max_sm_clock_mhz": _Value(("nvmlDeviceGetMaxClockInfo",), int, ("NVML_CLOCK_SM",)),
        "memory_clock_mhz": _Value(("nvmlDeviceGetClockInfo",), int, ("NVML_CLOCK_MEM",)),
        "temperature_c": _Value(
            ("nvmlDeviceGetTemperatureV", "nvmlDeviceGetTemperature"), int, ("NVML_TEMPERATURE_GPU",)
        ),
        "power_w": _Value(("nvmlDeviceGetPowerUsage",), lambda milliwatts: milliwatts / 1000),
        "throttle_reasons": _Value(
            ("nvmlDeviceGetCurrentClocksEventReasons", "nvmlDeviceGetCurrentClocksThrottleReasons"),
            lambda mask: f"0x{mask:016x}",  # the form of nvidia-smi
        ),
    }
)


def query_gpus() -> tuple[list[dict[str, Any]], str | None]:
    """The NVIDIA GPUs, from NVML, NVIDIA's management library; never an exception.

    Returns:
        A record of each GPU: name, driver, memory_mib, compute_capability (``"8.9"``), sm_clock_mhz, max_sm_clock_mhz,
        memory_clock_mhz, temperature_c, power_w, throttle_reasons (a bit mask), each None if unknown. And a note that
        says what NVML failed at, or why there are no GPUs. A GPU that lacks some value is not a failure.
    """
    answer: queue.SimpleQueue[tuple[list[dict[str, Any]], str | None]] = queue.SimpleQueue()

    def ask() -> None:
        try:
            answer.put(_ask_nvml())
        except Exception as exc:  # nvidia-ml-py may be broken in any way, and rest-doctor must still run
            answer.put(([], f"nvidia-ml-py fails: {type(exc).__name__}: {one_line(exc)}"))

    # in its own thread, because a driver that hangs never answers
    try:
        threading.Thread(target=ask, name="nvml", daemon=True).start()
        return answer.get(timeout=_NVML_TIMEOUT_S)
    except RuntimeError as exc:
        return [], f"NVML was not asked: {one_line(exc)}"
    except queue.Empty:
        return [], f"NVML did not answer within {_NVML_TIMEOUT_S:g} s"


def _ask_nvml() -> tuple[list[dict[str, Any]], str | None]:
    try:
        import pynvml as nvml
    except ModuleNotFoundError as exc:
        if exc.name != "pynvml":
            raise
        return [], str(MissingPackageError("nvidia-ml-py", "list the GPUs of the NVIDIA driver", "bench"))
    failures: list[str] = []

    def attempt(what: str, function: Callable[..., Any], *arguments: Any) -> Any:
        try:
            return function(*arguments)
        except nvml.NVMLError as exc:
            failures.append(f"{what}: {one_line(exc)}")
            return None

    try:
        nvml.nvmlInit()
    except nvml.NVMLError as exc:
        return [], f"NVML does not start: {one_line(exc)}"
    try:
        driver = attempt("driver", nvml.nvmlSystemGetDriverVersion)
        gpus = []
        for index in range(attempt("number of GPUs", nvml.nvmlDeviceGetCount) or 0):
            handle = attempt(f"GPU {index}", nvml.nvmlDeviceGetHandleByIndex, index)
            if handle is not None:
                values = {
                    name: attempt(f"GPU {index}, {name}", _read, nvml, handle, row) for name, row in _VALUES.items()
                }
                gpus.append({"name": values.pop("name"), "driver": driver, **values})
    finally:
        attempt("shutdown", nvml.nvmlShutdown)
    return gpus, "; ".join(f"NVML: {failure}" for failure in failures) or (None if gpus else "NVML finds no GPU")


def _read(nvml: Any, handle: Any, row: _Value) -> Any:
    """A value from the first function that both nvidia-ml-py and the driver have."""
    arguments = [getattr(nvml, name) for name in row.arguments]
    *newer, oldest = row.functions
    try:
        for name in newer:
            if hasattr(nvml, name):
                with contextlib.suppress(nvml.NVMLError_FunctionNotFound):
                    return row.convert(getattr(nvml, name)(handle, *arguments))
        return row.convert(getattr(nvml, oldest)(handle, *arguments))
    except nvml.NVMLError_NotSupported:
        return None  # this GPU does not have the value


# What else went on.


class CpuTimes(NamedTuple):
    """Counters of the processors that this process may use, at one moment; two of them make a :class:`Load`."""

    processors: tuple[int, ...]
    own_s: float  # CPU seconds of this process with all its threads, without its children
    spent: tuple[float, float, float] | None  # busy, idle, stolen: seconds of the processors together
    throttles: int | None  # how often one of them was throttled for heat

    @classmethod
    def now(cls) -> CpuTimes:
        """The current counters; None if the system does not report them.

        Raises:
            MissingPackageError: psutil is not installed.
            DeviceError: It is installed but does not load.
        """
        processors = affinity() or tuple(range(os.cpu_count() or 1))
        return cls(processors, time.process_time_ns() / 1e9, _spent(processors), _throttles(processors))


class Load(NamedTuple):
    """The share of the processors that others used between two moments; None if the system does not report it.

    The kernel counts in ticks of mostly 10 ms: over one second on two processors a share is accurate to about 0.01.
    """

    stolen: float | None  # share of the time that the hypervisor took for other machines, 0 to 1
    others: float | None  # share that other processes used, including children of this one
    throttled: int | None  # how often one of the processors was throttled for heat


def between(before: CpuTimes, after: CpuTimes) -> Load:
    """The load from one moment to a later one."""
    throttled = (
        None if before.throttles is None or after.throttles is None else max(0, after.throttles - before.throttles)
    )
    if before.spent is None or after.spent is None or before.processors != after.processors:
        return Load(None, None, throttled)
    # the counter of iowait, which is part of idle, can decrease: proc(5)
    busy, idle, stolen = (max(0.0, late - early) for early, late in zip(before.spent, after.spent, strict=True))
    total = busy + idle + stolen
    if total <= 0:  # no tick has passed
        return Load(None, None, throttled)
    return Load(stolen / total, max(0.0, busy - (after.own_s - before.own_s)) / total, throttled)


def _spent(processors: tuple[int, ...]) -> tuple[float, float, float] | None:
    try:
        import psutil
    except ModuleNotFoundError as exc:
        raise MissingPackageError("psutil", "check that the machine is quiet during a measurement", "bench") from exc
    except ImportError as exc:
        raise DeviceError(f"psutil is installed but does not load: {one_line(exc)}") from exc
    try:
        listed = psutil.cpu_times(percpu=True)
    except OSError:
        return None
    # psutil gives no processor numbers. Linux lists the online processors ("0-3,5"); other systems list all.
    ranges = re.findall(r"(\d+)(?:-(\d+))?", kernel_text(_PROCESSORS / "online"))
    online = [number for first, last in ranges for number in range(int(first), int(last or first) + 1)]
    numbers = online or range(len(listed))
    chosen = [times for number, times in zip(numbers, listed, strict=False) if number in processors]
    if not chosen or len(numbers) != len(listed):
        return None

    def total(*kinds: str) -> float:
        return float(sum(getattr(times, kind, 0.0) for times in chosen for kind in kinds))

    # guest and guest_nice are part of user and nice: proc(5)
    return total("user", "nice", "system", "irq", "softirq"), total("idle", "iowait"), total("steal")


def _throttles(processors: tuple[int, ...]) -> int | None:
    counts = [kernel_text(_PROCESSORS / f"cpu{number}/thermal_throttle/core_throttle_count") for number in processors]
    known = [int(count) for count in counts if count.isdecimal()]
    return sum(known) if known else None
