"""What the machine gives: whether it was quiet while a case was measured, and how fast it multiplies matrices."""

from __future__ import annotations

import base64
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rest_deploy.environment import Load
from rest_deploy.errors import DeviceError, MissingPackageError, one_line
from rest_deploy.runtimes.ort import import_onnxruntime
from rest_deploy.specs import Device

#: Shares past which a run is called noisy. Quiet runs on a shared machine of two cores stay under them
#: (docs/benchmarks.md, "Noise").
_SPREAD, _STOLEN, _OTHERS = 0.15, 0.02, 0.05
#: The machine's own speed in the last third of a case against the first, past which it was slowed down.
_DRIFT = 1.10


@dataclass(frozen=True)
class Conditions:
    """What happened meanwhile.

    Args:
        load: Who used the processors.
        probe: Seconds that one fixed matrix product took, a median for each round.
    """

    load: Load
    probe: tuple[float, ...]

    @property
    def spread(self) -> float | None:
        """Middle half of the probe over its median; None with too few rounds to tell."""
        if len(self.probe) < 4:
            return None
        low, middle, high = np.quantile(self.probe, [0.25, 0.5, 0.75])
        return float((high - low) / middle)

    @property
    def drift(self) -> float | None:
        """Median of the last third of the probe over that of the first; None with too few rounds to tell."""
        third = len(self.probe) // 3
        if third < 2:
            return None
        return statistics.median(self.probe[-third:]) / statistics.median(self.probe[:third])

    @property
    def flags(self) -> list[str]:
        """What makes the figures less than trustworthy, in words."""
        load, flags = self.load, []
        if self.spread is not None and self.spread > _SPREAD:
            flags.append(
                f"noisy: a fixed matrix product took {self.spread:.0%} longer or shorter from round to round (middle "
                "half of the rounds)"
            )
        if self.drift is not None and self.drift > _DRIFT:
            flags.append(f"throttled or loaded: the machine was {self.drift - 1:.0%} slower at the end than at first")
        if load.throttled:
            flags.append(f"throttled: the CPU says that it got too hot {load.throttled} times")
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


#: An ONNX file of one MatMul of float32 (m, k) and (k, n), for where the onnx package is not installed;
#: tests/benchmarking/test_conditions.py builds the same bytes with it.
_GRAPH = base64.b64decode(
    "CAg6ZQoRCgFhCgFiEgF5IgZNYXRNdWwSC3Jlc3RfZGVwbG95WhUKAWESEAoOCAESCgoDEgFtCgMSAWtaFQoBYhIQCg4IARIKCgMSAWsKAxIBbmIVCgF5"
    "EhAKDggBEgoKAxIBbQoDEgFuQgQKABAN"
)
#: Sides of square matrices, of which the fastest counts: which it is differs from library to library.
_SIDES = (512, 1024, 2048)
_SECONDS = 0.25  # that each side of each library is multiplied for
_PROBE_SIDE = 96

Product = Callable[[], object]


@dataclass(frozen=True)
class MachineRate:
    """A rate.

    Args:
        gflops: 10^9 floating-point operations a second, in float32, the best of a few sizes.
        by: The library that reached it.
        side: Of the square matrices.
        threads: That multiplied.
    """

    gflops: float
    by: str
    side: int
    threads: int

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


def measure_rate(threads: int) -> MachineRate:
    """The largest rate of those that the libraries of this process reach on the CPU.

    Args:
        threads: That multiply. NumPy, whose BLAS has its own setting, is asked where there is nothing else.

    Raises:
        DeviceError: ONNX Runtime cannot multiply here.
    """
    found = [
        MachineRate(2 * side**3 / _best(product) / 1e9, by, side, threads)
        for side in _SIDES
        for by, product in _products(side, threads)
    ]
    return max(found, key=lambda rate: rate.gflops)


def probe() -> Product:
    """A short product to be timed in every round, by whose times the machine's own speed is seen to change.

    NumPy's own loops on one processor: they are under no test here, so that another version of a runtime does not
    change it, and have no threads whose waking would be seen for noise.
    """
    a, b = _matrices(_PROBE_SIDE)
    return lambda: np.einsum("ij,jk->ik", a, b)


def _best(product: Product) -> float:
    """Seconds of the fastest call."""
    product()
    best, end = float("inf"), time.perf_counter() + _SECONDS
    while (start := time.perf_counter()) < end:
        product()
        best = min(best, time.perf_counter() - start)
    return best


def _products(side: int, threads: int) -> Iterator[tuple[str, Product]]:
    """Library -> a product of two square matrices, for those that can be had without loading a framework for it."""
    a, b = _matrices(side)
    session = _session(threads)
    if session is not None:
        yield "onnxruntime", lambda: session.run(None, {"a": a, "b": b})
    torch = sys.modules.get("torch")
    if torch is not None and hasattr(torch, "from_numpy"):
        from rest_deploy.models.reference import torch_threads  # imports torch, which is there

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
