"""What a contender costs before it is warm, and in memory: measured in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from rest_deploy.artifact.profile import InputSize
from rest_deploy.benchmarking.contenders import Contender
from rest_deploy.errors import RestDeployError, one_line
from rest_deploy.machine.memory import peak_mib


@dataclass(frozen=True)
class Cold:
    """A first start.

    Args:
        load_ms: To import the runtime and load the network.
        first_answer_ms: Of the first call after it, at the smallest of the cases.
        peak_mib: Case -> peak resident memory of the process once it has run, in MiB. Cases run in order of their
            pixels, since a process does not give back what it once had.
        error: What went wrong, and then what is known until there.
    """

    load_ms: float | None
    first_answer_ms: float | None
    peak_mib: dict[str, float]
    error: str | None

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


def measure_cold(contender: Contender, cases: Sequence[InputSize]) -> Cold:
    """Start a contender in a process of its own and run each case twice."""
    argv = [sys.executable, "-m", __name__, contender.to_json(), json.dumps([case.sizes for case in cases])]
    done = subprocess.run(argv, capture_output=True, text=True, check=False, env={**os.environ, "PYTHONPATH": _path()})
    try:
        return Cold(**json.loads(done.stdout.splitlines()[-1]))
    except (IndexError, ValueError, TypeError):
        return Cold(None, None, {}, _why(done))


def _path() -> str:
    """Modules are found in the child where they were found here, as a package run from its folder is."""
    return os.pathsep.join(path or os.getcwd() for path in sys.path)


def _why(done: subprocess.CompletedProcess[str]) -> str:
    if done.returncode < 0:
        return f"its process was ended by signal {-done.returncode}, as where memory runs out"
    last = done.stderr.strip().splitlines()
    return f"its process ended with {done.returncode}: {last[-1][:300] if last else 'no words'}"


def start(contender: Contender, cases: Sequence[InputSize]) -> Cold:
    """What :func:`measure_cold` runs in the other process."""
    rng = np.random.default_rng(0)
    load = first = error = None
    peaks: dict[str, float] = {}
    begin = time.perf_counter()
    try:
        with contender.open() as session:
            load = (time.perf_counter() - begin) * 1e3
            for case in sorted(cases, key=lambda case: case.batch * case.size.height * case.size.width):
                batch = rng.standard_normal(case.shape(contender.channels)).astype(np.float32)
                begin = time.perf_counter()
                session.run(batch)
                first = first if first is not None else (time.perf_counter() - begin) * 1e3
                session.run(batch)
                peaks[str(case)] = peak_mib()
    except (RestDeployError, MemoryError) as exc:
        error = one_line(exc)
    return Cold(load, first, peaks, error)


def _main(argv: Sequence[str]) -> None:
    from rest_deploy.specs import ImageSize

    cases = [InputSize(batch, ImageSize(height, width)) for batch, height, width in json.loads(argv[1])]
    print(json.dumps(start(Contender.from_json(argv[0]), cases).to_dict()))


if __name__ == "__main__":
    _main(sys.argv[1:])
