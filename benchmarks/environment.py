"""Where a table was measured, and of what."""

from __future__ import annotations

from pathlib import Path

from rest_deploy.environment import describe_environment
from tests.golden import golden_checkpoint

#: A trained network, small.
DIGITS = Path(__file__).parents[1] / "examples" / "digits" / "rest_digits.safetensors"
_PACKAGES = ("torch", "onnx", "onnxsim", "onnxruntime")


def environment() -> str:
    """Processor, cores and versions, for the head of a table."""
    found = describe_environment()
    packages = ", ".join(f"{name} {found['packages'].get(name, 'not installed')}" for name in _PACKAGES)
    return f"{found['cpu']}, {len(found['affinity'])} cores, Python {found['python']}, {packages}"


def golden_onnx(name: str, folder: Path) -> Path:
    """A network with the golden weights as rest-export makes it, in FP32."""
    from rest_deploy.pipeline import ExportRequest, run_export

    weights = golden_checkpoint(name, folder)
    return run_export(ExportRequest(None, folder / f"{name}.onnx", checkpoint=weights, verify=False)).path
