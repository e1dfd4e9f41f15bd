"""Running an engine: what TensorRT and CUDA are asked, in which order, and what happens when they fail."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cuda.bindings import runtime as real

from rest_deploy.artifact.profile import Profile
from rest_deploy.errors import DeviceError, InputError, PredictorError, RestDeployError
from rest_deploy.export.engine.config import EngineConfig
from rest_deploy.nvidia import Cuda
from rest_deploy.predictor import Predictor
from rest_deploy.runtimes.cuda_arrays import DeviceArray
from rest_deploy.runtimes.ort import OnnxRuntime
from rest_deploy.runtimes.tensorrt import TensorRTRuntime
from tests.conftest import IMAGES, TINY, slow
from tests.engines import GPU, RTX, Machine, images
from tests.standins.tensorrt import API_CASES, API_FILES
from tests.two_outputs import write_two_outputs

CONTEXT = "IExecutionContext"
PLAIN = [file for file in API_FILES if file != RTX]
TWO = EngineConfig(
    profiles=(Profile.parse("1x1x1:1x64x64:8x128x128"), Profile.parse("1x16x16:1x24x24:2x32x32")),
    use_timing_cache=False,
)


@pytest.fixture(params=API_CASES)
def machine(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Machine:
    return Machine.make(monkeypatch, request.param)


@pytest.fixture
def engine(machine: Machine, tiny_onnx: Path, tmp_path: Path) -> Path:
    return machine.build(tiny_onnx, tmp_path)


@pytest.fixture
def runtime(engine: Path, machine: Machine) -> Iterator[TensorRTRuntime]:
    with TensorRTRuntime(engine, "cuda:0") as opened:
        machine.forget()
        yield opened


def _same(machine: Machine, runtime: TensorRTRuntime, batch: np.ndarray) -> None:
    assert machine.trt.network is not None
    np.testing.assert_array_equal(runtime.run(batch)["logits"], machine.trt.network(batch))


def test_the_calls_of_a_first_run(machine: Machine, runtime: TensorRTRuntime) -> None:
    _same(machine, runtime, images(2, 3, 16, 24))
    calls = [call for call in machine.trt.calls if call.name.startswith(CONTEXT)]
    assert [call.name.removeprefix(f"{CONTEXT}.") for call in calls] == [
        "set_input_shape",
        "infer_shapes",
        "get_tensor_shape",
        "update_device_memory_size_for_shapes",
        "device_memory=",
        "set_tensor_address",
        "set_tensor_address",
        "execute_async_v3",
    ]
    assert calls[0].args == ("image", (2, 3, 16, 24))
    stream = int(runtime._session._stream)
    assert calls[-1].args == (stream,)
    assert stream not in (0, 1, 2)  # none of CUDA's default streams
    copies = [args for name, args, _ in machine.cuda.calls if name == "cudaMemcpyAsync"]
    (to_device, _, given, _, _), (_, from_device, made, _, _) = copies
    assert [call.args for call in calls[5:7]] == [("image", to_device), ("logits", from_device)]
    assert (given, made) == (2 * 3 * 16 * 24 * 4, 2 * TINY.num_classes * 4)
    assert {int(args[-1]) for args in copies} == {stream}


def test_a_shape_is_set_once(machine: Machine, runtime: TensorRTRuntime) -> None:
    for seed in range(2):
        _same(machine, runtime, images(1, 3, 9, 9, seed=seed))
    assert machine.names().count(f"{CONTEXT}.set_input_shape") == 1
    assert machine.names().count(f"{CONTEXT}.set_tensor_address") == 2
    assert machine.names().count(f"{CONTEXT}.execute_async_v3") == 2
    _same(machine, runtime, images(1, 3, 9, 10))
    assert machine.names().count(f"{CONTEXT}.set_input_shape") == 2


def test_memory_grows_is_reused_and_given_back(machine: Machine, runtime: TensorRTRuntime) -> None:
    before = machine.count("cudaMalloc")
    _same(machine, runtime, images(1, 3, 32, 32))
    first = machine.count("cudaMalloc")
    assert first - before == 3  # input, output, scratch
    _same(machine, runtime, images(1, 3, 8, 8))
    assert machine.count("cudaMalloc") == first
    _same(machine, runtime, images(4, 3, 40, 40))
    assert machine.count("cudaMalloc") == first + 3
    assert machine.cuda.live()["device"] == 3
    assert machine.cuda.live()["pinned"] == 2
    runtime.close()
    assert not any(machine.cuda.live().values())


@pytest.mark.parametrize("file", [PLAIN[0], *slow(PLAIN[1:])])
def test_a_shape_that_repeats_is_captured_in_a_graph(
    file: str, monkeypatch: pytest.MonkeyPatch, tiny_onnx: Path, tmp_path: Path
) -> None:
    machine = Machine.make(monkeypatch, file)
    with TensorRTRuntime(machine.build(tiny_onnx, tmp_path), "cuda:0") as runtime:
        for seed in range(6):
            _same(machine, runtime, images(1, 3, 20, 20, seed=seed))
        assert machine.count("cudaStreamBeginCapture") == 1
        assert machine.count("cudaGraphLaunch") == 4
        assert machine.names().count(f"{CONTEXT}.execute_async_v3") == 3  # two alone, one captured
        _same(machine, runtime, images(1, 3, 21, 20))
        assert machine.cuda.live()["graph_execs"] == 0  # a graph is of one shape
        for seed in range(4):
            _same(machine, runtime, images(1, 3, 20, 20, seed=seed))
        assert machine.cuda.live()["graph_execs"] == 1
    assert not any(machine.cuda.live().values())


def test_rtx_captures_graphs_itself(monkeypatch: pytest.MonkeyPatch, tiny_onnx: Path, tmp_path: Path) -> None:
    machine = Machine.make(monkeypatch, RTX)
    with TensorRTRuntime(machine.build(tiny_onnx, tmp_path), "cuda:0") as runtime:
        for seed in range(5):
            _same(machine, runtime, images(1, 3, 20, 20, seed=seed))
    assert machine.count("cudaStreamBeginCapture") == 0
    assert machine.names().count(f"{CONTEXT}.execute_async_v3") == 5


@pytest.mark.parametrize("function", ["cudaStreamBeginCapture", "cudaGraphInstantiate"])
def test_without_graphs_calls_are_launched_one_by_one(
    function: str, monkeypatch: pytest.MonkeyPatch, tiny_onnx: Path, tmp_path: Path
) -> None:
    machine = Machine.make(monkeypatch, PLAIN[0])
    with TensorRTRuntime(machine.build(tiny_onnx, tmp_path), "cuda:0") as runtime:
        machine.cuda.fail[function] = real.cudaError_t.cudaErrorStreamCaptureUnsupported
        for seed in range(3):
            _same(machine, runtime, images(1, 3, 20, 20, seed=seed))
        machine.cuda.fail.clear()
        for seed in range(3):
            _same(machine, runtime, images(1, 3, 20, 20, seed=seed))
        assert machine.count("cudaStreamBeginCapture") == 1
        for seed in range(4):
            _same(machine, runtime, images(1, 3, 21, 20, seed=seed))
        assert machine.count("cudaGraphLaunch") == 2  # another shape is tried again
    assert not any(machine.cuda.live().values())


def test_garbage_on_the_gpu_does_not_spoil_a_capture(
    monkeypatch: pytest.MonkeyPatch, tiny_onnx: Path, tmp_path: Path
) -> None:
    """Python may collect an array on the GPU, and free its memory, while a call is being captured."""
    machine = Machine.make(monkeypatch, PLAIN[0])
    with TensorRTRuntime(machine.build(tiny_onnx, tmp_path), "cuda:0") as runtime:
        kept = [DeviceArray.empty(Cuda(), 0, (4,), np.dtype(np.float32))]
        session = runtime._session
        execute = session._execute

        def collecting() -> None:
            if runtime._session._calls > 2:
                kept.clear()
            execute()

        monkeypatch.setattr(session, "_execute", collecting)
        for seed in range(5):
            _same(machine, runtime, images(1, 3, 20, 20, seed=seed))
        assert kept == []
        assert machine.count("cudaGraphLaunch") == 3
    assert not any(machine.cuda.live().values())


@pytest.mark.parametrize(
    ("name", "given", "words"),
    [
        ("set_input_shape", False, "could not take the input's shape"),
        ("infer_shapes", ["image"], r"not set: \['image'\]"),
        ("infer_shapes", RuntimeError("no"), r"could not infer shapes: .*\(no\)"),
        ("get_tensor_shape", (-1, 7), r"infers \(-1, 7\), needed \(2, 7\)"),
        ("update_device_memory_size_for_shapes", -1, "could not tell its memory"),
        ("set_tensor_address", False, "could not take the address of image"),
        ("execute_async_v3", False, "could not run the network"),
        ("execute_async_v3", None, "could not run the network"),
    ],
)
def test_what_tensorrt_only_logs_is_raised_and_got_over(
    machine: Machine, runtime: TensorRTRuntime, name: str, given: Any, words: str
) -> None:
    batch = images(2, 3, 16, 24)
    machine.trt.returns[f"{CONTEXT}.{name}"] = given
    machine.trt.errors_to_log = ["the reason that it logs"]
    with pytest.raises(RestDeployError, match=words) as raised:
        runtime.run(batch)
    assert str(runtime.path) in str(raised.value)
    if given in (False, None, -1):
        assert "the reason that it logs" in str(raised.value)
    machine.trt.returns.clear()
    _same(machine, runtime, batch)


def test_a_profile_that_cannot_be_switched_to(machine: Machine, tiny_onnx: Path, tmp_path: Path) -> None:
    with TensorRTRuntime(machine.build(tiny_onnx, tmp_path, TWO), "cuda:0") as runtime:
        machine.trt.returns[f"{CONTEXT}.set_optimization_profile_async"] = False
        with pytest.raises(RestDeployError, match="could not switch to profile 1"):
            runtime.run(images(1, 3, 20, 20))
        machine.trt.returns.clear()
        _same(machine, runtime, images(1, 3, 20, 20))


def test_a_switch_of_profiles_that_fails_half_way_is_got_over(
    machine: Machine, tiny_onnx: Path, tmp_path: Path
) -> None:
    """The context is on the new profile then, whatever we were told."""
    with TensorRTRuntime(machine.build(tiny_onnx, tmp_path, TWO), "cuda:0") as runtime:
        _same(machine, runtime, images(1, 3, 100, 100))
        machine.cuda.fail["cudaStreamSynchronize"] = real.cudaError_t.cudaErrorUnknown
        with pytest.raises(RestDeployError, match="cudaStreamSynchronize failed"):
            runtime.run(images(1, 3, 20, 20))
        machine.cuda.fail.clear()
        _same(machine, runtime, images(1, 3, 100, 100))
        _same(machine, runtime, images(1, 3, 20, 20))


def test_the_narrowest_profile_that_fits(machine: Machine, tiny_onnx: Path, tmp_path: Path) -> None:
    with TensorRTRuntime(machine.build(tiny_onnx, tmp_path, TWO), "cuda:0") as runtime:
        machine.forget()
        for shape in ((1, 3, 20, 20), (2, 3, 32, 32), (3, 3, 20, 20), (1, 3, 5, 5), (1, 3, 16, 16)):
            _same(machine, runtime, images(*shape))
        switches = [call.args[0] for call in machine.trt.calls if call.name.endswith("set_optimization_profile_async")]
        assert switches == [1, 0, 1]
        assert (runtime.max_batch(20, 20), runtime.max_batch(100, 100), runtime.max_batch(129, 1)) == (8, 8, None)
        with pytest.raises(InputError, match=r"9x20x20 is outside .*1x1x1 to 8x128x128 or .* is 8x20x20"):
            runtime.run(images(9, 3, 20, 20))
        with pytest.raises(InputError, match=r"nearest that fits is 1x128x50; .*rebuild with --min-size, --max-size"):
            runtime.run(images(1, 3, 200, 50))
        _same(machine, runtime, images(1, 3, 16, 16))


@pytest.mark.parametrize("function", ["cudaMemcpyAsync", "cudaStreamSynchronize"])
def test_an_error_of_cuda_is_raised_and_got_over(machine: Machine, runtime: TensorRTRuntime, function: str) -> None:
    machine.cuda.fail[function] = real.cudaError_t.cudaErrorUnknown
    with pytest.raises(RestDeployError, match=rf"on input \(1, 3, 8, 8\): {function} failed: .*cudaErrorUnknown"):
        runtime.run(images(1, 3, 8, 8))
    machine.cuda.fail.clear()
    _same(machine, runtime, images(1, 3, 8, 8, seed=1))


def test_closing_goes_on_whatever_fails(machine: Machine, runtime: TensorRTRuntime) -> None:
    runtime.run(images(1, 3, 8, 8))
    machine.cuda.fail["cudaFree"] = real.cudaError_t.cudaErrorUnknown
    runtime.close()
    runtime.close()
    live = machine.cuda.live()
    assert (live["streams"], live["pinned"]) == (0, 0)


def test_no_room_on_the_gpu(machine: Machine, runtime: TensorRTRuntime) -> None:
    machine.cuda.fail["cudaMalloc"] = real.cudaError_t.cudaErrorMemoryAllocation
    with pytest.raises(DeviceError, match=r"no room for 1 MiB for activations on the GPU, .* 24,576 MiB free; .*fewer"):
        runtime.run(images(8, 3, 64, 64))
    machine.cuda.fail["cudaMemGetInfo"] = real.cudaError_t.cudaErrorUnknown
    with pytest.raises(DeviceError, match=r"no room for 1 MiB for activations on the GPU; .*fewer or smaller images"):
        runtime.run(images(8, 3, 64, 64))
    machine.cuda.fail = {"cudaHostAlloc": real.cudaError_t.cudaErrorMemoryAllocation}
    with pytest.raises(DeviceError, match=r"no room for 1 MiB in pinned host memory; run fewer or smaller images"):
        runtime.run(images(8, 3, 64, 64))
    machine.cuda.fail.clear()
    _same(machine, runtime, images(8, 3, 64, 64))


def test_arrays_on_the_gpu_in_and_out(machine: Machine, runtime: TensorRTRuntime) -> None:
    batch, cuda = images(2, 3, 16, 16), Cuda()
    given = DeviceArray.empty(cuda, 0, batch.shape, batch.dtype)
    kind = real.cudaMemcpyKind.cudaMemcpyHostToDevice
    cuda.call("cudaMemcpy", given.pointer, batch.ctypes.data, batch.nbytes, kind)
    machine.forget()
    logits = runtime.run(given)["logits"]
    assert isinstance(logits, DeviceArray)
    assert machine.count("cudaMemcpyAsync") == 0  # nothing is copied
    assert ("image", given.pointer) in [call.args for call in machine.trt.calls]
    assert machine.trt.network is not None
    expected = machine.trt.network(batch)
    np.testing.assert_array_equal(logits.numpy(), expected)
    _same(machine, runtime, images(2, 3, 16, 16, seed=3))  # from the host, at other addresses again
    np.testing.assert_array_equal(logits.numpy(), expected)  # the caller's own
    with Predictor(runtime.path) as predictor:
        np.testing.assert_array_equal(predictor.logits(given).numpy(), expected)


def test_every_output_by_its_name_from_the_host_and_on_the_gpu(machine: Machine, tmp_path: Path) -> None:
    onnx = write_two_outputs(tmp_path / "two.onnx")
    engine = machine.build(onnx, tmp_path)
    with OnnxRuntime(onnx, "cpu") as reference, TensorRTRuntime(engine, "cuda:0") as runtime:
        machine.trt.network, machine.trt.stride = reference.run, 4
        for seed, size in enumerate([(2, 3, 33, 40)] * 4 + [(1, 3, 64, 64), (2, 3, 33, 40)]):  # as a CUDA graph too
            batch = images(*size, seed=seed)
            wanted, outputs = reference.run(batch), runtime.run(batch)
            assert list(outputs) == ["logits", "stage1"]
            for name, values in outputs.items():
                np.testing.assert_array_equal(values, wanted[name])
        cuda = Cuda()
        given = DeviceArray.empty(cuda, 0, batch.shape, batch.dtype)
        kind = real.cudaMemcpyKind.cudaMemcpyHostToDevice
        cuda.call("cudaMemcpy", given.pointer, batch.ctypes.data, batch.nbytes, kind)
        for name, values in runtime.run(given).items():
            assert isinstance(values, DeviceArray)
            np.testing.assert_array_equal(values.numpy(), wanted[name])
        machine.trt.stride = 8  # another network than its record tells of
        with pytest.raises(PredictorError, match=r"infers \(2, 4, 4, 5\), needed \(2, 4, 8, 10\)"):
            runtime.run(images(2, 3, 32, 40))


def test_the_callers_gpu_stays_current(monkeypatch: pytest.MonkeyPatch, tiny_onnx: Path, tmp_path: Path) -> None:
    machine = Machine.make(monkeypatch, PLAIN[0], (GPU, GPU))
    with TensorRTRuntime(machine.build(tiny_onnx, tmp_path), "cuda:1") as runtime:
        given = DeviceArray.empty(Cuda(), 1, (1, 3, 8, 8), np.dtype(np.float32))
        for batch in (given, images(1, 3, 8, 8)):
            Cuda().call("cudaSetDevice", 0)
            runtime.run(batch)
            assert Cuda().call("cudaGetDevice") == 0
        on_the_other = DeviceArray.empty(Cuda(), 0, (1, 3, 8, 8), np.dtype(np.float32))
        with pytest.raises(InputError, match=r"on cuda:0; accepted: arrays on cuda:1"):
            runtime.run(on_the_other)


def test_arrays_on_the_gpu_are_checked(runtime: TensorRTRuntime) -> None:
    cuda = Cuda()
    for shape, dtype in (((2, 3, 16, 16), np.float16), ((3, 16, 16), np.float32), ((1, 4, 16, 16), np.float32)):
        with pytest.raises(InputError, match=r"needed: float32 of shape \(batch, 3, height, width\)"):
            runtime.run(DeviceArray.empty(cuda, 0, shape, np.dtype(dtype)))
    with pytest.raises(InputError, match="outside of what"):
        runtime.run(DeviceArray.empty(cuda, 0, (9, 3, 16, 16), np.dtype(np.float32)))


def test_two_threads_that_close_at_once(runtime: TensorRTRuntime, machine: Machine) -> None:
    threads = [threading.Thread(target=runtime.close) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not any(machine.cuda.live().values())


def test_many_threads(machine: Machine, runtime: TensorRTRuntime) -> None:
    wrong: list[str] = []

    def work(seed: int) -> None:
        batch = images(1 + seed % 3, 3, 8 + seed % 4, 12, seed=seed)
        for _ in range(5):
            if not np.array_equal(runtime.run(batch)["logits"], machine.trt.network(batch)):  # type: ignore[misc]
                wrong.append(f"thread {seed}")

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_images_are_run_in_batches_that_the_engine_takes(machine: Machine, tiny_onnx: Path, tmp_path: Path) -> None:
    config = EngineConfig(max_batch=3, use_timing_cache=False)
    with Predictor(machine.build(tiny_onnx, tmp_path, config)) as predictor:
        small = [np.full((16, 20, 3), value, np.uint8) for value in range(8)]
        assert len(predictor.classify(small)) == 8
        batches = [call.args[1][0] for call in machine.trt.calls if call.name == f"{CONTEXT}.set_input_shape"]
        assert batches == [3, 2]  # 3, 3, 2
        assert predictor.classify(IMAGES / "rocket.jpg")[0].label in "abcdefg"
