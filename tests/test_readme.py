"""The README's tour is run as it stands."""

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

README = (ROOT / "README.md").read_text()
COMMANDS = re.findall(r"<!-- tour -->\n```console\n\$ (.+?)\n```", README)
(PYTHON,) = re.findall(r"```python\n(.+?)```", README, re.DOTALL)


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
    """Run a line of the tour; what starts PyTorch in this process, where it has been started."""
    program, *argv = line.split()
    if program in ("rest-predict", "rest-info", "python"):
        return _run([program, *argv], folder)
    assert (Path(sys.executable).parent / program).is_file()
    done = Outcome(importlib.import_module(f"rest_deploy.cli.{program.removeprefix('rest-')}"), argv, capsys)
    assert done.code == 0, done.err
    return done.out


def test_the_tour_runs_as_written(
    clone: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert len(COMMANDS) == 9
    monkeypatch.chdir(clone)
    outputs = [_command(line, clone, capsys) for line in COMMANDS]
    shown = re.findall(r"```text\n(.+?)```", README, re.DOTALL)
    labels = [re.findall(r"% +(\S+)|(\S+png)", text) for text in (outputs[1], shown[1])]
    assert labels[0] == labels[1]  # images and classes; scores may differ in a last digit on another processor
    assert len(labels[0]) == 9
    assert outputs[0].splitlines()[0] == shown[0].splitlines()[0]
    keys = [[line.split()[0] for line in text.splitlines()] for text in (outputs[2], shown[2])]
    assert keys[0] == keys[1]
    built = {line.split()[0]: line for line in outputs[4].splitlines() if line}
    told = {line.split()[0]: line for line in shown[3].splitlines() if line}
    assert list(built) == list(told)
    assert [built[key] for key in ("library", "targets", "profiles")] == [
        told[key] for key in ("library", "targets", "profiles")
    ]
    assert outputs[4].splitlines()[-1].startswith("demo_output/digits.engine: rest_digits, ")
    assert "made for   CPUs: weights in" in outputs[5]
    seen, told_verified = (text.splitlines() for text in (outputs[6], shown[4]))
    assert seen[:6] + seen[-1:] == told_verified[:6] + told_verified[-1:]  # all but the figures
    assumed = outputs[8].splitlines()
    assert shown[5].splitlines() == assumed[assumed.index("") + 1 : -2]  # behind the table of errors
    assert _run([sys.executable, "-c", PYTHON], clone).splitlines() == ["7 0.947", "(2, 10)"]
