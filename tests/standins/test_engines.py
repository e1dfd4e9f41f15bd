"""Engines of the TensorRT stand-in see planted faults of the code that runs them."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cuda.bindings import runtime as real

from tests.standins.bench import CLASSES, Workshop, make_logger, write_onnx
from tests.standins.cuda import CudaFault, FakeCuda, FakeDevice
from tests.standins.plan import default_network
from tests.standins.tensorrt import API_FILES, FakeTensorRT

OLD, NEW, RTX = "tensorrt-10.9.0.34", "tensorrt-11.4.0.106", "tensorrt_rtx-1.7.1.116"
TO_HOST = real.cudaMemcpyKind.cudaMemcpyDeviceToHost
TO_DEVICE = real.cudaMemcpyKind.cudaMemcpyHostToDevice


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_onnx(tmp_path_factory.mktemp("small") / "small.onnx")


@pytest.fixture
def rtx() -> FakeTensorRT:
    return FakeTensorRT(RTX, FakeCuda())


class Run:
    """An engine with a context that manages no memory of its own, its buffers, and a stream."""

    def __init__(self, fake: FakeTensorRT, path: Path) -> None:
        shop = Workshop(fake.module, path)
        shop.add_profile()
        shop.add_profile(((1, 3, 16, 16), (1, 3, 16, 16), (1, 3, 31, 31)))
        self.plan = shop.build()
        self.fake, self.cuda, self.logger = fake, fake.gpu(), make_logger(fake.module)
        self.runtime = fake.module.Runtime(self.logger)
        self.engine = self.runtime.deserialize_cuda_engine(self.plan)
        strategy = fake.module.ExecutionContextAllocationStrategy.USER_MANAGED
        self.context = self.engine.create_execution_context(strategy)
        self.stream = self("cudaStreamCreateWithFlags", real.cudaStreamNonBlocking)

    def __call__(self, name: str, *args: Any) -> Any:
        error, *values = getattr(self.cuda.module, name)(*args)
        assert error == real.cudaError_t.cudaSuccess, name
        return values[0] if values else None

    def prepare(self, images: np.ndarray) -> None:
        """Shapes, scratch memory, addresses, input."""
        assert self.context.set_input_shape("image", images.shape)
        self.context.device_memory = self("cudaMalloc", self.context.update_device_memory_size_for_shapes())
        self.image, self.logits = self("cudaMalloc", images.nbytes), self("cudaMalloc", 4 * CLASSES * len(images))
        assert self.context.set_tensor_address("image", self.image)
        assert self.context.set_tensor_address("logits", self.logits)
        self("cudaMemcpy", self.image, images, images.nbytes, TO_DEVICE)

    def result(self, batch: int) -> np.ndarray:
        """What the device holds of the output, without waiting for anything."""
        return self.cuda.array(self.logits, (batch, CLASSES), np.float32).copy()

    def error(self) -> str:
        """The logger's last error."""
        return self.logger.errors()[-1]


def images(batch: int = 2, height: int = 32, width: int = 48) -> np.ndarray:
    return np.random.default_rng(batch).standard_normal((batch, 3, height, width)).astype(np.float32)


@pytest.mark.parametrize("file", API_FILES)
def test_every_version_builds_and_runs(file: str, path: Path) -> None:
    fake = FakeTensorRT(file, FakeCuda())
    run, batch = Run(fake, path), images()
    run.prepare(batch)
    assert run.context.execute_async_v3(int(run.stream))
    run("cudaStreamSynchronize", run.stream)
    np.testing.assert_array_equal(run.result(2), default_network(batch, CLASSES))


def test_a_missing_synchronisation_shows(rtx: FakeTensorRT, path: Path) -> None:
    run, batch = Run(rtx, path), images()
    run.prepare(batch)
    assert run.context.execute_async_v3(int(run.stream))
    assert np.isnan(run.result(2)).all()
    run("cudaStreamSynchronize", run.stream)
    np.testing.assert_array_equal(run.result(2), default_network(batch, CLASSES))
    np.testing.assert_array_equal(run.result(2)[1:], default_network(batch[1:], CLASSES))


def test_shapes_outside_of_the_profile(rtx: FakeTensorRT, path: Path) -> None:
    run = Run(rtx, path)
    for shape in ((5, 3, 32, 32), (1, 3, 129, 32), (1, 4, 32, 32), (1, 3, 32)):
        assert not run.context.set_input_shape("image", shape)
        assert "does not satisfy any optimization profiles" in run.error()
    assert not run.context.set_input_shape("img", (1, 3, 32, 32))
    assert run.context.infer_shapes() == ["image"]
    assert run.context.set_optimization_profile_async(1, int(run.stream))
    assert run.context.set_input_shape("image", (1, 3, 16, 16))
    assert tuple(run.context.get_tensor_shape("logits")) == (1, CLASSES)
    with pytest.raises(RuntimeError, match="Error in set optimization profile async"):
        run.context.set_optimization_profile_async(2, int(run.stream))


def test_what_a_run_needs(rtx: FakeTensorRT, path: Path) -> None:
    run = Run(rtx, path)
    assert not run.context.execute_async_v3(int(run.stream))
    assert "Input shape of image is not set" in run.error()
    assert run.context.set_input_shape("image", (1, 3, 32, 32))
    assert not run.context.execute_async_v3(int(run.stream))
    assert "Address is not set for tensor image" in run.error()


def test_scratch_memory_must_follow_the_shapes(rtx: FakeTensorRT, path: Path) -> None:
    run = Run(rtx, path)
    run.prepare(images())
    run.context.device_memory = run("cudaMalloc", 256)
    assert not run.context.execute_async_v3(int(run.stream))
    assert "device memory has 256 bytes" in run.error()
    run.prepare(images())
    small = run.context.update_device_memory_size_for_shapes()
    assert run.context.set_input_shape("image", (4, 3, 64, 64))
    assert not run.context.execute_async_v3(int(run.stream))
    assert "not set since shapes or profile changed" in run.error()
    assert run.context.update_device_memory_size_for_shapes() > small
    with pytest.raises(AttributeError):
        run.context.device_memory  # noqa: B018


def test_buffers_that_do_not_fit_or_live(rtx: FakeTensorRT, path: Path) -> None:
    run = Run(rtx, path)
    run.prepare(images(1))
    run.context.set_tensor_address("image", run("cudaMalloc", 4))
    run.context.execute_async_v3(int(run.stream))
    with pytest.raises(CudaFault, match="tensor image of an engine: bytes 0 to 18432 are out of bounds"):
        run("cudaStreamSynchronize", run.stream)
    run("cudaFree", run.image)
    run.context.set_tensor_address("image", run.image)
    run.context.execute_async_v3(int(run.stream))
    with pytest.raises(CudaFault, match="used after it was freed"):
        run("cudaStreamSynchronize", run.stream)


def test_a_context_runs_on_one_stream_at_a_time(rtx: FakeTensorRT, path: Path) -> None:
    run = Run(rtx, path)
    run.prepare(images())
    run.context.execute_async_v3(int(run.stream))
    other = run("cudaStreamCreateWithFlags", 1)
    with pytest.raises(CudaFault, match="its last run is not done on another"):
        run.context.execute_async_v3(int(other))


def test_capture_needs_a_run_before(rtx: FakeTensorRT, path: Path) -> None:
    run, batch = Run(rtx, path), images()
    mode = real.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
    run.prepare(batch)
    run("cudaStreamBeginCapture", run.stream, mode)
    assert not run.context.execute_async_v3(int(run.stream))
    error, _ = run.cuda.module.cudaStreamEndCapture(run.stream)
    assert error == real.cudaError_t.cudaErrorStreamCaptureInvalidated
    assert run.context.execute_async_v3(int(run.stream))
    run("cudaStreamBeginCapture", run.stream, mode)
    assert run.context.execute_async_v3(int(run.stream))
    launch = run("cudaGraphInstantiate", run("cudaStreamEndCapture", run.stream), 0)
    run("cudaMemcpy", run.image, 2 * batch, batch.nbytes, TO_DEVICE)
    run("cudaGraphLaunch", launch, run.stream)
    back = np.zeros((2, CLASSES), np.float32)
    run("cudaMemcpyAsync", back, run.logits, back.nbytes, TO_HOST, run.stream)
    np.testing.assert_array_equal(back, default_network(2 * batch, CLASSES))


def test_plans_of_others(rtx: FakeTensorRT, path: Path) -> None:
    run = Run(rtx, path)
    data = bytes(memoryview(run.plan))
    assert run.runtime.deserialize_cuda_engine(b"junk") is None
    assert run.runtime.get_engine_validity(data) == (rtx.module.EngineValidity.VALID, 0)
    assert run.runtime.get_engine_validity(b"junk")[0] == rtx.module.EngineValidity.INVALID
    newer = FakeTensorRT(NEW, FakeCuda()).module
    logger = make_logger(newer)
    assert newer.Runtime(logger).deserialize_cuda_engine(data) is None
    assert "not compatible with this version of TensorRT" in logger.errors()[-1]
    assert hashlib.sha256(run.plan).digest() == hashlib.sha256(data).digest()


def test_a_plan_of_another_gpu(path: Path) -> None:
    plan = Run(FakeTensorRT(OLD, FakeCuda()), path).plan
    older = FakeTensorRT(OLD, FakeCuda((FakeDevice("NVIDIA T4", (7, 5), 16 << 30),))).module
    logger = make_logger(older)
    assert older.Runtime(logger).deserialize_cuda_engine(plan) is None
    assert "expecting compute sm75 got compute sm89" in logger.errors()[-1]


def test_runtime_cache(rtx: FakeTensorRT, path: Path) -> None:
    run = Run(rtx, path)
    config = run.engine.create_runtime_config()
    config.cuda_graph_strategy = rtx.module.CudaGraphStrategy.DISABLED
    cache = config.create_runtime_cache()
    assert config.set_runtime_cache(cache)
    empty = bytes(memoryview(cache.serialize()))
    run.context = run.engine.create_execution_context(config)
    run.prepare(images())
    assert run.context.execute_async_v3(int(run.stream))
    full = bytes(memoryview(cache.serialize()))
    assert len(full) > len(empty)
    assert config.create_runtime_cache().deserialize(full)
    assert not config.create_runtime_cache().deserialize(b"junk")
