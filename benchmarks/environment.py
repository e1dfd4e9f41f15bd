"""Where a table was measured."""

from __future__ import annotations

from rest_deploy.environment import describe_environment

_PACKAGES = ("torch", "onnx", "onnxsim", "onnxruntime")


def environment() -> str:
    """Processor, cores and versions, for the head of a table."""
    found = describe_environment()
    packages = ", ".join(f"{name} {found['packages'].get(name, 'not installed')}" for name in _PACKAGES)
    return f"{found['cpu']}, {len(found['affinity'])} cores, Python {found['python']}, {packages}"
