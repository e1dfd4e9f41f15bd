"""Write rows in children that die at each line of the code that does it, then go on.

python -m tests.archives.dying

Prints one line of JSON: how many lines there are, what was there after each death, and what was wrong.
"""

from __future__ import annotations

import json
import os
import signal
import tempfile
from collections import Counter
from itertools import count
from pathlib import Path
from typing import Any

from rest_deploy.archives import results
from rest_deploy.archives.results import Output, row, rows_of
from rest_deploy.archives.sources import Item
from rest_deploy.predictor import Prediction
from tests.reliability import every_line

BLOCKS = [[Item(f"{block}{number}.png", "/") for number in range(2)] for block in range(2)]
ROWS = [b"".join(row(item, [Prediction("seven", 7, 0.1)]) for item in block) for block in BLOCKS]


def write(folder: Path) -> None:
    """What a run does of rows."""
    with rows_of(Output(str(folder / "r.jsonl")), resume=True) as rows:
        rows.begin({"artifact": "a"})
        if rows.finished:
            return
        for lines in ROWS[rows.kept(BLOCKS) :]:
            rows.append(lines)
        rows.finish()


def main() -> None:
    """Die at each line."""
    every_line.TRACED |= {str(results.__file__)}
    told: dict[str, Any] = {"found": Counter(), "bad": []}
    for line in count(1):
        with tempfile.TemporaryDirectory() as name:
            folder, output = Path(name), Path(name, "r.jsonl")
            status = every_line.run_dying(lambda folder=folder: write(folder), line, signal.SIGKILL)  # type: ignore[misc]
            if status == 0:
                break
            there = output.read_bytes() if output.exists() else None
            told["found"]["nothing" if there is None else "whole" if there == b"".join(ROWS) else "broken"] += 1
            write(folder)
            names = sorted(os.listdir(folder))
            if output.read_bytes() != b"".join(ROWS) or names != ["r.jsonl", "r.jsonl.run.json"]:
                told["bad"].append(f"line {line}: {names}, status {status}")
    print(json.dumps(told))


if __name__ == "__main__":
    main()
