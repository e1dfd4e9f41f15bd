"""Ranges of activations from images: where INT8 should end.

The FP32 graph is run with its inner values as outputs; their absolute values are counted in histograms.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import MappingProxyType

import numpy as np
import onnx
from numpy.typing import NDArray

from rest_deploy.errors import ExportError
from rest_deploy.export.cpu_session import CpuSession
from rest_deploy.specs import CalibrationMethod

#: Activations of images with more pixels are held some at a time, the network being run for each group anew; all at
#: once they would take gigabytes.
_LARGE_PIXELS, _AT_ONCE_IF_LARGE = 640 * 640, 12

_BINS = 2048
_LEVELS = 128  # absolute values of INT8
#: Where a histogram ends at least: bins of smaller ends are so narrow that float32 cannot count in them.
_LEAST_END = 2.0**-116
#: Share of the values that are not clipped, of the percentile method (TensorRT's and modelopt's usual one).
_PERCENTILE = 99.99


def calibrate(
    model: onnx.ModelProto,
    activations: Sequence[str],
    batches: Iterable[NDArray[np.float32]],
    method: CalibrationMethod,
    report: Callable[[int], None] | None = None,
) -> dict[str, float]:
    """Measure how large activations get.

    Args:
        model: FP32.
        activations: Names of values in it, of its input too.
        batches: float32 (B, channels, H, W), of any sizes.
        method: How a range is taken from the values that occurred.
        report: Called with the number of batches done.

    Returns:
        Activation -> its largest absolute value that INT8 should hold.

    Raises:
        ExportError: An activation is not finite, or ONNX Runtime fails, as on images too large for memory.
    """
    (image,) = (value.name for value in model.graph.input)
    inner = [name for name in activations if name != image]
    sessions = functools.cache(lambda at_once: _sessions(model, inner, at_once))
    histograms = {name: Histogram() for name in activations}
    for done, batch in enumerate(batches, 1):
        if image in histograms:
            _add(histograms, image, batch)
        large = batch.shape[0] * batch.shape[2] * batch.shape[3] > _LARGE_PIXELS
        for session in sessions(_AT_ONCE_IF_LARGE if large else len(inner)):
            for name, values in session.run(batch).items():
                _add(histograms, name, values)
        if report is not None:
            report(done)
    return {name: range_of(histogram, method) for name, histogram in histograms.items()}


def _sessions(model: onnx.ModelProto, inner: Sequence[str], at_once: int) -> list[CpuSession]:
    """The graph with some of its inner values as outputs, until each has been one."""
    groups = [inner[start : start + at_once] for start in range(0, len(inner), max(1, at_once))]
    return [CpuSession(model, group) for group in groups]


def _add(histograms: Mapping[str, Histogram], name: str, values: NDArray[np.float32]) -> None:
    try:
        histograms[name].add(values)
    except ValueError as exc:
        raise ExportError(f"calibration: activation {name} has {exc}; the weights are damaged") from exc


class Histogram:
    """Counts of absolute values from 0 to ``largest``, which doubles when a greater value comes."""

    def __init__(self) -> None:
        self.counts = np.zeros(_BINS, np.int64)
        self.largest = 0.0
        self._end = 0.0

    def add(self, values: NDArray[np.float32]) -> None:
        """Count an array.

        Raises:
            ValueError: It holds values that are not finite.
        """
        absolute = np.abs(values).ravel()
        largest = float(absolute.max(initial=0.0))
        if not np.isfinite(largest):
            raise ValueError("values that are not finite")
        self.largest = max(self.largest, largest)
        if self._end == 0.0:
            if largest == 0.0:
                self.counts[0] += absolute.size  # the first bin, wherever it will end
                return
            self._end = max(largest, _LEAST_END)
        while self._end < largest:
            self.counts = np.concatenate([self.counts.reshape(-1, 2).sum(axis=1), np.zeros(_BINS // 2, np.int64)])
            self._end *= 2
        bins = np.minimum((absolute * np.float32(_BINS / self._end)).astype(np.int32), _BINS - 1)
        self.counts += np.bincount(bins, minlength=_BINS)

    @property
    def edges(self) -> NDArray[np.float64]:
        """Upper edge of each bin."""
        edges: NDArray[np.float64] = np.arange(1, _BINS + 1, dtype=np.float64) * (self._end / _BINS)
        return edges


def range_of(histogram: Histogram, method: CalibrationMethod) -> float:
    """The absolute value at which INT8 should end."""
    if histogram.largest == 0.0:
        return 0.0
    return min(_METHODS[method](histogram), histogram.largest)


def _min_max(histogram: Histogram) -> float:
    return histogram.largest


def _percentile(histogram: Histogram) -> float:
    share = np.cumsum(histogram.counts) / histogram.counts.sum()
    return float(histogram.edges[np.searchsorted(share, _PERCENTILE / 100)])


def _entropy(histogram: Histogram) -> float:
    """The end whose INT8 histogram tells most of the true one: least Kullback-Leibler divergence.

    Source: Migacz, 8-bit Inference with TensorRT, GTC 2017. Zeros, of which ReLU makes many, are left out of the
    comparison, as they lose nothing.
    """
    counts = histogram.counts.astype(np.float64)
    counts[0] = 0.0
    if not counts.any():
        return histogram.largest
    last = int(np.flatnonzero(counts)[-1]) + 1
    ends = [*range(min(_LEVELS, last), last, 8), last]
    divergences = [_divergence(counts, end) for end in ends]
    return float(histogram.edges[ends[int(np.argmin(divergences))] - 1])


def _divergence(counts: NDArray[np.float64], end: int) -> float:
    """KL divergence of what INT8 makes of the first ``end`` bins from all counts, those beyond laid on the last bin."""
    kept = counts[:end]
    true = kept.copy()
    true[-1] += counts[end:].sum()
    level = np.minimum(np.arange(end) * _LEVELS // end, _LEVELS - 1)
    full = kept > 0
    mass = np.bincount(level, kept, _LEVELS)
    bins = np.bincount(level, full, _LEVELS)
    quantized = np.where(full, (mass / np.maximum(bins, 1))[level], 0.0)
    true, quantized = true / true.sum(), quantized / quantized.sum() if quantized.sum() else quantized
    there = true > 0
    return float((true[there] * np.log(true[there] / np.maximum(quantized[there], 1e-12))).sum())


_METHODS: Mapping[CalibrationMethod, Callable[[Histogram], float]] = MappingProxyType(
    {
        CalibrationMethod.MIN_MAX: _min_max,
        CalibrationMethod.ENTROPY: _entropy,
        CalibrationMethod.PERCENTILE: _percentile,
    }
)
