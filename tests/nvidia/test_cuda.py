"""The CUDA runtime: what its functions give, and errors in place of its error codes."""

import importlib
import sys

import pytest
from cuda.bindings.runtime import cudaError_t

from rest_deploy.errors import DeviceError, MissingPackageError
from rest_deploy.nvidia import NO_DRIVER, NO_GPU, OUT_OF_MEMORY, Cuda, CudaError
from tests.standins.cuda import FakeCuda, FakeDevice


@pytest.fixture
def fake(monkeypatch):
    return FakeCuda().install(monkeypatch)


def test_the_codes_are_those_of_cuda():
    assert cudaError_t.cudaErrorInsufficientDriver == NO_DRIVER
    assert cudaError_t.cudaErrorNoDevice == NO_GPU
    assert cudaError_t.cudaErrorMemoryAllocation == OUT_OF_MEMORY


def test_one_value_is_given_alone(fake):
    assert Cuda().call("cudaGetDeviceCount") == 1


def test_several_values_are_given_as_a_tuple(fake):
    free, total = Cuda().call("cudaMemGetInfo")
    assert 0 < free <= total


def test_no_value_is_none(fake):
    cuda = Cuda()
    assert cuda.call("cudaFree", cuda.call("cudaMalloc", 64)) is None
    assert fake.live()["device"] == 0


def test_arguments_are_handed_on(fake):
    Cuda().call("cudaMalloc", 64)
    name, arguments, _ = fake.calls[-1]
    assert (name, arguments) == ("cudaMalloc", (64,))


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (cudaError_t.cudaErrorMemoryAllocation, "out of memory (cudaErrorMemoryAllocation)"),
        (cudaError_t.cudaErrorNoDevice, "no CUDA-capable device is detected (cudaErrorNoDevice)"),
    ],
)
def test_an_error_code_becomes_an_error_with_the_words_of_cuda(fake, error, words):
    fake.fail["cudaMalloc"] = error
    with pytest.raises(CudaError, match=r"^cudaMalloc failed: ") as caught:
        Cuda().call("cudaMalloc", 64)
    assert str(caught.value) == f"cudaMalloc failed: {words}"
    assert caught.value.code == error
    assert isinstance(caught.value, DeviceError)


def test_words_that_come_as_text(fake, monkeypatch):
    """Some versions of cuda-python give text, others bytes."""
    fake.fail["cudaMalloc"] = cudaError_t.cudaErrorMemoryAllocation
    monkeypatch.setattr(fake.module, "cudaGetErrorString", lambda _: (cudaError_t.cudaSuccess, "kein Platz"))
    with pytest.raises(CudaError, match=r"^cudaMalloc failed: kein Platz \(cudaErrorMemoryAllocation\)$"):
        Cuda().call("cudaMalloc", 64)


def test_a_later_call_is_not_harmed_by_an_error(fake):
    fake.fail_once("cudaMalloc", cudaError_t.cudaErrorMemoryAllocation)
    cuda = Cuda()
    with pytest.raises(CudaError, match="out of memory"):
        cuda.call("cudaMalloc", 64)
    assert cuda.call("cudaMalloc", 64)


@pytest.fixture
def two(monkeypatch):
    """Two GPUs, the second of which is current."""
    fake = FakeCuda((FakeDevice("one", (8, 9), 1 << 30), FakeDevice("two", (9, 0), 1 << 30))).install(monkeypatch)
    fake.device = 1
    return fake


@pytest.mark.parametrize("index", [0, 1])
def test_a_gpu_is_current_for_a_block(two, index):
    with Cuda().on_device(index):
        assert two.device == index
    assert two.device == 1


def test_the_gpu_that_was_current_is_so_again_after_an_error(two):
    def fail():
        with Cuda().on_device(0):
            raise ValueError("mine")

    with pytest.raises(ValueError, match="mine"):
        fail()
    assert two.device == 1


def test_a_gpu_that_is_not_there_cannot_be_current(two):
    with pytest.raises(CudaError, match=r"^cudaSetDevice failed: .*cudaErrorInvalidDevice"), Cuda().on_device(2):
        pytest.fail("the block was entered")
    assert two.device == 1


def test_a_missing_package_names_itself(monkeypatch):
    monkeypatch.setitem(sys.modules, "cuda.bindings.runtime", None)
    with pytest.raises(MissingPackageError, match="cuda-bindings is needed to use an NVIDIA GPU; install it: pip") as e:
        Cuda()
    assert (e.value.package, e.value.extra) == ("cuda-bindings", "trt")


@pytest.mark.parametrize(
    "error", [ImportError("libcudart.so.13: cannot open\nshared object file"), RuntimeError("driver is gone")]
)
def test_a_package_that_does_not_load(monkeypatch, error):
    def fail(name):
        raise error

    monkeypatch.setattr(importlib, "import_module", fail)
    said = " ".join(str(error).split())
    with pytest.raises(DeviceError, match=f"^cuda-bindings is installed but does not load: {said}$") as caught:
        Cuda()
    assert caught.value.__cause__ is error
