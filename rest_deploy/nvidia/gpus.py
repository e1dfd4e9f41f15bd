"""The NVIDIA GPUs of this machine: what an engine is built for, and what may run it."""

from __future__ import annotations

import re
from dataclasses import dataclass

from rest_deploy.errors import ConfigError, DeviceError
from rest_deploy.nvidia.cuda import NO_DRIVER, NO_GPU, Cuda, CudaError


@dataclass(frozen=True, order=True)
class ComputeCapability:
    """Generation of a GPU as CUDA counts them, such as 8.9; written ``sm89``."""

    major: int
    minor: int

    @classmethod
    def parse(cls, text: str) -> ComputeCapability:
        """Read ``"sm89"`` (or ``"SM89"``, ``"8.9"``); the last digit is the minor number.

        Raises:
            ConfigError: Anything else.
        """
        match = re.fullmatch(r"(?:sm_?)?(\d{1,2}?)\.?(\d)", text.strip().lower())
        if not match:
            raise ConfigError(f"compute capability {text!r}; accepted: sm86, sm89, sm120, ...")
        return cls(int(match[1]), int(match[2]))

    def __str__(self) -> str:
        return f"sm{self.major}{self.minor}"


AMPERE = ComputeCapability(8, 0)
TURING = ComputeCapability(7, 5)
HOPPER = ComputeCapability(9, 0)


@dataclass(frozen=True)
class Gpu:
    """A GPU of this machine.

    Args:
        index: As CUDA numbers them.
        name: As the driver calls it.
        compute_capability: Its generation.
        memory_bytes: All of its memory.
    """

    index: int
    name: str
    compute_capability: ComputeCapability
    memory_bytes: int

    def __str__(self) -> str:
        return f"{self.name} ({self.compute_capability})"


class NoGpuError(DeviceError):
    """There is no GPU at all, or no driver that shows one."""


def find_gpu(index: int) -> Gpu:
    """The GPU of a number.

    Raises:
        MissingPackageError: cuda-python is not installed.
        NoGpuError: There is no driver, it is too old, or it finds no GPU.
        DeviceError: There are GPUs, and not this one.
    """
    cuda = Cuda()
    try:
        count = cuda.call("cudaGetDeviceCount")
    except CudaError as exc:
        raise NoGpuError(f"device cuda:{index}: {_why_none(cuda, exc)}") from exc
    if not 0 <= index < count:
        raise DeviceError(f"device cuda:{index}: there are {count} GPUs here; accepted: cuda:0 to cuda:{count - 1}")
    properties = cuda.call("cudaGetDeviceProperties", index)
    name = properties.name.decode() if isinstance(properties.name, bytes) else str(properties.name)
    capability = ComputeCapability(int(properties.major), int(properties.minor))
    return Gpu(index, name, capability, int(properties.totalGlobalMem))


def _why_none(cuda: Cuda, error: CudaError) -> str:
    driver = cuda.call("cudaDriverGetVersion")
    if driver == 0:
        return "there is no NVIDIA driver here; install one, or use device cpu with an .onnx file"
    if error.code == NO_DRIVER:
        runtime = cuda.call("cudaRuntimeGetVersion")
        return (
            f"the NVIDIA driver is of CUDA {_version(driver)}, cuda-bindings of CUDA {_version(runtime)}; update the "
            f"driver, or pip install 'cuda-bindings<{min(driver // 1000 + 1, runtime // 1000)}'"
        )
    if error.code == NO_GPU:
        return "the NVIDIA driver finds no GPU; check nvidia-smi and CUDA_VISIBLE_DEVICES"
    return str(error)


def _version(number: int) -> str:
    """CUDA writes 12.6 as 12060."""
    return f"{number // 1000}.{number % 1000 // 10}"
