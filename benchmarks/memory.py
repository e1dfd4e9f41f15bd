"""Memory of a call on the CPU against what network_bytes says of it: python -m benchmarks.memory

Each size in a process of its own: resident memory at its peak over two calls, less what was resident with the network
open. Sizes whose estimate is over ``--limit`` are left out, and said to be.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from benchmarks.environment import DIGITS, environment
from rest_deploy.artifact.info import ArtifactInfo
from rest_deploy.environment import peak_mib
from rest_deploy.machine import available_bytes
from rest_deploy.models.family import config_of, network_bytes
from rest_deploy.pipeline import ExportRequest, run_export
from rest_deploy.runtimes.registry import open_runtime, read_info
from rest_deploy.specs import Precision
from tests.golden import golden_checkpoint

#: (batch, height, width). A line of pixels is the worst there is: nothing is reduced across it.
SHAPES = (
    (1, 224, 224), (64, 224, 224), (16, 512, 512), (1, 1024, 1024), (1, 480, 6400), (1, 1536, 1536), (1, 1, 200_000),
    (1, 64, 65536), (1, 2048, 2048), (1, 3000, 4000), (1, 1, 1_000_000),
)  # fmt: skip
_MIB = 2**20
_CLEAR, _RESET_PEAK = Path("/proc/self/clear_refs"), "5"  # proc_pid_clear_refs(5): VmHWM becomes VmRSS
_CALLS = 2  # the second may find what the first has left


def main() -> None:
    """Print a table; exit 1 where an estimate of a gigabyte or more is under 0.9 or over 1.6 of what was measured."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("artifacts", nargs="*", type=Path, help="files (default: digits and rest_lite, of each kind)")
    parser.add_argument("--limit", type=float, help="GiB that a call may take (default: half of what is available)")
    parser.add_argument("--child", nargs=3, type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        print(_measure(arguments.artifacts[0], *arguments.child))
        return
    print(environment())
    limit = arguments.limit * 2**30 if arguments.limit else (available_bytes() or 0) / 2
    with tempfile.TemporaryDirectory() as folder:
        held = [_table(path, limit) for path in arguments.artifacts or _made(Path(folder))]
    raise SystemExit(0 if all(held) else 1)


def _made(folder: Path) -> list[Path]:
    paths, lite = [DIGITS], golden_checkpoint("rest_lite", folder)
    for precision, options in ((Precision.FP32, {}), (Precision.INT8, {"reduced_range": True, "compare_speed": False})):
        for name, source in (("digits", DIGITS), ("rest_lite", lite)):
            output = folder / f"{name}_{precision.value}.onnx"
            request = ExportRequest(
                None, output, checkpoint=source, precision=precision, verify=False, options=dict(options)
            )
            paths.append(run_export(request).path)
    return paths


def _table(path: Path, limit: float) -> bool:
    print(f"\n{path.name:<22} measured MiB  estimate  ratio")
    info, held = read_info(path), True
    for shape in SHAPES:
        estimate = _estimate(info, shape)
        words = "x".join(map(str, shape))
        if estimate > limit:
            print(f"{words:<22} {'not tried':>12} {estimate / _MIB:9.0f}")
            continue
        command = [sys.executable, "-m", "benchmarks.memory", str(path), "--child", *map(str, shape)]
        measured = int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        ratio = estimate / measured
        held &= estimate < 2**30 or 0.9 <= ratio <= 1.6
        print(f"{words:<22} {measured / _MIB:12.0f} {estimate / _MIB:9.0f} {ratio:6.2f}", flush=True)
    return held


def _estimate(info: ArtifactInfo, shape: tuple[int, int, int]) -> int:
    return network_bytes(config_of(info), *shape, precision=info.precision, format=info.format, block=info.map_block)


def _measure(path: Path, batch: int, height: int, width: int) -> int:
    """Bytes that calls take beside what an open network does; in a new process."""
    with open_runtime(path) as runtime:
        channels = int(runtime.info.input.shape[1])
        runtime.run(np.zeros((1, channels, 1, 1), np.float32))  # what any first call makes
        _CLEAR.write_text(_RESET_PEAK)
        before = peak_mib()
        images = np.random.default_rng(0).random((batch, channels, height, width), np.float32)
        for _ in range(_CALLS):
            runtime.run(images)
        return round((peak_mib() - before) * _MIB)


if __name__ == "__main__":
    main()
