"""Predictors and runtimes of files that take pictures: the answers of a file that takes floats, bit for bit."""

from __future__ import annotations

import io
import math
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from rest_deploy import Prediction, Predictor, export
from rest_deploy.errors import ImageError, InputError, PredictorError
from rest_deploy.preprocess.images import load_image
from rest_deploy.preprocess.transform import input_of
from rest_deploy.runtimes.memory import call_bytes
from rest_deploy.runtimes.registry import open_runtime, read_info
from rest_deploy.specs import USUAL_MAX_PIXELS, Alpha, ImageSize, InputKind, Preprocessing
from tests.conftest import IMAGES

KINDS = ("uint8", "pixels")
GIB = 1 << 30


@pytest.fixture(scope="module")
def by_floats(tiny_by_input: dict[str, Path]) -> Iterator[Predictor]:
    with Predictor(tiny_by_input["float"]) as predictor:
        yield predictor


@pytest.fixture(params=KINDS)
def by_pictures(request: pytest.FixtureRequest, tiny_by_input: dict[str, Path]) -> Iterator[Predictor]:
    with Predictor(tiny_by_input[request.param]) as predictor:
        yield predictor


def _file(image: Image.Image, kind: str = "PNG") -> bytes:
    made = io.BytesIO()
    image.save(made, kind)
    return made.getvalue()


def _modes(rng: np.random.Generator) -> dict[str, Any]:
    """What people have: every way to give a picture, and the modes of files."""
    levels = rng.integers(0, 256, (90, 61, 4), np.uint8)
    image = Image.fromarray(levels[..., :3])
    deep = Image.fromarray(rng.integers(0, 1 << 16, (70, 33), np.uint16))
    return {
        "an array": levels[..., :3],
        "a grey array": levels[..., 0],
        "an array with alpha": levels,
        "an image": image,
        "bytes": _file(image),
        "JPEG": _file(image, "JPEG"),
        "a file": io.BytesIO(_file(image)),
        "RGBA": _file(Image.fromarray(levels)),
        "grey and alpha": _file(Image.fromarray(levels).convert("LA")),
        "a palette": _file(image.convert("P")),
        "CMYK": _file(image.convert("CMYK"), "TIFF"),
        "16 bits": _file(deep),
        "black and white": _file(image.convert("1")),
        "tall": Image.fromarray(rng.integers(0, 256, (400, 30, 3), np.uint8)),
        "long": Image.fromarray(rng.integers(0, 256, (9, 300, 3), np.uint8)),
        "one pixel": levels[:1, :1, :3],
    }


def test_answers_are_those_of_the_file_that_takes_floats(
    by_floats: Predictor, by_pictures: Predictor, rng: np.random.Generator
) -> None:
    for name, picture in _modes(rng).items():
        wanted = by_floats.classify(picture)
        if isinstance(picture, io.BytesIO):
            picture.seek(0)
        assert by_pictures.classify(picture) == wanted, name


def _same(found: list[list[Prediction]], wanted: list[list[Prediction]]) -> None:
    """The same classes, and scores but for the last bits: pictures run together by size, and sums have orders."""
    for ours, theirs in zip(found, wanted, strict=True):
        assert [own.index for own in ours] == [own.index for own in theirs]
        assert [own.score for own in ours] == pytest.approx([own.score for own in theirs], rel=1e-4)


def test_lists_and_folders_of_mixed_sizes(
    by_floats: Predictor, by_pictures: Predictor, rng: np.random.Generator, tmp_path: Path
) -> None:
    sizes = [(90, 61), (20, 27), (90, 61), (300, 20), (1, 1), (20, 27), (90, 61)]
    pictures = [Image.fromarray(rng.integers(0, 256, (*size, 3), np.uint8)) for size in sizes]
    _same(by_pictures.classify(pictures), by_floats.classify(pictures))
    for number, picture in enumerate(pictures):
        picture.save(tmp_path / f"{number}.png")
    found, wanted = (own.classify(tmp_path) for own in (by_pictures, by_floats))
    assert list(found) == list(wanted)
    assert len(found) == len(sizes)
    _same(list(found.values()), list(wanted.values()))
    assert by_pictures.classify(str(tmp_path / "0.png")) == by_floats.classify(str(tmp_path / "0.png"))


def test_logits_of_what_preprocess_gives(by_floats: Predictor, by_pictures: Predictor) -> None:
    path = min(IMAGES.rglob("*.jpg"))
    batch = by_pictures.preprocess(path)
    assert batch.dtype == np.uint8
    steps, kind = by_pictures.info.preprocessing, by_pictures.info.input_kind
    assert steps is not None
    assert np.array_equal(batch[0], input_of(load_image(path, Alpha.WHITE), steps, kind))
    assert (batch.shape[1:] == (48, 33, 3)) == (kind is InputKind.UINT8)
    logits = by_pictures.logits(batch)
    assert logits.dtype == np.float32
    np.testing.assert_array_equal(logits, by_floats.logits(by_floats.preprocess(path)))


@pytest.mark.parametrize(
    "batch",
    [
        np.zeros((1, 48, 33, 3), np.float32),
        np.zeros((1, 48, 33, 3), np.int8),
        np.zeros((1, 48, 33, 3), np.uint16),
        np.zeros((1, 48, 33, 3), np.bool_),
        np.zeros((1, 3, 48, 33), np.uint8),
        np.zeros((48, 33, 3), np.uint8),
        np.zeros((1, 48, 33), np.uint8),
        np.zeros((1, 48, 33, 1), np.uint8),
        np.zeros((1, 48, 33, 4), np.uint8),
        np.zeros((0, 48, 33, 3), np.uint8),
        np.zeros((1, 0, 33, 3), np.uint8),
        np.zeros((1, 48, 0, 3), np.uint8),
        np.zeros((1, 3, 48, 33), np.float32),
        [[[[0, 0, 0]]]],
        None,
    ],
    ids=lambda batch: f"{getattr(batch, 'dtype', type(batch).__name__)} {getattr(batch, 'shape', '')}",
)
def test_what_is_no_batch_of_pictures(batch: Any, by_pictures: Predictor) -> None:
    with pytest.raises(InputError, match=r"uint8 of shape \(batch, height, width, 3\) in RGB, no size of 0") as told:
        by_pictures.logits(batch)
    assert "\n" not in str(told.value)
    assert np.isfinite(by_pictures.logits(np.zeros((2, 48, 33, 3), np.uint8))).all()


def test_pictures_in_other_layouts_of_memory(by_pictures: Predictor, rng: np.random.Generator) -> None:
    batch = rng.integers(0, 256, (2, 48, 33, 3), np.uint8)
    wanted = by_pictures.logits(batch)
    for same in (
        np.asfortranarray(batch),
        batch[::-1][::-1],
        np.ma.masked_array(batch, mask=batch > 9),
        np.ascontiguousarray(batch.transpose(0, 3, 1, 2)).transpose(0, 2, 3, 1),
    ):
        np.testing.assert_array_equal(by_pictures.logits(same), wanted)


def test_what_a_file_is_told_of(tiny_by_input: dict[str, Path], by_pictures: Predictor) -> None:
    info = by_pictures.info
    assert info.input_kind.value in KINDS
    assert info == read_info(tiny_by_input[info.input_kind.value])
    with open_runtime(tiny_by_input["float"]) as floats:
        assert floats.info.input_kind is InputKind.FLOAT
        with pytest.raises(InputError, match="float32 of shape"):
            floats.run(np.zeros((1, 48, 33, 3), np.uint8))


def test_damaged_pictures_and_lines(by_pictures: Predictor, by_floats: Predictor, rng: np.random.Generator) -> None:
    whole = _file(Image.fromarray(rng.integers(0, 256, (90, 61, 3), np.uint8)), "JPEG")
    for damaged in (whole[: len(whole) // 2], whole[:30], b"", b"no picture"):
        with pytest.raises(ImageError):
            by_pictures.classify(damaged)
    found = dict(by_pictures.stream([whole, whole[:300], whole]))
    assert isinstance(found[1], ImageError)
    _same([found[0], found[2]], [by_floats.classify(whole)] * 2)
    line = rng.integers(0, 256, (100_000, 1, 3), np.uint8)
    assert by_pictures.classify(line) == by_floats.classify(line)
    assert by_pictures.classify(line.reshape(1, -1, 3)) == by_floats.classify(line.reshape(1, -1, 3))


def test_max_pixels_is_of_the_network_s_input(tiny_by_input: dict[str, Path], rng: np.random.Generator) -> None:
    """Which is small, whatever the picture is; of a file that resizes nothing it is the picture."""
    picture = rng.integers(0, 256, (300, 400, 3), np.uint8)
    with Predictor(tiny_by_input["pixels"], max_pixels=48 * 33) as predictor:
        assert predictor.classify(picture)
    with (
        Predictor(tiny_by_input["pixels"], max_pixels=48 * 33 - 1) as predictor,
        pytest.raises(ImageError, match="300x400"),
    ):
        predictor.classify(picture)
    with Predictor(tiny_by_input["uint8"], max_pixels=300 * 400 - 1) as predictor:
        assert predictor.classify(picture)
        with pytest.raises(InputError, match=r"an input of 300x400 is 120,000 pixels, over max_pixels 119,999"):
            predictor.logits(picture[None])


def _free(monkeypatch: pytest.MonkeyPatch, free: int) -> None:
    for module in ("machine", "runtimes.memory"):
        monkeypatch.setattr(f"rest_deploy.{module}.available_bytes", lambda: free)


def test_memory_is_that_of_the_picture(tiny_by_input: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """A picture that fits as an input of the network may not fit as it is resized."""
    _free(monkeypatch, GIB)
    picture = np.broadcast_to(np.uint8(0), (5000, 8000, 3))
    with Predictor(tiny_by_input["pixels"]) as predictor:
        with pytest.raises(ImageError, match=r"an input of 5000x8000 .* GiB.* are free.* pixels; scale it down first"):
            predictor.classify(Image.new("RGB", (8000, 5000)))
        with pytest.raises(InputError, match="an input of 5000x8000"):
            predictor.logits(picture[None])
        side = math.isqrt(predictor._fitting() or 0)
        assert 1000 < side < 5000
        assert predictor.max_pixels == min(USUAL_MAX_PIXELS, side**2)
    with Predictor(tiny_by_input["uint8"]) as predictor:
        assert predictor.classify(Image.new("RGB", (8000, 5000)))


_MEASURE = """
import sys, threading, numpy as np
from rest_deploy.runtimes.registry import open_runtime
from rest_deploy.runtimes.ort import open_session

def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096

with open_runtime(sys.argv[1]) as runtime:
    runtime.run(np.zeros((1, 9, 9, 3), np.uint8))
    picture = np.random.default_rng(0).integers(0, 256, (1, *map(int, sys.argv[2:]), 3), np.uint8)
    before, most, done = resident(), 0, threading.Event()

    def watch():
        global most
        while not done.wait(0.0005):
            most = max(most, resident())

    thread = threading.Thread(target=watch)
    thread.start()
    for _ in range(2):
        runtime.run(picture)
    done.set()
    thread.join()
    print(most - before + picture.nbytes)
"""


@pytest.fixture(scope="module")
def warped(tmp_path_factory: pytest.TempPathFactory, tiny_checkpoint: Path) -> Path:
    """The filter that reaches furthest, and no pixel is cut off."""
    steps = Preprocessing(size=ImageSize(224, 224), resize="warp", interpolation="lanczos")
    output = tmp_path_factory.mktemp("warped") / "warped.onnx"
    return export(None, output, checkpoint=tiny_checkpoint, preprocessing=steps, input="pixels", verify=False)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("size", [(3000, 4000), (4000, 3000), (4000, 1000)])
def test_predicted_memory_covers_what_a_call_takes(warped: Path, size: tuple[int, int]) -> None:
    words = [sys.executable, "-c", _MEASURE, str(warped), *map(str, size)]
    took = int(subprocess.run(words, check=True, capture_output=True, text=True).stdout)
    predicted = call_bytes(read_info(warped), 1, *size)
    assert took <= predicted
    assert predicted < 3 * took


@pytest.mark.parametrize("kind", KINDS)
def test_embeddings_and_maps(kind: str, tiny_checkpoint: Path, tmp_path: Path, rng: np.random.Generator) -> None:
    steps = Preprocessing(size=ImageSize(64, 40))
    files = {
        own: export(None, tmp_path / f"{own}.onnx", checkpoint=tiny_checkpoint, preprocessing=steps, input=own,
                    features=("stage1", "stage4", "embedding", "logits"), verify=False)
        for own in ("float", kind)
    }  # fmt: skip
    pictures = [rng.integers(0, 256, (*size, 3), np.uint8) for size in ((90, 61), (20, 27), (90, 61))]
    with Predictor(files["float"]) as floats, Predictor(files[kind]) as ours:
        for picture in pictures:
            np.testing.assert_array_equal(ours.embed(picture), floats.embed(picture))
        np.testing.assert_allclose(ours.embed(pictures), floats.embed(pictures), rtol=0, atol=1e-4)
        batches = [own.preprocess(pictures[0]) for own in (ours, floats)]
        found, wanted = (own.features(batch) for own, batch in zip((ours, floats), batches, strict=True))
        assert found.keys() == wanted.keys()
        for name, values in wanted.items():
            np.testing.assert_array_equal(found[name], values)
        assert found["stage1"].shape == (1, 8, 16, 10)


def test_a_pickled_one_and_a_closed_one(by_pictures: Predictor, tiny_by_input: dict[str, Path]) -> None:
    import pickle

    picture = np.zeros((20, 30, 3), np.uint8)
    with pickle.loads(pickle.dumps(by_pictures)) as again:
        assert again.classify(picture) == by_pictures.classify(picture)
    closed = Predictor(tiny_by_input["pixels"])
    closed.close()
    with pytest.raises(PredictorError, match="closed"):
        closed.logits(picture[None])
