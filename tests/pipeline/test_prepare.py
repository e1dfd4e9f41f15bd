"""Inputs of a network from a folder: images as the artifact would read them, arrays as they are; exports by arrays."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from rest_deploy import Predictor, verify
from rest_deploy.errors import ConfigError
from rest_deploy.models.card import Card
from rest_deploy.models.checkpoint import save_checkpoint
from rest_deploy.models.factory import create_model
from rest_deploy.pipeline import ExportRequest, ExportResult, run, run_export
from rest_deploy.pipeline.prepare import ImageInputs
from rest_deploy.preprocess.sample import ArrayInput, choose_images
from rest_deploy.specs import LARGEST_HALF, LARGEST_INPUT, Alpha, ImageSize, Interpolation, Preprocessing, Resize
from rest_deploy.verification import Case, Reference
from tests.conftest import TINY, lively

SIX = Preprocessing(Resize.NATIVE, None, mean=(0.5,) * 6, std=(0.25,) * 6)
PLAIN = Preprocessing(Resize.WARP, ImageSize(8, 8), mean=(0.0,) * 3, std=(1.0,) * 3)


def _arrays(folder: Path, count: int = 24, channels: int = 6) -> Path:
    """A file of inputs with coarse structure."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    coarse = rng.standard_normal((count, channels, 5, 6)).repeat(8, axis=2).repeat(8, axis=3)
    np.save(folder / "inputs.npy", (coarse + 0.3 * rng.standard_normal(coarse.shape)).astype(np.float32))
    return folder


def _picture(folder: Path) -> Path:
    path = folder / "x.png"
    image = Image.new("RGBA", (16, 16), (200, 0, 0, 255))
    image.paste((0, 100, 0, 0), (0, 0, 8, 16))
    image.save(path)
    return path


def _all(inputs: ImageInputs) -> list[NDArray[np.float32]]:
    made = list(inputs)
    assert len(made) == len(inputs)
    return made


def test_arrays_come_as_they_are(tmp_path: Path) -> None:
    folder = _arrays(tmp_path / "x")
    sample = choose_images(folder, 16, 0)
    stored = np.load(folder / "inputs.npy")
    for preprocessing in (None, SIX):
        made = _all(ImageInputs(sample.judged, preprocessing, channels=6))
        assert len(made) == 8
        for source, array in zip(sample.judged, made, strict=True):
            assert isinstance(source, ArrayInput)
            assert np.array_equal(array, stored[source.row][None])


@pytest.mark.parametrize(("alpha", "left"), [(Alpha.WHITE, (255, 255, 255)), (Alpha.DROP, (0, 100, 0))])
def test_images_come_as_the_preprocessing_says(tmp_path: Path, alpha: Alpha, left: Sequence[int]) -> None:
    (made,) = ImageInputs([_picture(tmp_path)], replace(PLAIN, alpha=alpha, interpolation=Interpolation.NEAREST))
    assert made.shape == (1, 3, 8, 8)
    assert np.rint(made[0, :, 4, 0] * 255).tolist() == list(left)
    assert np.rint(made[0, :, 4, 7] * 255).tolist() == [200, 0, 0]


def test_images_at_several_sizes(tmp_path: Path) -> None:
    made = _all(ImageInputs([_picture(tmp_path)] * 2, PLAIN, [ImageSize(8, 8), ImageSize(5, 4)]))
    assert [array.shape[2:] for array in made] == [(8, 8), (5, 4)] * 2


@pytest.mark.parametrize(
    ("preprocessing", "words"),
    [(SIX, r"takes 6 channels, and pictures have 1 or 3; .*\.npy"), (None, r"leaves preprocessing .*\.npy")],
)
def test_pictures_for_a_network_that_takes_none(
    tmp_path: Path, preprocessing: Preprocessing | None, words: str
) -> None:
    with pytest.raises(ConfigError, match=rf"x\.png: .*{words}") as caught:
        ImageInputs([_picture(tmp_path)], preprocessing, channels=6)
    assert len(str(caught.value).splitlines()) == 1
    assert len(ImageInputs([], preprocessing)) == 0


def test_arrays_that_do_not_fit_are_refused_before_the_first_is_read(tmp_path: Path) -> None:
    judged = choose_images(_arrays(tmp_path / "x"), 16, 0).judged
    with pytest.raises(ConfigError, match=r"inputs\.npy: .*\(24, 6, 40, 48\), .* 4 channels"):
        ImageInputs(judged, None, channels=4)
    with pytest.raises(ConfigError, match=r"calibration_sizes 8x8: \.npy files .* not resized"):
        ImageInputs(judged, SIX, [ImageSize(8, 8)], 6)


# A network of six channels, from its checkpoint to FP16 and INT8


@pytest.fixture(scope="module")
def six(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("six") / "six.safetensors"
    model = lively(create_model(replace(TINY, in_channels=6)))
    save_checkpoint(path, model.state_dict(), Card("six", tuple("abcdefg"), SIX))
    return path


def _export(six: Path, output: Path, precision: str, *, verify: bool = True, **options: Any) -> ExportResult:
    options = {"compare_speed": False, **options}
    return run_export(ExportRequest(None, output, checkpoint=six, precision=precision, verify=verify, options=options))


@pytest.mark.slow
def test_fp16_of_six_channels_is_judged_by_arrays(six: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "Reference", partial(Reference, cases=[Case(1, ImageSize(20, 27))]))  # of noise
    folder = _arrays(tmp_path / "x")
    made = _export(six, tmp_path / "six.onnx", "fp16", calibration=folder)
    plan = made.info.precision_plan
    assert plan is not None
    assert plan.agreement is not None
    assert plan.agreement["images"] == 24
    assert set(plan.judged_images) == {f"inputs.npy[{number}]" for number in range(24)}


def test_int8_of_six_channels_is_calibrated_by_arrays(six: Path, tmp_path: Path) -> None:
    folder = _arrays(tmp_path / "x")
    made = _export(six, tmp_path / "six.onnx", "int8", verify=False, calibration=folder, int8_target="trt")
    plan = made.info.precision_plan
    assert plan is not None
    assert plan.calibration is not None
    assert len({name for name in plan.calibration.images if name.startswith("inputs.npy[")}) == 18
    with Predictor(made.path) as predictor:
        assert predictor.logits(np.load(folder / "inputs.npy")[:2]).shape == (2, 7)


def test_pictures_do_not_calibrate_a_network_of_six_channels(six: Path, tmp_path: Path) -> None:
    folder = tmp_path / "x"
    folder.mkdir()
    for number in range(30):
        colours = np.random.default_rng(number).integers(0, 256, (4, 4, 3)).astype(np.uint8)
        Image.fromarray(colours).resize((24, 20), Image.Resampling.NEAREST).save(folder / f"{number:02d}.png")
    with pytest.raises(ConfigError, match=r"takes 6 channels, and pictures have 1 or 3; .*\.npy"):
        _export(six, tmp_path / "six.onnx", "int8", verify=False, calibration=folder, int8_target="trt")
    assert not (tmp_path / "six.onnx").exists()
    with pytest.raises(ConfigError, match=r"takes 6 channels, and pictures have 1 or 3.* --data"):
        verify(six, six, data=folder, synthetic=False)


def test_inputs_that_the_file_would_not_answer(tmp_path: Path) -> None:
    """Ranges taken from them would be of no use, and they would spoil those of the others."""
    values = np.zeros((3, 6, 8, 8), np.float32)
    values[1, 2, 3, 4] = -70000
    np.save(tmp_path / "x.npy", values)
    inputs = [ArrayInput(tmp_path / "x.npy", row) for row in range(3)]
    assert len(_all(ImageInputs(inputs, None))) == 3
    with pytest.raises(ConfigError, match=r"x\.npy, input 1: .*7e\+04.*65504"):
        list(ImageInputs(inputs, None, largest=LARGEST_HALF))
    values[1, 2, 3, 4] = 2 * LARGEST_INPUT
    np.save(tmp_path / "x.npy", values)
    with pytest.raises(ConfigError, match=r"x\.npy, input 1: "):
        list(ImageInputs(inputs, None))
    steep = replace(PLAIN, std=(1e-6,) * 3)
    with pytest.raises(ConfigError, match=r"x\.png: .*mean and std"):
        list(ImageInputs([_picture(tmp_path)], steep, largest=LARGEST_HALF))


@pytest.mark.parametrize("options", [{"precision": "int8", "int8_target": "trt"}, {"precision": "fp16"}], ids=str)
def test_an_input_too_large_to_calibrate_with_is_named(
    tmp_path: Path, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before any work."""
    folder, checkpoint = _arrays(tmp_path / "x"), tmp_path / "six.safetensors"
    values = np.load(folder / "inputs.npy")
    values[:, 0, 0, 0] = 1e5
    np.save(folder / "inputs.npy", values)
    model = lively(create_model(replace(TINY, in_channels=6)))
    save_checkpoint(checkpoint, model.state_dict(), Card("six", None, SIX))
    monkeypatch.setattr("rest_deploy.models.factory.load_model", pytest.fail)
    options, precision = {**options, "calibration": folder}, options["precision"]
    del options["precision"]
    with pytest.raises(ConfigError, match=r"inputs\.npy, input \d+: .*1e\+05.*65504"):
        run_export(ExportRequest(None, tmp_path / "x.onnx", checkpoint, precision=precision, options=options))
