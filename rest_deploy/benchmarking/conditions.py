"""The machine: whether it was quiet during a case, and how fast it multiplies matrices."""

from __future__ import annotations

import base64
import statistics
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rest_deploy.benchmarking.measure import Call
from rest_deploy.environment import Load
from rest_deploy.errors import DeviceError, MissingPackageError, one_line
from rest_deploy.runtimes.ort import import_onnxruntime
from rest_deploy.specs import Device

#: A run above these shares is called noisy. Quiet runs on a shared machine with two cores stay under them
#: (docs/benchmarks.md, "Noise").
_SPREAD, _STOLEN, _OTHERS = 0.15, 0.02, 0.05
#: Time of the fixed product in the last third of a case over that in the first; above this the machine slowed down.
_DRIFT = 1.10


@dataclass(frozen=True)
class Conditions:
    """What else happened during a case.

    Args:
        load: What others took of the processors.
        probe: Seconds of one fixed matrix product, the median of each round.
    """

    load: Load
    probe: tuple[float, ...]

    @property
    def spread(self) -> float | None:
        """Middle half of the probe over its median; None with too few rounds."""
        if len(self.probe) < 4:
            return None
        low, middle, high = np.quantile(self.probe, [0.25, 0.5, 0.75])
        return float((high - low) / middle)

    @property
    def drift(self) -> float | None:
        """Median of the last third of the probe over that of the first; None with too few rounds."""
        third = len(self.probe) // 3
        if third < 2:
            return None
        return statistics.median(self.probe[-third:]) / statistics.median(self.probe[:third])

    @property
    def flags(self) -> list[str]:
        """What makes the figures less reliable, in words."""
        load, flags = self.load, []
        if self.spread is not None and self.spread > _SPREAD:
            flags.append(
                f"noisy: the time of a fixed matrix product varied by {self.spread:.0%} between rounds (middle half of "
                "the rounds)"
            )
        if self.drift is not None and self.drift > _DRIFT:
            flags.append(
                f"throttled or loaded: the machine was {self.drift - 1:.0%} slower at the end than at the start"
            )
        if load.throttled:
            flags.append(f"throttled: the CPU slowed down for heat (count: {load.throttled})")
        if load.stolen is not None and load.stolen > _STOLEN:
            flags.append(f"noisy: the hypervisor took {load.stolen:.0%} of the processors' time")
        if load.others is not None and load.others > _OTHERS:
            flags.append(f"noisy: other processes used {load.others:.0%} of the processors' time")
        return flags

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "probe_ms": statistics.median(self.probe) * 1e3 if self.probe else None,
            "probe_spread": self.spread,
            "probe_drift": self.drift,
            "stolen": self.load.stolen,
            "others": self.load.others,
            "throttled": self.load.throttled,
            "flags": self.flags,
        }


#: An ONNX file with one MatMul of float32 (m, k) and (k, n), because the onnx package may not be installed;
#: tests/benchmarking/test_conditions.py builds the same bytes with onnx.
_GRAPH = base64.b64decode(
    "CAg6ZQoRCgFhCgFiEgF5IgZNYXRNdWwSC3Jlc3RfZGVwbG95WhUKAWESEAoOCAESCgoDEgFtCgMSAWtaFQoBYhIQCg4IARIKCgMSAWsKAxIBbmIVCgF5"
    "EhAKDggBEgoKAxIBbQoDEgFuQgQKABAN"
)
#: Sides of square matrices. The fastest one counts; it differs between libraries.
_SIDES = (512, 1024, 2048)
_SECONDS = 0.25  # of products for each side and library
_PROBE_SIDE = 96


@dataclass(frozen=True)
class MachineRate:
    """The largest rate of matrix products.

    Args:
        gflops: 10^9 floating-point operations per second, in float32, the best of a few sizes.
        by: The library that reached it.
        side: Of the square matrices.
        threads: CPU threads.
    """

    gflops: float
    by: str
    side: int
    threads: int


def measure_rate(threads: int) -> MachineRate:
    """The largest rate that a library in this process reaches on the CPU.

    Args:
        threads: CPU threads. NumPy, whose BLAS has its own setting, is used only if there is no other library.

    Raises:
        DeviceError: ONNX Runtime cannot multiply here.
    """
    found = [
        MachineRate(2 * side**3 / _best(product) / 1e9, by, side, threads)
        for side in _SIDES
        for by, product in _products(side, threads)
    ]
    return max(found, key=lambda rate: rate.gflops)


def probe() -> Call:
    """A short product that is timed in every round, to see changes in the speed of the machine.

    It uses NumPy's own loops on one processor: no runtime that is measured here, so its version does not matter, and no
    threads whose waking would look like noise.
    """
    a, b = _matrices(_PROBE_SIDE)
    return lambda: np.einsum("ij,jk->ik", a, b)


def _best(product: Call) -> float:
    """Seconds of the fastest call."""
    product()
    best, end = float("inf"), time.perf_counter() + _SECONDS
    while (start := time.perf_counter()) < end:
        product()
        best = min(best, time.perf_counter() - start)
    return best


def _products(side: int, threads: int) -> Iterator[tuple[str, Call]]:
    """Library -> a product of two square matrices; no framework is loaded only for this."""
    a, b = _matrices(side)
    session = _session(threads)
    if session is not None:
        yield "onnxruntime", lambda: session.run(None, {"a": a, "b": b})
    torch = sys.modules.get("torch")
    if torch is not None and hasattr(torch, "from_numpy"):
        from rest_deploy.models.reference import torch_threads  # imports torch, which is already loaded

        one, two = torch.from_numpy(a), torch.from_numpy(b)
        with torch_threads(threads):
            yield "torch", lambda: one @ two
    if session is None and torch is None:
        yield "numpy", lambda: a @ b


def _matrices(side: int) -> NDArray[np.float32]:
    return np.random.default_rng(0).standard_normal((2, side, side)).astype(np.float32)


def _session(threads: int) -> Any:
    try:
        onnxruntime = import_onnxruntime(Device("cpu"))
    except (MissingPackageError, DeviceError):
        return None
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = threads
    try:
        return onnxruntime.InferenceSession(_GRAPH, options, providers=["CPUExecutionProvider"])
    except Exception as exc:  # ONNX Runtime's errors share no public base class
        raise DeviceError(f"ONNX Runtime cannot multiply matrices on this CPU: {one_line(exc)}") from exc
