"""CPU time of a rare call, with ONNX Runtime's threads spinning after it and asleep: python -m benchmarks.spinning"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np

from benchmarks.environment import DIGITS, environment
from rest_deploy.pipeline import ExportRequest, run_export
from rest_deploy.runtimes.registry import open_runtime


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("artifact", nargs="?", type=Path, help="an .onnx file (default: examples/digits)")
    parser.add_argument("--size", type=int, default=32, help="of the images, in pixels")
    parser.add_argument("--every", type=float, default=0.1, help="seconds from one call to the next")
    parser.add_argument("--calls", type=int, default=50)
    arguments = parser.parse_args()
    print(environment())
    with tempfile.TemporaryDirectory() as folder:
        path = arguments.artifact
        if path is None:
            request = ExportRequest(None, Path(folder) / "digits.onnx", checkpoint=DIGITS, verify=False)
            path = run_export(request).path
        print("threads  CPU ms a call  call ms")
        for name, spin in (("spinning", True), ("asleep", False)):
            cpu, wall = _measure(path, arguments.size, arguments.every, arguments.calls, spin)
            print(f"{name:<8} {1e3 * cpu:13.1f} {1e3 * wall:8.1f}", flush=True)


def _measure(path: Path, size: int, every: float, calls: int, spin: bool) -> tuple[float, float]:
    """Seconds of processors that a call takes, and the median of its own seconds."""
    with open_runtime(path, allow_spinning=spin) as runtime:
        batch = np.zeros((1, int(runtime.info.input.shape[1]), size, size), np.float32)
        runtime.run(batch)
        time.sleep(every)
        before, walls = time.process_time(), []
        for _ in range(calls):
            start = time.perf_counter()
            runtime.run(batch)
            walls.append(time.perf_counter() - start)
            time.sleep(max(0.0, every - walls[-1]))
        return (time.process_time() - before) / calls, float(np.median(walls))


if __name__ == "__main__":
    main()
