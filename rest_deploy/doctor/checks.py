"""What works here: packages that load, execution providers that run a network, GPUs that CUDA finds.

Nothing that is broken raises; it becomes one line, with the pip line that repairs it.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import os
import re
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any, Generic, TypeVar

from rest_deploy import nvidia
from rest_deploy.artifact.engine import LIBRARIES
from rest_deploy.doctor.records import CPU, CUDA, Gpus, Integers, Package, Provider, State
from rest_deploy.environment import installed_version
from rest_deploy.errors import MissingPackageError, RestDeployError, install, one_line
from rest_deploy.nvidia import Cuda, cuda_version, find_gpu
from rest_deploy.runtimes.registry import RUNTIMES
from rest_deploy.specs import Device

_T = TypeVar("_T")


@dataclass(frozen=True)
class Outcome(Generic[_T]):
    """What a check gave. A failure is kept as text: an exception would keep its frames, and so TensorRT's objects."""

    value: _T | None  # None where it failed
    problem: str = ""  # why it failed, as one line
    missing: bool = False  # whether it failed for a package that is not installed


def attempt(function: Callable[..., _T], *arguments: Any) -> Outcome[_T]:
    """Call a function that may raise anything, as a broken package does; warnings are ignored."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return Outcome(function(*arguments))
    except RestDeployError as exc:
        return Outcome(None, one_line(exc), isinstance(exc, MissingPackageError))
    except Exception as exc:
        return Outcome(None, f"{type(exc).__name__}: {one_line(exc)}")


# What rest-deploy's own metadata asks for.

_REQUIREMENT = re.compile(r'([\w.-]+)\s*>=\s*([\d.]+)(?:\s*;\s*extra\s*==\s*["\']([\w.-]+)["\'])?')


@functools.cache
def requirements() -> tuple[tuple[str, str, str], ...]:
    """Distribution, least version, and extra (empty for what is always needed), in the order of pyproject.toml.

    Empty where rest-deploy runs from a folder in which it was not installed.
    """
    import importlib.metadata  # slow to load

    try:
        lines = importlib.metadata.requires("rest-deploy") or []
    except importlib.metadata.PackageNotFoundError:
        return ()
    matches = (_REQUIREMENT.fullmatch(line.strip()) for line in lines)
    return tuple((match[1].lower(), match[2], match[3] or "") for match in matches if match)


def least_version(distribution: str) -> str | None:
    """The smallest version that an extra asks for; None where none does."""
    versions = [least for name, least, _ in requirements() if name == distribution.lower()]
    return min(versions, key=_numbers, default=None)


def is_older(version: str, least: str) -> bool:
    """Whether a version comes before another, by their numbers: 2.9.0a0+git counts as 2.9.0."""
    pair = [_numbers(text) for text in (version, least)]
    length = max(map(len, pair))
    found, asked = ((*numbers, *(0,) * (length - len(numbers))) for numbers in pair)
    return found < asked


def _numbers(version: str) -> tuple[int, ...]:
    match = re.match(r"\d+(?:\.\d+)*", version)
    return tuple(int(number) for number in match[0].split(".")) if match else ()


def not_installed(packages: Sequence[str], extras: Iterable[str]) -> str:
    """Says that packages are missing, with the pip line that installs them; empty if none is."""
    if not packages:
        return ""
    *first, last = packages
    told = f"{', '.join(first)} and {last} are" if first else f"{last} is"
    return f"{told} not installed; {install(*extras)}"


def repair(problem: str, package: str, extra: str = "") -> str:
    """A problem of an installed package, with the pip line that repairs it added if it has none.

    Where another distribution of the extra is missing, installing that is the repair.
    """
    if "pip " in problem:
        return problem
    others = [name for name, _, of in requirements() if of == extra and extra]
    if any(installed_version(name) is None for name in others):
        return f"{problem}; {install(extra)}"
    return f"{problem}; pip install --force-reinstall {package}"


# Packages.

ONNXRUNTIME, CUDA_PYTHON = "onnxruntime", "cuda.bindings.runtime"
_MODULES = (
    *("numpy", "PIL", ONNXRUNTIME, CUDA_PYTHON),
    *(module for row in LIBRARIES.values() for module in row.modules),
    *("onnx", "onnxscript", "onnxsim", "safetensors", "psutil", "pynvml", "jinja2", "matplotlib", "rich"),
    "torch",  # last: it brings CUDA's libraries into the process, with which others load that would not without it
)

#: Module that no runtime names -> distribution that brings it, where its name is another.
_DISTRIBUTIONS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {"PIL": ("pillow",), CUDA_PYTHON: ("cuda-bindings",), "pynvml": ("nvidia-ml-py",)}
)
_CONFLICT = "are installed together and overwrite each other's files, so which of them runs is chance"


def modules_to_check(others: Sequence[str] = ()) -> tuple[str, ...]:
    """The modules to look at, in order; first those of ``others`` that are not known here, as a new row has."""
    return (*(module for module in dict.fromkeys(others) if module not in _MODULES), *_MODULES)


def _distributions(module: str) -> tuple[str, ...]:
    """What may bring a module; the first is what rest-deploy asks for."""
    named = {name: distributions for row in RUNTIMES.values() for name, distributions in row.packages.items()}
    return named.get(module) or _DISTRIBUTIONS.get(module, (module,))


def check_package(module: str) -> Package:
    """Import a package for real."""
    distributions = _distributions(module)
    versions = {name: version for name in distributions if (version := installed_version(name)) is not None}
    outcome = attempt(_LOADERS.get(module, load_module), module)
    names = tuple(versions) or distributions[:1]
    conflict = module == ONNXRUNTIME and len(versions) > 1
    own_version = getattr(outcome.value, "__version__", None)
    version = next(iter(versions.values()), own_version if isinstance(own_version, str) else None)
    package = Package(" and ".join(names) if conflict else names[0], module, version, State.WORKS)
    if conflict:
        package = replace(package, conflict=True, note=_once_more(f"{package.name} {_CONFLICT}", names))
    if outcome.missing and not versions:
        return replace(package, state=State.MISSING)
    if outcome.value is None:
        return replace(package, state=State.BROKEN, note=package.note or _broken(package, outcome))
    least = least_version(distributions[0])
    if version is not None and least is not None and is_older(version, least):
        note = f'{names[0]} {version} is too old; pip install "{names[0]}>={least}"'
        return replace(package, state=State.OLD, note=note)
    return package


def load_module(name: str) -> Any:
    """Import a module, whose loading is the test of its package.

    Raises:
        MissingPackageError: It is not there; a mere folder of its name on the path does not count.
        Exception: Whatever a broken package raises.
    """
    try:
        module = importlib.import_module(name)
    except ModuleNotFoundError as exc:
        if exc.name is None or not (name == exc.name or name.startswith(f"{exc.name}.")):
            raise  # it is there, and something that it needs is not
        raise MissingPackageError(name, "be looked at", "") from exc
    if getattr(module, "__file__", None) is None and hasattr(module, "__path__"):
        raise MissingPackageError(name, "be looked at", "")
    return module


def _load_onnxruntime(module: str) -> Any:
    from rest_deploy.runtimes import ort

    try:
        return ort.import_onnxruntime(Device("cpu"))
    except MissingPackageError:
        return load_module(module)  # fails too, and tells what of it is missing


_LOADERS: Mapping[str, Callable[[str], Any]] = MappingProxyType(
    {ONNXRUNTIME: _load_onnxruntime, CUDA_PYTHON: lambda _: Cuda()}
)


def _broken(package: Package, outcome: Outcome[Any]) -> str:
    problem = outcome.problem
    if outcome.missing:  # as where its folder was removed by hand
        problem = f"{package.name} {package.version} is installed, but its module {package.module} is missing"
    elif "is installed but" not in problem:
        problem = f"{package.name} is installed but does not load: {problem}"
    if package.module == ONNXRUNTIME:
        return _once_more(problem, [package.name])
    return repair(problem, package.name)


def _once_more(problem: str, names: Sequence[str]) -> str:
    """A problem of ONNX Runtime, of which one package at most may be installed, with the steps that repair it."""
    all_names = " ".join(dict.fromkeys([*_distributions(ONNXRUNTIME)[:2], *names]))
    reason = problem.partition("; pip ")[0]
    return f"{reason}; pip uninstall {all_names}, then {install('cpu')} or {install('gpu')}"


# Runtimes, and execution providers of ONNX Runtime.

_PROVIDERS = {CPU: "CPUExecutionProvider", CUDA: "CUDAExecutionProvider"}
_STDERR = 2
#: How ONNX Runtime logs that a provider's shared library does not load, and how it colours what it logs.
_NOT_LOADED, _COLOUR = re.compile(r"with error: ([^\n]+)"), re.compile(r"\x1b\[[\d;]*m")


def probe(name: str, device: str) -> str:
    """Why a runtime does not compute on a device, such as ``"cpu"`` or ``"cuda"``; empty where it does."""
    with _stderr_held_back() as held:
        problem = attempt(lambda: RUNTIMES[name].load("open such files").probe(Device.parse(device))).problem
    reason = _NOT_LOADED.search(_COLOUR.sub("", "".join(held)))
    if problem and reason and reason[1] not in problem:
        problem = f"{problem} ({' '.join(reason[1].split())[:200]})"
    return problem.removeprefix(f"device {device}:0: ")


def check_provider(device: str) -> Provider:
    """Let ONNX Runtime compute on ``"cpu"`` or ``"cuda"``."""
    return Provider(_PROVIDERS[device], device, probe("onnx", device))


def check_integers() -> Integers:
    """Ask ONNX Runtime whether it adds 8-bit products exactly on this CPU."""

    def ask() -> bool:
        from rest_deploy.runtimes.ort import sums_saturate

        return sums_saturate()

    outcome = attempt(ask)
    return Integers(outcome.value, outcome.problem)


@contextlib.contextmanager
def _stderr_held_back() -> Iterator[list[str]]:
    """Hold back what native code writes to stderr: ONNX Runtime tells only there which library a provider lacks.

    The text is in the list afterwards.
    """
    held: list[str] = []
    with contextlib.ExitStack() as stack:
        try:
            file = stack.enter_context(tempfile.TemporaryFile())
            kept = os.dup(_STDERR)
        except OSError:  # no folder for temporary files, or no stderr: the reason is not told
            yield held
            return
        stack.callback(os.close, kept)
        sys.stderr.flush()
        os.dup2(file.fileno(), _STDERR)
        try:
            yield held
        finally:
            os.dup2(kept, _STDERR)
            file.seek(0)
            held.append(file.read().decode(errors="replace"))


# GPUs.


def find_gpus() -> Gpus:
    """All GPUs that CUDA finds, or why it finds none, and the CUDA of the driver."""
    driver = attempt(lambda: int(Cuda().call("cudaDriverGetVersion"))).value
    words = cuda_version(driver) if driver else None
    count = attempt(lambda: int(Cuda().call("cudaGetDeviceCount"))).value
    if not count:
        absent = nvidia.gpu_count() == 0
        problem = attempt(find_gpu, 0).problem.removeprefix("device cuda:0: ")  # says best why there is none
        if absent and attempt(Cuda).problem:  # no package would help
            problem = nvidia.NONE_SHOWN
        return Gpus((), problem, absent, words)
    outcomes = [attempt(find_gpu, index) for index in range(count)]
    found = tuple(outcome.value for outcome in outcomes if outcome.value is not None)
    return Gpus(found, next((outcome.problem for outcome in outcomes if outcome.problem), ""), False, words)
