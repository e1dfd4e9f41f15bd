"""Images a second on all cores: predictors beside each other, threads of each, batches: python -m benchmarks.throughput

Each way runs the same images, in turns with the others, so that ratios are of one round. The golden weights.
"""

from __future__ import annotations

import argparse
import logging
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import numpy as np

from benchmarks.environment import environment, golden_onnx
from rest_deploy.machine import usable_cores
from rest_deploy.runtimes.base import Runtime
from rest_deploy.runtimes.registry import open_runtime
from rest_deploy.timing import time_paired


def main() -> None:
    """Print a table of each network and size; the first row is what the others are compared with."""
    logging.disable(logging.WARNING)
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", default=["rest_lite"])
    parser.add_argument("--sizes", nargs="+", type=int, default=[224])
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 4, 16])
    parser.add_argument("--images", type=int, default=32, help="of each way in a round")
    parser.add_argument("--rounds", type=int, default=10)
    arguments = parser.parse_args()
    print(environment())
    for name in arguments.models:
        with tempfile.TemporaryDirectory() as folder:
            path = golden_onnx(name, Path(folder))
            for size in arguments.sizes:
                _table(name, path, size, arguments)


def _table(name: str, path: Path, size: int, arguments: argparse.Namespace) -> None:
    cores = usable_cores()
    images = np.random.default_rng(0).standard_normal((arguments.images, 3, size, size), np.float32)
    ways: dict[str, Callable[[], object]] = {}
    with ExitStack() as stack:
        for open_ in (count for count in range(1, cores + 1) if cores % count == 0):
            runtimes = [stack.enter_context(open_runtime(path, threads=cores // open_)) for _ in range(open_)]
            pool = stack.enter_context(ThreadPoolExecutor(open_))
            for batch in arguments.batches:
                ways[f"{open_:10d} {cores // open_:7d} {batch:5d}"] = _way(runtimes, pool, images, batch)
        shared = stack.enter_context(open_runtime(path, threads=1))
        pool = stack.enter_context(ThreadPoolExecutor(cores))
        ways[f"{'1 shared':>10} {1:7d} {1:5d}"] = _way([shared] * cores, pool, images, 1)
        first = next(iter(ways))
        timings = time_paired(ways, first, rounds=arguments.rounds)
    print(f"\n{name}, {size}x{size}\npredictors threads batch  images/s  x the first     quartiles")
    for way, timing in timings.items():
        low, high = timing.spread
        rate = arguments.images / timing.median
        print(f"{way} {rate:9.1f} {1 / timing.ratio:12.3f}  {1 / high:6.3f}-{1 / low:6.3f}", flush=True)


def _way(runtimes: list[Runtime], pool: ThreadPoolExecutor, images: np.ndarray, batch: int) -> Callable[[], object]:
    """What runs all images: each runtime its share, in batches."""

    def share(number: int) -> None:
        own = images[number :: len(runtimes)]
        for start in range(0, len(own), batch):
            runtimes[number].run(np.ascontiguousarray(own[start : start + batch]))

    return lambda: list(pool.map(share, range(len(runtimes))))


if __name__ == "__main__":
    main()
