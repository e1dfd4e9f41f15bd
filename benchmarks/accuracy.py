"""Errors of the ONNX file against PyTorch float64, beside PyTorch float32's own: python -m benchmarks.accuracy

With default init at most 0.2 of PyTorch float32's error is allowed of a ResT at 224 pixels and above; with the golden
weights, of a ResTv2, and with both at any of 60 random batches and sizes, at most 2 of it, or 5e-5 of the largest
logit or of 1 where that is more.
"""

from __future__ import annotations

import argparse
import logging
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.environment import environment
from rest_deploy.export.as_written import export_as_written
from rest_deploy.models.factory import create_model
from rest_deploy.models.family import family_of
from rest_deploy.models.network import Network
from rest_deploy.runtimes.base import Runtime
from tests.golden import golden_model

SIZES = ((64, 64), (224, 224), (225, 230), (448, 448), (640, 640), (1024, 1024))
FLOOR = 5e-5


@dataclass(frozen=True)
class Subject:
    """A model with one set of weights, as float64 and float32 PyTorch and as ONNX files, ours and as written."""

    name: str
    runs: tuple[object, object]
    ours: Runtime
    theirs: object
    gains: bool

    def allowed(self, reference_error: float, scale: float, height: int, width: int) -> float:
        """Largest error allowed for a size, of logits up to ``scale``."""
        if self.gains and min(height, width) >= 224:
            return 0.2 * reference_error
        return max(2 * reference_error, FLOOR * max(1.0, scale))


def main() -> None:
    """Print the tables; exit 1 where an error is over what is allowed."""
    logging.disable(logging.WARNING)
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="rest_lite")
    parser.add_argument("--random", type=int, default=60, help="random batches and sizes")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--weights", nargs="+", choices=["default", "golden"], default=["default", "golden"])
    arguments = parser.parse_args()
    print(environment())
    rng = np.random.default_rng(arguments.seed)
    held = True
    with tempfile.TemporaryDirectory() as folder:
        for name in arguments.weights:
            default = name == "default"
            model = create_model(arguments.model) if default else golden_model(arguments.model).float()
            gains = default and family_of(model.config).name == "rest"  # its InstanceNorm loses the most there
            subject = _subject(f"{arguments.model}, {name} weights", model, Path(folder) / name, gains)
            held &= _fixed_sizes(subject, rng)
            held &= _random_sizes(subject, rng, arguments.random)
    raise SystemExit(0 if held else 1)


def _subject(name: str, model: Network, folder: Path, gains: bool) -> Subject:
    import onnxruntime

    from rest_deploy.models.checkpoint import save_checkpoint
    from rest_deploy.models.reference import reference_runs
    from rest_deploy.pipeline import ExportRequest, run_export
    from rest_deploy.runtimes.registry import open_runtime

    folder.mkdir()
    save_checkpoint(folder / "weights.safetensors", model)
    request = ExportRequest(None, folder / "ours.onnx", checkpoint=folder / "weights.safetensors", verify=False)
    export_as_written(model, folder / "as_written.onnx")
    theirs = onnxruntime.InferenceSession(str(folder / "as_written.onnx"), providers=["CPUExecutionProvider"])
    return Subject(name, reference_runs(model), open_runtime(run_export(request).path), theirs, gains)


def _errors(subject: Subject, batch: np.ndarray, as_written: bool) -> tuple[float, float, float, float]:
    """Of ours, of PyTorch in float32 and of the model exported as written; and the largest logit."""
    exact, plain = (run(batch)["logits"] for run in subject.runs)
    theirs = subject.theirs.run(None, {"image": batch})[0] if as_written else np.full_like(exact, np.nan)
    found = (subject.ours.run(batch)["logits"], plain, theirs)
    ours, plain, theirs = (float(np.abs(logits - exact).max()) for logits in found)
    return ours, plain, theirs, float(np.abs(exact).max())


def _fixed_sizes(subject: Subject, rng: np.random.Generator) -> bool:
    print(
        f"\n{subject.name}\n{'size':>9} {'ours':>9} {'PyTorch fp32':>12} {'ratio':>6} {'allowed':>9} {'as written':>11}"
    )
    held = True
    for height, width in SIZES:
        image = rng.standard_normal((1, 3, height, width)).astype(np.float32)
        ours, plain, theirs, scale = _errors(subject, image, as_written=True)
        allowed = subject.allowed(plain, scale, height, width)
        held &= ours <= allowed
        print(
            f"{f'{height}x{width}':>9} {ours:9.2e} {plain:12.2e} {ours / plain:6.3f} {allowed:9.1e} {theirs:11.2e}",
            flush=True,
        )
    return held


def _random_sizes(subject: Subject, rng: np.random.Generator, count: int) -> bool:
    worst, failures = 0.0, []
    for _ in range(count):
        batch, height, width = int(rng.integers(1, 5)), int(rng.integers(1, 701)), int(rng.integers(1, 701))
        image = rng.standard_normal((batch, 3, height, width)).astype(np.float32)
        ours, plain, _, scale = _errors(subject, image, as_written=False)
        allowed = max(2 * plain, FLOOR * max(1.0, scale))
        worst = max(worst, ours / allowed)
        if not ours <= allowed:
            failures.append(f"{batch}x3x{height}x{width}: {ours:.2e} > {allowed:.2e}")
    print(
        f"{count} random batches of 1 to 4, sizes of 1 to 700: "
        f"largest error {worst:.2f} of what is allowed; {len(failures)} over"
    )
    print("\n".join(failures), end="\n" if failures else "", flush=True)
    return not failures


if __name__ == "__main__":
    main()
