"""Time of a resize in the graph against Pillow's: python -m benchmarks.pictures

Pictures of noise, from uint8 on the host to the network's input, by the authors' transform at 224 pixels: Pillow and
NumPy as ``Predictor`` uses them, and the graph alone in ONNX Runtime on the CPU. In turns, each called once untimed
before.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from benchmarks.environment import environment
from rest_deploy.export.pixels import as_graph
from rest_deploy.machine import usable_cores
from rest_deploy.preprocess.transform import transform
from rest_deploy.specs import ImageSize, InputKind, Preprocessing
from rest_deploy.timing import time_paired

#: Height and width of pictures -> largest ratio to Pillow's time, with all cores; None where nothing is asked.
ALLOWED = {(480, 640): None, (1080, 1920): 1.3, (3000, 4000): 2.0, (4000, 3000): 2.0}


def main() -> None:
    """Print a table; exit 1 where a ratio is over what is allowed, or a level is not Pillow's."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=25)
    parser.add_argument("--size", type=int, default=224, help="side of the network's input")
    arguments = parser.parse_args()
    steps = Preprocessing(size=ImageSize(arguments.size, arguments.size))
    print(environment())
    print("picture      threads  graph ms  Pillow ms  ratio     quartiles  allowed  levels apart")
    held = True
    for threads in dict.fromkeys((1, usable_cores())):
        run = _graph(steps, threads)
        for size, allowed in ALLOWED.items():
            picture = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
            image = Image.fromarray(picture)
            pair = {"graph": partial(run, picture), "Pillow": partial(transform, image, steps)}
            timing = time_paired(pair, "Pillow", rounds=arguments.rounds, settle=1)
            apart = int((run(picture) != transform(image, steps)).sum())
            ours, (low, high) = timing["graph"], timing["graph"].spread
            judged = allowed if threads == usable_cores() else None
            print(
                f"{'x'.join(map(str, size)):<12} {threads:7d} {1e3 * ours.median:9.1f} "
                f"{1e3 * timing['Pillow'].median:10.1f} {ours.ratio:6.3f} {low:6.3f}-{high:6.3f} "
                f"{f'{judged:.1f}' if judged is not None else '-':>8} {apart:13d}",
                flush=True,
            )
            held &= apart == 0 and (judged is None or ours.ratio <= judged)
    raise SystemExit(0 if held else 1)


def _graph(steps: Preprocessing, threads: int) -> Callable[[NDArray[np.uint8]], NDArray[np.float32]]:
    import onnxruntime  # after rest_deploy, which turns its telemetry off

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.enable_mem_pattern = False  # as Predictor opens files
    model = as_graph(steps, InputKind.PIXELS).SerializeToString()
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    return lambda picture: session.run(None, {"pixels": picture[None]})[0][0]


if __name__ == "__main__":
    main()
