"""The one object users hold: every kind of source, sizes mixed, answers in order, many threads."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from rest_deploy import Prediction, Predictor
from rest_deploy.errors import ConfigError, ImageError, InputError, RestDeployError
from tests.conftest import DIGITS, IMAGES, TINY


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
    assert [path.name for path in answers] == ["chelsea.png", "coffee.png", "rocket.jpg"]
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
    with pytest.raises(RestDeployError, match="closed; open the artifact again"):
        predictor.logits(np.zeros((1, 3, 8, 8), np.float32))


def test_a_checkpoint_is_opened_as_it_describes_itself() -> None:
    with Predictor(DIGITS) as predictor:
        assert predictor.info.labels == tuple("0123456789")
        assert predictor.info.num_classes == 10
