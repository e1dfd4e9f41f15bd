"""A Vulkan driver that computes on the CPU: the SwiftShader that Debian's chromium brings."""

from __future__ import annotations

import ctypes
import os
from pathlib import Path

import pytest

_FOLDER = Path("/usr/lib/chromium")


def needs_software_vulkan() -> None:
    """Let WebGPU find it, or skip: its loader is the one library of the name in the process, its driver by name."""
    pytest.importorskip("onnxruntime_ep_webgpu", reason="the plugin, an extra of its own, is not installed")
    loader, driver = _FOLDER / "libvulkan.so.1", _FOLDER / "vk_swiftshader_icd.json"
    if not (loader.is_file() and driver.is_file()):
        pytest.skip(f"Debian's chromium, whose Vulkan driver this runs on, is not installed in {_FOLDER}")
    ctypes.CDLL(str(loader), ctypes.RTLD_GLOBAL)
    os.environ["VK_ICD_FILENAMES"] = str(driver)
