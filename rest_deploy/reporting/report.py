"""The report: the records in, one HTML file out."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rest_deploy.artifact.files import replacing
from rest_deploy.errors import ConfigError
from rest_deploy.reporting.contract import BENCHMARK, VERIFICATION, check_record
from rest_deploy.reporting.page import page
from rest_deploy.reporting.records import Records


def write_report(
    path: Path, *, verification: Mapping[str, Any] | None = None, benchmark: Mapping[str, Any] | None = None
) -> None:
    """Write the report as one HTML file, whole or not at all.

    Args:
        path: Of the file.
        verification: The record of rest-verify.
        benchmark: The record of rest-bench.

    Raises:
        ConfigError: There is neither record.
        ArtifactError: One of them is no such record.
        ExportError: The file cannot be written.
    """
    text = render(verification, benchmark)
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def render(verification: Mapping[str, Any] | None, benchmark: Mapping[str, Any] | None) -> str:
    """The report as HTML that loads nothing and runs nothing.

    Args:
        verification: The record of rest-verify.
        benchmark: The record of rest-bench.

    Raises:
        ConfigError: There is neither record.
        ArtifactError: One of them is no such record.
    """
    if verification is None and benchmark is None:
        raise ConfigError("a report needs a record; got neither; give one of rest-verify, one of rest-bench, or both")
    if verification is not None:
        check_record(verification, (VERIFICATION,))
    if benchmark is not None:
        check_record(benchmark, (BENCHMARK,))
    return page(Records.of(verification, benchmark))
