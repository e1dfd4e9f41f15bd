"""A plan and its manifest, replaced together: at every moment the two on disk are of one build.

Two files cannot be renamed in one step. So the manifest goes first, and for as long as the old plan is in place it
tells of both builds. :func:`~rest_deploy.artifact.manifest.read_manifest` takes the record of the plan it finds.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from rest_deploy.artifact.files import check_target, flush, move, workspace_of
from rest_deploy.artifact.info import ArtifactInfo
from rest_deploy.artifact.manifest import manifest_path, read_manifest, read_new_manifest, write_manifest
from rest_deploy.artifact.workspace import holding
from rest_deploy.errors import ArtifactError


@contextmanager
def replacing_engine(path: str | Path) -> Iterator[tuple[Path, Path]]:
    """As :func:`~rest_deploy.artifact.files.replacing`, for an engine and its manifest: both are moved, or neither.

    Yields:
        Where to write the plan, and where its manifest; the names are theirs, in another folder.

    Raises:
        ExportError: One of them cannot be written or moved.
        ArtifactError: What was written as manifest is none.
    """
    check_target(manifest_path(path))
    with workspace_of(path) as (target, folder):
        plan = folder / target.name
        manifest = manifest_path(plan)
        yield plan, manifest
        for file in (plan, manifest):
            flush(file)
        with holding(target.parent):  # of two exports of one name, one is whole before the other begins
            _replace(plan, manifest, target)


def _replace(plan: Path, manifest: Path, target: Path) -> None:
    new, old, told = read_new_manifest(plan), _whole(target), manifest_path(target)
    before = told.read_bytes() if told.exists() else None
    first = manifest
    if old is not None:
        first = plan.with_name("both.json")
        write_manifest(first, new, replaces=old)
        flush(first)
    try:
        move(first, told)
        move(plan, target)
    except BaseException:
        if plan.exists():  # not moved: what was there is still what there is
            _put_back(before, told, plan.with_name("before.json"))
        raise
    if first is not manifest:
        with suppress(OSError):  # the new engine is in place, and whole with the manifest of both
            move(manifest, told)


def _whole(engine: Path) -> ArtifactInfo | None:
    """The record of an engine that is about to be replaced, None where there is no whole one."""
    try:
        return read_manifest(engine)
    except ArtifactError:
        return None


def _put_back(content: bytes | None, path: Path, temporary: Path) -> None:
    with suppress(OSError):  # with the manifest of both, the old plan is whole too
        if content is None:
            path.unlink(missing_ok=True)
        else:
            temporary.write_bytes(content)
            flush(temporary)
            move(temporary, path)
