"""ResT image models from a PyTorch checkpoint to proved artifacts, for any image size.

Names are imported when first used, so that deploying needs neither torch nor onnx.
"""

from __future__ import annotations

import importlib
import os
import sys
import warnings
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rest_deploy.benchmarking import benchmark
    from rest_deploy.errors import RestDeployError
    from rest_deploy.models.checkpoint import save_checkpoint
    from rest_deploy.models.factory import create_model
    from rest_deploy.models.family import list_models
    from rest_deploy.models.rest_family import ResTConfig
    from rest_deploy.models.restv2_family import ResTv2Config
    from rest_deploy.pipeline import export
    from rest_deploy.predictor import Prediction, Predictor
    from rest_deploy.specs import Preprocessing
    from rest_deploy.verification import verify

__all__ = [
    "Prediction",
    "Predictor",
    "Preprocessing",
    "ResTConfig",
    "ResTv2Config",
    "RestDeployError",
    "benchmark",
    "create_model",
    "export",
    "list_models",
    "save_checkpoint",
    "verify",
]

_HOMES = {
    "Prediction": "rest_deploy.predictor",
    "Predictor": "rest_deploy.predictor",
    "Preprocessing": "rest_deploy.specs",
    "ResTConfig": "rest_deploy.models.rest_family",
    "ResTv2Config": "rest_deploy.models.restv2_family",
    "RestDeployError": "rest_deploy.errors",
    "benchmark": "rest_deploy.benchmarking",
    "create_model": "rest_deploy.models.factory",
    "export": "rest_deploy.pipeline",
    "list_models": "rest_deploy.models.family",
    "save_checkpoint": "rest_deploy.models.checkpoint",
    "verify": "rest_deploy.verification",
}


# ONNX Runtime from 1.29 on tells its maker what it runs, models' metadata among it, keeps an id of the machine on disk
# for that, and by a thread of its own keeps forked processes from ending. It reads this once, when it is imported.
_VARIABLE, _REPORTS_FROM = "ORT_DISABLE_TELEMETRY", (1, 29)


def _reports(version: str) -> bool:
    numbers = version.split(".")[:2]
    return not all(number.isdigit() for number in numbers) or tuple(map(int, numbers)) >= _REPORTS_FROM


if _VARIABLE not in os.environ:
    os.environ[_VARIABLE] = "1"  # before the warning, which may be an error
    _loaded = sys.modules.get("onnxruntime")
    if _loaded is not None and _reports(getattr(_loaded, "__version__", "")):
        warnings.warn(
            f"onnxruntime was imported before rest_deploy and reports to its maker; set {_VARIABLE}=1",
            RuntimeWarning,
            stacklevel=2,
        )

# `export` is a function of this package and a subpackage of it. Python binds a subpackage's name when it first imports
# it; done here and undone, so that the name stays free for the function whatever is imported later.
importlib.import_module("rest_deploy.export")
delattr(sys.modules[__name__], "export")


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version  # slow to load

        value = globals()[name] = version("rest-deploy")
        return value
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        module = importlib.import_module(_HOMES[name])
    except ModuleNotFoundError as exc:
        if exc.name is None or exc.name.startswith("rest_deploy"):
            raise
        from rest_deploy.errors import MissingPackageError

        raise MissingPackageError(exc.name, f"use rest_deploy.{name}", "export") from exc
    value = globals()[name] = getattr(module, name)
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
