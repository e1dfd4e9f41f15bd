"""Ranges of activations: absolute values counted in a histogram, and three ways to say where INT8 should end."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from rest_deploy.specs import CalibrationMethod

BINS = 2048
_LEVELS = 128  # absolute values of INT8

#: Share of the values that are not clipped, of the percentile method (TensorRT's and modelopt's usual one).
PERCENTILE = 99.99


class Histogram:
    """Counts of absolute values from 0 to ``largest``, which doubles when a greater value comes."""

    def __init__(self) -> None:
        self.counts = np.zeros(BINS, np.int64)
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
            self._end = largest
        while self._end < largest:
            self.counts = np.concatenate([self.counts.reshape(-1, 2).sum(axis=1), np.zeros(BINS // 2, np.int64)])
            self._end *= 2
        bins = np.minimum((absolute * np.float32(BINS / self._end)).astype(np.int32), BINS - 1)
        self.counts += np.bincount(bins, minlength=BINS)

    @property
    def edges(self) -> NDArray[np.float64]:
        """Upper edge of each bin."""
        edges: NDArray[np.float64] = np.arange(1, BINS + 1, dtype=np.float64) * (self._end / BINS)
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
    return float(histogram.edges[np.searchsorted(share, PERCENTILE / 100)])


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
