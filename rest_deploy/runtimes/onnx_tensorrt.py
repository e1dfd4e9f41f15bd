"""ONNX files in TensorRT inside ONNX Runtime: its own TensorRT provider, and NVIDIA's plugin of TensorRT-RTX.

Neither was ever run on a GPU: tests have stand-ins. What is known of both, and from where, is in docs/devices.md.
"""

from __future__ import annotations

import ctypes
import importlib
import os
from contextlib import suppress
from pathlib import Path
from types import MappingProxyType
from typing import Any

from rest_deploy import nvidia
from rest_deploy.artifact.info import ArtifactInfo
from rest_deploy.errors import DeviceError, MissingPackageError, install, one_line
from rest_deploy.runtimes.ort import OnnxRuntime, Plugin, import_onnxruntime, plugin_devices
from rest_deploy.specs import Device, Precision

_TRT, _RTX = "TensorrtExecutionProvider", "NvTensorRTRTXExecutionProvider"
_ADVICE = "check the NVIDIA driver, and the CUDA, cuDNN and TensorRT that this version needs"
#: Off, the network is strongly typed: computed in the types of the file. Engines of former runs are not taken.
_OPTIONS = MappingProxyType(
    dict.fromkeys(
        ("trt_fp16_enable", "trt_bf16_enable", "trt_int8_enable", "trt_engine_cache_enable", "trt_dla_enable"), "False"
    )
)
#: The one way to compute FP32 in FP32: both allow TensorRT its TF32, and have no option against it.
_TF32 = "NVIDIA_TF32_OVERRIDE"


def _number(device: Device) -> int:
    """Number of the GPU, once what no provider tells in a line has been looked at.

    Raises:
        DeviceError: The name is no number, TF32 is not forbidden, or there is no such GPU.
    """
    if not device.name.isdecimal():
        raise DeviceError(f"device {device}; accepted: {device.kind}, {device.kind}:0, {device.kind}:1, ...")
    count, number, kind = nvidia.gpu_count(), int(device.name), device.kind
    if count == 0:
        raise DeviceError(f"device {device}: {nvidia.NONE_SHOWN}")
    if os.environ.get(_TF32) != "0":
        raise DeviceError(
            f"device {device}: TensorRT in ONNX Runtime computes FP32 in TF32, of 10 bits, unless "
            f"{_TF32}=0 is set before the process starts; set it, or use device cuda or an .engine file"
        )
    if count is not None and number >= count:
        raise DeviceError(f"device {device}: GPUs here: {count}; accepted: {kind}:0 to {kind}:{count - 1}")
    return number


def _add(options: Any, device: Device) -> None:
    """Let a session compute in the provider that onnxruntime-gpu has."""
    ort, number = import_onnxruntime(device), _number(device)
    if _TRT not in ort.get_available_providers():
        raise DeviceError(
            f"device {device}: the installed ONNX Runtime {ort.__version__} has no TensorRT provider; install it: "
            f"pip uninstall onnxruntime && {install('ort-trt')}, or use device cpu"
        )
    _check_libraries(ort, device)
    try:
        options.add_provider(_TRT, {"device_id": str(number), **_OPTIONS})
    except Exception as exc:  # ONNX Runtime's errors share no public base class
        raise DeviceError(
            f"device {device}: ONNX Runtime {ort.__version__} could not start its TensorRT provider; {_ADVICE} "
            f"({one_line(exc)})"
        ) from exc


def _check_libraries(ort: Any, device: Device) -> None:
    """ONNX Runtime says only that TensorRT's libraries, or CUDA's, may be missing; the loader says which is.

    Raises:
        DeviceError: One is.
    """
    with suppress(ModuleNotFoundError):  # it loads TensorRT where pip installed it
        importlib.import_module("tensorrt_libs")
    library = Path(ort.__file__).parent / "capi" / "libonnxruntime_providers_tensorrt.so"
    try:
        ctypes.CDLL(str(library)) if library.is_file() else None
    except OSError as exc:
        if "cannot open shared object file" in str(exc):  # else it is a symbol that ONNX Runtime brings itself
            raise DeviceError(
                f"device {device}: the TensorRT provider of ONNX Runtime {ort.__version__} does not load: "
                f"{one_line(exc)}; install what it needs: {install('ort-trt')}, or set LD_LIBRARY_PATH, or use device "
                "cuda"
            ) from exc


def _add_rtx(options: Any, device: Device) -> None:
    """Let a session compute in NVIDIA's plugin."""
    try:
        plugin = importlib.import_module("onnxruntime_ep_nv_tensorrt_rtx")
    except ModuleNotFoundError as exc:
        raise MissingPackageError(
            "onnxruntime_ep_nv_tensorrt_rtx", "run .onnx files on tensorrt-rtx", "ort-rtx"
        ) from exc
    number = _number(device)
    if (count := nvidia.gpu_count() or 0) > 1:  # the plugin lists them in its own order, not by CUDA_VISIBLE_DEVICES
        raise DeviceError(
            f"device {device}: {count} GPUs are here, and nothing tells which of them the plugin would take for number "
            f"{number}; use device tensorrt:{number} or cuda:{number}"
        )
    found = plugin_devices("rest_deploy-tensorrt-rtx", plugin.get_library_path(), _RTX, device)
    if len(found) != 1:
        why = "it takes NVIDIA's from Ampere on, with a driver for its CUDA; use device cuda or cpu"
        if found:
            why = f"it does not know CUDA_VISIBLE_DEVICES; use device tensorrt:{number} or cuda:{number}"
        raise DeviceError(
            f"device {device}: GPUs that TensorRT-RTX takes here: {len(found)}, and CUDA shows one; {why}"
        )
    options.add_provider_for_devices(found, {})


class OnnxTensorRTRuntime(OnnxRuntime):
    """An ONNX file of ours in ONNX Runtime's TensorRT provider, which builds an engine at the first call of a size."""

    plugin = Plugin(_TRT, _add, _ADVICE, weights_apart=False, blocks=False)  # TensorRT's parser refuses their loops

    def _check_numbers(self, info: ArtifactInfo) -> None:
        if info.precision is Precision.INT8:
            raise DeviceError(
                f"{self.path}: on {self.target} ONNX Runtime may compute an INT8 file otherwise than it was made for; "
                "use device cpu, or for a GPU build an engine with --int8"
            )


class OnnxTensorRTRTXRuntime(OnnxTensorRTRuntime):
    """An ONNX file of ours in the plugin, which builds an engine for all sizes when it opens."""

    plugin = Plugin(
        _RTX, _add_rtx, "check the NVIDIA driver that TensorRT-RTX needs", weights_apart=False, blocks=False
    )
