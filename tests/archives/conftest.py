"""Pictures of several sizes, some of them broken, and the command that classifies them."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from rest_deploy.cli import predict

#: Runs rest-predict in this process: exit code, standard output, standard error.
Command = Callable[..., tuple[int, str, str]]
BROKEN = b"no picture"


def pictures(count: int, broken_every: int = 100) -> Iterator[tuple[str, bytes]]:
    """Names and contents of PNG files of a few sizes and seeded noise; some hold no picture."""
    rng = np.random.default_rng(20)
    for number in range(count):
        height, width = (int(side) for side in rng.integers(8, 12, 2))
        made = io.BytesIO()
        Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8)).save(made, "png", compress_level=0)
        broken = number % broken_every == broken_every // 2
        yield f"{number // 1000:02}/{number:05}.png", BROKEN if broken else made.getvalue()


def save(folder: Path, count: int) -> Path:
    """Write pictures to a folder, a thousand in each of its folders."""
    for name, content in pictures(count):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return folder


def rows(path: Path) -> list[dict[str, Any]]:
    """Rows of a results file of JSON lines."""
    return [json.loads(line) for line in path.read_bytes().splitlines()]


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """300 pictures, of which 3 are broken: three blocks."""
    return save(tmp_path_factory.mktemp("archives") / "pictures", 300)


@pytest.fixture
def rest_predict(capsys: pytest.CaptureFixture[str]) -> Command:
    """The command."""

    def run(*words: object) -> tuple[int, str, str]:
        code = predict.main([str(word) for word in words])
        return (code, *capsys.readouterr())

    return run
