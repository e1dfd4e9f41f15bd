"""Where a table was measured."""

from __future__ import annotations


def environment() -> str:
    """Processor, cores and versions, for the head of a table."""
    import os
    import platform
    from importlib.metadata import version

    with open("/proc/cpuinfo") as file:
        model = next((line.split(":")[1].strip() for line in file if line.startswith("model name")), "unknown")
    packages = ", ".join(f"{name} {version(name)}" for name in ("torch", "onnx", "onnxsim", "onnxruntime"))
    return f"{model}, {len(os.sched_getaffinity(0))} cores, Python {platform.python_version()}, {packages}"
