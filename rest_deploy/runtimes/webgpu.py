"""ONNX files on GPUs of any maker: ONNX Runtime's WebGPU provider, a plugin, on Vulkan, Metal or Direct3D 12."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rest_deploy.errors import DeviceError, MissingPackageError, install, one_line
from rest_deploy.runtimes.ort import OnnxRuntime, Plugin, import_onnxruntime
from rest_deploy.specs import Device

_NAME = "WebGpuExecutionProvider"
#: Name of the device whose adapter computes on the CPU, and the variable by which the plugin lets it.
SOFTWARE, _ALLOW = "software", "ORT_WEBGPU_EP_ALLOW_SOFTWARE_ADAPTER"
_ADVICE = "check the driver and, on Linux, the Vulkan loader libvulkan.so.1"
#: Names under which the plugin is registered in this process.
_registered: set[str] = set()
_registering = threading.Lock()


def _add(options: Any, device: Device) -> None:
    """Let a session compute on the one adapter that the plugin chooses.

    Raises:
        DeviceError: There is none, or it is a software adapter that was not asked for, or a GPU where one was.
        MissingPackageError: The plugin is not installed.
    """
    if device.name not in ("", SOFTWARE):
        raise DeviceError(f"device {device}; accepted: webgpu, webgpu:{SOFTWARE}; the plugin chooses among GPUs itself")
    found = {str(own.device.type.name): own for own in _adapters(device)}
    in_software = found.pop("CPU", None)
    if device.name == SOFTWARE and found:
        raise DeviceError(f"device {device}: the plugin would choose the {next(iter(found))} that is here; use webgpu")
    chosen = in_software if device.name == SOFTWARE else next(iter(found.values()), None)
    if chosen is None:
        raise DeviceError(
            f"device {device}: no adapter was found; {_ADVICE}, or use device cpu, or to compute in software, slowly, "
            f"webgpu:{SOFTWARE}"
        )
    options.add_provider_for_devices([chosen], {})


def _adapters(device: Device) -> list[Any]:
    """What the plugin finds; it looks whether software is allowed when it is registered, once for each of the two."""
    ort = import_onnxruntime(device)
    try:
        import onnxruntime_ep_webgpu as plugin
    except ModuleNotFoundError as exc:
        raise MissingPackageError("onnxruntime_ep_webgpu", "run .onnx files on webgpu", "webgpu") from exc
    if not hasattr(ort, "register_execution_provider_library"):
        raise DeviceError(
            f"device {device}: ONNX Runtime {ort.__version__} takes no plugins; upgrade it: {install('webgpu')}"
        )
    name = f"rest_deploy-{device}"
    with _registering:
        if name not in _registered:
            with _allowing(device.name == SOFTWARE):
                _register(ort, name, plugin.get_library_path(), device)
            _registered.add(name)
    return [own for own in ort.get_ep_devices() if own.ep_name == _NAME]


@contextmanager
def _allowing(software: bool) -> Iterator[None]:
    """Whether the plugin may take an adapter that computes in software, whatever the environment says."""
    before = os.environ.pop(_ALLOW, None)
    if software:
        os.environ[_ALLOW] = "1"
    try:
        yield
    finally:
        os.environ.pop(_ALLOW, None)
        if before is not None:
            os.environ[_ALLOW] = before


def _register(ort: Any, name: str, library: str, device: Device) -> None:
    ort.set_default_logger_severity(4)  # it warns that software is allowed, which is said by the name of the device
    try:
        ort.register_execution_provider_library(name, library)
    except Exception as exc:  # ONNX Runtime's errors share no public base class
        raise DeviceError(
            f"device {device}: ONNX Runtime {ort.__version__} does not take the plugin {Path(library).name}: "
            f"{one_line(exc)}; upgrade both: {install('webgpu')}"
        ) from exc


class WebGpuRuntime(OnnxRuntime):
    """An ONNX file of ours on WebGPU, all that computes on its adapter."""

    plugin = Plugin(_NAME, _add, _ADVICE, frozenset({"Transpose", "Scan"}))  # it has no Transpose of uint8
    #: Every adapter binds buffers of 2**27 bytes (WebGPU, 3.6.2: maxStorageBufferBindingSize). A call that takes twice
    #: as many has no larger map.
    whole, block = 1 << 28, 1 << 25

    def __init__(
        self, path: str | Path, device: str = "webgpu", threads: int | None = None, allow_spinning: bool = True
    ) -> None:
        super().__init__(path, device, threads, allow_spinning)
        if self.target.name == SOFTWARE:
            self.note = f"{device} computes on the CPU, in software, slower than device cpu"
