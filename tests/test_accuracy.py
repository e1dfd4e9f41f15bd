"""ONNX Runtime against float64, in PyTorch float32's own error: benchmarks/accuracy.py at smaller sizes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmarks.precision import write_pictures
from examples.digits.data import load_split
from rest_deploy import Predictor
from rest_deploy.models.card import Card
from rest_deploy.models.checkpoint import save_checkpoint
from rest_deploy.models.factory import create_model
from rest_deploy.models.reference import reference_runs
from rest_deploy.pipeline import ExportRequest, run_export
from rest_deploy.runtimes.registry import open_runtime
from rest_deploy.specs import ImageSize, InputKind, PreprocessingChange, Resize
from tests.conftest import DIGITS, further
from tests.golden import golden_model

# Two float32 computations of one function lose about as much; where PyTorch is exact by luck, 5e-5 is near enough.
NOISE, FLOOR = 2.0, 5e-5


@pytest.fixture(scope="module")
def golden_onnx(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("golden")
    save_checkpoint(folder / "golden.safetensors", golden_model("rest_lite").float().state_dict(), Card())
    request = ExportRequest(None, folder / "golden.onnx", checkpoint=folder / "golden.safetensors", verify=False)
    return run_export(request).path


@pytest.mark.slow
@pytest.mark.parametrize("weights", ["default init", "golden"])
def test_one_file_at_random_batches_and_sizes(
    weights: str, lite_onnx: Path, golden_onnx: Path, rng: np.random.Generator
) -> None:
    default = weights == "default init"
    model = create_model("rest_lite") if default else golden_model("rest_lite").float()
    exact, plain = reference_runs(model)
    with open_runtime(lite_onnx if default else golden_onnx) as runtime:
        for _ in range(12):
            shape = (int(rng.integers(1, 4)), 3, int(rng.integers(1, 161)), int(rng.integers(1, 161)))
            batch = rng.standard_normal(shape).astype(np.float32)
            reference = exact(batch)["logits"]
            allowed = max(NOISE * np.abs(plain(batch)["logits"] - reference).max(), FLOOR)
            assert np.abs(runtime.run(batch)["logits"] - reference).max() <= allowed, shape


@pytest.mark.slow
@pytest.mark.parametrize("weights", ["default init", "golden"])
def test_a_restv2_is_as_exact_as_pytorch(weights: str, tmp_path: Path, rng: np.random.Generator) -> None:
    """At any of the sizes, on and off multiples of 32; benchmarks/accuracy.py has the large ones."""
    model = create_model("restv2_tiny") if weights == "default init" else golden_model("restv2_tiny").float()
    save_checkpoint(tmp_path / "x.safetensors", model.state_dict(), Card())
    exact, plain = reference_runs(model)
    path = run_export(
        ExportRequest(None, tmp_path / "x.onnx", checkpoint=tmp_path / "x.safetensors", verify=False)
    ).path
    with open_runtime(path) as runtime:
        for size in ((1, 1), (64, 64), (130, 85), (224, 224), (225, 230)):
            batch = rng.standard_normal((1, 3, *size)).astype(np.float32)
            reference = exact(batch)["logits"]
            allowed = max(
                NOISE * np.abs(plain(batch)["logits"] - reference).max(), FLOOR * max(1.0, np.abs(reference).max())
            )
            assert np.abs(runtime.run(batch)["logits"] - reference).max() <= allowed, size


@pytest.mark.slow
@pytest.mark.parametrize("size", [(224, 224), (225, 230)])
def test_default_init_is_five_times_as_exact_as_pytorch(
    size: tuple[int, int], lite_onnx: Path, rng: np.random.Generator
) -> None:
    exact, plain = reference_runs(create_model("rest_lite"))
    batch = rng.standard_normal((1, 3, *size)).astype(np.float32)
    reference = exact(batch)["logits"]
    with open_runtime(lite_onnx) as runtime:
        assert (
            np.abs(runtime.run(batch)["logits"] - reference).max()
            <= 0.2 * np.abs(plain(batch)["logits"] - reference).max()
        )


@pytest.mark.slow
@pytest.mark.parametrize("side", [24, 100, *further([32, 48, 72])])
def test_pictures_are_answered_as_their_inputs_are(side: int, tmp_path: Path) -> None:
    """All 360 digits that were held out, at five sizes: the same logits to the last bit, so that no class changes."""
    steps = PreprocessingChange(Resize.CROP, ImageSize(side, side))
    paths = [
        run_export(ExportRequest(None, tmp_path / f"{kind.value}.onnx", DIGITS, preprocessing=steps, input=kind)).path
        for kind in (InputKind.FLOAT, InputKind.PIXELS)
    ]
    _, _, digits, labels = load_split()
    write_pictures(digits, tmp_path / "images")
    images = sorted((tmp_path / "images").glob("*.png"))
    assert len(images) == len(labels) == 360
    found = []
    for path in paths:
        with Predictor(path) as predictor:
            found.append(np.concatenate([predictor.logits(predictor.preprocess(image)) for image in images]))
    assert np.array_equal(*found)
    assert (found[0].argmax(axis=1) == labels).mean() > 0.2  # no guesses, though the cut takes some of each digit
