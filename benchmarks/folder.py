"""A folder through rest-predict, decoded beside the network and in turns with it: python -m benchmarks.folder

Whole processes, in turns, so that ratios are of one round; both must print the same. Smooth colours with noise make
JPEGs as large as those of a camera. The golden weights.
"""

from __future__ import annotations

import argparse
import logging
import subprocess
import sys
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.environment import environment, golden_onnx
from rest_deploy.machine import usable_cores
from rest_deploy.timing import time_paired

#: Least ratio of images a second, on two cores.
NEEDED = 1.5
MEGAPIXELS = 1.0, 12.0
#: What a process runs: rest-predict, then the peak of its memory as the last line of stderr.
_PREDICT = """
import sys
from rest_deploy import predictor
from rest_deploy.cli.predict import main
from rest_deploy.environment import peak_mib
if sys.argv.pop(1) == "in turns":
    predictor.threads_for_images = lambda: 0
code = main()
print(peak_mib(), file=sys.stderr)
sys.exit(code)
"""


def main() -> None:
    """Print a table; exit 1 where too little is gained, or answers differ."""
    logging.disable(logging.WARNING)
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="rest_lite")
    parser.add_argument("--images", type=int, default=500)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    print(environment())
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        artifact = golden_onnx(arguments.model, folder)
        (folder / "images").mkdir()
        with ThreadPoolExecutor(usable_cores()) as pool:
            sizes = pool.map(
                lambda number: _write(folder / "images" / f"{number:04d}.jpg", number), range(arguments.images)
            )
            print(f"{arguments.images} JPEGs, {sum(sizes) / arguments.images / 1e6:.2f} MB each on average")
        held = _table(artifact, folder / "images", arguments)
    raise SystemExit(0 if held else 1)


def _table(artifact: Path, images: Path, arguments: argparse.Namespace) -> bool:
    peaks: dict[str, list[float]] = {"in turns": [], "ahead": []}
    printed: set[bytes] = set()

    def way(name: str) -> Callable[[], None]:
        def run() -> None:
            command = [sys.executable, "-c", _PREDICT, name, str(artifact), str(images), "--json"]
            done = subprocess.run(command, check=True, capture_output=True)
            peaks[name].append(float(done.stderr.split()[-1]))
            printed.add(done.stdout)

        return run

    timings = time_paired({name: way(name) for name in peaks}, "in turns", rounds=arguments.rounds, warmup=0)
    print("decoded   images/s  x in turns     quartiles  needed  peak MiB")
    for name, timing in timings.items():
        low, high = timing.spread
        needed = f"{NEEDED:7.2f}" if name == "ahead" else " " * 7
        print(
            f"{name:<8} {arguments.images / timing.median:9.2f} {1 / timing.ratio:11.3f}  "
            f"{1 / high:6.3f}-{1 / low:6.3f} {needed} {max(peaks[name]):9.0f}"
        )
    if len(printed) > 1:
        print("answers differ")
    return len(printed) == 1 and 1 / timings["ahead"].ratio >= NEEDED


def _write(path: Path, number: int) -> int:
    """A JPEG of a size and a content of its number; returns its bytes."""
    rng = np.random.default_rng(number)
    pixels = rng.uniform(*MEGAPIXELS) * 1e6
    height, width = int((pixels * 3 / 4) ** 0.5), int((pixels * 4 / 3) ** 0.5)
    smooth = Image.fromarray(rng.integers(0, 256, (12, 16, 3), np.uint8)).resize(
        (width, height), Image.Resampling.BICUBIC
    )
    noise = np.tile(rng.integers(-12, 13, (256, 256, 3), np.int16), (-(-height // 256), -(-width // 256), 1))
    picture = np.asarray(smooth) + noise[:height, :width]
    Image.fromarray(picture.clip(0, 255).astype(np.uint8)).save(path, quality=90)
    return path.stat().st_size


if __name__ == "__main__":
    main()
