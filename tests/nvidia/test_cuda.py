"""CUDA's runtime: errors in place of its error codes; the machine's GPUs by number, and where there is none, why."""

import importlib
import sys

import pytest
from cuda.bindings.runtime import cudaError_t

from rest_deploy.errors import ConfigError, DeviceError, MissingPackageError
from rest_deploy.nvidia import (
    AMPERE,
    HOPPER,
    NO_DRIVER,
    NO_GPU,
    OUT_OF_MEMORY,
    TURING,
    ComputeCapability,
    Cuda,
    CudaError,
    Gpu,
    NoGpuError,
    find_gpu,
    free_bytes,
)
from tests.standins.cuda import FakeCuda, FakeDevice

RTX_4090 = FakeDevice("NVIDIA GeForce RTX 4090", (8, 9), 24 << 30)
RTX_5090 = FakeDevice("NVIDIA GeForce RTX 5090", (12, 0), 32 << 30)


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


# GPUs.


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("sm86", (8, 6)),
        ("SM89", (8, 9)),
        ("sm_90", (9, 0)),
        ("8.9", (8, 9)),
        ("sm120", (12, 0)),
        ("12.1", (12, 1)),
        ("75", (7, 5)),
        (" sm100 ", (10, 0)),
    ],
)
def test_a_compute_capability_as_text(text, found):
    capability = ComputeCapability.parse(text)
    assert (capability.major, capability.minor) == found
    assert ComputeCapability.parse(str(capability)) == capability


@pytest.mark.parametrize(
    "text", ["", "sm", "sm8", "sm1234", "sm90a", "ampere", "8.9.0", "8.", "-8.9", "sm 86", "rtx4090"]
)
def test_a_compute_capability_that_cannot_be_read(text):
    with pytest.raises(ConfigError, match=r"compute capability '.*'; accepted: sm86, sm89, sm120"):
        ComputeCapability.parse(text)


def test_compute_capabilities_are_written_as_nvidia_does():
    assert str(ComputeCapability(12, 0)) == "sm120"


def test_generations_in_order():
    found = [ComputeCapability.parse(text) for text in ("sm120", "sm90", "sm89", "sm100", "sm80", "sm75")]
    assert [str(capability) for capability in sorted(found)] == ["sm75", "sm80", "sm89", "sm90", "sm100", "sm120"]
    assert (str(TURING), str(AMPERE), str(HOPPER)) == ("sm75", "sm80", "sm90")


@pytest.mark.parametrize("index", [0, 1])
def test_a_gpu_is_found_by_its_number(monkeypatch, index):
    FakeCuda((RTX_4090, RTX_5090)).install(monkeypatch)
    device = (RTX_4090, RTX_5090)[index]
    gpu = find_gpu(index)
    assert gpu == Gpu(index, device.name, ComputeCapability(*device.compute_capability), device.memory_bytes)


def test_what_a_gpu_has_free(monkeypatch):
    fake = FakeCuda((RTX_4090, RTX_5090)).install(monkeypatch)
    with Cuda().on_device(1):
        Cuda().call("cudaMalloc", 1 << 20)
    assert [free_bytes(index) for index in (0, 1)] == [24 << 30, (32 << 30) - (1 << 20)]
    assert Cuda().call("cudaGetDevice") == 0
    fake.fail["cudaMemGetInfo"] = cudaError_t.cudaErrorUnknown
    assert free_bytes(0) is None
    FakeCuda.no_driver().install(monkeypatch)
    assert free_bytes(0) is None
    monkeypatch.setitem(sys.modules, "cuda.bindings.runtime", None)
    assert free_bytes(0) is None


def test_a_gpu_in_words():
    assert str(Gpu(0, "NVIDIA A10", ComputeCapability(8, 6), 24 << 30)) == "NVIDIA A10 (sm86)"


@pytest.mark.parametrize("index", [2, 7, -1])
def test_a_number_that_no_gpu_has(monkeypatch, index):
    FakeCuda((RTX_4090, RTX_5090)).install(monkeypatch)
    with pytest.raises(DeviceError, match=f"^device cuda:{index}: .* 2; accepted: cuda:0 to cuda:1$") as e:
        find_gpu(index)
    assert not isinstance(e.value, NoGpuError)  # there are others


@pytest.mark.parametrize(
    ("cuda", "said"),
    [
        (FakeCuda.no_driver(), "there is no NVIDIA driver here; install one, or use device cpu with an .onnx file"),
        (FakeCuda.no_gpu(), "the NVIDIA driver finds no GPU; check nvidia-smi and CUDA_VISIBLE_DEVICES"),
        (
            FakeCuda((), cudaError_t.cudaErrorDevicesUnavailable),
            "cudaGetDeviceCount failed: CUDA-capable device(s) is/are busy or unavailable "
            "(cudaErrorDevicesUnavailable)",
        ),
    ],
    ids=["no driver", "no GPU", "busy"],
)
def test_why_there_is_no_gpu(monkeypatch, cuda, said):
    cuda.install(monkeypatch)
    with pytest.raises(NoGpuError, match=r"^device cuda:3: ") as caught:
        find_gpu(3)
    assert str(caught.value) == f"device cuda:3: {said}"


@pytest.mark.parametrize(
    ("driver", "runtime", "said"),
    [
        (12020, 13000, "CUDA 12.2, cuda-bindings .*CUDA 13.0; .* pip install '{}<13'"),
        (11080, 13010, "CUDA 11.8, cuda-bindings .*CUDA 13.1; .* pip install '{}<12'"),
        (12010, 12090, "CUDA 12.1, cuda-bindings .*CUDA 12.9; .* pip install '{}<12'"),
    ],
)
def test_a_driver_that_is_too_old(monkeypatch, driver, runtime, said):
    """The advice names the cuda-bindings that this driver can serve."""
    fake = FakeCuda.old_driver(driver).install(monkeypatch)
    monkeypatch.setattr(fake.module, "cudaRuntimeGetVersion", lambda: (cudaError_t.cudaSuccess, runtime))
    with pytest.raises(NoGpuError, match=f"^device cuda:0: the NVIDIA driver .*{said.format('cuda-bindings')}$"):
        find_gpu(0)


def test_without_cuda_python(monkeypatch):
    monkeypatch.setitem(sys.modules, "cuda.bindings.runtime", None)
    with pytest.raises(MissingPackageError, match="cuda-bindings is needed to use an NVIDIA GPU"):
        find_gpu(0)


def test_an_error_on_the_way_is_raised(monkeypatch):
    fake = FakeCuda().install(monkeypatch)
    fake.fail["cudaGetDeviceProperties"] = cudaError_t.cudaErrorUnknown
    with pytest.raises(DeviceError, match=r"^cudaGetDeviceProperties failed: unknown error \(cudaErrorUnknown\)$"):
        find_gpu(0)
