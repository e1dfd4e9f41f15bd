"""Files are whole or not there."""

import errno
import os
import stat

import pytest

from rest_deploy.artifact.files import bytes_of, check_writable, making_folder, replacing
from rest_deploy.errors import ExportError

#: A folder that even root cannot make files in.
PROC = "/proc/self"
needs_proc = pytest.mark.skipif(not os.path.isdir(PROC), reason="needs /proc, a folder that nobody can write to")


@pytest.mark.parametrize("old", [None, b"old"])
def test_the_file_is_there_whole_when_the_block_ends(tmp_path, old):
    path = tmp_path / "model.onnx"
    if old is not None:
        path.write_bytes(old)
    with replacing(path) as temporary:
        temporary.write_bytes(b"new, half")
        assert (path.read_bytes() if path.exists() else None) == old  # not touched before the end
        temporary.write_bytes(b"new, whole")
    assert path.read_bytes() == b"new, whole"
    assert list(tmp_path.iterdir()) == [path]


def test_the_path_may_be_text(tmp_path):
    with replacing(str(tmp_path / "a.onnx")) as temporary:
        temporary.write_bytes(b"new")
    assert (tmp_path / "a.onnx").read_bytes() == b"new"


def test_the_temporary_file_keeps_the_suffix_and_the_file_system(tmp_path):
    with replacing(tmp_path / "model.onnx") as temporary:
        assert temporary.suffix == ".onnx"
        assert tmp_path in temporary.parents
        temporary.write_bytes(b"new")


def test_the_file_gets_the_permissions_of_any_new_file(tmp_path):
    """Not those of a temporary file, which only its owner can read."""
    (tmp_path / "any").touch()
    with replacing(tmp_path / "model.onnx") as temporary:
        temporary.write_bytes(b"new")
    modes = {stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("any", "model.onnx")}
    assert len(modes) == 1


@pytest.mark.parametrize("error", [ValueError("mine"), KeyboardInterrupt("mine"), ExportError("mine")])
@pytest.mark.parametrize("old", [None, b"old"])
def test_an_exception_passes_and_leaves_the_old_file_and_no_litter(tmp_path, error, old):
    path = tmp_path / "model.onnx"
    if old is not None:
        path.write_bytes(old)
    before = sorted(tmp_path.iterdir())

    def fail():
        with replacing(path) as temporary:
            temporary.write_bytes(b"half")
            (temporary.parent / "beside").write_bytes(b"also litter")
            raise error

    with pytest.raises(type(error), match=str(error)) as caught:
        fail()
    assert caught.value is error
    assert sorted(tmp_path.iterdir()) == before
    assert old is None or path.read_bytes() == old


def test_a_block_that_writes_nothing_is_an_error_and_leaves_the_old_file(tmp_path):
    path = tmp_path / "model.onnx"
    path.write_bytes(b"old")
    with pytest.raises(ExportError, match=r"model\.onnx: cannot be written: No such file"), replacing(path):
        pass
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_full_disk_is_an_export_error(tmp_path):
    path = tmp_path / "model.onnx"
    with pytest.raises(ExportError, match=r"model\.onnx: cannot be written: No space left"), replacing(path):
        raise OSError(28, "No space left on device")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("function", [check_writable, lambda path: replacing(path).__enter__()])
def test_a_missing_folder_is_refused_and_not_made(tmp_path, function):
    with pytest.raises(ExportError, match=r"the folder .*none does not exist; make it first"):
        function(tmp_path / "none" / "model.onnx")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("function", [check_writable, lambda path: replacing(path).__enter__()])
def test_a_folder_as_target_is_refused(tmp_path, function):
    with pytest.raises(ExportError, match=r"is a folder; name a file to write$"):
        function(tmp_path)


def test_a_file_as_folder_is_refused(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ExportError, match="does not exist"):
        check_writable(tmp_path / "file" / "model.onnx")


def test_a_folder_that_cannot_be_looked_at_is_not_to_be_made(tmp_path, monkeypatch):
    inside, real = tmp_path / "locked" / "inside", os.stat

    def stat(asked, **options):
        if str(asked).startswith(str(inside)):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        return real(asked, **options)

    monkeypatch.setattr(os, "stat", stat)
    with pytest.raises(ExportError, match="inside: it cannot be looked at: Permission denied; name another folder"):
        check_writable(inside / "model.onnx")


@pytest.mark.parametrize("folder", [False, True])
def test_a_name_that_no_file_can_have_is_refused_before_any_work(tmp_path, folder):
    with pytest.raises(ExportError, match="its name is too long"):
        check_writable(tmp_path / ("x" * 300), folder=folder)
    assert list(tmp_path.iterdir()) == []


def test_check_writable_gives_the_path_and_leaves_nothing(tmp_path):
    assert check_writable(str(tmp_path / "model.onnx")) == tmp_path / "model.onnx"
    assert list(tmp_path.iterdir()) == []


@needs_proc
@pytest.mark.parametrize("function", [check_writable, lambda path: replacing(path).__enter__()])
def test_a_folder_that_nobody_can_write_to_is_refused(function):
    with pytest.raises(ExportError, match=r"model\.onnx: the folder cannot be written to: "):
        function(f"{PROC}/model.onnx")


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes to read-only folders")
def test_a_read_only_folder_is_refused(tmp_path):
    folder = tmp_path / "read_only"
    folder.mkdir(mode=0o500)
    with pytest.raises(ExportError, match="the folder cannot be written to: Permission denied"):
        check_writable(folder / "model.onnx")


def test_a_folder_is_whole_or_not_there(tmp_path):
    path = tmp_path / "repository"

    def fail():
        with making_folder(path) as folder:
            (folder / "1").mkdir()
            (folder / "1" / "model.onnx").write_bytes(b"half")
            raise ValueError("in the middle")

    with pytest.raises(ValueError, match="in the middle"):
        fail()
    assert list(tmp_path.iterdir()) == []
    with making_folder(path) as folder:
        (folder / "1").mkdir()
        (folder / "1" / "model.onnx").write_bytes(b"whole")
        assert not path.exists()
    assert [str(file.relative_to(tmp_path)) for file in sorted(tmp_path.rglob("*"))] == [
        *("repository", "repository/1", "repository/1/model.onnx")
    ]
    assert (bytes_of(path), bytes_of(path / "1" / "model.onnx")) == (5, 5)
    assert stat.S_IMODE(path.stat().st_mode) == 0o777 & ~_umask()


@pytest.mark.parametrize(
    "function", [lambda path: check_writable(path, folder=True), lambda p: making_folder(p).__enter__()]
)
@pytest.mark.parametrize("taken", ["folder", "file", "link"])
def test_a_folder_is_never_written_over(tmp_path, function, taken):
    path = tmp_path / "repository"
    {"folder": path.mkdir, "file": path.touch, "link": lambda: path.symlink_to("nowhere")}[taken]()
    with pytest.raises(ExportError, match=r"repository: exists, and a folder is never written over; remove it"):
        function(path)


def test_a_folder_that_somebody_else_made_meanwhile_stays(tmp_path):
    path = tmp_path / "repository"

    def make():
        with making_folder(path) as folder:
            (folder / "ours").touch()
            path.mkdir()
            (path / "theirs").touch()

    with pytest.raises(ExportError, match="exists"):
        make()
    assert [file.name for file in path.iterdir()] == ["theirs"]


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
