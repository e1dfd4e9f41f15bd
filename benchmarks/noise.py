"""Can rest-bench be trusted? python -m benchmarks.noise

Twenty runs of two copies of one file, none of which may be called different; as many of a copy that is slowed by a
tenth, each of which must be called slower; and what measuring adds to a call of 5 ms, at most 1% of it.
"""

from __future__ import annotations

import argparse
import logging
import shutil
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from benchmarks.environment import environment, golden_onnx
from rest_deploy.benchmarking import Effort, Result, benchmark
from rest_deploy.benchmarking.contenders import Contender
from rest_deploy.benchmarking.sessions import ArtifactSession
from rest_deploy.timing import Burst, take_turns, until_idle

_SLOWED, _CALL_SECONDS, _ALLOWED_OVERHEAD = "slowed.onnx", 0.005, 0.01
_CALLS, _REPEATS = 20_000, 9


class SlowedSession(ArtifactSession):
    """An artifact each of whose calls takes a tenth longer: it waits, busy, after the network has run."""

    def __init__(self, path: Path, device: str | None, threads: int | None) -> None:
        super().__init__(path, device, threads)
        honest = self.run

        def run(batch: object) -> object:
            start = time.perf_counter()
            logits = honest(batch)
            end = start + 1.1 * (time.perf_counter() - start)
            while time.perf_counter() < end:
                pass
            return logits

        self.run = run


def main() -> None:
    """Print the verdicts; exit 1 where one is wrong, or measuring adds too much."""
    logging.disable(logging.WARNING)
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="rest_lite")
    parser.add_argument("--sizes", nargs="+", type=int, default=[224])
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=40, help="of each run")
    parser.add_argument("--only", choices=["copy", "slowed"], help="leave the other out")
    arguments = parser.parse_args()
    print(environment())
    honest = Contender.open
    Contender.open = lambda own: (
        SlowedSession(Path(own.file), own.device, own.threads) if own.name == _SLOWED else honest(own)
    )
    held = _overhead()
    with tempfile.TemporaryDirectory() as folder:
        first = golden_onnx(arguments.model, Path(folder))
        wishes = {"copy.onnx": "no difference beyond noise", _SLOWED: "slower"}
        for name, wanted in wishes.items():
            if arguments.only is not None and not name.startswith(arguments.only):
                continue
            other = Path(folder) / name
            shutil.copy(first, other)
            for size in arguments.sizes:
                held &= _runs(first, other, size, wanted, runs=arguments.runs, effort=Effort(arguments.rounds, 0.5))
    raise SystemExit(0 if held else 1)


def _runs(first: Path, other: Path, size: int, wanted: str, *, runs: int, effort: Effort) -> bool:
    results, noisy = [], 0
    for _ in range(runs):
        (case,) = benchmark([first, other], sizes=[(size, size)], effort=effort, cold=False).cases
        results.append(case.results[1])
        noisy += bool(case.conditions.flags)
    ratios = [result.ratio for result in results if result.ratio is not None]
    verdicts = Counter(ratio.verdict.value for ratio in ratios)
    medians = sorted(ratio.median for ratio in ratios)
    widths = [ratio.high - ratio.low for ratio in ratios if ratio.low is not None and ratio.high is not None]
    print(
        f"{other.name} at {size}: {dict(verdicts)} of {runs}; ratios {medians[0]:.3f} to {medians[-1]:.3f}, median "
        f"{statistics.median(medians):.3f}; intervals {statistics.median(widths):.3f} wide; {_times(results)}; "
        f"{noisy} runs flagged",
        flush=True,
    )
    return verdicts == {wanted: runs}


def _times(results: list[Result]) -> str:
    return f"{statistics.median(r.percentile_ms(0.5) or 0.0 for r in results):.1f} ms a call"


def _overhead() -> bool:
    """What one timed call costs beside a bare one: the same work in a loop of its own, and timed in rounds."""

    def nothing() -> None:
        pass

    burst = {"nothing": Burst(0, _CALLS)}
    bare, timed = [], []
    turns = take_turns({"nothing": nothing}, burst)
    for _ in range(_REPEATS):
        start = time.perf_counter()
        for _ in range(_CALLS):
            nothing()
        bare.append(time.perf_counter() - start)
        until_idle()
        start = time.perf_counter()
        next(turns)
        timed.append(time.perf_counter() - start)
    looks = min(_timed(until_idle) for _ in range(_REPEATS))  # before a burst, outside of what is timed
    added = max(0.0, statistics.median(timed) - looks - statistics.median(bare)) / _CALLS
    share = added / _CALL_SECONDS
    print(f"measuring adds {added * 1e6:.2f} us to a call, {share:.4%} of one of 5 ms; allowed {_ALLOWED_OVERHEAD:.0%}")
    return share < _ALLOWED_OVERHEAD


def _timed(run: Callable[[], None]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
