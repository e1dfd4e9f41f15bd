"""How long an export takes against PyTorch's TorchScript exporter: python -m benchmarks.export_time

Ours is everything between the PyTorch model and the checked file: deploy form, both traces, translation, onnxsim, the
checks of its result, writing. TorchScript's is torch.onnx.export(dynamo=False) of the model as written. Verification
against float64, which only we do, is left out on both sides. Both run in turns in one process.
"""

from __future__ import annotations

import argparse
import io
import logging
import tempfile
from pathlib import Path

from benchmarks.environment import environment
from rest_deploy.export.as_written import export_as_written
from rest_deploy.export.onnx_exporter import OnnxConfig, export
from rest_deploy.specs import TensorSpec
from rest_deploy.timing import time_paired
from tests.golden import golden_model

ALLOWED = 8.0
IMAGE = TensorSpec("image", "float32", ("batch", 3, "height", "width"))
LOGITS = TensorSpec("logits", "float32", ("batch", 1000))


def main() -> None:
    """Print a table; exit 1 where a ratio is over what is allowed."""
    logging.disable(logging.WARNING)
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", default=["rest_small", "rest_large"])
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    print(environment())
    print(f"{'model':<11} {'ours s':>7} {'TorchScript s':>13} {'ratio':>6} {'quartiles':>13} {'allowed':>8}")
    held = True
    for name in arguments.models:
        model = golden_model(name).float()
        with tempfile.TemporaryDirectory() as folder:
            target = Path(folder) / "model.onnx"
            timings = time_paired(
                {
                    "ours": lambda: export(model.to_deploy(), IMAGE, [LOGITS], target, OnnxConfig()),  # noqa: B023
                    "torchscript": lambda: export_as_written(model, io.BytesIO()),  # noqa: B023
                },
                "torchscript",
                rounds=arguments.rounds,
            )
        ours, theirs = timings["ours"], timings["torchscript"]
        held &= ours.ratio <= ALLOWED
        low, high = ours.spread
        print(
            f"{name:<11} {ours.median:7.2f} {theirs.median:13.2f} {ours.ratio:6.2f} {low:6.2f}-{high:6.2f} "
            f"{ALLOWED:8.1f}",
            flush=True,
        )
    raise SystemExit(0 if held else 1)


if __name__ == "__main__":
    main()
