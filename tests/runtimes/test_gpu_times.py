"""Where the time of a call on a GPU goes: what CUDA is asked, and that nothing is left behind."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from cuda.bindings import runtime as real

from rest_deploy.benchmarking.run import gpu_medians
from rest_deploy.errors import InputError, RestDeployError
from rest_deploy.runtimes.base import GpuCall
from rest_deploy.runtimes.ort import OnnxRuntime
from rest_deploy.runtimes.tensorrt import TensorRTRuntime
from tests.engines import Machine, images
from tests.standins.tensorrt import API_CASES


@pytest.fixture(params=API_CASES)
def machine(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Machine:
    return Machine.make(monkeypatch, request.param)


@pytest.fixture
def runtime(machine: Machine, tiny_onnx: Path, tmp_path: Path) -> Iterator[TensorRTRuntime]:
    with TensorRTRuntime(machine.build(tiny_onnx, tmp_path), "cuda:0") as opened:
        machine.forget()
        yield opened


def test_an_engine_is_marked_before_and_after_each_piece(machine: Machine, runtime: TensorRTRuntime) -> None:
    batch = images(2, 3, 16, 24)
    (call,) = runtime.gpu_calls(batch, 1)
    names = [name for name, *_ in machine.cuda.calls]
    pieces = [name for name in names if name in ("cudaEventRecord", "cudaMemcpyAsync", "cudaEventElapsedTime")]
    run, marked = pieces[:2], pieces[2:]
    assert run == ["cudaMemcpyAsync"] * 2  # the call as it is, by the host's clock
    copy = "cudaMemcpyAsync"
    record, elapsed = "cudaEventRecord", "cudaEventElapsedTime"
    assert marked == [record, copy, record, record, copy, record, *[elapsed] * 3]
    assert machine.names().count("IExecutionContext.execute_async_v3") == 2
    assert call.host_to_host_ms > 0
    assert call.enqueue_ms > 0
    assert min(call.compute_ms, call.copy_in_ms, call.copy_out_ms) >= 0
    assert machine.trt.network is not None
    np.testing.assert_array_equal(runtime.run(batch)["logits"], machine.trt.network(batch))


def test_events_are_given_back(machine: Machine, runtime: TensorRTRuntime) -> None:
    runtime.gpu_calls(images(1, 3, 16, 24), 3)
    assert machine.count("cudaEventDestroy") == machine.count("cudaEventCreateWithFlags") == 12


def test_events_are_given_back_where_a_call_fails(machine: Machine, runtime: TensorRTRuntime) -> None:
    machine.cuda.fail["cudaEventElapsedTime"] = real.cudaError_t.cudaErrorUnknown
    with pytest.raises(RestDeployError, match="cudaEventElapsedTime failed"):
        runtime.gpu_calls(images(1, 3, 16, 24), 1)
    assert machine.count("cudaEventDestroy") == machine.count("cudaEventCreateWithFlags") == 4
    machine.cuda.fail.clear()
    assert runtime.run(images(1, 3, 16, 24))["logits"].shape == (1, 7)


def test_it_is_checked_as_any_call(runtime: TensorRTRuntime) -> None:
    with pytest.raises(InputError, match="needed: float32"):
        runtime.gpu_calls(images(1, 4, 16, 24), 1)


def test_without_a_gpu_there_is_nothing_to_tell(tiny_onnx: Path) -> None:
    with OnnxRuntime(tiny_onnx, "cpu") as opened:
        assert opened.gpu_calls(images(1, 3, 16, 24), 3) == []


def test_medians() -> None:
    calls = [GpuCall(10.0 * i, float(i), 0.5, 0.25, 0.1 * i) for i in (1, 9, 2)]
    assert gpu_medians(calls) == {
        "host_to_host_ms": 20.0,
        "compute_ms": 2.0,
        "copy_in_ms": 0.5,
        "copy_out_ms": 0.25,
        "enqueue_ms": 0.2,
        "calls": 3,
    }
