"""The commands of the README and of the tour are run as they stand, and print what stands under them."""

from __future__ import annotations

import importlib
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.test_commands import Outcome
from tests.conftest import ROOT

pytestmark = pytest.mark.slow

_COMMAND = re.compile(r"<!-- tour -->\n```console\n\$ (.+?)\n```\n(?:```text\n(.+?)```)?", re.DOTALL)
_PYTHON = re.compile(r"```python\n(.+?)```", re.DOTALL)
#: What differs between machines and versions: figures, and where the largest is. Classes and shapes of arrays stay.
_FIGURE = re.compile(r"\d+(\.\d+)*e[-+]\d+|\d+(\.\d+)+|(?<= at )\d+x\d+x\d+")
#: What the Python of the pages prints.
_DIGITS = ["7 0.947", "(2, 10)"]
_MAPS = ["stage1 (2, 16, 15, 23)", "stage2 (2, 32, 8, 12)", "stage3 (2, 64, 4, 6)", "stage4 (2, 128, 2, 3)"]
_ALL = [*_DIGITS, *_MAPS, "(2, 128)"]


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the examples in it, as a reader has it after `make demo`."""
    folder = tmp_path_factory.mktemp("clone")
    shutil.copytree(ROOT / "examples", folder / "examples", ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "demo_output").mkdir()
    return folder


def _run(argv: list[str], folder: Path) -> str:
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    done = subprocess.run(
        argv, cwd=folder, capture_output=True, text=True, check=False, env={**os.environ, "PATH": path}
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def _command(line: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> str:
    """Run a line of a page; what starts PyTorch in this process, where it has been started."""
    program, *argv = line.split()
    if program in ("rest-predict", "rest-info", "python"):
        return _run([program, *argv], folder)
    assert (Path(sys.executable).parent / program).is_file()
    done = Outcome(importlib.import_module(f"rest_deploy.cli.{program.removeprefix('rest-')}"), argv, capsys)
    assert done.code == 0, done.err
    return done.out


def _lines(text: str) -> list[str]:
    lines = (line for line in text.splitlines() if line.strip() not in ("", "..."))
    return [" ".join(_FIGURE.sub("#", line).split()) for line in lines]


def _missing(shown: str, printed: str) -> list[str]:
    """Lines of a page that a command did not print, or not in this order, figures aside."""
    left = iter(_lines(printed))
    return [line for line in _lines(shown) if line not in left]


def test_what_is_not_printed_is_found() -> None:
    assert _missing("a 1.5\nb 8 (8)\n", "x\na   2.5e-07\n\nb 8 (8)\nc\n") == []
    assert _missing("b 8 (8)\n", "b 7 (7)\n") == ["b 8 (8)"]
    assert _missing("b\na\n", "a\nb\n") == ["a"]


@pytest.mark.parametrize(("page", "count", "python"), [("README.md", 2, _DIGITS), ("docs/tour.md", 16, _ALL)])
def test_the_pages_run_as_written(  # noqa: PLR0917
    page: str, count: int, python: list[str], clone: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    text = (ROOT / page).read_text()
    commands = _COMMAND.findall(text)
    assert len(commands) == count
    monkeypatch.chdir(clone)
    for line, shown in commands:
        assert not _missing(shown, _command(line, clone, capsys)), line
    assert _run([sys.executable, "-c", "\n".join(_PYTHON.findall(text))], clone).splitlines() == python
