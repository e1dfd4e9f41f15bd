"""Standard streams of a process: what is printed when one is missing, fails, or is slower than we are."""

from __future__ import annotations

import errno
import io
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from rest_deploy.cli import export, info, predict
from rest_deploy.cli.process import lost, standard_streams
from tests.conftest import IMAGES


def _own(monkeypatch: pytest.MonkeyPatch, name: str, handle: int) -> io.TextIOWrapper:
    """Make an open file one of the process's own streams."""
    stream = io.TextIOWrapper(io.BufferedWriter(io.FileIO(handle, "w")), "utf-8")
    monkeypatch.setattr(sys, name, stream)
    monkeypatch.setattr(sys, f"__{name}__", stream)
    return stream


@pytest.mark.parametrize("missing", [("stdout",), ("stderr",), ("stdout", "stderr")])
def test_no_streams_at_all(
    missing: tuple[str, ...], tiny_onnx: Path, tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As under pythonw. What makes files makes them; what only prints says by its exit code that it could not."""
    for name in missing:
        monkeypatch.setattr(sys, name, None)
    printed = 1 if "stdout" in missing else 0
    assert predict.main([str(tiny_onnx), str(IMAGES / "rocket.jpg")]) == printed
    assert info.main([str(tmp_path / "no.onnx")]) == 1
    assert all(getattr(sys, name) is None for name in missing)
    if len(missing) < 2:
        return
    output = tmp_path / "made.onnx"
    assert export.main(["--checkpoint", str(tiny_checkpoint), "-o", str(output), "--no-verify"]) == 0
    assert output.exists()


def test_an_error_is_kept_and_told_once(monkeypatch: pytest.MonkeyPatch) -> None:
    own = _own(monkeypatch, "stdout", os.open("/dev/full", os.O_WRONLY))
    with standard_streams():
        for _ in range(3):
            print("x" * 20_000)
        sys.stdout.flush()
        why = lost(sys.stdout)
        assert why is not None
        assert why.errno == errno.ENOSPC
    assert sys.stdout is own
    own.close()  # nothing is left in it that would fail now


def test_a_pipe_that_does_not_block(monkeypatch: pytest.MonkeyPatch) -> None:
    """A parent may have made it so, and Python raises BlockingIOError once it is full."""
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    own = _own(monkeypatch, "stdout", writer)
    read: list[bytes] = []

    def take() -> None:
        with os.fdopen(reader, "rb") as file:
            read.append(file.read())

    thread = threading.Thread(target=take)
    with standard_streams():
        print("y" * 60_000)  # less than what a pipe holds
        thread.start()
        print("z" * 1_000_000)
        assert lost(sys.stdout) is None
    own.close()
    thread.join()
    assert read == [b"y" * 60_000 + b"\n" + b"z" * 1_000_000 + b"\n"]


def test_streams_of_a_caller_are_left_alone(tiny_onnx: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mine = io.StringIO()
    monkeypatch.setattr(sys, "stdout", mine)
    assert info.main([str(tiny_onnx)]) == 0
    assert sys.stdout is mine
    assert "tiny" in mine.getvalue()


def test_what_its_caller_printed_before_comes_before(tiny_onnx: Path, tmp_path: Path) -> None:
    code = "import sys; from rest_deploy.cli.info import main; print('first'); main([sys.argv[1]]); print('last')"
    with (tmp_path / "told.txt").open("w") as told:
        subprocess.run([sys.executable, "-c", code, str(tiny_onnx)], stdout=told, check=True)
    lines = (tmp_path / "told.txt").read_text(encoding="utf-8").splitlines()
    assert (lines[0], lines[-1]) == ("first", "last")
    assert len(lines) > 5


_EXPORT = """
from rest_deploy.cli import export, process

import onnx
import onnxsim

relu = onnx.helper.make_node("Relu", ["x"], ["y"])
ends = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1]) for name in "xy"]
model = onnx.helper.make_model(onnx.helper.make_graph([relu], "relu", ends[:1], ends[1:]))
export.main = lambda: onnxsim.simplify(model) and 0
raise SystemExit(process.rest_export())
"""


def test_nothing_is_printed_when_an_export_has_ended() -> None:
    """As the list of leaks that the binding of onnxsim prints where Python is ended without a search for garbage."""
    done = subprocess.run([sys.executable, "-c", _EXPORT], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP"])
@pytest.mark.parametrize("ignored", [False, True])
def test_what_ends_a_command_lets_it_clean_up(name: str, ignored: bool) -> None:
    """A closed terminal too, but under nohup, which ignores it."""
    code = f"import os, signal; signal.signal(signal.{name}, signal.SIG_IGN if {ignored} else signal.SIG_DFL)\n"
    code += "from rest_deploy.cli.terminal import _terminating\n"
    code += (
        f"with _terminating():\n    try:\n        os.kill(os.getpid(), signal.{name})\n        print('on', end='')\n"
    )
    code += "    finally:\n        print('cleaned')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    number = getattr(signal, name)
    assert (done.returncode, done.stdout) == ((0, "oncleaned\n") if ignored else (128 + number, "cleaned\n"))
