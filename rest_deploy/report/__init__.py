"""Results of rest-verify and rest-bench as one HTML file that needs nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from rest_deploy.artifact.files import replacing
from rest_deploy.errors import MissingPackageError
from rest_deploy.report.fields import read_record

__all__ = ["check_installed", "read_record", "write_report"]


def check_installed() -> None:
    """Check, before any work, that a report can be made.

    Raises:
        MissingPackageError: A package that it needs is not installed.
    """
    for package in ("jinja2", "matplotlib"):
        if find_spec(package) is None:
            raise MissingPackageError(package, "write a report", "report")


def write_report(
    path: Path, *, verification: Mapping[str, Any] | None = None, benchmark: Mapping[str, Any] | None = None
) -> None:
    """Write the report as one HTML file, either whole or not at all.

    Args:
        path: Of the file.
        verification: The record of rest-verify.
        benchmark: The record of rest-bench.

    Raises:
        ConfigError: There is no record.
        ArtifactError: A record is not of this kind.
        ExportError: The file cannot be written.
        MissingPackageError: A package that it needs is not installed.
    """
    check_installed()
    from rest_deploy.report.report import render

    text = render(verification, benchmark)
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
