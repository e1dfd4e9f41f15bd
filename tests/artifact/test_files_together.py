"""Files that belong together: all of them are moved to their places, or none is."""

import errno
import os
import shutil
from pathlib import Path

import pytest

from rest_deploy.artifact.files import replacing, replacing_all
from rest_deploy.errors import ExportError

#: What lay there before: nothing, one of the two, both.
BEFORE = [(), ("a.engine",), ("a.engine.json",), ("a.engine", "a.engine.json")]


@pytest.fixture(params=BEFORE, ids=" and ".join)
def pair(request, tmp_path):
    """Two paths that belong together, of which some exist."""
    for name in request.param:
        (tmp_path / name).write_text(f"old {name}")
    return tmp_path / "a.engine", tmp_path / "a.engine.json"


def contents(folder):
    """Name -> text of each file, and None for each folder."""
    return {path.name: path.read_text() if path.is_file() else None for path in folder.iterdir()}


def write_pair(pair):
    with replacing_all(pair) as temporaries:
        for temporary in temporaries:
            temporary.write_text("new")


def fail_to_move(monkeypatch, name, error):
    """Let the move onto one target fail; moves that put back what was there go on."""
    move = Path.replace

    def replace(self, target):
        if Path(target).name == name and not self.name.endswith(".before"):
            raise error
        return move(self, target)

    monkeypatch.setattr(Path, "replace", replace)


def test_files_that_belong_together_are_all_moved(pair, tmp_path):
    before = contents(tmp_path)
    with replacing_all([str(path) for path in pair]) as temporaries:
        assert [path.name for path in temporaries] == [path.name for path in pair]
        for temporary in temporaries:
            temporary.write_text("new")
        assert {name: text for name, text in contents(tmp_path).items() if text is not None} == before
    assert contents(tmp_path) == {"a.engine": "new", "a.engine.json": "new"}


@pytest.mark.parametrize("error", [ValueError("mine"), KeyboardInterrupt("mine")])
def test_an_exception_in_the_block_moves_none_of_them(pair, tmp_path, error):
    before = contents(tmp_path)

    def fail():
        with replacing_all(pair) as temporaries:
            temporaries[0].write_text("new")
            raise error

    with pytest.raises(type(error), match="mine") as caught:
        fail()
    assert caught.value is error
    assert contents(tmp_path) == before


def test_one_file_that_was_not_written_keeps_the_other_from_being_moved(pair, tmp_path):
    before = contents(tmp_path)
    with (
        pytest.raises(ExportError, match=r"a\.engine: cannot be written: No such file"),
        replacing_all(pair) as temporaries,
    ):
        temporaries[0].write_text("new")
    assert contents(tmp_path) == before


def test_a_full_disk_moves_none_of_them(pair, tmp_path, monkeypatch):
    before = contents(tmp_path)
    write = Path.write_text

    def write_text(self, *args, **kwargs):
        if self.name == "a.engine.json":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(self, *args, **kwargs)

    monkeypatch.setattr(Path, "write_text", write_text)
    with pytest.raises(ExportError, match=r"a\.engine: cannot be written: No space left on device"):
        write_pair(pair)
    assert contents(tmp_path) == before


def test_a_disk_that_tells_only_when_flushed_that_it_is_full(pair, tmp_path, monkeypatch):
    before = contents(tmp_path)

    def fsync(handle):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(ExportError, match="cannot be written: No space left"):
        write_pair(pair)
    assert contents(tmp_path) == before


@pytest.mark.parametrize("name", ["a.engine", "a.engine.json"])
@pytest.mark.parametrize(
    "error", [PermissionError(errno.EACCES, "mine"), KeyboardInterrupt("mine")], ids=["refused", "interrupted"]
)
def test_a_move_that_fails_puts_back_what_was_there(pair, tmp_path, monkeypatch, name, error):
    before = contents(tmp_path)
    fail_to_move(monkeypatch, name, error)
    with pytest.raises((ExportError, KeyboardInterrupt), match="mine") as caught:
        write_pair(pair)
    assert isinstance(caught.value, ExportError) is isinstance(error, OSError)
    assert contents(tmp_path) == before


def no_links(*_, **__):
    raise OSError(errno.EPERM, "Operation not permitted")


def test_without_hard_links_they_are_moved_too(pair, tmp_path, monkeypatch):
    monkeypatch.setattr(os, "link", no_links)
    write_pair(pair)
    assert contents(tmp_path) == {"a.engine": "new", "a.engine.json": "new"}


def test_without_hard_links_a_move_that_fails_puts_back_what_was_there(pair, tmp_path, monkeypatch):
    before = contents(tmp_path)
    monkeypatch.setattr(os, "link", no_links)
    fail_to_move(monkeypatch, "a.engine.json", PermissionError(errno.EACCES, "Permission denied"))
    with pytest.raises(ExportError, match="Permission denied"):
        write_pair(pair)
    assert contents(tmp_path) == before


def test_without_hard_links_and_without_room_for_a_copy_none_is_moved(tmp_path, monkeypatch):
    pair = tmp_path / "a.engine", tmp_path / "a.engine.json"
    pair[1].write_text("old")

    def no_room(*_, **__):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "link", no_links)
    monkeypatch.setattr(shutil, "copy2", no_room)
    with pytest.raises(ExportError, match=r"a\.engine: cannot be written: No space left"):
        write_pair(pair)
    assert contents(tmp_path) == {"a.engine.json": "old"}


def test_a_single_file_is_not_kept_twice(tmp_path, monkeypatch):
    """Nothing has to be put back where the only move fails."""
    (tmp_path / "a.onnx").write_text("old")
    monkeypatch.setattr(os, "link", lambda *_, **__: pytest.fail("it was linked"))
    with replacing(tmp_path / "a.onnx") as temporary:
        temporary.write_text("new")
    assert contents(tmp_path) == {"a.onnx": "new"}


def test_every_target_is_checked_before_the_block(tmp_path):
    (tmp_path / "a.engine.json").mkdir()
    with (
        pytest.raises(ExportError, match=r"a\.engine\.json: is a folder"),
        replacing_all([tmp_path / "a.engine", tmp_path / "a.engine.json"]),
    ):
        pytest.fail("the block was entered")
    assert contents(tmp_path) == {"a.engine.json": None}
