"""The machine's GPUs: found by number, and where there is none, why."""

import sys

import pytest
from cuda.bindings.runtime import cudaError_t

from rest_deploy.errors import ConfigError, DeviceError, MissingPackageError
from rest_deploy.nvidia import AMPERE, HOPPER, TURING, ComputeCapability, Gpu, NoGpuError, find_gpu
from tests.standins.cuda import FakeCuda, FakeDevice

RTX_4090 = FakeDevice("NVIDIA GeForce RTX 4090", (8, 9), 24 << 30)
RTX_5090 = FakeDevice("NVIDIA GeForce RTX 5090", (12, 0), 32 << 30)


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


def test_a_gpu_in_words():
    assert str(Gpu(0, "NVIDIA A10", ComputeCapability(8, 6), 24 << 30)) == "NVIDIA A10 (sm86)"


@pytest.mark.parametrize("index", [2, 7, -1])
def test_a_number_that_no_gpu_has(monkeypatch, index):
    FakeCuda((RTX_4090, RTX_5090)).install(monkeypatch)
    with pytest.raises(
        DeviceError, match=f"^device cuda:{index}: there are 2 GPUs here; accepted: cuda:0 to cuda:1$"
    ) as e:
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
        (12020, 13000, "is of CUDA 12.2, cuda-bindings of CUDA 13.0; update the driver, or pip install '{}<13'"),
        (11080, 13010, "is of CUDA 11.8, cuda-bindings of CUDA 13.1; update the driver, or pip install '{}<12'"),
        (12010, 12090, "is of CUDA 12.1, cuda-bindings of CUDA 12.9; update the driver, or pip install '{}<12'"),
    ],
)
def test_a_driver_that_is_too_old(monkeypatch, driver, runtime, said):
    """The advice names the cuda-bindings that this driver can serve."""
    fake = FakeCuda.old_driver(driver).install(monkeypatch)
    monkeypatch.setattr(fake.module, "cudaRuntimeGetVersion", lambda: (cudaError_t.cudaSuccess, runtime))
    with pytest.raises(NoGpuError, match=f"^device cuda:0: the NVIDIA driver {said.format('cuda-bindings')}$"):
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
