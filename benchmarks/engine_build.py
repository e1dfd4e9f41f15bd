"""How long TensorRT-RTX engines take to build, and in how much memory: python -m benchmarks.engine_build

Each is `rest-export --format trt-rtx` as a process of its own: load, trace, verify against float64, build, prove. The
seconds are those of the build alone, as the command tells them; the memory is the peak of the whole process.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
from pathlib import Path

from benchmarks.environment import environment
from tests.golden import golden_checkpoint

ALLOWED_SECONDS, ALLOWED_MIB = 30.0, 2048
MODEL = "rest_small"
CASES = {
    "one profile, five targets": (),
    "one profile, sm86": ("--target", "sm86"),
    "two profiles, sm86": (
        *("--target", "sm86", "--profile", "1x1x1:1x224x224:8x384x384"),
        *("--profile", "1x384x384:1x640x640:2x1024x1024"),
    ),
}


def main() -> None:
    """Print a table; exit 1 where a figure is over what is allowed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default=MODEL)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    print(environment())
    print(f"{arguments.model:<27} {'build s':>8} {'allowed':>8} {'peak MiB':>9} {'allowed':>8} {'plan MiB':>9}")
    held = True
    for name, flags in CASES.items():
        runs = [_build(arguments.model, flags) for _ in range(arguments.rounds)]
        seconds = statistics.median(run[0] for run in runs)
        peak = max(run[1] for run in runs)
        held &= seconds <= ALLOWED_SECONDS and peak <= ALLOWED_MIB
        print(
            f"{name:<27} {seconds:8.1f} {ALLOWED_SECONDS:8.0f} {peak:9.0f} {ALLOWED_MIB:8} {runs[0][2]:9.1f}",
            flush=True,
        )
    raise SystemExit(0 if held else 1)


def _build(model: str, flags: tuple[str, ...]) -> tuple[float, float, float]:
    """Seconds of the build, peak memory of the process in MiB, size of the plan in MiB."""
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "model.engine"
        told = Path(folder) / "told.json"
        weights = str(golden_checkpoint(model, Path(folder)))
        argv = [
            sys.executable,
            "-m",
            "rest_deploy.cli.export",
            "--checkpoint",
            weights,
            "--format",
            "trt-rtx",
            "--json",
        ]
        argv += ["--output", str(output), *flags]
        actions = [
            (os.POSIX_SPAWN_OPEN, 1, str(told), os.O_WRONLY | os.O_CREAT, 0o600),
            (os.POSIX_SPAWN_OPEN, 2, os.devnull, os.O_WRONLY, 0o600),
        ]
        process = os.posix_spawn(sys.executable, argv, os.environ, file_actions=actions)
        _, status, usage = os.wait4(process, 0)
        if status != 0:
            raise SystemExit(f"rest-export {' '.join(flags)} ended with status {status}")
        made = json.loads(told.read_text())
        return made["seconds"]["build"], usage.ru_maxrss / 1024, made["bytes"] / 2**20


if __name__ == "__main__":
    main()
