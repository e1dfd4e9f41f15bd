"""Load time, first answer and memory of a contender, measured in its own process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace

import numpy as np

from rest_deploy.artifact.profile import InputSize
from rest_deploy.benchmarking.contenders import Contender
from rest_deploy.environment import peak_mib
from rest_deploy.errors import RestDeployError, one_line


@dataclass(frozen=True)
class Cold:
    """A first start.

    Args:
        load_ms: Time to import the runtime and load the network.
        first_answer_ms: Time of the first call, at the smallest case.
        peak_mib: Case -> peak resident memory of the process after the case, in MiB. Cases run in order of their
            pixels, because the peak of a process never falls.
        error: What went wrong; the other fields have what was measured before.
        killed: Whether a signal ended the process, for example because memory ran out.
    """

    load_ms: float | None
    first_answer_ms: float | None
    peak_mib: dict[str, float]
    error: str | None
    killed: bool = False


def measure_cold(contender: Contender, cases: Sequence[InputSize]) -> Cold:
    """Start a contender in its own process and run each case twice."""
    argv = [sys.executable, "-m", __name__, contender.to_json(), json.dumps([case.sizes for case in cases])]
    environment = {**os.environ, "PYTHONPATH": _path()}
    done = subprocess.run(argv, capture_output=True, text=True, check=False, env=environment)  # noqa: S603  (this module)
    found = _last_line(done.stdout)
    if done.returncode == 0 and found is not None:
        return found
    return replace(found or Cold(None, None, {}, None), error=_why(done), killed=done.returncode < 0)


def _last_line(text: str) -> Cold | None:
    """What the process printed last; it prints a line after each case."""
    try:
        return Cold(**json.loads(text.splitlines()[-1]))
    except (IndexError, ValueError, TypeError):
        return None


def _path() -> str:
    """The child must find modules in the same places, for example a package that runs from its folder."""
    return os.pathsep.join(path or os.getcwd() for path in sys.path)


def _why(done: subprocess.CompletedProcess[str]) -> str:
    if done.returncode < 0:
        return f"signal {-done.returncode} ended its process, perhaps because memory ran out"
    last = done.stderr.strip().splitlines()
    return f"its process ended with exit code {done.returncode}: {last[-1][:300] if last else 'no message'}"


def start(contender: Contender, cases: Sequence[InputSize], tell: Callable[[Cold], None]) -> None:
    """The part of :func:`measure_cold` that runs in the other process.

    Args:
        contender: The contender.
        cases: Its cases.
        tell: Called with the results so far, after each case.
    """
    rng = np.random.default_rng(0)
    known = Cold(None, None, {}, None)
    begin = time.perf_counter()
    try:
        with contender.open() as session:
            known = replace(known, load_ms=(time.perf_counter() - begin) * 1e3)
            for case in sorted(cases, key=lambda case: case.batch * case.size.height * case.size.width):
                batch = contender.batch(case, rng)
                begin = time.perf_counter()
                session.run(batch)
                if known.first_answer_ms is None:
                    known = replace(known, first_answer_ms=(time.perf_counter() - begin) * 1e3)
                session.run(batch)
                known = replace(known, peak_mib={**known.peak_mib, str(case): peak_mib()})
                tell(known)
    except (RestDeployError, MemoryError) as exc:
        tell(replace(known, error=one_line(exc)))


def _main(argv: Sequence[str]) -> None:
    cases = [InputSize.from_plain(sizes) for sizes in json.loads(argv[1])]
    start(Contender.from_json(argv[0]), cases, lambda known: print(json.dumps(asdict(known)), flush=True))


if __name__ == "__main__":
    _main(sys.argv[1:])
