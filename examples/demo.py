"""The main job on real images: `make demo`.

1. The trained digits models, a ResT and a ResTv2, are exported, and 360 held-out images are classified with PyTorch and
   with the ONNX files, at five sizes that training never used. Both must be right on at least 95% at each, and agree on
   every image.
2. `rest_small` is exported and classifies photographs, each at its own size. No trained ImageNet weights can be
   downloaded here, so its weights are random and its answers mean nothing; give --checkpoint FILE for real ones.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import numpy as np

from examples.digits.data import load_split, render
from rest_deploy.cli.tables import Table
from rest_deploy.pipeline import ExportRequest, ExportResult, run_export
from rest_deploy.predictor import Predictor
from rest_deploy.specs import ImageSize, Preprocessing, Resize

EXAMPLES = Path(__file__).parent
DIGITS = [EXAMPLES / "digits" / f"{name}.safetensors" for name in ("rest_digits", "restv2_digits")]
SIZES = (ImageSize(48, 48), ImageSize(64, 64), ImageSize(73, 81), ImageSize(96, 96), ImageSize(57, 91))
NEEDED = 0.95


def main() -> int:
    """Run both parts; 0 where every figure is as it must be."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--checkpoint", help="trained rest_small weights (.pth, .pt or .safetensors)")
    parser.add_argument("--output", type=Path, default=Path("demo_output"), help="folder for what is made")
    arguments = parser.parse_args()
    arguments.output.mkdir(exist_ok=True)
    made = [arguments.output / f"{path.stem}.onnx" for path in DIGITS] + [arguments.output / "rest_small.onnx"]
    held = [digits(checkpoint, output) for checkpoint, output in zip(DIGITS, made[:-1], strict=True)]
    photographs(made[-1], arguments.checkpoint)
    print(f"\nmade: {', '.join(map(str, made))}")
    return 0 if all(held) else 1


def digits(checkpoint: Path, output: Path) -> bool:
    """Export a digits model; compare accuracy and predictions of PyTorch and ONNX Runtime."""
    _announce(f"Handwritten digits: {checkpoint.name} -> {output}")
    _show(run_export(ExportRequest(None, output, checkpoint=checkpoint)))
    _, _, images, labels = load_split()
    print(f"\n{len(images)} held-out images  PyTorch  ONNX Runtime  predictions that differ")
    held = True
    with Predictor(checkpoint) as torch_model, Predictor(output) as onnx_model:
        for size in SIZES:
            rendered = [render(image, (size.height, size.width)) for image in images]
            ours, theirs = ([p[0].index for p in model.classify(rendered, 1)] for model in (onnx_model, torch_model))
            right = [float(np.mean(np.asarray(answers) == labels)) for answers in (theirs, ours)]
            differing = sum(a != b for a, b in zip(ours, theirs, strict=True))
            print(f"{'at ' + str(size):>22}  {right[0]:7.2%}  {right[1]:12.2%}  {differing:23d}")
            held = held and min(right) >= NEEDED and differing == 0
    print(f"at least {NEEDED:.0%} at every size, and no prediction that differs: {'yes' if held else 'NO'}")
    return held


def photographs(output: Path, checkpoint: str | None) -> None:
    """Export rest_small and classify photographs at their own sizes."""
    _announce(f"Photographs: rest_small -> {output}")
    native = Preprocessing(resize=Resize.NATIVE, size=None)
    _show(run_export(ExportRequest("rest_small", output, checkpoint=checkpoint, preprocessing=native)))
    print()
    with Predictor(output) as predictor:
        start = time.perf_counter()
        answers = predictor.classify(EXAMPLES / "images", top_k=1)
        seconds = time.perf_counter() - start
    for path, (best,) in answers.items():
        print(f"{Path(path).name:<12} {best.score:7.2%}  {best.label}")
    print(f"{len(answers)} photographs at their own sizes in {seconds:.2f} s")
    if checkpoint is None:
        print("RANDOM WEIGHTS: these answers mean nothing; give --checkpoint FILE for real ones")


def _show(result: ExportResult) -> None:
    if result.comparison is None:
        raise SystemExit("the export was not verified")
    print(Table("largest and mean error of the logits against PyTorch float64:", *result.comparison.columns()).text())
    steps = ", ".join(f"{step} {seconds:.1f} s" for step, seconds in result.seconds.items())
    print(f"{result.path}: {result.path.stat().st_size / 2**20:.1f} MiB ({steps})")


def _announce(text: str) -> None:
    print(f"\n=== {text}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
