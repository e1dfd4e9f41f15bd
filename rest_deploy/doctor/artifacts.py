"""What can be made and run here of each kind of artifact that the registries have, and the whole examination."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TypeVar

from rest_deploy.artifact.engine import LIBRARIES
from rest_deploy.doctor.checks import (
    CUDA_PYTHON,
    ONNXRUNTIME,
    attempt,
    check_integers,
    check_package,
    check_provider,
    find_gpus,
    modules_to_check,
    not_installed,
    probe,
    repair,
)
from rest_deploy.doctor.records import (
    ABILITIES,
    CPU,
    CUDA,
    EXPORT,
    Ability,
    Artifact,
    Gpus,
    Integers,
    Package,
    Possible,
    Report,
    State,
)
from rest_deploy.environment import describe_environment
from rest_deploy.errors import ConfigError, RestDeployError, install
from rest_deploy.export.engine.choice import choose_library
from rest_deploy.export.engine.config import EngineConfig
from rest_deploy.export.formats import FORMATS, SOURCE, FormatRequest
from rest_deploy.nvidia import Gpu, TensorRTLog, is_installed, load_library
from rest_deploy.recipes import recipe_of
from rest_deploy.runtimes.registry import RUNTIMES, RuntimeRow
from rest_deploy.specs import Device, Precision

_T = TypeVar("_T")
#: The library that builds engines on machines without a GPU.
_WITHOUT_GPU = "trt-rtx"
#: Runtimes that are not asked by a probe: ONNX Runtime was before others load, and engines are looked at by library.
_TOLD_BY_OTHERS = frozenset({SOURCE, *LIBRARIES})
_FOR_CPUS = "INT8 files for CPUs run on CPUs; for a GPU export with --fp16, or build an engine with --int8"
_REDUCED = "8-bit sums saturate on this CPU: it runs only INT8 files made with --reduced-range, as they are made here"


def examine(command: str | None = None, progress: Callable[[float, str], None] | None = None) -> Report:
    """Look at everything. Nothing that is broken raises; it is a line of the report.

    Args:
        command: The command line that asks, for the record.
        progress: Called with the share that is done, 0 to 1, and what is looked at.
    """
    modules = modules_to_check(_registry_modules())
    rows = {name: row for name, row in RUNTIMES.items() if name not in _TOLD_BY_OTHERS}
    others = [(name, row.named(device)) for name, row in rows.items() for device in row.devices]
    total, done = len(modules) + len(others) + 5, 0

    def look(what: str, function: Callable[..., _T], *arguments: object) -> _T:
        nonlocal done
        if progress is not None:
            progress(done / total, what)
        done += 1
        return function(*arguments)

    environment = look("machine", describe_environment, command)
    # ONNX Runtime before torch, whose CUDA libraries would let its provider load where it does not without torch
    providers = {device: look(f"ONNX Runtime on {device}", check_provider, device) for device in (CPU, CUDA)}
    integers = look("8-bit integers", check_integers)
    packages = {module: look(module, check_package, module) for module in modules}
    probes = {(SOURCE, device): provider.problem for device, provider in providers.items()}
    probes |= {pair: look(f"{RUNTIMES[pair[0]].title} on {pair[1]}", probe, *pair) for pair in others}
    findings = Findings(packages, find_gpus(), integers, probes)
    artifacts = look("artifacts", attempt, check_artifacts, findings)
    return Report(
        environment=environment,
        executable=sys.executable,
        packages=tuple(packages.values()),
        providers=tuple(providers.values()),
        gpus=findings.gpus,
        integers=integers,
        artifacts=artifacts.value or (),
        artifacts_problem=artifacts.problem,
    )


@dataclass(frozen=True)
class Demand:
    """What ``--require`` asks for: that a kind of artifact can be run or made here."""

    key: str
    #: One of ABILITIES. None: run it on the CPU, or where that can never be, on the GPU; without a GPU, build it.
    ability: str | None = None

    @classmethod
    def parse(cls, text: str) -> Demand:
        """Read ``"onnx"``, ``"onnx:cuda"`` or ``"trt-rtx:export"``.

        Raises:
            ConfigError: There is no such kind of artifact, or no such ability.
        """
        key, colon, ability = text.partition(":")
        known = artifact_keys()
        if key not in known:
            raise ConfigError(f"unknown artifact {key!r}; accepted: {', '.join(known)}")
        if colon and ability not in ABILITIES:
            raise ConfigError(f"{text!r}; accepted after {key}: {', '.join(f':{name}' for name in ABILITIES)}")
        return cls(key, ability or None)

    def __str__(self) -> str:
        return f"{self.key}:{self.ability}" if self.ability else self.key

    def unmet(self, report: Report) -> str:
        """What is missing, as one line; empty where nothing is."""
        artifact = next((artifact for artifact in report.artifacts if artifact.key == self.key), None)
        if artifact is None:
            return f"{self}: artifacts cannot be listed here: {report.artifacts_problem}"
        never = {name for name, ability in artifact.abilities.items() if ability.possible is Possible.NEVER}
        name = self.ability or CPU
        if self.ability is None and CPU in never:
            name = CUDA if report.has_gpu or EXPORT in never else EXPORT
        ability = artifact.abilities[name]
        if ability.possible is Possible.YES:
            return ""
        own = self.key if self.key in RUNTIMES and RUNTIMES[self.key].opens else name
        verb = "made" if name == EXPORT else f"run on {own}"
        beside = f"; {ability.note}" if ability.note else ""
        return f"{self}: it cannot be {verb} here: {'; and '.join(ability.steps)}{beside}"


# Kinds of artifact.


@dataclass(frozen=True)
class Findings:
    """What is known of the machine: packages by module; by runtime and device, what keeps it from computing there."""

    packages: Mapping[str, Package]
    gpus: Gpus
    integers: Integers
    probes: Mapping[tuple[str, str], str]

    @property
    def no_gpu(self) -> str:
        """Why there is no GPU, where that is certain; empty where there may be one."""
        return self.gpus.problem if self.gpus.absent else ""


@dataclass(frozen=True)
class Kind:
    """A kind of artifact."""

    key: str
    title: str
    name: str  # of its format, where it is exported, and of its runtime, where it is run
    for_cpus: bool = False  # INT8 whose operators only CPUs have


def artifact_keys() -> tuple[str, ...]:
    """Keys of the kinds of artifact, in order."""
    return tuple(kind.key for kind in _kinds())


def check_artifacts(findings: Findings) -> tuple[Artifact, ...]:
    """Each kind of artifact, and what can be done with it here."""
    return tuple(_check(kind, findings) for kind in _kinds())


def _registry_modules() -> tuple[str, ...]:
    """Modules of the packages that the registries name."""
    exporting = [module for row in FORMATS.values() for module in row.packages]
    return tuple(dict.fromkeys([*(module for row in RUNTIMES.values() for module in row.packages), *exporting]))


def _kinds() -> Iterator[Kind]:
    """Formats, those of files that no TensorRT builds in each precision; then what is only run."""
    for name, row in FORMATS.items():
        if name in LIBRARIES:
            yield Kind(name, f"{row.suffix} by {LIBRARIES[name].title}", name)
            continue
        if row.folder:
            yield Kind(name, row.title, name)
            continue
        for precision in row.made_in:
            key = name if precision is Precision.FP32 else f"{name}-{precision.value}"
            for_cpus = recipe_of(precision, row.targets(precision)[0]).integers
            title = f"{row.suffix} in {precision.value}{' for CPUs' if for_cpus else ''}"
            yield Kind(key, title, name, for_cpus)
    for name, own in RUNTIMES.items():
        if name not in FORMATS:
            yield Kind(name, f"{' '.join(own.suffixes)} by {own.title}", name)


def _check(kind: Kind, findings: Findings) -> Artifact:
    running = {device: _run(kind, device, findings) for device in (CPU, CUDA)}
    made = _export(kind.name, findings) if kind.name in FORMATS else Ability.never("rest-export makes no such file")
    if kind.for_cpus:
        made = replace(made, note=running[CPU].note)
    return Artifact(kind.key, kind.title, {EXPORT: made, **running})


# Whether it can be exported.


def _export(name: str, findings: Findings) -> Ability:
    row = FORMATS[name]
    packages = {module: findings.packages[module] for module in row.packages}
    missing = [module for module, package in packages.items() if package.state is State.MISSING]
    # one pip line for all that are missing
    steps = [not_installed([packages[module].name for module in missing], [row.packages[module] for module in missing])]
    steps += [package.note for package in packages.values() if package.state in {State.OLD, State.BROKEN}]
    if ONNXRUNTIME in packages and packages[ONNXRUNTIME].state is State.WORKS:
        steps.append(findings.probes[SOURCE, CPU])  # what is exported is run there
    if name not in LIBRARIES:  # what is no package of Python, as of npm, its exporter looks for
        asked = FormatRequest(name, Precision.FP32, row.config_class())
        return Ability.unless(*steps, attempt(row.check, asked).problem)
    reasons, note = _build(name, findings)
    return Ability.unless(*steps, *reasons, note=note)


def _build(name: str, findings: Findings) -> tuple[list[str], str]:
    """Why a library builds no engine here, and what builds one in its place."""
    choice = attempt(choose_library, name, EngineConfig(), Precision.FP32)
    problem = _library_problem(name, findings)
    if problem and name != _WITHOUT_GPU:
        problem = findings.no_gpu or problem  # without a GPU no package would help
    steps = [problem or choice.problem]
    if choice.value is None or choice.value.library.name == name:
        return steps, ""
    return steps if problem else [choice.value.why], f"--format {name} builds with {choice.value.library} here"


# Whether it can be run, by device.


def _run(kind: Kind, device: str, findings: Findings) -> Ability:
    row = RUNTIMES.get(kind.name)
    if row is None:
        return Ability.never(f"rest_deploy has no runtime that opens files of format {kind.name}")
    if row.opens:
        return _run_on_its_own(row, kind.name, device, findings)
    if device not in row.devices or (device == CUDA and kind.for_cpus):
        return Ability.never(row.only if device not in row.devices else _FOR_CPUS)
    if device == CUDA and findings.no_gpu:
        return Ability.unless(findings.no_gpu)  # no package would help
    if kind.name in LIBRARIES:
        return _run_engine(kind.name, findings)
    problem = _package_problem(row, device, findings, findings.probes[kind.name, device])
    return Ability.unless(problem) if not kind.for_cpus else _run_integers(problem, findings)


def _run_on_its_own(row: RuntimeRow, name: str, device: str, findings: Findings) -> Ability:
    """On a device that no other runtime has, which is a CPU or a GPU."""
    kind, own = next(iter(row.devices)), row.default_device
    if (device == CPU) is not Device.parse(own).in_memory:
        return Ability.never(f"{row.title} runs {row.suffixes[0]} files on {own}")
    if row.device_names == "N" and findings.no_gpu:  # numbers of NVIDIA's GPUs
        return Ability.unless(findings.no_gpu)
    return Ability.unless(_package_problem(row, kind, findings, findings.probes[name, own]))


def _run_integers(problem: str, findings: Findings) -> Ability:
    return Ability.unless(problem or findings.integers.problem, note=_REDUCED if findings.integers.saturate else "")


def _package_problem(row: RuntimeRow, device: str, findings: Findings, problem: str) -> str:
    """What is wrong with the packages of a runtime, and the step that repairs it; else a problem that it has."""
    packages = [findings.packages[module] for module in row.packages]
    missing = [package.name for package in packages if package.state is State.MISSING]
    if missing:
        return not_installed(missing, [row.devices[device]])
    wrong = (p.note for p in packages if p.state is not State.WORKS or (problem and p.conflict))
    return next(wrong, problem)  # other steps would leave packages that overwrite each other as they are, or empty


def _run_engine(name: str, findings: Findings) -> Ability:
    missing = _library_problem(name, findings, also=CUDA_PYTHON)
    cuda = findings.packages[CUDA_PYTHON]  # one that is not installed is told of with the library
    unusable = cuda.note if cuda.state is not State.WORKS or findings.gpus.found else findings.gpus.problem
    note = ""
    if not missing and findings.gpus.found:
        missing, note = _start_engine(name, findings.gpus.found[0])
    return Ability.unless(unusable, missing, note=note)


def _library_problem(name: str, findings: Findings, also: str | None = None) -> str:
    """What is wrong with a TensorRT, or with a further module that is needed, and the step that repairs it."""
    row = LIBRARIES[name]
    needed = [] if is_installed(name) else [row.package]
    if also is not None and findings.packages[also].state is State.MISSING:
        needed.append(findings.packages[also].name)
    if needed:
        return not_installed(needed, [row.extra])
    problem = attempt(load_library, name, "run engines").problem
    if problem:
        return repair(problem, row.package, row.extra)
    found = [findings.packages[module] for module in row.modules if module in findings.packages]
    return next((package.note for package in found if package.state is State.OLD), "")


def _start_engine(name: str, gpu: Gpu) -> tuple[str, str]:
    """Start TensorRT's runtime on a GPU that it has engines for: what is wrong, and what else to know."""
    refused = {precision: _refusal(name, gpu, precision) for precision in FORMATS[name].made_in}
    if all(refused.values()):
        other = "" if is_installed("trt") else f"; {install('trt')}"
        return f"{gpu}: {list(refused.values())[-1]}{other}", ""
    notes = [f"not in {precision.value}: {why}" for precision, why in refused.items() if why]
    return attempt(_start_runtime, name).problem, "; ".join(notes)


def _refusal(name: str, gpu: Gpu, precision: Precision) -> str:
    """Why there are no engines of TensorRT-RTX for a GPU; TensorRT cannot be asked."""
    if name != _WITHOUT_GPU:
        return ""
    return attempt(choose_library, name, EngineConfig(targets=(str(gpu.compute_capability),)), precision).problem


def _start_runtime(name: str) -> None:
    library = load_library(name, "run engines")
    log = TensorRTLog(library)
    runtime = log.attempt("start its runtime", RestDeployError, library.api.Runtime, log.logger)
    del runtime  # before its log
