"""Where INT8 should end, by values whose right answer is known."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from torch import nn

from rest_deploy.errors import ExportError
from rest_deploy.export.precision import calibration
from rest_deploy.export.precision.calibration import Histogram, calibrate, range_of
from rest_deploy.export.precision.int8 import quantized_inputs
from rest_deploy.export.precision.plan import plan_for
from rest_deploy.specs import CalibrationMethod, ImageSize, Precision
from rest_deploy.verification import Case, synthetic_images


def _histogram(*arrays: np.ndarray) -> Histogram:
    histogram = Histogram()
    for array in arrays:
        histogram.add(array.astype(np.float32))
    return histogram


def test_a_histogram_that_grows_counts_every_value(rng: np.random.Generator) -> None:
    arrays = [rng.standard_normal(1000) * scale for scale in (0.0, 0.01, 1.0, 0.3, 700.0, 5.0)]
    histogram = _histogram(*arrays)
    values = np.abs(np.concatenate(arrays).astype(np.float32))
    assert histogram.counts.sum() == len(values)
    assert histogram.largest == values.max()
    assert histogram.edges[-1] >= values.max() > histogram.edges[-1] / 2
    assert histogram.counts[:1024].sum() == (values < histogram.edges[1023]).sum()


def test_min_max_is_the_largest_value(rng: np.random.Generator) -> None:
    values = rng.standard_normal(5000)
    assert range_of(_histogram(values), CalibrationMethod.MIN_MAX) == np.abs(values.astype(np.float32)).max()


def test_a_percentile_leaves_out_one_value_in_ten_thousand() -> None:
    values = np.concatenate([np.linspace(0, 1, 100_000), np.full(5, 50.0)])
    assert range_of(_histogram(values), CalibrationMethod.PERCENTILE) == pytest.approx(1.0, abs=50 / 2048)
    some = np.concatenate([np.linspace(0, 1, 100_000), np.full(50, 50.0)])
    assert range_of(_histogram(some), CalibrationMethod.PERCENTILE) == 50.0


def test_entropy_cuts_a_long_tail_and_keeps_an_even_spread(rng: np.random.Generator) -> None:
    tail = np.concatenate([rng.standard_normal(200_000), [60.0, -45.0]])
    assert 2.0 < range_of(_histogram(tail), CalibrationMethod.ENTROPY) < 12.0
    even = rng.uniform(-3, 3, 200_000)
    assert range_of(_histogram(even), CalibrationMethod.ENTROPY) > 2.9


@pytest.mark.parametrize("method", CalibrationMethod)
def test_zeros_have_no_range(method: CalibrationMethod) -> None:
    assert range_of(_histogram(np.zeros(10)), method) == 0.0


@pytest.mark.parametrize("method", CalibrationMethod)
@pytest.mark.parametrize("values", [[1.0], [1e-30, 2e-30], [1e-38, 2e-38], [3e38], [0.0, 5.0]])
def test_few_and_extreme_values_have_a_range(method: CalibrationMethod, values: list[float]) -> None:
    found = range_of(_histogram(np.array(values)), method)
    assert 0 < found <= max(values) * 1.0001


def test_values_that_are_no_numbers_are_refused() -> None:
    with pytest.raises(ValueError, match="not finite"):
        _histogram(np.array([1.0, np.nan]))


def test_ranges_are_of_the_values_in_the_graph(tiny_deploy: nn.Sequential, tiny_graph: onnx.ModelProto) -> None:
    plan = plan_for(tiny_deploy, Precision.INT8)
    names = quantized_inputs(tiny_graph, plan)
    rng = np.random.default_rng(3)
    batches = [synthetic_images(rng, Case(1, ImageSize(*size)), 3) for size in ((32, 48), (61, 40))]
    done: list[int] = []
    found = calibrate(tiny_graph, names, batches, CalibrationMethod.MIN_MAX, done.append)
    assert list(found) == list(names)
    assert found["image"] == max(np.abs(batch).max() for batch in batches)
    assert all(value > 0 for value in found.values())
    assert done == [1, 2]
    fewer = calibrate(tiny_graph, names, batches[:1], CalibrationMethod.MIN_MAX)
    assert all(fewer[name] <= found[name] for name in names)
    assert any(fewer[name] < found[name] for name in names)


def test_large_images_are_gone_through_in_groups(
    tiny_deploy: nn.Sequential, tiny_graph: onnx.ModelProto, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = quantized_inputs(tiny_graph, plan_for(tiny_deploy, Precision.INT8))
    batches = [
        synthetic_images(np.random.default_rng(3), Case(1, ImageSize(*size)), 3) for size in ((32, 48), (61, 40))
    ]
    at_once = calibrate(tiny_graph, names, batches, CalibrationMethod.ENTROPY)
    monkeypatch.setattr(calibration, "_LARGE_PIXELS", 32 * 48)  # the second image is large
    sizes: list[int] = []
    honest = calibration.CpuSession

    def session(model: onnx.ModelProto, outputs: list[str]) -> object:
        sizes.append(len(outputs))
        return honest(model, outputs)

    monkeypatch.setattr(calibration, "CpuSession", session)
    assert calibrate(tiny_graph, names, batches, CalibrationMethod.ENTROPY) == at_once
    assert sizes[0] == len(names) - 1  # the image is no inner value
    assert max(sizes[1:]) == 12
    assert sum(sizes[1:]) == len(names) - 1


def test_weights_that_give_no_numbers_are_told(tiny_deploy: nn.Sequential, tiny_graph: onnx.ModelProto) -> None:
    names = quantized_inputs(tiny_graph, plan_for(tiny_deploy, Precision.INT8))
    batch = np.full((1, 3, 32, 32), np.inf, np.float32)
    with pytest.raises(ExportError, match="calibration: activation image has values that are not finite"):
        calibrate(tiny_graph, names, [batch], CalibrationMethod.MIN_MAX)
