"""NVIDIA's CUDA runtime through ``cuda-python`` (cuda.bindings), with its error codes turned into exceptions."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from rest_deploy.errors import DeviceError, MissingPackageError, one_line

_SUCCESS = 0
#: cudaError_t, CUDA Runtime API, section "Data types used by CUDA Runtime".
NO_DRIVER, NO_GPU, OUT_OF_MEMORY = 35, 100, 2


class CudaError(DeviceError):
    """A call of the CUDA runtime failed; ``code`` is its ``cudaError_t``."""

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.code = code


class Cuda:
    """The CUDA runtime.

    Raises:
        MissingPackageError: cuda-python is not installed.
        DeviceError: It is installed and does not load.
    """

    def __init__(self) -> None:
        try:
            self.api: Any = importlib.import_module("cuda.bindings.runtime")
        except ModuleNotFoundError as exc:
            raise MissingPackageError("cuda-bindings", "use an NVIDIA GPU", "trt") from exc
        except (ImportError, RuntimeError) as exc:
            raise DeviceError(f"cuda-bindings is installed but does not load: {one_line(exc)}") from exc

    def call(self, function: str, *arguments: Any) -> Any:
        """Call a function of the CUDA runtime by its C name; give what it gives beside its error code.

        Raises:
            CudaError: It failed; the message holds CUDA's own words.
        """
        code, *values = getattr(self.api, function)(*arguments)
        if int(code) != _SUCCESS:
            _, said = self.api.cudaGetErrorString(code)
            words = said.decode() if isinstance(said, bytes) else str(said)
            raise CudaError(f"{function} failed: {words} ({code.name})", int(code))
        if not values:
            return None
        return values[0] if len(values) == 1 else tuple(values)

    @contextmanager
    def on_device(self, index: int) -> Iterator[None]:
        """Make a GPU the current one of this thread for the time of a block; CUDA keeps one for each thread."""
        before = self.call("cudaGetDevice")
        if before != index:
            self.call("cudaSetDevice", index)
        try:
            yield
        finally:
            if before != index:
                self.call("cudaSetDevice", before)
