"""The NVIDIA GPUs as CUDA tells of them, or why it tells of none."""

from __future__ import annotations

from rest_deploy.doctor.attempts import attempt
from rest_deploy.doctor.records import Gpus
from rest_deploy.nvidia.cuda import NO_GPU, Cuda, CudaError
from rest_deploy.nvidia.gpus import find_gpu

_FIRST = "device cuda:0: "


def find_gpus() -> Gpus:
    """All GPUs, and the CUDA of their driver."""
    driver = attempt(_driver).value
    words = f"{driver // 1000}.{driver % 1000 // 10}" if driver else None  # CUDA writes 12.6 as 12060
    count = attempt(_count)
    if count.value is None:
        absent = driver == 0 or attempt(_knows_of_none).value is True
        return Gpus((), count.problem.removeprefix(_FIRST), absent, words)
    outcomes = [attempt(find_gpu, index) for index in range(count.value)]
    found = tuple(outcome.value for outcome in outcomes if outcome.value is not None)
    return Gpus(found, next((outcome.problem for outcome in outcomes if outcome.problem), ""), False, words)


def _driver() -> int:
    return int(Cuda().call("cudaDriverGetVersion"))


def _count() -> int:
    find_gpu(0)  # says best why there is none
    return int(Cuda().call("cudaGetDeviceCount"))


def _knows_of_none() -> bool:
    """Whether CUDA knows that there is no GPU; there may be one that the driver is too old for."""
    try:
        Cuda().call("cudaGetDeviceCount")
    except CudaError as exc:
        return exc.code == NO_GPU
    return False
