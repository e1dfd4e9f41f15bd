"""Which TensorRT is installed: TensorRT itself, or TensorRT for RTX, which builds engines without a GPU."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from rest_deploy.errors import DeviceError, MissingPackageError, one_line


@dataclass(frozen=True)
class LibraryRow:
    """A library.

    Args:
        title: Its name for people.
        modules: Import names, the first that is there is taken.
        package: Distribution that brings it.
        extra: Of rest-deploy.
        others: Distributions that must be of the same version.
    """

    title: str
    modules: tuple[str, ...]
    package: str
    extra: str
    others: tuple[str, ...] = ()

    @property
    def pinned(self) -> tuple[str, ...]:
        """Distributions that must be of an engine's version to run it."""
        return (self.package, *self.others)


#: By the name of the format that it makes.
LIBRARIES: Mapping[str, LibraryRow] = MappingProxyType(
    {
        "trt": LibraryRow("TensorRT", ("tensorrt",), "tensorrt", "trt"),
        "trt-rtx": LibraryRow(
            "TensorRT-RTX",
            ("tensorrt_rtx", "tensorrt_rtx_bindings"),
            "tensorrt-rtx-cu13-bindings",
            "trt-rtx",
            ("tensorrt-rtx-cu13-libs",),
        ),
    }
)


@dataclass(frozen=True)
class Library:
    """An imported TensorRT.

    Args:
        name: A key of :data:`LIBRARIES`.
        api: The module.
        version: Of the module.
    """

    name: str
    api: Any
    version: str

    @property
    def is_rtx(self) -> bool:
        """TensorRT for RTX: targets are named, kernels are made where the engine runs."""
        return self.name == "trt-rtx"

    def __str__(self) -> str:
        return f"{LIBRARIES[self.name].title} {self.version}"


def is_installed(name: str) -> bool:
    """Whether a library of :data:`LIBRARIES` can be found, without importing it."""
    return any(_found(module) for module in LIBRARIES[name].modules)


def _found(module: str) -> bool:
    """Whether a module is there; a mere folder of that name on the path is none."""
    spec = importlib.util.find_spec(module)
    return spec is not None and (spec.origin is not None or spec.submodule_search_locations is None)


def load_library(name: str, purpose: str) -> Library:
    """Import a library of :data:`LIBRARIES`.

    Args:
        name: Its key.
        purpose: What it is for, as it reads after "is needed to".

    Raises:
        MissingPackageError: It is not installed.
        DeviceError: It is installed and does not load.
    """
    row = LIBRARIES[name]
    for module in row.modules:
        if not _found(module):
            continue
        try:
            api = importlib.import_module(module)
        except (ImportError, OSError, RuntimeError) as exc:  # its shared libraries
            raise DeviceError(f"{row.package} is installed but does not load: {one_line(exc)}") from exc
        return Library(name, api, str(api.__version__))
    raise MissingPackageError(row.package, purpose, row.extra)
