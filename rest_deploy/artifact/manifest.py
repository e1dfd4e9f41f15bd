"""The manifest beside an engine, ``NAME.engine.json``: a plan says nothing that can be read without a GPU."""

from __future__ import annotations

import hashlib
import json
import shlex
from pathlib import Path

from rest_deploy.artifact.info import ArtifactInfo
from rest_deploy.errors import ArtifactError

_BLOCK = 1 << 20
_MAX_BYTES = 64 << 20  # labels of a thousand classes and the figures take under 100 KiB


def manifest_path(engine: str | Path) -> Path:
    """Where the manifest of an engine lies: beside it, its name with ``.json`` behind."""
    path = Path(engine)
    return path.with_name(path.name + ".json")


def write_manifest(path: str | Path, info: ArtifactInfo) -> None:
    """Write a record as indented JSON."""
    Path(path).write_text(json.dumps(info.to_dict(), indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def sha256_of(path: str | Path) -> str:
    """SHA-256 of a file, in hex."""
    digest = hashlib.sha256()
    with Path(path).open("rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()


def read_manifest(engine: str | Path) -> ArtifactInfo:
    """What the manifest of an engine says, once its plan has been found to be the one that it tells of.

    Raises:
        ArtifactError: The plan or the manifest is missing, damaged, edited, or of another plan.
    """
    engine = Path(engine)
    if not engine.is_file():
        raise ArtifactError(f"{engine}: no such file; make it: {_rebuild(engine)}")
    info = _read(engine, manifest_path(engine))
    record = info.engine
    if record is None:
        raise ArtifactError(f"{manifest_path(engine)}: it tells of no engine; {_again(engine)}")
    try:
        found, size = sha256_of(engine), engine.stat().st_size
    except OSError as exc:
        raise ArtifactError(f"{engine}: cannot be read: {exc.strerror}") from exc
    if found != record.plan_sha256:
        why = "empty" if size == 0 else f"{size:,} bytes of SHA-256 {found[:16]}..."
        raise ArtifactError(
            f"{engine}: it is {why}, its manifest tells of {record.plan_bytes:,} bytes of SHA-256 "
            f"{record.plan_sha256[:16]}...; it is damaged, or of another build than its manifest; "
            f"rebuild: {record.rebuild(engine)}"
        )
    return info


def _read(engine: Path, path: Path) -> ArtifactInfo:
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise ArtifactError(f"{path}: too large for a manifest; {_again(engine)}")
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError as exc:
        raise ArtifactError(
            f"{engine}: its manifest {path.name} is not beside it; copy it along, or rebuild both: {_rebuild(engine)}"
        ) from exc
    except UnicodeDecodeError as exc:
        raise ArtifactError(f"{path}: it is no text; {_again(engine)}") from exc
    except OSError as exc:
        raise ArtifactError(f"{path}: cannot be read: {exc.strerror}") from exc
    try:
        return ArtifactInfo.from_json(text, path)
    except ArtifactError as exc:
        raise ArtifactError(f"{exc}; {_again(engine)}") from exc


def _again(engine: Path) -> str:
    return f"copy it again with its engine, or rebuild both: {_rebuild(engine)}"


def _rebuild(engine: Path) -> str:
    """What makes an engine of which nothing is known."""
    return f"rest-export --model NAME --checkpoint FILE --format trt --output {shlex.quote(str(engine))}"
