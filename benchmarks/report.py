"""Everything measured in one go, and the report of it: python -m benchmarks.report

The digits model in FP32, FP16 and INT8 is verified on its 360 held-out images, then timed together with rest_lite,
rest_small, rest_base and rest_large, each against what else would run its network. Under ten minutes on two cores.
``--full`` times the four networks alone, at 1024 pixels and with torch.compile too, and takes half an hour.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.environment import DIGITS
from examples.digits.data import load_split, render
from tests.golden import golden_checkpoint

NETWORKS = ("rest_lite", "rest_small", "rest_base", "rest_large")
#: Name of the digits' artifact -> flags of its export. INT8 of 7 bits runs on every CPU.
VARIANTS = {
    "rest_digits": (),
    "rest_digits_fp16": ("--fp16", "--no-speed"),
    "rest_digits_int8": ("--int8", "--reduced-range", "--no-speed"),
}
BASELINES = ("torch", "as-written", "openvino")
#: As few rounds as an interval at 0.99 needs: at 1024 pixels one takes two minutes.
EFFORT = ("--min-rounds", "8", "--min-seconds", "0.5")


def main() -> None:
    """Make the artifacts and run both commands; exit as the worse of them does."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=Path("bench_output"), help="folder for what is made")
    parser.add_argument("--full", action="store_true", help="the networks alone, at 1024 pixels and with torch.compile")
    arguments = parser.parse_args()
    folder: Path = arguments.output
    folder.mkdir(exist_ok=True)
    start = time.perf_counter()
    networks = [folder / f"{name}.onnx" for name in NETWORKS]
    for path in networks:  # the golden weights, which have biases
        _run("export", "--checkpoint", golden_checkpoint(path.stem, folder), "-o", path, "--no-verify")
    code = _bench_networks(folder, networks) if arguments.full else _bench_all(folder, networks)
    print(f"{folder / 'report.html'} in {time.perf_counter() - start:.0f} s")
    raise SystemExit(code)


def _bench_all(folder: Path, networks: Sequence[Path]) -> int:
    """The digits verified, and timed together with the networks; the worse exit code of the two."""
    digits = [folder / f"{name}.onnx" for name in VARIANTS]
    for path, flags in zip(digits, VARIANTS.values(), strict=True):
        _run("export", "--checkpoint", DIGITS, "-o", path, *flags)
    _write_digits(folder / "digits")
    verified = _run("verify", *digits, *_verify_flags(folder))
    sizes = ("--sizes", "224", "512")
    benched = _run("bench", *digits, *networks, *sizes, "--verification", folder / "verify.json", *_bench_flags(folder))
    return max(verified, benched)


def _bench_networks(folder: Path, networks: Sequence[Path]) -> int:
    sizes = ("--sizes", "224", "512", "1024")
    return _run("bench", *networks, *sizes, *_bench_flags(folder, "torch-compile"), "--no-cold")


def _verify_flags(folder: Path) -> Sequence[object]:
    return (
        *("--reference", DIGITS, "--data", folder / "digits", "--sizes", "64", "96", "224", "--per-block"),
        *("-o", folder / "verify.json", "-o", folder / "verify.md"),
    )


def _bench_flags(folder: Path, *more_baselines: str) -> Sequence[object]:
    baselines = BASELINES if find_spec("openvino") is not None else BASELINES[:-1]
    return (
        *("--baseline", *baselines, *more_baselines, *EFFORT),
        *("-o", folder / "bench.json", "-o", folder / "bench.md", "--report", folder / "report.html"),
    )


def _write_digits(folder: Path) -> None:
    """The held-out digits as PNG files, in a folder for each class, 40 to 100 pixels a side."""
    _, _, images, labels = load_split()
    rng = np.random.default_rng(0)
    for number, (image, label) in enumerate(zip(images, labels, strict=True)):
        height, width = (int(side) for side in rng.integers(40, 101, 2))
        path = folder / str(label) / f"{number:03d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(render(image, (height, width))).save(path)


def _run(command: str, *arguments: object) -> int:
    """Run a command as a user would; its exit code, where it is that of a check that failed."""
    script = Path(sys.executable).with_name(f"rest-{command}")
    words = [str(argument) for argument in arguments]
    print(f"$ {script.name} {' '.join(words)}", flush=True)
    code = subprocess.run([str(script), *words], check=False).returncode
    if code not in (0, 1) or (code and command == "export"):
        raise SystemExit(code)
    return code


if __name__ == "__main__":
    main()
