"""What FP16 and INT8 cost on the digits' held-out images: python -m benchmarks.precision [CHECKPOINT]

``--train rest_lite`` trains a network of real size on the spot instead. Pooled over four sizes: FP16 may change 1
prediction in 1,000, INT8 may cost 0.5 points of top-1. Graphs for TensorRT are computed with every half value rounded,
those for the CPU by ONNX Runtime itself.
"""

from __future__ import annotations

import argparse
import logging
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx.reference import ReferenceEvaluator
from PIL import Image

from benchmarks.environment import DIGITS, environment
from examples.digits.data import load_split, render
from examples.digits.train import train_and_save
from rest_deploy.artifact.onnx_file import read_checked
from rest_deploy.models.family import operators_of
from rest_deploy.pipeline import ExportRequest, run_export
from rest_deploy.preprocess.transform import transform
from rest_deploy.specs import Preprocessing
from rest_deploy.verification import Run, open_candidate

SIZES = ((48, 48), (64, 64), (73, 81), (96, 96))
CALIBRATION_IMAGES = 200
BATCH = 45

#: Name -> precision and options of the export.
VARIANTS = {
    "FP16": ("fp16", {}),
    "INT8 for TensorRT": ("int8", {"int8_target": "trt"}),
    "INT8 for the CPU": ("int8", {"int8_target": "cpu"}),
}


#: The first of which onnx.reference knows Q/DQ pairs; what is in our files means the same in it.
_EVALUATOR_OPSET = 19


def reference_evaluator_of(path: str | Path) -> Run:
    """An ONNX file as ``onnx.reference`` computes it, every node rounded as written; slow."""
    file = read_checked(path, operators_of)
    model = onnx.load_model_from_string(bytes(file.content))
    entry = model.opset_import[0]
    entry.version = max(entry.version, _EVALUATOR_OPSET)
    evaluator: Any = ReferenceEvaluator(model)
    (name,) = (value.name for value in model.graph.input)
    dtype = file.info.input.dtype

    names = [output.name for output in file.info.outputs]

    def run(batch: NDArray[np.float32]) -> dict[str, NDArray[np.float32]]:
        with np.errstate(over="ignore", invalid="ignore"):  # its Sigmoid tries both of two formulas
            outputs = evaluator.run(names, {name: batch.astype(dtype)})
        return {own: values.astype(np.float32) for own, values in zip(names, outputs, strict=True)}

    return run


@dataclass(frozen=True)
class Answers:
    """Predictions on the held-out images, a row a size."""

    classes: NDArray[np.int64]

    def accuracy(self, labels: NDArray[np.int64]) -> float:
        """Share that is right, pooled over the sizes."""
        return float((self.classes == labels).mean())


def main() -> None:
    """Print a table; exit 1 where a figure is over what is allowed."""
    logging.disable(logging.WARNING)
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkpoint", nargs="?", type=Path, default=DIGITS)
    parser.add_argument("--train", metavar="MODEL", help="train a network of real size on the spot instead")
    parser.add_argument("--epochs", type=int, help="of that training (default: the recipe's)")
    parser.add_argument("--reference", action="store_true", help="compute FP16 by onnx.reference instead: slow")
    arguments = parser.parse_args()
    print(environment())
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = arguments.checkpoint
        if arguments.train:
            checkpoint = train_and_save(arguments.train, Path(folder) / "trained.safetensors", arguments.epochs)
        held = _table(checkpoint, Path(folder), by_reference=arguments.reference)
    raise SystemExit(0 if held else 1)


def _table(checkpoint: Path, folder: Path, *, by_reference: bool) -> bool:
    train, _, images, labels = load_split()
    pictures = folder / "calibration"
    write_pictures(train[:CALIBRATION_IMAGES], pictures)
    fp32 = run_export(ExportRequest(None, folder / "fp32.onnx", checkpoint=checkpoint))
    steps = fp32.info.preprocessing
    with open_candidate(fp32.path) as (run, _):
        wide = answers_of(run, images, steps)
    print(f"{fp32.info.model}: FP32 {wide.accuracy(labels):.2%} of {wide.classes.size} predictions right")
    print("precision             top-1    change   allowed   flips  per 1,000  allowed  kept wider")
    held = True
    for number, (name, (precision, options)) in enumerate(VARIANTS.items()):
        request = ExportRequest(
            None,
            folder / f"{number}.onnx",
            checkpoint=checkpoint,
            precision=precision,
            options={"calibration": pictures, "compare_speed": False, **options},
        )
        made = run_export(request)
        if by_reference and precision == "fp16":
            ours = answers_of(reference_evaluator_of(made.path), images, steps)
        else:
            with open_candidate(made.path) as (run, _):
                ours = answers_of(run, images, steps)
        change, flips = ours.accuracy(labels) - wide.accuracy(labels), int((ours.classes != wide.classes).sum())
        thousandths = 1000 * flips / wide.classes.size
        held &= change >= -0.005 if precision == "int8" else thousandths <= 1
        allowed = ("-0.50", "") if precision == "int8" else ("", "1")
        kept = ", ".join(made.info.precision_plan.kept) or "nothing"
        print(
            f"{name:<19} {ours.accuracy(labels):7.2%} {100 * change:+9.2f} {allowed[0]:>9} {flips:7d} "
            f"{thousandths:10.2f} {allowed[1]:>8}  {kept}",
            flush=True,
        )
    return held


def write_pictures(digits: NDArray[np.float64], folder: Path) -> None:
    """Digits as PNG files of sizes from 40 to 110 pixels a side."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    for number, digit in enumerate(digits):
        height, width = (int(side) for side in rng.integers(40, 111, 2))
        Image.fromarray(render(digit, (height, width))).save(folder / f"{number:04d}.png")


def answers_of(run: Run, images: NDArray[np.float64], steps: Preprocessing) -> Answers:
    """What a network says of digits, rendered at each of the sizes."""
    rows = [
        np.concatenate([run(batch)["logits"].argmax(axis=1) for batch in _batches(images, size, steps)])
        for size in SIZES
    ]
    return Answers(np.stack(rows))


def _batches(images: NDArray[np.float64], size: tuple[int, int], steps: Preprocessing) -> Iterator[NDArray[np.float32]]:
    for start in range(0, len(images), BATCH):
        some = images[start : start + BATCH]
        yield np.stack([transform(Image.fromarray(render(image, size)), steps) for image in some])


if __name__ == "__main__":
    main()
