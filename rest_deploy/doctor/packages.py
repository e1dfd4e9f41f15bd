"""The packages that something here can use: which are installed, and whether they load."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

from rest_deploy.doctor.attempts import Outcome, attempt, load_module
from rest_deploy.doctor.needs import is_older, least_version, repair
from rest_deploy.doctor.records import Package, State
from rest_deploy.errors import MissingPackageError, install
from rest_deploy.machine.packages import installed_version
from rest_deploy.nvidia.cuda import Cuda
from rest_deploy.nvidia.library import LIBRARIES

ONNXRUNTIME, CUDA_PYTHON = "onnxruntime", "cuda.bindings.runtime"
_MODULES = (
    *("numpy", "PIL", ONNXRUNTIME, CUDA_PYTHON),
    *(module for row in LIBRARIES.values() for module in row.modules),
    *("openvino", "onnx", "onnxscript", "onnxsim", "safetensors"),
    "torch",  # last: it brings CUDA's libraries into the process, with which others load that would not without it
)

#: Module -> distributions that bring it, where they are not called as it is; the first is what rest-deploy asks for.
_DISTRIBUTIONS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "PIL": ("pillow",),
        CUDA_PYTHON: ("cuda-bindings",),
        ONNXRUNTIME: (
            *("onnxruntime", "onnxruntime-gpu", "onnxruntime-directml", "onnxruntime-openvino", "onnxruntime-qnn"),
            *("onnxruntime-rocm", "onnxruntime-migraphx"),
        ),
        "tensorrt": ("tensorrt", "tensorrt-cu13", "tensorrt-cu12", "tensorrt-cu11"),
        "tensorrt_rtx": ("tensorrt-rtx",),
        "tensorrt_rtx_bindings": ("tensorrt-rtx-cu13-bindings", "tensorrt-rtx-cu12-bindings"),
    }
)

_CONFLICT = "are installed together and overwrite each other's files, so which of them runs is chance"


@dataclass(frozen=True)
class PackageRow:
    """A package: the module that it is imported by, and the distributions that bring it."""

    module: str
    distributions: tuple[str, ...]


def package_rows(others: Sequence[str] = ()) -> tuple[PackageRow, ...]:
    """The packages to look at, in order.

    Args:
        others: Further modules, such as rows of a registry name.
    """
    modules = [*(module for module in dict.fromkeys(others) if module not in _MODULES), *_MODULES]
    return tuple(PackageRow(module, _DISTRIBUTIONS.get(module, (module,))) for module in modules)


def check_package(row: PackageRow) -> Package:
    """Import a package for real."""
    versions = {name: version for name in row.distributions if (version := installed_version(name)) is not None}
    outcome = attempt(_CHECKS.get(row.module, _load), row.module)
    names = tuple(versions) or row.distributions[:1]
    conflict = row.module == ONNXRUNTIME and len(versions) > 1
    version = next(iter(versions.values()), None) or _own_version(outcome.value)
    package = Package(" and ".join(names) if conflict else names[0], row.module, version, State.WORKS)
    if conflict:
        package = replace(package, conflict=True, note=_once_more(f"{package.name} {_CONFLICT}", names))
    if outcome.missing and not versions:
        return replace(package, state=State.MISSING)
    if outcome.value is None:
        return replace(package, state=State.BROKEN, note=package.note or _broken(row, package, outcome))
    least = least_version(row.distributions[0])
    if version is not None and least is not None and is_older(version, least):
        note = f'{names[0]} {version} is too old; pip install "{names[0]}>={least}"'
        return replace(package, state=State.OLD, note=note)
    return package


def _load(module: str) -> Any:
    return load_module(module, "be looked at", "")


def _load_onnxruntime(module: str) -> Any:
    from rest_deploy.runtimes import ort
    from rest_deploy.runtimes.devices import Device

    try:
        return ort.import_onnxruntime(Device("cpu"))
    except MissingPackageError:
        return load_module(module, "run .onnx files", "cpu")  # fails too, and tells what of it is missing


_CHECKS: Mapping[str, Callable[[str], Any]] = MappingProxyType(
    {ONNXRUNTIME: _load_onnxruntime, CUDA_PYTHON: lambda _: Cuda()}
)


def _own_version(module: Any) -> str | None:
    version = getattr(module, "__version__", None)
    return version if isinstance(version, str) else None


def _broken(row: PackageRow, package: Package, outcome: Outcome[Any]) -> str:
    problem = outcome.problem
    if outcome.missing:  # as where its folder was removed by hand
        problem = f"{package.name} {package.version} is installed, and there is no {row.module}"
    elif "is installed but" not in problem:
        problem = f"{package.name} is installed but does not load: {problem}"
    return _once_more(problem, [package.name]) if row.module == ONNXRUNTIME else repair(problem, [package.name])


def _once_more(problem: str, names: Sequence[str]) -> str:
    """A problem of ONNX Runtime, of which one package at most may be installed, with the steps that right it."""
    all_names = " ".join(dict.fromkeys([*_DISTRIBUTIONS[ONNXRUNTIME][:2], *names]))
    reason = problem.partition("; pip ")[0]
    return f"{reason}; pip uninstall {all_names}, then {install('cpu')} or {install('gpu')}"
