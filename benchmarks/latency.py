"""Latency and peak memory against the same model exported as written: python -m benchmarks.latency

Both in ONNX Runtime on the CPU, the latter in OpenVINO too where that is installed, and ours there with ``--device
openvino``. The golden weights: random ones have biases of zero, which onnxsim leaves out. Each size is timed in pairs,
ours and one other, alone in memory; peaks are of a process of its own that opens a file and runs an image twice.

For ResTv2: ``--models restv2_tiny restv2_small --sizes 224 512``. Its authors' code has no cut to the grid and runs at
multiples of 32 alone, so none is in the file as written either.
"""

from __future__ import annotations

import argparse
import importlib.util
import logging
import tempfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx

from benchmarks.environment import environment, golden_onnx
from rest_deploy.artifact.profile import InputSize
from rest_deploy.benchmarking.cold import measure_cold
from rest_deploy.benchmarking.contenders import Contender
from rest_deploy.export.as_written import export_as_written
from rest_deploy.machine import usable_cores
from rest_deploy.models.family import family_of
from rest_deploy.specs import ImageSize
from rest_deploy.timing import time_paired
from tests.golden import golden_model

#: Family -> size -> largest ratio to the model as written. To OpenVINO it is 1, beyond noise: by the lower quartile.
ALLOWED = {"rest": {224: 0.97, 512: 0.92, 1024: 0.87, 2048: 0.45}, "restv2": {224: 1.00, 512: 1.00}}
_OTHERS = ("as-written", "openvino")


def main() -> None:
    """Print a table; exit 1 where a ratio is over what is allowed."""
    logging.disable(logging.WARNING)
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", default=["rest_small"])
    parser.add_argument("--sizes", nargs="+", type=int, default=[224, 512, 1024, 2048])
    parser.add_argument("--against", nargs="+", choices=_OTHERS, default=_OTHERS)
    parser.add_argument(
        "--device", choices=["cpu", "openvino"], default="cpu", help="where our file runs (OpenVINO has no blocks)"
    )
    parser.add_argument("--seconds", type=float, default=40, help="about how long each row takes")
    arguments = parser.parse_args()
    others = [name for name in arguments.against if name != "openvino" or importlib.util.find_spec("openvino")]
    print(f"{environment()}; ours on {arguments.device}")
    print("model        size against    rounds  ours ms  theirs ms  ratio     quartiles allowed  ours MiB  theirs MiB")
    held = True
    for name in arguments.models:
        with tempfile.TemporaryDirectory() as folder:
            contenders = _contenders(name, Path(folder), arguments.device)
            for size in arguments.sizes:
                ours = _peak(contenders["ours"], size)
                for other in others:
                    held &= _row(contenders, other, size, arguments.seconds, ours)
    raise SystemExit(0 if held else 1)


def _row(contenders: Mapping[str, Contender], other: str, size: int, seconds: float, our_peak: float) -> bool:
    """Time a pair, and say whether what is allowed holds."""
    mine = contenders["ours"]
    limits = ALLOWED[mine.family] if mine.device == "cpu" else {}  # both in ONNX Runtime
    allowed = limits.get(size, float("nan"))
    image = np.random.default_rng(0).standard_normal((1, 3, size, size), np.float32)
    with contenders["ours"].open() as ours, contenders[other].open() as theirs:
        pair = {"ours": lambda: ours.run(image), other: lambda: theirs.run(image)}
        once = time_paired(pair, other, rounds=1)
        rounds = max(5 if size <= 1024 else 3, int(seconds / 2 / sum(t.median for t in once.values())))
        timings = time_paired(pair, other, rounds=rounds, warmup=0, settle=2 if size < 512 else 0)
    ratio, (low, high) = timings["ours"].ratio, timings["ours"].spread
    most, judged = (1.0, low) if other == "openvino" else (allowed, ratio)
    print(
        f"{mine.network:<11} {size:5d} {other:<10} {rounds:6d} {1e3 * timings['ours'].median:8.1f} "
        f"{1e3 * timings[other].median:10.1f} {ratio:6.3f} {low:6.3f}-{high:6.3f} "
        f"{most:7.2f} {our_peak:9.0f} {_peak(contenders[other], size):11.0f}",
        flush=True,
    )
    return not judged > most


def _peak(contender: Contender, size: int) -> float:
    """MiB of a process; NaN where it could not be measured."""
    found = measure_cold(contender, [InputSize(1, ImageSize(size, size))])
    return max(found.peak_mib.values(), default=float("nan"))


def _contenders(name: str, folder: Path, device: str) -> dict[str, Contender]:
    """A model as we export it, on a device, and as written in both runtimes."""
    ours, theirs = golden_onnx(name, folder), folder / "as_written.onnx"
    model = golden_model(name).float()
    export_as_written(model, theirs)
    written = onnx.load(theirs)
    _leave_out_cuts(written.graph)
    onnx.save(written, theirs)
    family = family_of(model.config)
    files = {"ours": (ours, None), **{other: (theirs, other) for other in _OTHERS}}
    return {
        key: Contender(
            name=key,
            network=name,
            family=family.name,
            config=model.config.to_dict(),
            file=str(path),
            baseline=baseline,
            device="cpu" if baseline else device,
            threads=usable_cores(),
            format="onnx",
            precision="fp32",
            channels=model.config.in_channels,
        )
        for key, (path, baseline) in files.items()
    }


def _leave_out_cuts(graph: onnx.GraphProto) -> None:
    """Take what DepthToSpace gives as it is, without the Slices behind it."""
    whole = {node.output[0]: node.output[0] for node in graph.node if node.op_type == "DepthToSpace"}
    for node in graph.node:
        if node.op_type == "Slice" and node.input[0] in whole:
            whole[node.output[0]] = whole[node.input[0]]
    for node in graph.node:
        node.input[:] = [whole.get(name, name) for name in node.input]
    kept = [node for node in graph.node if not (node.op_type == "Slice" and node.output[0] in whole)]
    del graph.node[:]
    graph.node.extend(kept)


if __name__ == "__main__":
    main()
