"""Latency in ONNX Runtime on the CPU, against the same model exported as written: python -m benchmarks.latency

The golden weights: random ones have biases of zero, which onnxsim leaves out. For ResTv2: ``--models restv2_tiny
restv2_small --sizes 224 512``. Its authors' code has no cut to the grid and runs at multiples of 32 alone, so none is
in the file as written either.
"""

from __future__ import annotations

import argparse
import logging
import tempfile
from pathlib import Path

import numpy as np
import onnx
import onnxruntime

from benchmarks.environment import environment
from rest_deploy.export.as_written import export_as_written
from rest_deploy.export.onnx_exporter import export
from rest_deploy.export.onnx_format import OnnxConfig
from rest_deploy.machine import usable_cores
from rest_deploy.models.family import family_of
from rest_deploy.models.network import Network
from rest_deploy.specs import TensorSpec
from rest_deploy.timing import time_paired
from tests.golden import golden_model

#: Family -> size -> largest ratio.
ALLOWED = {"rest": {224: 1.02, 512: 1.02, 1024: 0.90}, "restv2": {224: 1.00, 512: 1.00}}


def main() -> None:
    """Print a table; exit 1 where a ratio is over what is allowed."""
    logging.disable(logging.WARNING)
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", default=["rest_small"])
    parser.add_argument("--sizes", nargs="+", type=int, default=[224, 512, 1024])
    parser.add_argument("--seconds", type=float, default=40, help="about how long each row takes")
    arguments = parser.parse_args()
    print(environment())
    print("model        size rounds  ours ms as written ms  ratio     quartiles allowed")
    held = True
    for name in arguments.models:
        model = golden_model(name).float()
        allowed = ALLOWED[family_of(model.config).name]
        with tempfile.TemporaryDirectory() as folder:
            sessions = [_session(path) for path in _write_both(model, Path(folder))]
        for size in arguments.sizes:
            ratio = _row(name, size, allowed.get(size), sessions, arguments.seconds)
            held &= ratio <= allowed.get(size, float("inf"))
    raise SystemExit(0 if held else 1)


def _row(
    name: str, size: int, allowed: float | None, sessions: list[onnxruntime.InferenceSession], seconds: float
) -> float:
    ours, theirs = sessions
    image = {"image": np.random.default_rng(0).standard_normal((1, 3, size, size)).astype(np.float32)}
    contenders = {"ours": lambda: ours.run(None, image), "as written": lambda: theirs.run(None, image)}
    once = time_paired(contenders, "as written", rounds=1)
    rounds = max(5, int(seconds / 2 / sum(t.median for t in once.values())))
    timings = time_paired(contenders, "as written", rounds=rounds, warmup=1, settle=2 if size < 512 else 1)
    low, high = timings["ours"].spread
    print(
        f"{name:<11} {size:5d} {rounds:6d} {1e3 * timings['ours'].median:8.1f} "
        f"{1e3 * timings['as written'].median:13.1f} {timings['ours'].ratio:6.3f} {low:6.3f}-{high:6.3f} "
        f"{float('nan') if allowed is None else allowed:7.2f}",
        flush=True,
    )
    return timings["ours"].ratio


def _write_both(model: Network, folder: Path) -> tuple[Path, Path]:
    """A model as we export it, and as written; both files."""
    ours, theirs = folder / "ours.onnx", folder / "as_written.onnx"
    image = TensorSpec("image", "float32", ("batch", 3, "height", "width"))
    logits = TensorSpec("logits", "float32", ("batch", model.config.num_classes))
    export(model.to_deploy(), image, [logits], ours, OnnxConfig())
    export_as_written(model, theirs)
    written = onnx.load(theirs)
    _leave_out_cuts(written.graph)
    onnx.save(written, theirs)
    return ours, theirs


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


def _session(path: Path) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = usable_cores()
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


if __name__ == "__main__":
    main()
