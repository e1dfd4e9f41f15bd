"""What Predictor and rest-predict cost over bare ONNX Runtime: python -m benchmarks.overhead"""

from __future__ import annotations

import argparse
import compileall
import functools
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import onnxruntime

import rest_deploy
from benchmarks.environment import environment, golden_onnx
from rest_deploy.machine import usable_cores
from rest_deploy.predictor import Predictor
from rest_deploy.timing import Timing, time_paired

IMAGE = Path(__file__).parent.parent / "examples" / "images" / "chelsea.png"

OPEN = "import sys, rest_deploy; rest_deploy.Predictor(sys.argv[1])"
BARE_OPEN = """
import numpy, onnxruntime, sys
session = onnxruntime.InferenceSession(sys.argv[1], providers=["CPUExecutionProvider"])
"""
#: It reads no picture, and prints nothing.
BARE_RUN = """
session.run(None, {"image": numpy.zeros((1, 3, 224, 224), numpy.float32)})
"""
#: What somebody would write in its place: it reads the picture, and answers with five classes.
BARE_PREDICT = """
from PIL import Image
with Image.open(sys.argv[2]) as image:
    scale = 256 / min(image.size)
    image = image.convert("RGB").resize([round(side * scale) for side in image.size], Image.Resampling.BICUBIC)
left, top = (image.width - 224) // 2, (image.height - 224) // 2
pixels = numpy.asarray(image.crop((left, top, left + 224, top + 224)), numpy.float32) / 255
mean, std = numpy.array([[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]], numpy.float32)
(logits,) = session.run(None, {"image": ((pixels - mean) / std).transpose(2, 0, 1)[None]})
scores = numpy.exp(logits[0] - logits.max())
for best in numpy.argsort(-scores)[:5]:
    print(best, scores[best] / scores.sum())
"""


def main() -> None:
    """Print a table; exit 1 where a ratio is over what is allowed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="rest_small")
    parser.add_argument("--rounds", type=int, default=25)
    arguments = parser.parse_args()
    print(environment())
    # as pip does it, which a checkout under PYTHONDONTWRITEBYTECODE never does: 60 ms of each start
    compileall.compile_dir(Path(rest_deploy.__file__).parent, quiet=1)
    with tempfile.TemporaryDirectory() as folder:
        path = golden_onnx(arguments.model, Path(folder))
        print(f"{'':<36} {'ours ms':>8} {'bare ms':>8} {'ratio':>6} {'quartiles':>13} {'allowed':>7}")
        calls = _calls(path, 8 * arguments.rounds)
        held = _print("Predictor.logits, 1x3x224x224", calls, 1.03)
        _print("another bare session, for the noise", calls, who="again")
        python, command = [sys.executable, "-c"], str(Path(sys.executable).with_name("rest-predict"))
        opening = _processes([*python, OPEN, str(path)], [*python, BARE_OPEN, str(path)], arguments.rounds)
        held &= _print("Predictor(path), whole process", opening, 1.3)
        predict = [command, str(path), str(IMAGE)]
        predicting = _processes(predict, [*python, BARE_OPEN + BARE_PREDICT, str(path), str(IMAGE)], arguments.rounds)
        held &= _print("rest-predict, whole process", predicting, 1.25)
        zeros = _processes(predict, [*python, BARE_OPEN + BARE_RUN, str(path)], arguments.rounds)
        _print("the same, a script on zeros", zeros)
    raise SystemExit(0 if held else 1)


def _calls(path: Path, rounds: int) -> dict[str, Timing]:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = usable_cores()
    # as ours, whose gain is none of what is measured here
    options.add_session_config_entry("optimization.disable_specified_optimizers", "BiasGeluFusion")
    sessions = [onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"]) for _ in range(2)]
    bare, again = (functools.partial(session.run, None) for session in sessions)
    batch = np.random.default_rng(0).standard_normal((1, 3, 224, 224)).astype(np.float32)
    with Predictor(path) as predictor:
        contenders = {
            "ours": lambda: predictor.logits(batch),
            "bare": lambda: bare({"image": batch}),
            "again": lambda: again({"image": batch}),
        }
        return time_paired(contenders, "bare", rounds=rounds, warmup=5, settle=2)


def _processes(ours: list[str], bare: list[str], rounds: int) -> dict[str, Timing]:
    def run(argv: list[str]) -> None:
        subprocess.run(argv, check=True, capture_output=True)

    return time_paired({"ours": lambda: run(ours), "bare": lambda: run(bare)}, "bare", rounds=rounds)


def _print(what: str, timings: dict[str, Timing], allowed: float = float("nan"), who: str = "ours") -> bool:
    ours, bare = timings[who], timings["bare"]
    low, high = ours.spread
    print(
        f"{what:<36} {1e3 * ours.median:8.1f} {1e3 * bare.median:8.1f} {ours.ratio:6.3f} {low:6.3f}-{high:6.3f} "
        f"{allowed:7.2f}",
        flush=True,
    )
    return ours.ratio <= allowed


if __name__ == "__main__":
    main()
