"""The one place that knows the order of the checks."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TypeVar

from rest_deploy.doctor.artifacts import check_artifacts, modules_needed
from rest_deploy.doctor.attempts import attempt
from rest_deploy.doctor.devices import find_gpus
from rest_deploy.doctor.packages import check_package, package_rows
from rest_deploy.doctor.providers import check_integers, check_provider
from rest_deploy.doctor.records import CPU, CUDA, Report
from rest_deploy.doctor.running import Findings
from rest_deploy.machine.environment import describe_environment

_T = TypeVar("_T")


def examine(command: str | None = None, progress: Callable[[float, str], None] | None = None) -> Report:
    """Look at everything. Nothing that is broken raises; it is a line of the report.

    Args:
        command: The command line that asks, for the record.
        progress: Told the share that is done, 0 to 1, and what is looked at.
    """
    rows = package_rows(attempt(modules_needed).value or ())
    total, done = len(rows) + 5, 0

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
    packages = {row.module: look(row.module, check_package, row) for row in rows}
    findings = Findings(packages, providers, find_gpus(), integers)
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
