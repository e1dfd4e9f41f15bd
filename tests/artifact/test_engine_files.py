"""A plan and its manifest: both are moved to their places, or neither, and at no moment are they of two builds."""

from __future__ import annotations

import errno
import json
import os
import sys
import threading
from pathlib import Path

import pytest

from rest_deploy.artifact import manifest as manifests
from rest_deploy.artifact import workspace
from rest_deploy.artifact.engine_files import replacing_engine
from rest_deploy.artifact.identity import sha256_of
from rest_deploy.artifact.manifest import manifest_path, read_engine, read_manifest, write_manifest
from rest_deploy.errors import ArtifactError, ExportError
from tests.artifact.test_engine import make_record
from tests.artifact.test_info import make_info

OLD, NEW = b"old plan", b"the new plan"


def write_record(plan: Path, model: str) -> None:
    """The manifest of a plan that is there."""
    record = make_record(plan_sha256=sha256_of(plan), plan_bytes=plan.stat().st_size)
    write_manifest(manifest_path(plan), make_info(format="trt-rtx", extra={}, model=model, engine=record))


def write(engine: Path, content: bytes, model: str = "new") -> None:
    """Replace an engine."""
    with replacing_engine(engine) as (plan, manifest):
        plan.write_bytes(content)
        assert manifest == manifest_path(plan)
        write_record(plan, model)


#: What lay there before, as bytes of the plan and of the manifest; True for a manifest that is of the plan.
BEFORE = {
    "nothing": (None, None),
    "a plan alone": (OLD, None),
    "a manifest alone": (None, b"{}"),
    "a pair": (OLD, True),
    "a pair in ruins": (OLD, b"old"),
}


@pytest.fixture(params=BEFORE)
def engine(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """Where an engine is to be written."""
    path = tmp_path / "a.engine"
    plan, manifest = BEFORE[request.param]
    if plan is not None:
        path.write_bytes(plan)
    if manifest is True:
        write_record(path, "old")
    elif manifest is not None:
        manifest_path(path).write_bytes(manifest)
    return path


def contents(folder: Path) -> dict[str, bytes]:
    """Name -> bytes of each file."""
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_both_are_moved_and_the_manifest_tells_of_one_build(engine: Path) -> None:
    write(engine, NEW)
    file = read_engine(engine)
    assert (file.plan, file.info.model) == (NEW, "new")
    assert set(contents(engine.parent)) == {"a.engine", "a.engine.json"}
    assert "replaces" not in json.loads(manifest_path(engine).read_text())


@pytest.mark.parametrize("error", [ValueError("mine"), KeyboardInterrupt("mine")])
def test_an_exception_in_the_block_moves_neither(engine: Path, error: BaseException) -> None:
    before = contents(engine.parent)

    def fail() -> None:
        with replacing_engine(engine) as (plan, _):
            plan.write_bytes(NEW)
            raise error

    with pytest.raises(type(error), match="mine") as caught:
        fail()
    assert caught.value is error
    assert contents(engine.parent) == before


@pytest.mark.parametrize("left_out", ["plan", "manifest"])
def test_one_that_was_not_written_keeps_the_other_from_being_moved(engine: Path, left_out: str) -> None:
    before = contents(engine.parent)

    def leave_out() -> None:
        with replacing_engine(engine) as (plan, manifest):
            plan.write_bytes(NEW)
            write_record(plan, "new")
            (plan if left_out == "plan" else manifest).unlink()

    with pytest.raises(ExportError, match=r"a\.engine: cannot be written: No such file"):
        leave_out()
    assert contents(engine.parent) == before


def test_a_manifest_that_is_none_is_not_moved(engine: Path) -> None:
    before = contents(engine.parent)

    def ruin() -> None:
        with replacing_engine(engine) as (plan, manifest):
            plan.write_bytes(NEW)
            manifest.write_text("{")

    with pytest.raises(ArtifactError, match="metadata is not JSON"):
        ruin()
    assert contents(engine.parent) == before


def test_a_disk_that_tells_only_when_flushed_that_it_is_full(engine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = contents(engine.parent)

    def fsync(handle: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(ExportError, match="cannot be written: No space left"):
        write(engine, NEW)
    assert contents(engine.parent) == before


@pytest.mark.parametrize("name", ["a.engine", "a.engine.json"])
@pytest.mark.parametrize(
    "error", [PermissionError(errno.EACCES, "mine"), KeyboardInterrupt("mine")], ids=["refused", "interrupted"]
)
def test_a_move_that_fails_leaves_what_was_there(
    engine: Path, monkeypatch: pytest.MonkeyPatch, name: str, error: BaseException
) -> None:
    before = contents(engine.parent)
    move = Path.replace

    def replace(self: Path, target: Path) -> Path:
        if Path(target).name == name and self.name != "before.json":
            raise error
        return move(self, target)

    monkeypatch.setattr(Path, "replace", replace)
    with pytest.raises((ExportError, KeyboardInterrupt), match="mine") as caught:
        write(engine, NEW)
    assert isinstance(caught.value, ExportError) is isinstance(error, OSError)
    assert contents(engine.parent) == before


def test_targets_are_checked_before_the_block(tmp_path: Path) -> None:
    (tmp_path / "a.engine.json").mkdir()
    with (
        pytest.raises(ExportError, match=r"a\.engine\.json: is a folder"),
        replacing_engine(tmp_path / "a.engine"),
    ):
        pytest.fail("the block was entered")


def test_a_manifest_of_two_builds_is_of_the_plan_that_is_there(tmp_path: Path) -> None:
    """As an export leaves it that was killed between its two moves."""
    engine = tmp_path / "a.engine"
    infos = {}
    for content, model in ((OLD, "old"), (NEW, "new")):
        engine.write_bytes(content)
        write_record(engine, model)
        infos[model] = read_manifest(engine)
    write_manifest(manifest_path(engine), infos["new"], replaces=infos["old"])
    for content, model in ((OLD, "old"), (NEW, "new")):
        engine.write_bytes(content)
        assert read_manifest(engine) == infos[model]
        assert read_engine(engine).plan == content
    engine.write_bytes(b"a third")
    with pytest.raises(ArtifactError, match="it is damaged, or of another build than its manifest"):
        read_manifest(engine)
    write(engine, OLD, "old again")  # over a pair whose manifest still tells of two
    assert read_manifest(engine).model == "old again"


def test_what_is_replaced_may_be_anything(tmp_path: Path) -> None:
    engine = tmp_path / "a.engine"
    engine.write_bytes(NEW)
    write_record(engine, "new")
    values = json.loads(manifest_path(engine).read_text())
    for junk in (None, 1, [], "x", {}, {"schema": 1}, {"schema": 1, "replaces": {}}):
        manifest_path(engine).write_text(json.dumps({**values, "replaces": junk}))
        engine.write_bytes(NEW)
        assert read_manifest(engine).model == "new"
        engine.write_bytes(OLD)
        with pytest.raises(ArtifactError, match="it is damaged, or of another build"):
            read_manifest(engine)


def test_a_pair_replaced_between_two_looks_is_looked_at_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = tmp_path / "a.engine"
    write(engine, OLD, "old")
    real, looks = manifests.sha256_of, []

    def slow(path: Path) -> str:
        looks.append(path)
        if len(looks) == 1:  # the manifest has been read, the plan not yet
            monkeypatch.setattr(manifests, "sha256_of", real)
            write(engine, NEW, "new")
            monkeypatch.setattr(manifests, "sha256_of", slow)
        return real(path)

    monkeypatch.setattr(manifests, "sha256_of", slow)
    assert read_manifest(engine).model == "new"
    assert len(looks) == 2


def test_a_pair_that_never_rests_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = tmp_path / "a.engine"
    write(engine, OLD, "old")

    def never(path: Path) -> str:
        path.write_bytes(path.read_bytes() + b"x")
        return "0" * 64

    monkeypatch.setattr(manifests, "sha256_of", never)
    with pytest.raises(ArtifactError, match="it is damaged, or of another build"):
        read_manifest(engine)
    assert engine.stat().st_size == len(OLD) + manifests.LOOKS


@pytest.mark.skipif(sys.platform == "win32", reason="has no locks of folders")
def test_a_folder_that_somebody_keeps_locked_is_given_up(engine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As under ``flock FOLDER rest-export``, where who holds it waits for us."""
    before = {path.name: path.read_bytes() for path in engine.parent.iterdir()}
    monkeypatch.setattr(workspace, "_PATIENCE", 0.0)
    with workspace.holding(engine.parent), pytest.raises(ExportError, match=r"another process .* lslocks"):
        write(engine, NEW)
    assert {path.name: path.read_bytes() for path in engine.parent.iterdir()} == before


@pytest.mark.skipif(sys.platform == "win32", reason="has no locks of folders")
def test_a_folder_is_held_by_one_at_a_time(tmp_path: Path) -> None:
    inside: list[str] = []

    def second() -> None:
        with workspace.holding(tmp_path):
            inside.append("second")

    with workspace.holding(tmp_path):
        thread = threading.Thread(target=second)
        thread.start()
        inside.append("first")
    thread.join()
    assert inside == ["first", "second"]
