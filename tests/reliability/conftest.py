"""How much is tried: a part of it in the normal tests, all of it with ``--soak``."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import ROOT, in_first_lane
from tests.once import Once
from tests.reliability.record import Record, Tried

Amount = Callable[..., int]
Worker = Callable[..., Any]


@pytest.fixture(scope="session")
def amount(request: pytest.FixtureRequest) -> Amount:
    """How often something is tried: (in the normal tests, in the soak, in the first lane if less) -> number."""
    soak, first = bool(request.config.getoption("--soak")), in_first_lane(request.config)

    def of(normal: int, full: int, quick: int | None = None) -> int:
        if soak:
            return full
        return quick if first and quick is not None else normal

    return of


@pytest.fixture(scope="session")
def record(request: pytest.FixtureRequest) -> Iterator[Record]:
    """What was tried; a soak writes it to soak_output/reliability.md, failures first."""
    record = Record()
    yield record
    if request.config.getoption("--soak"):
        if request.session.testsfailed:
            record.rows.insert(0, Tried("**tests that failed**", request.session.testsfailed, "see the run"))
        record.write(ROOT / "soak_output" / "reliability.md")


@pytest.fixture(scope="session")
def worker(request: pytest.FixtureRequest, once: Once) -> Worker:
    """Run a module of these tests in a process of its own; what it prints as JSON. In the soak it traces for itself."""
    shared = {} if request.config.getoption("--soak") else {"TESTS_ONCE": str(once.folder)}

    def run(module: str, *arguments: object, **environment: str) -> Any:
        environment = {**shared, **environment}
        words = [sys.executable, "-W", "ignore", "-m", f"tests.reliability.{module}", *map(str, arguments)]
        done = subprocess.run(
            words, cwd=ROOT, env={**os.environ, **environment}, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, f"{words[4:]} ended with {done.returncode}: {done.stderr[-2000:]}"
        return json.loads(done.stdout.splitlines()[-1])

    return run


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Callable[[int], Path]]:
    """Make a file system in memory with room for so many bytes; skips where that is not allowed."""
    mounted: list[Path] = []

    def make(size: int) -> Path:
        folder = tmp_path / f"disk{len(mounted)}"
        folder.mkdir()
        words = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
        done = subprocess.run(words, capture_output=True, text=True, check=False)
        if done.returncode:
            pytest.skip(f"a tmpfs cannot be mounted here: {done.stderr.strip()}")
        mounted.append(folder)
        return folder

    yield make
    for folder in mounted:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)
