"""ONNX files on GPUs of any maker: ONNX Runtime's WebGPU provider, a plugin, on Vulkan, Metal or Direct3D 12."""

from __future__ import annotations

import ctypes
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rest_deploy.artifact.info import ArtifactInfo
from rest_deploy.errors import DeviceError, MissingPackageError
from rest_deploy.runtimes.ort import OnnxRuntime, Plugin, import_onnxruntime, plugin_devices, registered
from rest_deploy.specs import Device

_NAME = "WebGpuExecutionProvider"
#: Name of the device whose adapter computes on the CPU, and the variable by which the plugin lets it.
SOFTWARE, _ALLOW = "software", "ORT_WEBGPU_EP_ALLOW_SOFTWARE_ADAPTER"
_ADVICE = "check the driver and, on Linux, the Vulkan loader libvulkan.so.1"
#: Sessions of the plugin share a context that is not theirs alone: two that open or run at a time crash the process
#: (0.4.0, each of eight tries).
_alone = threading.RLock()


def _add(options: Any, device: Device) -> None:
    """Let a session compute on the one adapter that the plugin chooses, a GPU where there is one.

    Raises:
        DeviceError: There is none, or it is a software adapter that was not asked for, or a GPU where one was.
        MissingPackageError: The plugin is not installed.
    """
    if device.name not in ("", SOFTWARE):
        raise DeviceError(f"device {device}; accepted: webgpu, webgpu:{SOFTWARE}; the plugin chooses among GPUs itself")
    found = _adapters(device)
    in_software = _in_software(found)
    if device.name == SOFTWARE and not all(in_software):
        raise DeviceError(f"device {device}: the plugin would choose the GPU that is here; use webgpu")
    if not found or (device.name != SOFTWARE and all(in_software)):
        raise DeviceError(
            f"device {device}: no GPU was found; {_ADVICE}, or use device cpu, or to compute in software, slowly, "
            f"webgpu:{SOFTWARE}"
        )
    options.add_provider_for_devices(found[:1], {})


def _in_software(found: list[Any]) -> list[bool]:
    """Of each adapter whether it computes in software.

    ONNX Runtime tells of the graphics cards that a machine has. On Linux the adapters are those of Vulkan, which may
    have no driver for the card, as on a server whose card is for its console: there Vulkan is asked.
    """
    if sys.platform == "linux":
        return [kind == _VULKAN_CPU for kind in vulkan_kinds()]
    return [own.device.type.name == "CPU" for own in found]


_VULKAN_CPU = 4  # VK_PHYSICAL_DEVICE_TYPE_CPU
_MOST = 64


def vulkan_kinds() -> list[int]:
    """``VkPhysicalDeviceType`` of each device that Vulkan has; empty without a loader or a driver."""
    try:
        vulkan = ctypes.CDLL("libvulkan.so.1")
    except OSError:
        return []
    # VkInstanceCreateInfo: sType 1, and no extensions, layers or application
    request = (ctypes.c_uint64 * 8)(1)
    instance = ctypes.c_void_p()
    if vulkan.vkCreateInstance(request, None, ctypes.byref(instance)):
        return []
    try:
        count, devices = ctypes.c_uint32(_MOST), (ctypes.c_void_p * _MOST)()
        if vulkan.vkEnumeratePhysicalDevices(instance, ctypes.byref(count), devices) < 0:
            return []
        kinds = []
        for handle in devices[: count.value]:
            properties = (ctypes.c_uint32 * 1024)()  # VkPhysicalDeviceProperties: deviceType is the fifth number
            vulkan.vkGetPhysicalDeviceProperties(ctypes.c_void_p(handle), properties)
            kinds.append(int(properties[4]))
        return kinds
    finally:
        vulkan.vkDestroyInstance(instance, None)


def _adapters(device: Device) -> list[Any]:
    """What the plugin finds; it looks whether software is allowed when it is registered, once for each of the two."""
    import_onnxruntime(device)
    try:
        import onnxruntime_ep_webgpu as plugin
    except ModuleNotFoundError as exc:
        if sys.version_info < (3, 11):
            raise DeviceError(f"device {device}: its plugin needs Python 3.11 or later; use device cpu") from exc
        raise MissingPackageError("onnxruntime_ep_webgpu", "run .onnx files on webgpu", "webgpu") from exc
    with _allowing(device.name == SOFTWARE):
        return plugin_devices(f"rest_deploy-{device}", plugin.get_library_path(), _NAME, device)


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


@contextmanager
def _taking_turns(device: Device) -> Iterator[None]:
    """Open a session while no other opens or runs; in a forked child it would wait for ever."""
    ours = {process for name, process in registered.items() if name.startswith(f"rest_deploy-{device.kind}")}
    if ours - {os.getpid()}:
        raise DeviceError(f"device {device}: this process was forked from one that uses it; start processes by spawn")
    with _alone:
        yield


class WebGpuRuntime(OnnxRuntime):
    """An ONNX file of ours on WebGPU, all that computes on its adapter; calls of a process take turns."""

    memory = "webgpu"
    plugin = Plugin(_NAME, _add, _ADVICE, frozenset({"Transpose", "Scan"}))  # it has no Transpose of uint8
    #: Every adapter binds buffers of 2**27 bytes (WebGPU, 3.6.2: maxStorageBufferBindingSize). A call that takes twice
    #: as many has no larger map.
    whole, block = 1 << 28, 1 << 25

    def _load(self) -> None:
        super()._load()
        if self.target.name == SOFTWARE:
            self.note = f"{self.device} computes on the CPU, in software, slower than device cpu"

    @classmethod
    def probe(cls, device: Device) -> None:
        """Run a network of one operator."""
        with _taking_turns(device):
            super().probe(device)

    def _opened(self, *, large: bool = False) -> tuple[Any, ArtifactInfo]:
        with _taking_turns(self.target):
            return super()._opened(large=large)

    def _run(self, batch: NDArray[Any]) -> dict[str, NDArray[np.float32]]:
        with _alone:
            return super()._run(batch)

    def _close(self) -> None:
        with _alone:
            super()._close()
