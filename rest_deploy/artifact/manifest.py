"""The manifest beside an engine, ``NAME.engine.json``: a plan says nothing that can be read without a GPU."""

from __future__ import annotations

import hashlib
import json
import os
import shlex
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from rest_deploy.artifact.identity import LOOKS, State, sha256_of, state_of
from rest_deploy.artifact.info import ArtifactInfo
from rest_deploy.errors import ArtifactError, no_file, unseen

_MAX_BYTES = 64 << 20  # labels of a thousand classes and the figures take under 100 KiB
#: Key under which a manifest holds the record of the engine that it is about to replace.
_REPLACES = "replaces"


def manifest_path(engine: str | Path) -> Path:
    """Where the manifest of an engine lies: beside it, its name with ``.json`` behind."""
    path = Path(engine)
    return path.with_name(path.name + ".json")


def write_manifest(path: str | Path, info: ArtifactInfo, *, replaces: ArtifactInfo | None = None) -> None:
    """Write a record as indented JSON.

    Args:
        path: Where.
        info: The record.
        replaces: That of the engine which is still in place of the one that ``info`` tells of.
    """
    values = info.to_dict() if replaces is None else {**info.to_dict(), _REPLACES: replaces.to_dict()}
    Path(path).write_text(json.dumps(values, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def read_manifest(engine: str | Path) -> ArtifactInfo:
    """Read the manifest of an engine, after checking that the plan beside it is its own.

    Raises:
        ArtifactError: The plan or the manifest is missing, damaged, edited, or of another plan.
    """
    engine = Path(engine)
    return _matching(engine, lambda: (sha256_of(engine), engine.stat().st_size))


@dataclass(frozen=True)
class EngineFile:
    """A plan and what its manifest says of it."""

    path: Path
    info: ArtifactInfo
    plan: bytes = field(repr=False)


def read_engine(engine: str | Path) -> EngineFile:
    """As :func:`read_manifest`, with the plan itself, so that what runs is what was compared.

    Raises:
        ArtifactError: As there.
    """
    engine, plan = Path(engine), b""

    def read() -> tuple[str, int]:
        nonlocal plan
        plan = engine.read_bytes()
        return hashlib.sha256(plan).hexdigest(), len(plan)

    info = _matching(engine, read)
    return EngineFile(engine, info, plan)


def read_new_manifest(engine: Path) -> ArtifactInfo:
    """Read a manifest that was just written, without checking its plan.

    Raises:
        ArtifactError: It is none.
    """
    return _parse(engine, _text(engine))


def _matching(engine: Path, read_plan: Callable[[], tuple[str, int]]) -> ArtifactInfo:
    """The record of a plan, which ``read_plan`` gives the SHA-256 and the size of.

    An export that replaces both may come between the looks at them; then they are looked at again.
    """
    for _ in range(LOOKS):
        if not os.path.isfile(engine):  # False, not an error, for an impossible name
            make = "" if unseen(engine) else f"; make it: {_rebuild(engine)}"
            raise ArtifactError(f"{engine}: {no_file(engine, step='')}{make}")
        seen = _states(engine)
        text = _text(engine)
        told = _parse(engine, text)
        record = told.engine
        if record is None:
            raise ArtifactError(f"{manifest_path(engine)}: its engine is missing; {_again(engine)}")
        try:
            found, size = read_plan()
        except OSError as exc:
            raise ArtifactError(f"{engine}: cannot be read: {exc.strerror}") from exc
        if record.plan_sha256 == found:
            return told
        before = _replaced(text)
        if before is not None and before.engine is not None and before.engine.plan_sha256 == found:
            return before
        if _states(engine) == seen:
            break
    assert record is not None  # looked at in the loop
    why = "empty" if size == 0 else f"{size:,} bytes of SHA-256 {found[:16]}..."
    raise ArtifactError(
        f"{engine}: it is {why}, its manifest tells of {record.plan_bytes:,} bytes of SHA-256 "
        f"{record.plan_sha256[:16]}...; it is damaged, or of another build than its manifest; "
        f"rebuild: {record.rebuild(engine)}"
    )


def _states(engine: Path) -> tuple[State, State]:
    return state_of(engine), state_of(manifest_path(engine))


def _text(engine: Path) -> str:
    path = manifest_path(engine)
    if os.path.exists(path) and not os.path.isfile(path):
        raise ArtifactError(f"{path}: it is not a file; {_again(engine)}")
    try:
        with path.open("rb") as file:
            content = file.read(_MAX_BYTES + 1)
        if len(content) > _MAX_BYTES:
            raise ArtifactError(f"{path}: too large for a manifest; {_again(engine)}")
        return content.decode()
    except FileNotFoundError as exc:
        raise ArtifactError(
            f"{engine}: its manifest {path.name} is not beside it; copy it along, or rebuild both: {_rebuild(engine)}"
        ) from exc
    except UnicodeDecodeError as exc:
        raise ArtifactError(f"{path}: it is not text; {_again(engine)}") from exc
    except OSError as exc:
        raise ArtifactError(f"{path}: cannot be read: {exc.strerror}") from exc


def _parse(engine: Path, text: str) -> ArtifactInfo:
    try:
        return ArtifactInfo.from_json(text, manifest_path(engine), beside=_REPLACES)
    except ArtifactError as exc:
        raise ArtifactError(f"{exc}; {_again(engine)}") from exc


def _replaced(text: str) -> ArtifactInfo | None:
    """The record of the engine that was being replaced when the manifest was written, where it was and is readable."""
    values = json.loads(text).get(_REPLACES)  # an object: it has just been read
    try:
        return ArtifactInfo.from_dict(values) if isinstance(values, dict) else None
    except ArtifactError:
        return None


def _again(engine: Path) -> str:
    return f"copy it again with its engine, or rebuild both: {_rebuild(engine)}"


def _rebuild(engine: Path) -> str:
    """The rest-export line for an engine of which nothing is known."""
    return f"rest-export --model NAME --checkpoint FILE --format trt --output {shlex.quote(str(engine))}"
