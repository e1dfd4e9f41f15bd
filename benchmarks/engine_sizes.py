"""Engines in FP16 and INT8 against FP32's size, by TensorRT-RTX: python -m benchmarks.engine_sizes

At most 0.56 of it is allowed. Plans of TensorRT-RTX hold the source of their kernels, which takes as much in every
precision; the ONNX file that the engine is built from is weights alone, nearly.
"""

from __future__ import annotations

import argparse
import logging
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.environment import environment
from rest_deploy.pipeline import ExportRequest, run_exports
from rest_deploy.specs import Precision
from tests.golden import golden_checkpoint

ALLOWED = 0.56
_MIB = 2**20


def main() -> None:
    """Print a table; exit 1 where a size is over what is allowed."""
    logging.disable(logging.WARNING)
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", default=["rest_small", "rest_base", "rest_large"])
    arguments = parser.parse_args()
    print(environment())
    print("model       precision  plan MiB  ratio  allowed  ONNX MiB  ratio  build s")
    held = True
    for name in arguments.models:
        wide: tuple[int, int] | None = None
        for precision in Precision:
            with tempfile.TemporaryDirectory() as folder:
                onnx, plan, seconds = _made(name, precision, Path(folder))
            wide = wide or (onnx, plan)
            ratio = plan / wide[1]
            held &= precision is Precision.FP32 or ratio <= ALLOWED
            print(
                f"{name:<11} {precision.value:<9} {plan / _MIB:9.1f} {ratio:6.3f} {ALLOWED:8.2f} {onnx / _MIB:9.1f} "
                f"{onnx / wide[0]:6.3f} {seconds:8.1f}",
                flush=True,
            )
    raise SystemExit(0 if held else 1)


def _made(name: str, precision: Precision, folder: Path) -> tuple[int, int, float]:
    """Bytes of the ONNX file and of the plan, and seconds of the build."""
    options: dict[str, object] = {"targets": ("sm89",)}
    if precision is not Precision.FP32:
        options |= {"compare_speed": False}
    if precision is Precision.INT8:
        options |= {"calibration": _noise(folder / "images")}
    request = ExportRequest(
        None,
        folder / "x",
        checkpoint=golden_checkpoint(name, folder),
        format="onnx,trt-rtx",
        precision=precision,
        verify=False,
        options=options,
    )
    onnx, engine = run_exports(request)
    return onnx.path.stat().st_size, engine.path.stat().st_size, engine.seconds["build"]


def _noise(folder: Path) -> Path:
    """Images to take ranges from; what they are does not matter for the size."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    for number in range(24):
        pixels = rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)
        Image.fromarray(pixels).resize((256, 256)).save(folder / f"{number}.png")
    return folder


if __name__ == "__main__":
    main()
