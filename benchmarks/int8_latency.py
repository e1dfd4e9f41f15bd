"""INT8 on the CPU against FP32, in ONNX Runtime: python -m benchmarks.int8_latency

One image of 224 pixels; at most 0.82 of the FP32 time is allowed.
"""

from __future__ import annotations

import argparse
import logging
import tempfile
from pathlib import Path

import numpy as np

from benchmarks.environment import environment
from rest_deploy.machine import describe_cpu
from rest_deploy.pipeline import ExportRequest, run_export
from rest_deploy.runtimes.ort import sums_saturate
from rest_deploy.runtimes.registry import open_runtime
from rest_deploy.specs import Precision
from rest_deploy.timing import time_paired
from tests.golden import golden_checkpoint

ALLOWED = 0.82
_MIB = 2**20


def main() -> None:
    """Print a table; exit 1 where a ratio is over what is allowed."""
    logging.disable(logging.WARNING)
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", default=["rest_small", "rest_base", "rest_large"])
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--seconds", type=float, default=30, help="about how long each row takes")
    arguments = parser.parse_args()
    print(environment())
    print(f"{describe_cpu()}; sums of 8-bit products {'saturate' if sums_saturate() else 'are exact'}")
    print("model       rounds  FP32 ms  INT8 ms  ratio     quartiles allowed   MiB  (FP32)")
    held = True
    for name in arguments.models:
        with tempfile.TemporaryDirectory() as folder:
            held &= _row(name, Path(folder), arguments.size, arguments.seconds)
    raise SystemExit(0 if held else 1)


def _row(name: str, folder: Path, size: int, seconds: float) -> bool:
    options = {"compare_speed": False}
    weights = golden_checkpoint(name, folder)
    wide = run_export(ExportRequest(None, folder / "fp32.onnx", checkpoint=weights, verify=False)).path
    request = ExportRequest(
        None, folder / "int8.onnx", checkpoint=weights, precision=Precision.INT8, verify=False, options=options
    )
    narrow = run_export(request).path
    image = np.random.default_rng(0).standard_normal((1, 3, size, size)).astype(np.float32)
    with open_runtime(wide) as fp32, open_runtime(narrow) as int8:
        contenders = {"FP32": lambda: fp32.run(image), "INT8": lambda: int8.run(image)}
        once = time_paired(contenders, "FP32", rounds=2)
        rounds = max(9, int(seconds / 4 / sum(timing.median for timing in once.values())))
        timings = time_paired(contenders, "FP32", rounds=rounds, settle=1)
    ratio, (low, high) = timings["INT8"].ratio, timings["INT8"].spread
    print(
        f"{name:<11} {rounds:6d} {1e3 * timings['FP32'].median:8.1f} {1e3 * timings['INT8'].median:8.1f} {ratio:6.3f} "
        f"{low:6.3f}-{high:6.3f} {ALLOWED:7.2f} {narrow.stat().st_size / _MIB:5.1f}  {wide.stat().st_size / _MIB:6.1f}",
        flush=True,
    )
    return ratio <= ALLOWED


if __name__ == "__main__":
    main()
