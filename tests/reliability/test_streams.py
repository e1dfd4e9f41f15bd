"""Standard streams closed, full or without a reader, Ctrl-C at any moment, no current folder: files, codes, lines."""

from __future__ import annotations

import importlib
import json
import os
import signal
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from rest_deploy.runtimes.registry import read_info
from tests.cli.test_commands import Outcome
from tests.reliability.commands import CLOSED, FULL, OPEN, PICTURE, SUBSETS, Streams, run
from tests.reliability.conftest import Amount
from tests.reliability.forged_graphs import with_record
from tests.reliability.record import Record

FAILED, WRONG_USAGE, INTERRUPTED, BROKEN_PIPE = 1, 2, 130, 141


@dataclass(frozen=True)
class Case:
    """A command.

    Args:
        name: Without ``rest-``.
        argv: Its arguments, after (artifact, checkpoint, file to write).
        normal: How many of the subsets are tried in the normal tests.
        suffix: Of the file that it writes; empty where it only prints.
        full: How many are tried in the soak.
        told: What must be the same in two runs, of a file's content or of what was printed.
    """

    name: str
    argv: Callable[[Path, Path, Path], list[object]]
    normal: int
    suffix: str = ""
    full: int = len(SUBSETS)
    told: Callable[[bytes], Any] = lambda content: content


def _measured(content: bytes) -> Any:
    """Of a record of rest-bench all but the times."""
    record = json.loads(content)
    return record["kind"], [row["name"] for row in record["contenders"]], [case["batch"] for case in record["cases"]]


def _examined(content: bytes) -> Any:
    return [(row["key"], row["export"]["possible"]) for row in json.loads(content)["artifacts"]]


QUICK = ["--sizes", "16", "--min-rounds", "8", "--min-seconds", "0", "--threads", "1", "--no-cold"]
CASES = (
    Case("info", lambda artifact, *_: [artifact], 13),
    Case("predict", lambda artifact, *_: [artifact, PICTURE], 3),
    Case("verify", lambda a, _, file: [a, "--reference", a, "--sizes", "16", "--threads", "1", "-o", file], 3, ".csv"),
    Case("bench", lambda a, _, file: [a, *QUICK, "-o", file], 1, ".json", told=_measured),
    Case("export", lambda _, c, file: ["--checkpoint", c, "-o", file, "--no-verify"], 1, ".onnx"),
    Case("doctor", lambda *_: ["--json"], 1, full=4, told=_examined),
)


@pytest.mark.parametrize(
    "case",
    [CASES[0], *(pytest.param(case, marks=pytest.mark.slow) for case in CASES[1:])],
    ids=lambda case: case.name,
)
def test_closed_and_full_streams(  # noqa: PLR0917
    case: Case,
    tiny_onnx: Path,
    tiny_checkpoint: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    amount: Amount,
    record: Record,
) -> None:
    folder, scratch = tmp_path / "here", tmp_path / "scratch"
    folder.mkdir()
    scratch.mkdir()
    argv = case.argv(tiny_onnx, tiny_checkpoint, folder / f"made{case.suffix}")

    def taken() -> list[bytes]:
        made = sorted(folder.iterdir())
        contents = [path.read_bytes() for path in made]
        for path in made:
            path.unlink()
        return contents

    whole = Outcome(importlib.import_module(f"rest_deploy.cli.{case.name}"), argv, capsys)
    files = taken()
    assert (whole.code, whole.err, len(files)) == (0, "", bool(case.suffix))
    tried = SUBSETS[: amount(case.normal, case.full, min(4, case.normal))]
    for streams in tried:
        ended = run(case.name, *argv, streams=streams, folder=folder, TMPDIR=str(scratch))
        assert "Traceback" not in ended.err, streams
        assert os.listdir(scratch) == [], streams
        assert list(map(case.told, taken())) == list(map(case.told, files)), streams
        said = streams.stdout == OPEN
        if not case.suffix and said:
            assert case.told(ended.out.encode()) == case.told(whole.out.encode()), streams
        assert ended.code == (0 if said or case.suffix else FAILED), streams
        lines = ended.err.splitlines()
        if said or streams.stderr != OPEN or (case.suffix and streams.stdout == CLOSED):
            assert lines == [], streams
        else:
            (line,) = lines
            assert line.startswith("warning: " if case.suffix else "error: "), streams
            assert ("No space left" if streams.stdout == FULL else "closed") in line, streams
    for _ in tried:
        record.count(
            "commands with subsets of stdin, stdout and stderr closed, or on /dev/full",
            "the same files; exit code 1 where only stdout was asked for and cannot be written, else 0; no traceback",
            f"rest-{case.name}",
        )


ERRORS = {
    "--version": ("info", ["--version"], 0),
    "--help": ("export", ["--help"], 0),
    "wrong usage": ("predict", [], WRONG_USAGE),
    "an error": ("info", ["no.onnx"], FAILED),
}


@pytest.mark.parametrize("what", ERRORS)
def test_what_is_told_without_any_work(what: str, tmp_path: Path, amount: Amount, record: Record) -> None:
    name, argv, code = ERRORS[what]
    tried = SUBSETS[: amount(3, len(SUBSETS), 2)]
    for streams in tried:
        ended = run(name, *argv, streams=streams, folder=tmp_path)
        assert ended.code == (FAILED if code == 0 and streams.stdout != OPEN else code), streams
        assert "Traceback" not in ended.err, streams
        if streams.stderr == OPEN:
            wrong = ended.code == FAILED
            assert len(ended.err.splitlines()) == (1 if wrong else 0) or code == WRONG_USAGE, streams
        if streams.stdout == OPEN:
            assert bool(ended.out) == (code == 0), streams
    for _ in tried:
        record.count(
            "what commands tell without any work, with such streams",
            "the right exit code, one line at most, no traceback",
            what,
        )


#: Before a file that is being written is flushed, something prints by number, as native libraries do.
PRINTS_BY_NUMBER = """
import os
fsync = os.fsync
def noisy(handle):
    for number in 1, 2:
        try: os.write(number, b"NOISE")
        except OSError: pass
    fsync(handle)
os.fsync = noisy
"""


@pytest.mark.slow
@pytest.mark.parametrize("guarded", [True, False], ids=["guarded", "not guarded"])
def test_nothing_prints_into_a_file(guarded: bool, tiny_onnx: Path, tmp_path: Path, record: Record) -> None:
    argv = [tiny_onnx, "--reference", tiny_onnx, "--sizes", "16", "-o", tmp_path / "v.csv"]
    assert run("verify", *argv).code == 0
    expected = (tmp_path / "v.csv").read_bytes()
    before = PRINTS_BY_NUMBER + ("" if guarded else "process._open_closed_streams = lambda: None\n")
    assert run("verify", *argv, streams=Streams(CLOSED, CLOSED, CLOSED), before=before).code == 0
    assert ((tmp_path / "v.csv").read_bytes() == expected) is guarded  # or else this could not fail
    if guarded:
        record.add("a library that prints by number, with all streams closed", 1, "nothing of it in the file")


#: stdout is a pipe whose reader has closed it.
NO_READER = """
import os
reader, writer = os.pipe()
os.close(reader)
os.dup2(writer, 1)
"""


@pytest.mark.parametrize(
    ("name", "argv", "code"),
    [("info", [], BROKEN_PIPE), ("info", ["--version"], BROKEN_PIPE), ("verify", ["--sizes", "16", "-o"], 0)],
    ids=["info", "version", "verify"],
)
def test_a_reader_that_went_away(  # noqa: PLR0917
    name: str, argv: list[str], code: int, tiny_onnx: Path, tmp_path: Path, record: Record
) -> None:
    file = [tmp_path / "v.csv", "--reference", tiny_onnx] if name == "verify" else []
    ended = run(name, tiny_onnx, *argv, *file, before=NO_READER)
    assert (ended.code, ended.err) == (code, "")
    assert [path.name for path in tmp_path.iterdir()] == (["v.csv"] if name == "verify" else [])
    record.count(
        "a reader of stdout that went away",
        "no line; exit code 141 where only that was asked for, else 0",
        f"rest-{name}",
    )


#: Ctrl-C at the import of so many modules, counted from the entry point on.
AT_IMPORT = """
import os, signal
left = [{number}]
def count(event, arguments):
    if event == "import":
        left[0] -= 1
        if left[0] == 0:
            os.kill(os.getpid(), signal.SIGINT)
sys.addaudithook(count)
"""


@pytest.mark.usefixtures("ctrl_c")
@pytest.mark.parametrize(
    ("name", "normal", "moments"),
    [
        ("info", (1, 2, 60, 170), range(1, 175, 5)),  # it imports 184
        pytest.param("predict", (700,), range(1, 1200, 100), marks=pytest.mark.slow),
        pytest.param("export", (100, 1500), range(1, 3000, 250), marks=pytest.mark.slow),
    ],
)
def test_ctrl_c_while_modules_load(  # noqa: PLR0917
    name: str,
    normal: tuple[int, ...],
    moments: range,
    tiny_onnx: Path,
    tiny_checkpoint: Path,
    tmp_path: Path,
    amount: Amount,
    record: Record,
) -> None:
    """A checkpoint is opened by PyTorch, which is loaded while the command works."""
    output = tmp_path / "made.onnx"
    argv = {
        "info": [tiny_onnx],
        "predict": [tiny_checkpoint, PICTURE],
        "export": ["--checkpoint", tiny_checkpoint, "-o", output, "--no-verify"],
    }[name]
    tried = normal if amount(1, 2) == 1 else tuple(moments)
    for number in tried:
        ended = run(name, *argv, before=AT_IMPORT.format(number=number), folder=tmp_path)
        assert (ended.code, ended.out, ended.err) == (INTERRUPTED, "", "interrupted\n"), number
        assert list(tmp_path.iterdir()) == [], number
    for _ in tried:
        record.count(
            "Ctrl-C at the import of a module",
            "one line, exit code 130, no file, no traceback",
            f"rest-{name}",
        )


@pytest.mark.usefixtures("ctrl_c")
def test_ctrl_c_once_all_is_done(tiny_onnx: Path) -> None:
    """Python is about to end: the process ends by the signal, and what was printed is there."""
    ended = run("info", tiny_onnx, before="import atexit, os; atexit.register(os.kill, os.getpid(), 2)")
    assert (ended.code, ended.err) == (-signal.SIGINT, "")
    assert "tiny" in ended.out


#: Ctrl-C in the work, and once more as that is told.
TWICE = """
import os
from rest_deploy.cli import info, terminal
def say(*words, **where):
    print(*words, **where)
    os.kill(os.getpid(), 2)
terminal.print = say
info.read_info = lambda path: os.kill(os.getpid(), 2)
"""


@pytest.mark.usefixtures("ctrl_c")
def test_ctrl_c_twice(tiny_onnx: Path) -> None:
    ended = run("info", tiny_onnx, before=TWICE)
    assert (ended.code, ended.out, set(ended.err.splitlines())) == (INTERRUPTED, "", {"interrupted"})


@pytest.mark.slow
def test_ctrl_c_that_is_ignored_stays_so(tiny_onnx: Path) -> None:
    """As of what was started by nohup, or in the background of a script."""
    before = "import signal; signal.signal(2, signal.SIG_IGN)" + AT_IMPORT.format(number=10)
    assert run("info", tiny_onnx, before=before).code == 0


SCRIPTS = "ä日😀"


@pytest.mark.slow
@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-16"])
def test_encodings_of_stdout(encoding: str, tiny_onnx: Path, tmp_path: Path, amount: Amount, record: Record) -> None:
    known = read_info(tiny_onnx)
    labels = tuple(f"{SCRIPTS}{number}" for number in range(known.num_classes))
    artifact = with_record(tiny_onnx, tmp_path / f"{SCRIPTS}.onnx", replace(known, labels=labels))
    (picture := tmp_path / f"{SCRIPTS}.jpg").write_bytes(PICTURE.read_bytes())
    against = ["--reference", artifact, "--sizes", "16"]
    commands: list[tuple[str, list[object]]] = [
        ("verify", [artifact, *against, "--json"]), ("predict", [artifact, picture]), ("info", [SCRIPTS]),
        ("info", [artifact, "--json"]), ("predict", [artifact, picture, "--json"]), ("verify", [artifact, *against]),
    ]  # fmt: skip
    tried = commands[: amount(3, len(commands))]
    for name, argv in tried:
        ended = run(name, *argv, PYTHONIOENCODING=encoding, encoding=encoding)
        assert ended.code == (FAILED if argv == [SCRIPTS] else 0), (name, argv)
        assert "Traceback" not in ended.err
        if "--json" in argv:
            assert SCRIPTS in str(json.loads(ended.out))
    for _ in tried:
        record.count(
            "names and labels that the encoding of stdout does not have",
            "shown as escapes, in JSON as JSON's; no traceback",
            encoding,
        )


@pytest.mark.parametrize(
    "name",
    [
        "info",
        *(pytest.param(name, marks=pytest.mark.slow) for name in ("predict", "verify", "export", "bench", "doctor")),
    ],
)
def test_a_deleted_folder(  # noqa: PLR0917
    name: str, tiny_onnx: Path, tiny_checkpoint: Path, tmp_path: Path, amount: Amount, record: Record
) -> None:
    """Whole paths do as ever, PyTorch's too; others are told of in one line, and lead nowhere else."""
    made = tmp_path / "made"
    argv: dict[str, list[object]] = {
        "info": [tiny_onnx],
        "predict": [tiny_checkpoint, PICTURE],
        "verify": [tiny_onnx, "--reference", tiny_onnx, "--sizes", "16", "-o", f"{made}.csv"],
        "export": ["--checkpoint", tiny_checkpoint, "-o", f"{made}.onnx", "--no-verify"],
        "bench": [tiny_onnx, *QUICK[:-1], "-o", f"{made}.json"],
        "doctor": ["--require", "onnx"],
    }
    relative = {
        "info": ["tiny.onnx"],
        "predict": [tiny_onnx, "picture.jpg"],
        "verify": [tiny_onnx, "--reference", tiny_onnx, "-o", "made.csv"],
        "export": ["--checkpoint", tiny_checkpoint, "--no-verify"],
        "bench": ["tiny.onnx"],
        "doctor": None,
    }[name]
    folder = tmp_path / "here"
    if amount(name in ("info", "predict", "doctor"), True):
        folder.mkdir()
        whole = run(name, *argv[name], folder=folder, deleted=True)
        assert whole.code == 0
        assert all(line.startswith("warning: assumed of") for line in whole.err.splitlines())
    if relative is not None:
        folder.mkdir()
        ended = run(name, *relative, folder=folder, deleted=True)
        assert ended.code == FAILED
        (line,) = ended.err.splitlines()
        assert line.startswith("error: ")
        assert any(str(word) in line for word in (*relative, "tiny.onnx"))
    record.count(
        "the current folder is gone", "whole paths do as ever; for others one line and exit code 1", f"rest-{name}"
    )
