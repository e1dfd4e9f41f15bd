"""What can be exported and run here: a row for each kind of artifact that the registries have."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

from rest_deploy.doctor.attempts import attempt
from rest_deploy.doctor.needs import not_installed
from rest_deploy.doctor.packages import ONNXRUNTIME
from rest_deploy.doctor.records import CPU, EXPORT, Ability, Artifact, State
from rest_deploy.doctor.running import Findings, Kind, library_problem, never, run_abilities
from rest_deploy.export.engine.config import EngineConfig
from rest_deploy.export.engine.site import choose_site
from rest_deploy.export.formats import FORMATS, Format
from rest_deploy.nvidia.library import LIBRARIES
from rest_deploy.specs import Precision

if TYPE_CHECKING:
    from rest_deploy.runtimes.registry import RuntimeRow


#: The library that builds engines on machines without a GPU.
_WITHOUT_GPU = "trt-rtx"


def artifact_keys() -> tuple[str, ...]:
    """Keys of the kinds of artifact, in order.

    Raises:
        ImportError: NumPy, without which nothing runs, does not load.
    """
    return tuple(key for key, _, _ in _kinds())


def modules_needed() -> tuple[str, ...]:
    """Modules of the packages that the registries name."""
    from rest_deploy.runtimes.registry import RUNTIMES

    exporting = [module for row in FORMATS.values() for module in row.packages]
    return tuple(dict.fromkeys([*(row.package for row in RUNTIMES.values()), *exporting]))


def check_artifacts(findings: Findings) -> tuple[Artifact, ...]:
    """Each kind of artifact, and what can be done with it here."""
    return tuple(_check(key, title, kind, findings) for key, title, kind in _kinds())


def _kinds() -> Iterator[tuple[str, str, Kind]]:
    """Key, title and kind: formats, those that are not built from another one in each precision, then the rest."""
    from rest_deploy.runtimes.registry import RUNTIMES

    for name, row in FORMATS.items():
        runtime = RUNTIMES[row.suffix]
        if row.source is not None:
            maker = LIBRARIES[name].title if name in LIBRARIES else name
            yield name, f"{row.suffix} by {maker}", Kind(name, None, runtime)
            continue
        for precision in row.precisions:
            key = name if precision is Precision.FP32 else f"{name}-{precision.value}"
            use = " for CPUs" if precision is Precision.INT8 else ""
            yield key, f"{row.suffix} in {precision.value}{use}", Kind(name, precision, runtime)
    exported = {row.suffix for row in FORMATS.values()}
    others: dict[RuntimeRow, list[str]] = {}
    for suffix, runtime in RUNTIMES.items():
        if suffix not in exported:
            others.setdefault(runtime, []).append(suffix)
    for runtime, suffixes in others.items():
        yield runtime.module.rpartition(".")[2], f"checkpoint {' '.join(suffixes)}", Kind(None, None, runtime)


def _check(key: str, title: str, kind: Kind, findings: Findings) -> Artifact:
    running = run_abilities(kind, findings)
    if kind.format is None:
        made = never("it is what artifacts are exported from")
    else:
        made = _exporting(kind.format, findings)
        if kind.precision is Precision.INT8:
            made = replace(made, note=running[CPU].note)
    return Artifact(key, title, {EXPORT: made, **running})


def _exporting(name: str, findings: Findings) -> Ability:
    row = FORMATS[name]
    steps, note = _package_steps(row, findings), ""
    if row.source is not None:
        reasons, note = _site(name, findings)
        steps += reasons
    return Ability.unless(*steps, note=note)


def _package_steps(row: Format, findings: Findings) -> list[str]:
    """What is wrong with the packages that a format needs; one pip line for all that are missing."""
    packages = {module: findings.packages[module] for module in row.packages}
    missing = [module for module, package in packages.items() if package.state is State.MISSING]
    steps = [not_installed([packages[module].name for module in missing], [row.packages[module] for module in missing])]
    steps += [package.note for package in packages.values() if package.state in {State.OLD, State.BROKEN}]
    if ONNXRUNTIME in packages and packages[ONNXRUNTIME].state is State.WORKS:
        steps.append(findings.providers[CPU].problem)  # what is exported is run there
    return steps


def _site(name: str, findings: Findings) -> tuple[list[str], str]:
    """Why a library builds no engine here, and what builds one in its place."""
    site = attempt(choose_site, name, EngineConfig(), Precision.FP32)
    problem = library_problem(name, findings) if name in LIBRARIES else ""
    steps = [findings.no_gpu if name != _WITHOUT_GPU else "", problem] if problem else [site.problem]
    if site.value is None or site.value.library.name == name:
        return steps, ""
    return steps if problem else [site.value.why], f"--format {name} builds with {site.value.library} here"
