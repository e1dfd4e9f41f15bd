"""Whether an artifact could be run here, by the package of the runtime that opens it."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from rest_deploy.doctor.attempts import attempt
from rest_deploy.doctor.needs import not_installed, repair
from rest_deploy.doctor.packages import CUDA_PYTHON, ONNXRUNTIME
from rest_deploy.doctor.records import CPU, CUDA, Ability, Gpus, Integers, Package, Possible, Provider, State
from rest_deploy.errors import DeviceError, MissingPackageError, RestDeployError, install
from rest_deploy.export.engine.config import EngineConfig
from rest_deploy.export.engine.site import choose_site
from rest_deploy.nvidia.gpus import Gpu
from rest_deploy.nvidia.library import LIBRARIES, is_installed, load_library
from rest_deploy.nvidia.log import TensorRTLog
from rest_deploy.specs import Precision

if TYPE_CHECKING:
    from rest_deploy.runtimes.registry import RuntimeRow

_REDUCED = "8-bit sums saturate on this CPU: of INT8 files it runs those with --reduced-range, as are made on it"


@dataclass(frozen=True)
class Findings:
    """What is known of the machine.

    Args:
        packages: By module.
        providers: Of ONNX Runtime, by device.
        gpus, integers: As they were found.
    """

    packages: Mapping[str, Package]
    providers: Mapping[str, Provider]
    gpus: Gpus
    integers: Integers

    @property
    def no_gpu(self) -> str:
        """Why there is no GPU, where that is known; empty where there may be one."""
        return self.gpus.problem if self.gpus.absent else ""


@dataclass(frozen=True)
class Kind:
    """What is to be run: format, or None for what is not exported; precision, or None for any; and its runtime."""

    format: str | None
    precision: Precision | None
    runtime: RuntimeRow


def run_abilities(kind: Kind, findings: Findings) -> dict[str, Ability]:
    """Whether it could be run, by device."""
    return _RUNTIMES.get(kind.runtime.package, _any)(kind, findings)


def never(why: str) -> Ability:
    """What no machine can do."""
    return Ability(Possible.NEVER, (why,))


def _onnx(kind: Kind, findings: Findings) -> dict[str, Ability]:
    package = findings.packages[ONNXRUNTIME]
    old = package.note if package.state is State.OLD else ""
    on_cpu, on_gpu = (findings.providers[device].problem for device in (CPU, CUDA))
    if package.conflict or package.state is State.BROKEN:  # other steps would leave it as it is, or empty
        on_cpu, on_gpu = on_cpu and package.note, on_gpu and package.note
    if kind.precision is not Precision.INT8:
        return {CPU: Ability.unless(old, on_cpu), CUDA: Ability.unless(findings.no_gpu, old, on_gpu)}
    note = _REDUCED if findings.integers.saturate else ""
    return {
        CPU: Ability.unless(old, on_cpu or findings.integers.problem, note=note),
        CUDA: never("INT8 files for CPUs run on CPUs; for a GPU export with --fp16, or build an engine with --int8"),
    }


def _engine(kind: Kind, findings: Findings) -> dict[str, Ability]:
    name = kind.format or kind.runtime.package
    missing = library_problem(name, findings, also=CUDA_PYTHON)
    cuda = findings.packages[CUDA_PYTHON]  # one that is not installed is told of with the library
    unusable = cuda.note if cuda.state is not State.WORKS or findings.gpus.found else findings.gpus.problem
    note = ""
    if not missing and findings.gpus.found:
        missing, note = _start(name, findings.gpus.found[0])
    return {
        CPU: never("an engine runs on an NVIDIA GPU; on the CPU use an .onnx file"),
        CUDA: Ability.unless(unusable, missing, note=note),
    }


def library_problem(name: str, findings: Findings, also: str | None = None) -> str:
    """What is wrong with a TensorRT, and the step that rights it; empty where it loads.

    Args:
        name: A key of :data:`rest_deploy.nvidia.library.LIBRARIES`.
        findings: What is known.
        also: Module of a further package that is needed.
    """
    row = LIBRARIES[name]
    needed = [] if is_installed(name) else [row.package]
    if also is not None and findings.packages[also].state is State.MISSING:
        needed.append(findings.packages[also].name)
    if needed:
        return not_installed(needed, [row.extra])
    problem = attempt(load_library, name, "run engines").problem
    if problem:
        return repair(problem, [row.package], row.extra)
    found = [findings.packages[module] for module in row.modules if module in findings.packages]
    return next((package.note for package in found if package.state is State.OLD), "")


def _start(name: str, gpu: Gpu) -> tuple[str, str]:
    """Start TensorRT's runtime on a GPU that it has engines for: what is wrong, or what is to be known."""
    refused = {precision: _refusal(name, gpu, precision) for precision in (Precision.FP32, Precision.FP16)}
    if refused[Precision.FP16]:
        other = "" if is_installed("trt") else f"; {install('trt')}"
        return f"{gpu}: {refused[Precision.FP16]}{other}", ""
    note = f"not in fp32: {refused[Precision.FP32]}" if refused[Precision.FP32] else ""
    return attempt(_start_runtime, name).problem, note


def _refusal(name: str, gpu: Gpu, precision: Precision) -> str:
    """Why there are no engines of TensorRT-RTX for a GPU; TensorRT cannot be asked."""
    if name != "trt-rtx":
        return ""
    return attempt(choose_site, name, EngineConfig(targets=(str(gpu.compute_capability),)), precision).problem


def _start_runtime(name: str) -> None:
    library = load_library(name, "run engines")
    log = TensorRTLog(library)
    runtime = log.attempt("start its runtime", RestDeployError, library.api.Runtime, log.logger)
    del runtime  # before its log


def _pytorch(kind: Kind, findings: Findings) -> dict[str, Ability]:
    on_cpu = _package_problem(kind, findings) or attempt(_load_runtime, kind).problem
    on_gpu = on_cpu or attempt(_run_torch, kind).problem.removeprefix("device cuda:0: ")
    return {CPU: Ability.unless(on_cpu), CUDA: Ability.unless(findings.no_gpu, on_gpu)}


def _run_torch(kind: Kind) -> None:
    """Add on the GPU: a torch that sees it may have no kernels for it."""
    import torch

    from rest_deploy.runtimes.devices import Device

    _load_runtime(kind).check_cuda(Device("cuda"))
    if float(torch.ones(2, device="cuda").sum()) != 2:
        raise DeviceError("PyTorch adds wrongly on the GPU")


def _any(kind: Kind, findings: Findings) -> dict[str, Ability]:
    """A runtime that is new here: whether it loads."""
    problem = _package_problem(kind, findings) or attempt(_load_runtime, kind).problem
    return {CPU: Ability.unless(problem), CUDA: Ability(Possible.UNKNOWN, ("rest-doctor has no check of it",))}


def _package_problem(kind: Kind, findings: Findings) -> str:
    package = findings.packages[kind.runtime.package]
    if package.state is State.MISSING:
        return not_installed([package.name], [kind.runtime.extra])
    return package.note if package.state is not State.WORKS else ""


def _load_runtime(kind: Kind) -> Any:
    """The runtime's module, and with it all that it imports.

    Raises:
        MissingPackageError: Something that it needs is not installed.
    """
    row = kind.runtime
    try:
        return importlib.import_module(row.module)
    except ModuleNotFoundError as exc:
        if exc.name is None or exc.name.split(".")[0] == "rest_deploy":
            raise
        raise MissingPackageError(exc.name.partition(".")[0], "open such files", row.extra) from exc


_RUNTIMES: Mapping[str, Callable[[Kind, Findings], dict[str, Ability]]] = MappingProxyType(
    {ONNXRUNTIME: _onnx, "tensorrt": _engine, "torch": _pytorch}
)
