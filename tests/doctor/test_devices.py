"""The GPUs by CUDA, and why there are none."""

from __future__ import annotations

import pytest
from cuda.bindings.runtime import cudaError_t

from rest_deploy.doctor.devices import find_gpus
from rest_deploy.doctor.records import Gpus
from tests.doctor.machines import hide
from tests.standins.cuda import FakeCuda, FakeDevice

MonkeyPatch = pytest.MonkeyPatch
RTX_4090 = FakeDevice("NVIDIA GeForce RTX 4090", (8, 9), 24 << 30)
H200 = FakeDevice("NVIDIA H200", (9, 0), 139 << 30)


def test_all_are_found(monkeypatch: MonkeyPatch) -> None:
    FakeCuda((RTX_4090, H200)).install(monkeypatch)
    gpus = find_gpus()
    assert [str(gpu) for gpu in gpus.found] == ["NVIDIA GeForce RTX 4090 (sm89)", "NVIDIA H200 (sm90)"]
    assert (gpus.problem, gpus.absent, gpus.driver_cuda) == ("", False, "13.0")


@pytest.mark.parametrize(
    ("cuda", "words", "absent", "driver"),
    [
        (FakeCuda.no_driver(), "there is no NVIDIA driver here; install one", True, None),
        (FakeCuda.no_gpu(), "the NVIDIA driver finds no GPU; check nvidia-smi and CUDA_VISIBLE_DEVICES", True, "13.0"),
        (FakeCuda.old_driver(), "the NVIDIA driver is of CUDA 12.2, cuda-bindings of CUDA ", False, "12.2"),
        (FakeCuda((), cudaError_t.cudaErrorDevicesUnavailable), "cudaGetDeviceCount failed: ", False, "13.0"),
    ],
    ids=["no driver", "no GPU", "old driver", "busy"],
)
def test_none_are_found(monkeypatch: MonkeyPatch, cuda: FakeCuda, words: str, driver: str, *, absent: bool) -> None:
    """An old driver has a GPU behind it; that there is none is known only of the others."""
    cuda.install(monkeypatch)
    gpus = find_gpus()
    assert gpus.found == ()
    assert gpus.problem.startswith(words)
    assert (gpus.absent, gpus.driver_cuda) == (absent, driver)


def test_without_cuda_python(monkeypatch: MonkeyPatch) -> None:
    hide(monkeypatch, "cuda.bindings.runtime")
    said = 'cuda-bindings is needed to use an NVIDIA GPU; install it: pip install "rest-deploy[trt]"'
    assert find_gpus() == Gpus(problem=said)


def test_one_that_cannot_be_asked_does_not_hide_the_others(monkeypatch: MonkeyPatch) -> None:
    fake = FakeCuda((RTX_4090, H200)).install(monkeypatch)
    real = fake.module.cudaGetDeviceProperties
    lost = (cudaError_t.cudaErrorUnknown, None)
    monkeypatch.setattr(fake.module, "cudaGetDeviceProperties", lambda index: lost if index else real(index))
    gpus = find_gpus()
    assert [gpu.name for gpu in gpus.found] == ["NVIDIA GeForce RTX 4090"]
    assert gpus.problem == "cudaGetDeviceProperties failed: unknown error (cudaErrorUnknown)"
