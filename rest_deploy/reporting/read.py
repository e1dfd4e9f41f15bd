"""A record read from disk: checked, so that what shows it can rely on it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rest_deploy.errors import ArtifactError, one_line
from rest_deploy.reporting.contract import check_record
from rest_deploy.values import load_json

_LARGEST = 64 << 20  # bytes; 24 pictures for each of a hundred artifacts take 10 MiB
_MAKE = "make it with rest-verify or rest-bench"


def read_record(path: str | Path) -> dict[str, Any]:
    """Load what rest-verify or rest-bench wrote as JSON.

    Args:
        path: Of the file.

    Returns:
        The record, of a kind, a schema and types that the report can show.

    Raises:
        ArtifactError: The file is missing, too large, no JSON, or no such record.
    """
    text = _text(Path(path))
    try:
        record = load_json(text)
    except ValueError as exc:
        raise ArtifactError(f"{path}: is no JSON: {one_line(exc)}; {_MAKE}") from exc
    try:
        check_record(record)
    except ArtifactError as exc:
        raise ArtifactError(f"{path}: {exc}") from exc
    return dict(record)


def _text(path: Path) -> str:
    try:
        if not path.is_file():
            raise ArtifactError(f"{path}: {'is no file' if path.exists() else 'no such file'}; {_MAKE}")
        with path.open("rb") as file:
            content = file.read(_LARGEST + 1)
        if len(content) > _LARGEST:
            raise ArtifactError(f"{path}: is over {_LARGEST >> 20} MiB, which no record is; {_MAKE}")
        return content.decode("utf-8")
    except OSError as exc:
        raise ArtifactError(f"{path}: cannot be read: {exc.strerror}") from exc
    except UnicodeDecodeError as exc:
        raise ArtifactError(f"{path}: is no JSON: byte {exc.start} is no UTF-8; {_MAKE}") from exc
