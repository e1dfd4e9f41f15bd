"""The one object users hold: every kind of source, sizes mixed, answers in order, many threads."""

from __future__ import annotations

import functools
import io
import json
import math
import pickle
import re
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from rest_deploy import Prediction, Predictor, Preprocessing, create_model, save_checkpoint
from rest_deploy.artifact.onnx_file import write_record
from rest_deploy.errors import ArtifactError, ConfigError, DeviceError, ImageError, InputError, PredictorError
from rest_deploy.pipeline import ExportRequest, run_export
from rest_deploy.predictor import _scores
from rest_deploy.runtimes.memory import call_bytes
from rest_deploy.specs import Activation, PreprocessingChange
from tests.conftest import DIGITS, IMAGES, TINY, lively


@pytest.fixture(scope="module")
def predictor(tiny_onnx: Path) -> Predictor:
    return Predictor(tiny_onnx)


def _pictures(rng: np.random.Generator, sizes: list[tuple[int, int]]) -> list[Image.Image]:
    return [Image.fromarray(rng.integers(0, 256, (*size, 3), np.uint8)) for size in sizes]


def test_one_image_from_any_source(predictor: Predictor, tmp_path: Path, rng: np.random.Generator) -> None:
    (picture,) = _pictures(rng, [(37, 50)])
    picture.save(tmp_path / "picture.png")
    answers = [
        predictor.classify(source, top_k=3)
        for source in (picture, np.asarray(picture), tmp_path / "picture.png", str(tmp_path / "picture.png"))
    ]
    assert all(answer == answers[0] for answer in answers)
    best = answers[0][0]
    assert isinstance(best, Prediction)
    assert best.label == "abcdefg"[best.index]
    assert len(answers[0]) == 3
    assert [p.score for p in answers[0]] == sorted((p.score for p in answers[0]), reverse=True)


def test_scores_are_the_softmax_of_the_logits(predictor: Predictor, rng: np.random.Generator) -> None:
    (picture,) = _pictures(rng, [(20, 31)])
    batch = np.asarray(picture, np.float64).transpose(2, 0, 1) / 255 - np.reshape(
        predictor.info.preprocessing.mean, (3, 1, 1)
    )
    batch = (batch / np.reshape(predictor.info.preprocessing.std, (3, 1, 1))).astype(np.float32)[None]
    logits = predictor.logits(batch)[0].astype(np.float64)
    expected = np.exp(logits) / np.exp(logits).sum()
    scores = {p.index: p.score for p in predictor.classify(picture, top_k=99)}
    assert len(scores) == TINY.num_classes
    for index, score in scores.items():
        assert score == pytest.approx(expected[index], abs=1e-5)  # the input is rounded once more here
    assert sum(scores.values()) == pytest.approx(1)


def test_a_list_of_mixed_sizes_is_answered_in_order(predictor: Predictor, rng: np.random.Generator) -> None:
    sizes = [(40, 40), (9, 70), (40, 40), (1, 1), (9, 70), (33, 21), (40, 40)]
    pictures = _pictures(rng, sizes)
    alone = [predictor.classify(picture) for picture in pictures]
    together = predictor.classify(pictures)
    assert [[p.index for p in answer] for answer in together] == [[p.index for p in answer] for answer in alone]
    for one, other in zip(alone, together, strict=True):
        assert [p.score for p in one] == pytest.approx([p.score for p in other], abs=1e-5)  # batching reorders sums


def test_more_images_than_one_call_takes(predictor: Predictor, rng: np.random.Generator) -> None:
    pictures = _pictures(rng, [(224, 224)] * 18 + [(8, 8)])
    seen: list[tuple[int, int]] = []
    answers = predictor.classify(pictures, top_k=1, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(i, 19) for i in range(1, 20)]
    assert [a[0].index for a in answers] == [predictor.classify(p, top_k=1)[0].index for p in pictures]


def test_an_empty_list_has_no_answers(predictor: Predictor) -> None:
    assert predictor.classify([]) == []


def test_a_folder(predictor: Predictor) -> None:
    answers = predictor.classify(IMAGES, top_k=1)
    assert [Path(path).name for path in answers] == ["chelsea.png", "coffee.png", "rocket.jpg"]
    assert all(len(answer) == 1 for answer in answers.values())


def test_an_empty_folder(predictor: Predictor, tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="no images in this folder"):
        predictor.classify(tmp_path)


def test_a_bad_image_is_named_and_the_others_answered(
    predictor: Predictor, tmp_path: Path, rng: np.random.Generator
) -> None:
    (tmp_path / "b.png").write_bytes(b"not a picture")
    for name, picture in zip("ac", _pictures(rng, [(8, 9), (10, 4)]), strict=True):
        picture.save(tmp_path / f"{name}.png")
    paths = sorted(tmp_path.iterdir())
    with pytest.raises(ImageError, match=r"b\.png: not an image"):
        predictor.classify(paths)
    answers = dict(predictor.stream(paths))
    assert sorted(answers) == [0, 1, 2]
    assert isinstance(answers[1], ImageError)
    assert isinstance(answers[0], list)
    assert isinstance(answers[2], list)


@pytest.mark.parametrize("top_k", [0, -1, 2.5, True])
def test_top_k_out_of_range(predictor: Predictor, top_k: int) -> None:
    with pytest.raises(ConfigError, match="top_k is"):
        predictor.classify(np.zeros((4, 4, 3), np.uint8), top_k=top_k)


def test_threads_out_of_range(tiny_onnx: Path) -> None:
    with pytest.raises(ConfigError, match="threads is 0"):
        Predictor(tiny_onnx, threads=0)


def test_wrong_input_says_what_is_needed(predictor: Predictor) -> None:
    with pytest.raises(InputError, match=r"float64 and shape \(1, 3, 8, 8\); needed: float32"):
        predictor.logits(np.zeros((1, 3, 8, 8)))  # type: ignore[arg-type]


def test_many_threads_get_their_own_answers(predictor: Predictor, rng: np.random.Generator) -> None:
    batches = [rng.standard_normal((1 + i % 3, 3, 5 + 7 * (i % 5), 40 - i)).astype(np.float32) for i in range(24)]
    alone = [predictor.logits(batch) for batch in batches]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(predictor.logits, batches * 4))
    for i, answer in enumerate(together):
        np.testing.assert_array_equal(answer, alone[i % len(batches)])


def test_closing(tiny_onnx: Path) -> None:
    with Predictor(tiny_onnx) as predictor:
        assert predictor.info.model == "tiny"
    predictor.close()
    with pytest.raises(PredictorError, match="closed; open the artifact again"):
        predictor.logits(np.zeros((1, 3, 8, 8), np.float32))


def test_a_checkpoint_is_opened_as_it_describes_itself() -> None:
    with Predictor(DIGITS) as predictor:
        assert predictor.info.labels == tuple("0123456789")
        assert predictor.info.num_classes == 10


@pytest.fixture(scope="module")
def checkpoint_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Write a checkpoint of a tiny network with other outputs or channels, that says of itself what is given."""

    def write(name: str, *, config: dict[str, Any], **card: Any) -> Path:
        path = tmp_path_factory.mktemp("checkpoints") / f"{name}.safetensors"
        model = lively(create_model(replace(TINY, **config)))
        steps = Preprocessing("native", None) if config.get("in_channels", 3) == 3 else None
        save_checkpoint(path, model, preprocessing=steps, **card)
        return path

    return write


@pytest.fixture(scope="module")
def one_output(checkpoint_of: Callable[..., Path]) -> Path:
    return checkpoint_of("one", config={"num_classes": 1})


def test_one_output_is_not_always_certain(one_output: Path, rng: np.random.Generator) -> None:
    """A softmax over one class is 1 whatever the picture."""
    with Predictor(one_output) as predictor:
        assert predictor.info.activation is Activation.SIGMOID
        assert predictor.info.assumed["activation"] == "sigmoid"
        pictures = _pictures(rng, [(32, 32), (17, 40)])
        for picture in pictures:
            (only,) = predictor.classify(picture)
            logit = float(predictor.logits(predictor.preprocess(picture))[0, 0])
            assert only.score == pytest.approx(1 / (1 + math.exp(-logit)), abs=1e-6)
            assert 0 < only.score < 1


def test_several_labels_of_one_picture_have_a_score_each(
    checkpoint_of: Callable[..., Path], rng: np.random.Generator
) -> None:
    with Predictor(checkpoint_of("many", config={}, activation="sigmoid")) as predictor:
        assert "activation" not in predictor.info.assumed
        (picture,) = _pictures(rng, [(30, 30)])
        answers = predictor.classify(picture)
        assert len(answers) == TINY.num_classes  # all of them, more than the five of a softmax
        logits = predictor.logits(predictor.preprocess(picture))[0].astype(np.float64)
        for answer in answers:
            assert answer.score == pytest.approx(1 / (1 + math.exp(-logits[answer.index])), abs=1e-6)
        assert [a.index for a in predictor.classify(picture, top_k=2)] == [a.index for a in answers[:2]]


def test_a_regressor_gives_its_logits(checkpoint_of: Callable[..., Path], rng: np.random.Generator) -> None:
    with Predictor(checkpoint_of("numbers", config={"num_classes": 2}, activation="none")) as predictor:
        (picture,) = _pictures(rng, [(30, 30)])
        logits = predictor.logits(predictor.preprocess(picture))[0]
        assert {a.index: a.score for a in predictor.classify(picture)} == pytest.approx(dict(enumerate(logits)))


@pytest.mark.parametrize("logit", [-800.0, -40.0, 0.0, 40.0, 800.0])
def test_sigmoid_neither_overflows_nor_loses_the_small(logit: float) -> None:
    (score,) = _scores(np.array([logit]), Activation.SIGMOID)
    assert score == pytest.approx(math.exp(logit) / (1 + math.exp(logit)) if logit < 700 else 1.0, rel=1e-12)


@pytest.mark.parametrize("channels", [2, 4, 6, 13])
def test_other_channels_than_those_of_pictures(
    checkpoint_of: Callable[..., Path], rng: np.random.Generator, channels: int
) -> None:
    with Predictor(checkpoint_of(f"c{channels}", config={"in_channels": channels})) as predictor:
        assert predictor.info.preprocessing is None
        batch = rng.standard_normal((2, channels, 31, 40)).astype(np.float32)
        assert predictor.logits(batch).shape == (2, TINY.num_classes)
        for ask in (predictor.classify, predictor.preprocess):
            with pytest.raises(InputError, match=r"Predictor\.logits"):
                ask(np.zeros((4, 4, 3), np.uint8))


def test_encoded_files_and_file_objects(predictor: Predictor) -> None:
    path = IMAGES / "rocket.jpg"
    expected = predictor.classify(path)
    with path.open("rb") as file:
        for source in (path.read_bytes(), file, io.BytesIO(path.read_bytes())):
            assert predictor.classify(source) == expected


def test_arrays_as_pictures_are(predictor: Predictor, rng: np.random.Generator) -> None:
    for shape, mode in (((20, 30), "L"), ((20, 30, 4), "RGBA")):
        array = rng.integers(0, 256, shape, np.uint8)
        assert predictor.classify(array) == predictor.classify(Image.fromarray(array, mode))


def test_answers_go_into_json(predictor: Predictor) -> None:
    answers = predictor.classify(IMAGES, top_k=1)
    path = str(IMAGES / "chelsea.png")
    (best,) = answers[path]
    assert json.loads(json.dumps(answers))[path] == [{"label": best.label, "index": best.index, "score": best.score}]


def test_pickled_it_is_opened_again(tiny_onnx: Path, tmp_path: Path, rng: np.random.Generator) -> None:
    path = Path(shutil.copy(tiny_onnx, tmp_path))
    batch = rng.standard_normal((1, 3, 20, 20)).astype(np.float32)
    with Predictor(path, threads=1) as predictor:
        text = pickle.dumps(predictor)
        with pickle.loads(text) as other:
            np.testing.assert_array_equal(other.logits(batch), predictor.logits(batch))
            assert other._options == predictor._options
    with pytest.raises(PredictorError, match="closed"):
        pickle.dumps(predictor)
    write_record(path, replace(predictor.info, model="other"))
    with pytest.raises(ArtifactError, match="another file"):
        pickle.loads(text)


def test_it_says_what_it_is(predictor: Predictor, tiny_onnx: Path) -> None:
    assert repr(predictor) == f"<Predictor {str(tiny_onnx)!r}: tiny, onnx fp32 on cpu, 7 classes>"


def test_devices_as_pytorch_names_them(tiny_onnx: Path) -> None:
    with Predictor(tiny_onnx, torch.device("cpu")) as predictor:
        assert predictor._runtime.device == "cpu"
    for gpu in (7, torch.device("cuda", 7)):
        with pytest.raises(DeviceError, match="cuda:7"):
            Predictor(tiny_onnx, gpu)


def _lacks_memory(*_: Any) -> Any:
    raise MemoryError


@pytest.mark.parametrize("pictures", [1, 3])
def test_faults_of_the_machine_are_not_the_pictures(
    tiny_onnx: Path, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch, pictures: int
) -> None:
    images = _pictures(rng, [(8, 8)] * pictures)
    predictor = Predictor(tiny_onnx)
    with monkeypatch.context() as patch:
        patch.setattr(predictor._runtime, "_run", _lacks_memory)
        with pytest.raises(PredictorError, match="not enough memory"):
            list(predictor.stream(images))
    with monkeypatch.context() as patch:
        patch.setattr("rest_deploy.preprocess.transform.transform", _lacks_memory)
        with pytest.raises(PredictorError, match="not enough memory"):
            list(predictor.stream(images))
    predictor._runtime._forked = True
    with pytest.raises(PredictorError, match="forked"):
        list(predictor.stream(images))
    predictor._runtime._forked = False
    predictor.close()
    with pytest.raises(PredictorError, match="closed"):
        list(predictor.stream(images))
    assert not issubclass(PredictorError, ImageError)


def test_a_runtime_that_fails_is_not_the_pictures_fault(
    tiny_onnx: Path, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Broken:
        def run(self, *_: Any) -> Any:
            raise RuntimeError("no device any more")

    with Predictor(tiny_onnx) as predictor:
        monkeypatch.setattr(predictor._runtime, "_session", Broken())
        with pytest.raises(PredictorError, match="no device any more"):
            predictor.classify(_pictures(rng, [(8, 8)]))


def test_one_picture_cannot_take_the_machine(tiny_onnx: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A native network takes pictures as they are."""
    path = tmp_path / "phone.png"
    Image.new("RGB", (5500, 6000)).save(path)
    monkeypatch.setattr("rest_deploy.machine.available_bytes", lambda: 1 << 29)
    with Predictor(tiny_onnx) as predictor:
        monkeypatch.setattr(predictor._runtime, "_run", lambda batch: pytest.fail(f"ran {batch.shape}"))
        needed = call_bytes(predictor.info, 1, 6000, 5500) / 2**30
        assert needed > 0.4
        fitting = predictor.max_pixels
        with pytest.raises(ImageError, match=rf"phone\.png: an input of 6000x5500 .*{needed:.1f} GiB.*{fitting:,}"):
            predictor.classify(path)
        side = math.isqrt(fitting)
        assert call_bytes(predictor.info, 1, side, side) <= 0.8 * 2**29
        assert call_bytes(predictor.info, 1, side + 1, side + 1) > 0.8 * 2**29
        line = np.zeros((1, 8_000_000, 3), np.uint8)  # fewer pixels, and far more work: keys are not reduced across
        with pytest.raises(ImageError, match=r"image: an input of 1x8000000 is .* operations"):
            predictor.preprocess(line)
        answers = dict(predictor.stream([path, line]))  # a fault of each picture: the others go on
        assert all(isinstance(answer, ImageError) for answer in answers.values())


def test_a_batch_that_needs_too_much_is_refused_with_what_fits(
    tiny_onnx: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rest_deploy.machine.available_bytes", lambda: 1 << 30)
    with Predictor(tiny_onnx) as predictor:
        monkeypatch.setattr(predictor._runtime, "_run", lambda batch: pytest.fail(f"ran {batch.shape}"))
        needed = functools.partial(call_bytes, predictor.info)
        batch = np.broadcast_to(np.float32(0), (32, 3, 1400, 1400))
        assert needed(1, 1400, 1400) < 0.8 * 2**30 < needed(32, 1400, 1400)
        with pytest.raises(InputError) as caught:
            predictor.logits(batch)
        told = re.search(r"at most about ([\d,]+) pixels each for 32 at a time", str(caught.value))
        assert told is not None
        side = math.isqrt(int(told[1].replace(",", "")))
        assert needed(32, side, side) <= 0.8 * 2**30 < needed(32, side + 1, side + 1)
        assert f"32x1400x1400 would take about {needed(32, 1400, 1400) / 2**30:.1f} GiB, and 1.0 GiB" in str(
            caught.value
        )


def test_most_pixels_can_be_said(tiny_onnx: Path) -> None:
    with Predictor(tiny_onnx, max_pixels=100) as predictor:
        assert predictor.max_pixels == 100
        assert len(predictor.classify(np.zeros((10, 10, 3), np.uint8))) == 5
        with pytest.raises(ImageError, match=r"10x11 is 110 pixels, over max_pixels 100"):
            predictor.classify(np.zeros((10, 11, 3), np.uint8))
    with (
        Predictor(tiny_onnx, max_pixels=1_000_000) as predictor,
        pytest.raises(ImageError, match="operations, over 4 times"),
    ):
        predictor.preprocess(np.zeros((1, 900_000, 3), np.uint8))
    with Predictor(tiny_onnx) as predictor, pytest.raises(ImageError, match=r"over max_pixels 33,554,432"):
        predictor.preprocess(np.zeros((6000, 6000, 3), np.uint8))
    for wrong in (0, -1, 2.5, True):
        with pytest.raises(ConfigError, match="max_pixels"):
            Predictor(tiny_onnx, max_pixels=wrong)  # type: ignore[arg-type]


def test_memory_that_others_took_is_no_fault_of_the_picture(tiny_onnx: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Predictor(tiny_onnx) as predictor:
        monkeypatch.setattr("rest_deploy.machine.available_bytes", lambda: 40 << 20)
        with pytest.raises(PredictorError, match=r"0\.0 GiB are free now"):
            predictor.classify(np.zeros((5000, 6000, 3), np.uint8))


def test_an_image_without_finite_logits_is_named_and_the_others_answered(
    tiny_onnx: Path, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No score of NaN, and no class that stands first because nothing was more."""
    pictures = _pictures(rng, [(20, 24)] * 3)
    with Predictor(tiny_onnx) as own:
        alone, run = own.classify(pictures), own._runtime._run

        def overflowing(batch: np.ndarray) -> dict[str, np.ndarray]:
            outputs = run(batch)
            outputs["logits"][1, 3] = math.inf
            return outputs

        monkeypatch.setattr(own._runtime, "_run", overflowing)
        with pytest.raises(ImageError, match=r"image 1 of the list: .*not finite"):
            own.classify(pictures)
        answers = dict(own.stream(pictures))
    assert isinstance(answers[1], ImageError)
    assert [answers[0], answers[2]] == [alone[0], alone[2]]


def test_an_input_beyond_the_precision_is_told_with_its_size(
    tiny_checkpoint: Path, tmp_path: Path, rng: np.random.Generator
) -> None:
    """A std as small as is accepted makes inputs that half does not hold."""
    steps, options = PreprocessingChange(mean=(0.0,) * 3, std=(1e-6,) * 3), {"compare_speed": False}
    request = ExportRequest(
        None, tmp_path / "half.onnx", tiny_checkpoint, precision="fp16", preprocessing=steps, verify=False,
        options=options,
    )  # fmt: skip
    (picture,) = _pictures(rng, [(20, 24)])
    words = r"image 0 of the list: .*values up to 1e\+06.*half\.onnx.*65504"
    with Predictor(run_export(request).path) as own, pytest.raises(ImageError, match=words):
        own.classify(picture)


def test_what_is_wrong_with_a_batch_is_told_before_what_it_would_take(tiny_onnx: Path) -> None:
    with Predictor(tiny_onnx) as predictor:
        for value, channels in ((np.uint8(0), 3), (np.float32(0), 7)):
            odd = np.broadcast_to(value, (1, channels, 9000, 9000))
            with pytest.raises(InputError, match=rf"input of dtype {odd.dtype} and shape .*; needed: float32"):
                predictor.logits(odd)


def test_where_the_system_does_not_tell_what_is_free_large_batches_run(
    tiny_onnx: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rest_deploy.machine.available_bytes", lambda: None)
    with Predictor(tiny_onnx, max_pixels=None) as predictor:
        assert predictor.max_pixels is None
        monkeypatch.setattr(predictor._runtime, "_run", lambda batch: {"logits": np.zeros((len(batch), 7), np.float32)})
        assert predictor.logits(np.zeros((1, 3, 1500, 1500), np.float32)).shape == (1, 7)
