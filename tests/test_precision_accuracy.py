"""What FP16 and INT8 cost: the digits' held-out images, networks of real size, the golden weights."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from benchmarks.precision import SIZES, VARIANTS, answers_of, reference_evaluator_of, write_pictures
from examples.digits.data import load_split
from rest_deploy.models.card import Card
from rest_deploy.models.checkpoint import save_checkpoint
from rest_deploy.models.factory import create_model
from rest_deploy.models.reference import reference_runs
from rest_deploy.pipeline import ExportRequest, run_export
from rest_deploy.preprocess.images import load_image
from rest_deploy.preprocess.transform import transform
from rest_deploy.runtimes.registry import read_info
from rest_deploy.specs import LOGITS, ImageSize, Precision, Preprocessing, Resize
from rest_deploy.verification import Case, Pictures, open_candidate, synthetic_images
from tests.conftest import DIGITS, DIGITS_V2, IMAGES, further
from tests.golden import golden_model

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", params=[DIGITS, DIGITS_V2], ids=["rest", "restv2"])
def digits(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Artifacts of the trained digits, each made when it is first asked for."""
    folder = tmp_path_factory.mktemp("digits")
    write_pictures(load_split()[0][:60], folder / "calibration")
    made: dict[str, Path] = {}

    def make(name: str) -> Path:
        if name not in made:
            precision, options = VARIANTS.get(name, ("fp32", {}))
            if precision != "fp32":
                options = {**options, "calibration": folder / "calibration", "compare_speed": False}
            output = folder / f"{len(made)}.onnx"
            asked = ExportRequest(None, output, request.param, precision=Precision(precision), options=options)
            made[name] = run_export(asked).path
        return made[name]

    return make


@pytest.mark.parametrize("name", VARIANTS)
def test_trained_digits_keep_their_classes(name: str, digits: Callable[[str], Path]) -> None:
    """All 360 held-out images at four sizes: FP16 changes 1 answer of 1,000 at most, INT8 costs 0.5 points at most."""
    _, _, held_out, labels = load_split()
    steps = read_info(digits("FP32")).preprocessing
    with open_candidate(digits("FP32")) as (wide, _), open_candidate(digits(name)) as (narrow, info):
        wanted, ours = (answers_of(run, held_out, steps) for run in (wide, narrow))
    assert wanted.classes.shape == (len(SIZES), 360)
    if info.precision is Precision.FP16:
        assert (ours.classes != wanted.classes).mean() <= 0.001
    else:
        assert ours.accuracy(labels) >= wanted.accuracy(labels) - 0.005


def test_the_reference_evaluator_agrees_on_some_of_them(digits: Callable[[str], Path]) -> None:
    """Eight of them at each size; benchmarks/precision.py --reference does all."""
    images = load_split()[2][::45]
    steps = read_info(digits("FP32")).preprocessing
    slow = answers_of(reference_evaluator_of(digits("FP16")), images, steps)
    with open_candidate(digits("FP32")) as (wide, _):
        assert np.array_equal(slow.classes, answers_of(wide, images, steps).classes)


#: A network -> sizes at which the reference evaluator, which takes its time, runs it.
REAL = {"rest_lite": [(96, 128), (160, 160)], "rest_small": [(96, 128)], "restv2_tiny": [(96, 128), (97, 129)]}


@pytest.mark.parametrize("model", ["rest_lite", *further(["rest_small", "restv2_tiny"])])
def test_half_at_real_size_by_the_reference_evaluator(model: str, tmp_path: Path) -> None:
    """Default weights: 2% of the logits' standard deviation."""
    options = {"compare_speed": False}
    request = ExportRequest(model, tmp_path / "x.onnx", precision=Precision.FP16, verify=False, options=options)
    evaluator = reference_evaluator_of(run_export(request).path)
    exact, _ = reference_runs(create_model(model))
    for size in REAL[model]:
        batch = synthetic_images(np.random.default_rng(0), Case(1, ImageSize(*size)), 3)
        logits = exact(batch)["logits"]
        assert np.abs(evaluator(batch)["logits"] - logits).max() <= 0.02 * logits.std(), size


def test_half_with_weights_that_amplify_rounding(tmp_path: Path) -> None:
    """Golden weights: what PyTorch's float32 loses times 2**13, and half as much again."""
    checkpoint = tmp_path / "golden.safetensors"
    model = golden_model("rest_lite").float()
    save_checkpoint(checkpoint, model.state_dict(), Card())
    options = {"compare_speed": False}
    request = ExportRequest(
        None, tmp_path / "x.onnx", checkpoint, precision=Precision.FP16, verify=False, options=options
    )
    evaluator = reference_evaluator_of(run_export(request).path)
    exact, plain = reference_runs(model)
    for size in ((96, 128), (160, 160)):
        batch = synthetic_images(np.random.default_rng(0), Case(1, ImageSize(*size)), 3)
        logits = exact(batch)["logits"]
        lost = np.abs(plain(batch)["logits"] - logits).max()
        assert np.abs(evaluator(batch)["logits"] - logits).max() <= 1.5 * 2**13 * lost, size


def _crops(names: tuple[str, ...], count: int, seed: int) -> list[Image.Image]:
    rng = np.random.default_rng(seed)
    found = []
    for name in names:
        image = load_image(IMAGES / name)
        for _ in range(count):
            side = int(rng.integers(96, min(image.size)))
            left, top = int(rng.integers(0, image.width - side + 1)), int(rng.integers(0, image.height - side + 1))
            found.append(image.crop((left, top, left + side, top + side)))
    return found


@pytest.mark.parametrize("model", ["rest_lite", *further(["rest_small", "restv2_tiny"])])
def test_int8_on_natural_images_after_calibration_on_others(model: str, tmp_path: Path) -> None:
    folder = tmp_path / "calibration"
    folder.mkdir()
    for number, crop in enumerate(_crops(("chelsea.png", "coffee.png"), 20, seed=1)):
        crop.save(folder / f"{number}.png")
    options: dict[str, Any] = {"int8_target": "trt", "calibration": folder, "compare_speed": False}
    made = run_export(
        ExportRequest(model, tmp_path / "x.onnx", precision=Precision.INT8, verify=False, options=options)
    )
    wide = run_export(ExportRequest(model, tmp_path / "wide.onnx", verify=False)).path
    evaluator = reference_evaluator_of(made.path)
    for size in (ImageSize(*size) for size in REAL[model]):
        steps = Preprocessing(resize=Resize.WARP, size=size)
        others = [transform(crop, steps)[None] for crop in _crops(("rocket.jpg",), 2, seed=2)]
        with open_candidate(wide) as (run, _):
            pictures = Pictures(run, others)
        assert pictures.compare(evaluator)[LOGITS].cosine >= 0.99, size
