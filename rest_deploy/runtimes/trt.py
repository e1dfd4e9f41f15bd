"""TensorRT engines with their manifests, on an NVIDIA GPU that they were built for."""

from __future__ import annotations

import threading
import weakref
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rest_deploy.artifact.info import ArtifactInfo
from rest_deploy.artifact.manifest import read_engine, read_manifest
from rest_deploy.artifact.profile import InputSize, largest_batch, narrowest
from rest_deploy.errors import DeviceError
from rest_deploy.nvidia import find_gpu, load_library
from rest_deploy.runtimes.base import Runtime
from rest_deploy.runtimes.devices import Device
from rest_deploy.runtimes.engine_checks import check_gpu, check_version
from rest_deploy.runtimes.engine_session import EngineSession
from rest_deploy.runtimes.gpu_times import GpuCall
from rest_deploy.specs import ImageSize


class TensorRTRuntime(Runtime):
    """An engine of ours. Everything its manifest tells is checked before TensorRT is handed the plan.

    Beside NumPy arrays it takes arrays that lie on its GPU, by ``__dlpack__`` or ``__cuda_array_interface__``, and then
    gives such that lie there too.

    Raises:
        ArtifactError: Plan or manifest is missing or damaged, or of another version of the library.
        MissingPackageError: The library that built it, or cuda-python, is not installed.
        DeviceError: No driver, no GPU, or one that the engine was not built for.
    """

    default_device = "cuda:0"

    def __init__(
        self, path: str | Path, device: str | None = None, threads: int | None = None, allow_spinning: bool = True
    ) -> None:
        self._finalizer: Any = None  # once there is something to let go of
        super().__init__(path, device, threads, allow_spinning)
        target = Device.parse(self.device)
        file = read_engine(self.path)
        self.info, record = file.info, file.info.engine
        assert record is not None  # read_engine has looked
        if target.kind != "cuda":
            raise DeviceError(f"{path}: an engine runs on an NVIDIA GPU; use device cuda, or an .onnx file on the CPU")
        library = load_library(record.library, "run this engine")
        check_version(record, library, self.path)
        check_gpu(record, self.info.precision, find_gpu(target.index), self.path)
        self._profiles = record.profiles
        self._lock = threading.Lock()
        self._session = EngineSession(file, library, target.index)
        self._finalizer = weakref.finalize(self, self._session.close)  # for those who do not close it

    def max_batch(self, height: int, width: int) -> int | None:
        """Most images of a size that one call takes; None where no profile takes the size."""
        return largest_batch(self._profiles, height, width)

    def _takes(self, batch: int, height: int, width: int) -> bool:
        return narrowest(self._profiles, InputSize(batch, ImageSize(height, width))) is not None

    def gpu_calls(self, batch: NDArray[np.float32], count: int) -> list[GpuCall]:
        """Where the time of so many calls goes."""
        checked = self._checked(batch)
        self._check_usable()  # before the lock, which nobody lets go of in a forked process
        with self._lock:
            self._check_usable()
            return [self._session.gpu_call(checked) for _ in range(count)]

    def _run(self, batch: NDArray[np.float32]) -> dict[str, NDArray[np.float32]]:
        with self._lock:
            self._check_usable()
            return self._session.run_host(batch)

    def _run_foreign(self, batch: Any) -> Any:
        with self._lock:
            self._check_usable()
            given = self._session.device_input(batch)
            if given is None:
                return super()._run_foreign(batch)
            self._check(given.dtype, given.shape)
            return self._session.run_device(given)

    def _leave(self) -> None:
        super()._leave()
        if self._finalizer is not None:
            self._finalizer.detach()

    def _close(self) -> None:
        with self._lock:  # not while another thread runs it
            self._finalizer()


def read_info(path: Path) -> ArtifactInfo:
    """The record of an engine, out of its manifest, once the plan has been found to be the one it tells of.

    Raises:
        ArtifactError: One of them is missing, damaged, or not of the other.
    """
    return read_manifest(path)
