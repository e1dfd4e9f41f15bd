"""Ranges of activations from images: the FP32 graph run with its inner values as outputs."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import TensorProto, helper

from rest_deploy.errors import ExportError, one_line
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
        ExportError: An activation is not finite.
    """
    (image,) = (value.name for value in model.graph.input)
    inner = [name for name in activations if name != image]
    sessions = functools.cache(lambda at_once: _sessions(model, inner, at_once))
    histograms = {name: Histogram() for name in activations}
    for done, batch in enumerate(batches, 1):
        if image in histograms:
            _add(histograms, image, batch)
        large = batch.shape[0] * batch.shape[2] * batch.shape[3] > _LARGE_PIXELS
        for group, session in sessions(_AT_ONCE_IF_LARGE if large else len(inner)):
            for name, values in zip(group, _run(session, group, {image: batch}), strict=True):
                _add(histograms, name, values)
        if report is not None:
            report(done)
    return {name: range_of(histogram, method) for name, histogram in histograms.items()}


def _sessions(
    model: onnx.ModelProto, inner: Sequence[str], at_once: int
) -> list[tuple[Sequence[str], onnxruntime.InferenceSession]]:
    """The graph with some of its inner values as outputs, until each has been one."""
    groups = [inner[start : start + at_once] for start in range(0, len(inner), max(1, at_once))]
    return [(group, _session(model, group)) for group in groups]


def _add(histograms: Mapping[str, Histogram], name: str, values: NDArray[np.float32]) -> None:
    try:
        histograms[name].add(values)
    except ValueError as exc:
        raise ExportError(f"calibration: activation {name} has {exc}; the weights are damaged") from exc


def _run(
    session: onnxruntime.InferenceSession, outputs: Sequence[str], feed: Mapping[str, NDArray[np.float32]]
) -> list[NDArray[np.float32]]:
    try:
        values: list[NDArray[np.float32]] = session.run(list(outputs), dict(feed))
        return values
    except Exception as exc:  # ONNX Runtime's errors share no public base class
        shape = next(iter(feed.values())).shape
        raise ExportError(
            f"calibration: ONNX Runtime failed on an image of shape {shape}: {one_line(exc)}; where it is large, give "
            "--calibration-sizes"
        ) from exc


def _session(model: onnx.ModelProto, outputs: Sequence[str]) -> onnxruntime.InferenceSession:
    watched = onnx.ModelProto()
    watched.CopyFrom(model)
    del watched.graph.output[:]
    watched.graph.output.extend(helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # what fails here is told by us
    try:
        return onnxruntime.InferenceSession(watched.SerializeToString(), options, providers=["CPUExecutionProvider"])
    except Exception as exc:  # ONNX Runtime's errors share no public base class
        raise ExportError(f"ONNX Runtime does not load the graph to calibrate it: {one_line(exc)}") from exc
