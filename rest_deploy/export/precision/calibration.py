"""Ranges of activations from images: the FP32 graph run with its inner values as outputs."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np
import onnx
from numpy.typing import NDArray

from rest_deploy.errors import ExportError
from rest_deploy.export.cpu_session import CpuSession
from rest_deploy.export.precision.ranges import Histogram, range_of
from rest_deploy.specs import CalibrationMethod

#: Activations of images with more pixels are held some at a time, the network being run for each group anew; all at
#: once they would take gigabytes.
_LARGE_PIXELS, _AT_ONCE_IF_LARGE = 640 * 640, 12


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
