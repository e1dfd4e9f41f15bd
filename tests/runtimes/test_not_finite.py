"""One image that is not finite: its own row is NaN, the others are those of a batch without it, whatever runs it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from rest_deploy import Predictor
from rest_deploy.artifact.profile import Profile
from rest_deploy.errors import InputError
from rest_deploy.export.engine.config import EngineConfig
from rest_deploy.pipeline import ExportRequest, run_export
from rest_deploy.runtimes.base import Runtime
from rest_deploy.runtimes.registry import open_runtime
from rest_deploy.specs import LARGEST_HALF, LARGEST_INPUT, Precision
from tests.conftest import TINY, slow
from tests.engines import Machine, images
from tests.runtimes.toy import add_toy, make_toy
from tests.standins.tensorrt import API_CASES, API_FILES

Make = Callable[[str], Path]

#: Kind of ONNX file -> its precision, and how it is made.
NARROW: dict[str, tuple[str, dict[str, Any]]] = {
    "fp16": ("fp16", {}),
    "half io": ("fp16", {"half_io": True}),
    "int8 cpu": ("int8", {"int8_target": "cpu"}),
    "int8 trt": ("int8", {"int8_target": "trt"}),
}
ONNX = ("onnx", *NARROW)
#: What one pixel is made, or with "everywhere" all of them.
BAD = {"NaN": np.nan, "infinity": np.inf, "-infinity": -np.inf, "1e20": 1e20, "1e20 everywhere": 1e20}


@pytest.fixture(scope="module")
def make(tmp_path_factory: pytest.TempPathFactory, tiny_checkpoint: Path, tiny_onnx: Path) -> Make:
    """Artifacts of the tiny model, each made when it is first asked for."""
    folder = tmp_path_factory.mktemp("narrow")
    made = {"onnx": tiny_onnx, "pytorch": tiny_checkpoint}

    def one(kind: str) -> Path:
        if kind not in made:
            precision, options = NARROW[kind]
            options = {**options, "compare_speed": False}
            if kind == "int8 trt":
                options["calibration"] = _pictures(folder / "pictures")
            output = folder / f"{len(made)}.onnx"
            request = ExportRequest(
                None, output, tiny_checkpoint, precision=Precision(precision), verify=False, options=options
            )
            made[kind] = run_export(request).path
        return made[kind]

    return one


def _pictures(folder: Path) -> Path:
    folder.mkdir()
    rng = np.random.default_rng(0)
    for number in range(24):
        Image.fromarray(rng.integers(0, 256, (6, 6, 3), np.uint8)).resize((40, 40)).save(folder / f"{number}.png")
    return folder


def _like_integers(batch: NDArray[Any]) -> NDArray[np.float32]:
    """An engine as bad as can be: what is not finite becomes so, and all images share a scale."""
    values = np.clip(np.nan_to_num(batch.astype(np.float64), nan=0.0), -1000, 1000)
    scale = max(np.abs(values).max() / 127, 1e-9)
    means = (np.round(values / scale) * scale).mean(axis=(1, 2, 3))
    return (means[:, None] * np.arange(1, TINY.num_classes + 1)).astype(np.float32)


@pytest.fixture(params=["pytorch", "toy", *ONNX, *API_CASES])
def runtime(
    request: pytest.FixtureRequest, make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Runtime]:
    if request.param == "toy":
        add_toy(monkeypatch)
        path = make_toy(make("onnx"), tmp_path)
    elif request.param not in API_FILES:
        path = make(request.param)
    else:
        machine = Machine.make(monkeypatch, request.param)
        path = machine.build(make("onnx"), tmp_path)
        machine.trt.network = _like_integers
    with open_runtime(path) as opened:
        yield opened


def _spoiled(image: NDArray[np.float32], what: str, at: tuple[int, ...]) -> NDArray[np.float32]:
    image = image.copy()
    image[... if "everywhere" in what else at] = BAD[what]
    return image


def _faults(runtime: Runtime, shape: tuple[int, ...], *kinds: str) -> list[str]:
    """What is wrong with the answers, each image of a batch being spoiled in its turn, at another pixel."""
    good, faults = images(*shape, seed=sum(shape)), []
    for row in range(len(good)):
        others = np.arange(len(good)) != row
        alone = runtime.run(good[others])["logits"] if others.any() else None
        for what in kinds:
            batch = good.copy()
            batch[row] = _spoiled(good[row], what, tuple((row * 7 + 5) % size for size in shape[1:]))
            logits = runtime.run(batch)["logits"]
            if np.isfinite(logits[row]).any():
                faults.append(f"{what} in image {row} of {len(good)}: its own answer is finite")
            if alone is not None and not np.array_equal(logits[others], alone):
                faults.append(f"{what} in image {row} of {len(good)}: another answer changed")
    return faults


@pytest.mark.parametrize("size", [(33, 17), *slow([(20, 24), (1, 1)])])
def test_one_image_that_is_not_finite(runtime: Runtime, size: tuple[int, int]) -> None:
    assert [_faults(runtime, (batch, 3, *size), *BAD) for batch in (1, 2, 4)] == [[], [], []]


@pytest.mark.parametrize(
    ("kind", "what", "words"),
    [
        ("onnx", "1e20 everywhere", "its own answer is finite"),
        ("int8 cpu", "NaN", "its own answer is finite"),
        ("int8 cpu", "NaN", "another answer changed"),
        ("int8 trt", "NaN", "its own answer is finite"),
        ("int8 trt", "infinity", "its own answer is finite"),
    ],
)
def test_the_check_would_be_missed(
    kind: str, what: str, words: str, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Runtime, "_holds", lambda self, values: True)
    with open_runtime(make(kind)) as runtime:
        assert words in " ".join(_faults(runtime, (4, 3, 20, 24), what))


def test_several_and_all_of_them(runtime: Runtime, monkeypatch: pytest.MonkeyPatch) -> None:
    batch = images(4, 3, 20, 24)
    alone = runtime.run(batch[[1, 3]])["logits"]
    batch[0, 1, 2, 3], batch[2] = np.nan, -np.inf
    logits = runtime.run(batch)["logits"]
    np.testing.assert_array_equal(logits[[1, 3]], alone)
    assert np.isnan(logits[[0, 2]]).all()
    monkeypatch.setattr(runtime, "_run", pytest.fail)  # there is nothing to run
    logits = runtime.run(batch[[0, 2]])["logits"]
    assert (logits.dtype, logits.shape) == (np.float32, (2, TINY.num_classes))
    assert np.isnan(logits).all()


def test_what_is_given_is_left_alone_and_what_is_made_is_the_callers(runtime: Runtime) -> None:
    batch = images(3, 20, 24, 3).transpose(0, 3, 1, 2)  # strided
    batch[1, 2, 0, 0] = np.nan
    before = batch.copy()
    batch.flags.writeable = False
    logits = runtime.run(batch)["logits"]
    kept = logits.copy()
    again = runtime.run(np.ascontiguousarray(batch))["logits"]
    assert not np.shares_memory(logits, again)
    logits[:] = 0  # writable
    np.testing.assert_array_equal(again, kept)
    np.testing.assert_array_equal(batch, before)


@pytest.mark.parametrize("kind", ["pytorch", *ONNX])
def test_the_largest_value(kind: str, make: Make) -> None:
    """As much as the precision holds is run, and the next number is not."""
    with open_runtime(make(kind)) as runtime:
        most = LARGEST_INPUT if kind in ("pytorch", "onnx", "int8 cpu") else LARGEST_HALF
        assert runtime.largest_input == most
        run: list[int] = []
        network = runtime._run
        runtime._run = lambda batch: run.append(len(batch)) or network(batch)  # type: ignore[method-assign,func-returns-value]
        for sign in (-1, 1):
            batch = images(2, 3, 20, 24)
            batch[1, 0, 19, 23] = sign * most
            runtime.run(batch)
            batch[1, 0, 19, 23] = sign * np.nextafter(np.float32(most), np.float32(np.inf))
            assert np.isnan(runtime.run(batch)["logits"][1]).all()
        assert run == [2, 1, 2, 1]


@pytest.mark.parametrize("precision", ["onnx", "int8 cpu"])
@pytest.mark.parametrize("value", [1e6, 1e9, LARGEST_INPUT])
def test_large_inputs_are_answered_as_pytorch_answers_them(precision: str, value: float, make: Make) -> None:
    """The limit of float32 is on the safe side: up to it nothing overflows that is not seen."""
    batch = images(3, 3, 20, 24)
    batch[0], batch[1, 1, 7, 9], batch[2] = value, value, batch[2] * (value / 8)
    with open_runtime(make(precision)) as runtime, open_runtime(make("pytorch")) as exact:
        wanted = exact.run(batch)["logits"]
        allowed = (1e-3 if precision == "onnx" else 0.5) * wanted.std()
        np.testing.assert_allclose(runtime.run(batch)["logits"], wanted, rtol=0, atol=allowed)


def test_halves_as_input(make: Make) -> None:
    with open_runtime(make("half io")) as runtime:
        assert runtime.info.input.dtype == "float16"
        batch = images(4, 3, 20, 24).astype(np.float16)
        alone = runtime.run(batch[[0, 2]])["logits"]
        batch[1, 0, 0, 0], batch[3, 2, 19, 23] = np.nan, -np.inf
        logits = runtime.run(batch)["logits"]
        np.testing.assert_array_equal(logits[[0, 2]], alone)
        assert np.isnan(logits[[1, 3]]).all()
        strided = np.ascontiguousarray(batch.transpose(0, 3, 1, 2)).transpose(0, 2, 3, 1)
        np.testing.assert_array_equal(runtime.run(strided)["logits"], logits)


def test_an_engine_of_halves(make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine.make(monkeypatch, API_FILES[0])
    path = machine.build(make("half io"), tmp_path)
    machine.trt.network = lambda batch: _like_integers(batch).astype(np.float16)
    with open_runtime(path) as runtime:  # a warning of NumPy's, of a cast that overflows, would be an error
        for dtype, what in product((np.float32, np.float16), ("NaN", "infinity")):
            batch = images(2, 3, 20, 24).astype(dtype)
            batch[0, 0, 3, 4] = BAD[what]
            logits = runtime.run(batch)["logits"]
            assert np.isnan(logits[0]).all()
            np.testing.assert_array_equal(logits[1:], runtime.run(batch[1:])["logits"])
        assert _faults(runtime, (4, 3, 20, 24), "1e20") == []


def test_an_engine_that_takes_no_smaller_batch(make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is left of a batch is run as one that the engine was built for."""
    machine = Machine.make(monkeypatch, API_FILES[0])
    config = EngineConfig(profiles=(Profile.parse("2x1x1:2x24x24:4x64x64"),), use_timing_cache=False)
    path = machine.build(make("onnx"), tmp_path, config)
    shapes: list[tuple[int, ...]] = []

    def network(batch: NDArray[Any]) -> NDArray[np.float32]:
        shapes.append(batch.shape)
        return _like_integers(batch)

    machine.trt.network = network
    with open_runtime(path) as runtime:
        good = images(4, 3, 20, 24)
        for rows in ([0], [0, 2, 3], [1, 2], [3]):
            batch, others = good.copy(), [row for row in range(4) if row not in rows]
            batch[rows] = np.nan
            logits = runtime.run(batch)["logits"]
            assert np.isnan(logits[rows]).all()
            np.testing.assert_array_equal(logits[others], _like_integers(good[others]))
        assert [shape[0] for shape in shapes] == [3, 4, 2, 3]
        for finite in (0, 2, 4):  # a batch that is too large is refused, whatever is in it
            batch = images(5, 3, 20, 24)
            batch[finite:] = np.nan
            with pytest.raises(InputError, match="5x20x24 is outside of"):
                runtime.run(batch)


def test_many_threads(make: Make) -> None:
    """Each with another bad row, in the file whose images share their scales."""
    with open_runtime(make("int8 cpu")) as runtime:
        good = images(4, 3, 20, 24)
        alone = [runtime.run(np.delete(good, row, axis=0))["logits"] for row in range(4)]
        wrong: list[int] = []

        def work(row: int) -> None:
            batch = good.copy()
            batch[row, 0, row, row] = np.nan
            for _ in range(10):
                logits = runtime.run(batch)["logits"]
                if not np.array_equal(np.delete(logits, row, axis=0), alone[row]) or not np.isnan(logits[row]).all():
                    wrong.append(row)

        threads = [threading.Thread(target=work, args=(number % 4,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert wrong == []


def test_values_that_a_mask_hides(make: Make) -> None:
    batch = np.ma.masked_invalid(_spoiled(images(2, 3, 20, 24), "NaN", (1, 0, 4, 4)))
    with open_runtime(make("onnx")) as runtime:
        logits = runtime.run(batch)["logits"]
    assert np.isfinite(logits[0]).all()
    assert np.isnan(logits[1]).all()


def test_predictors_give_the_same(make: Make) -> None:
    with Predictor(make("int8 cpu")) as predictor:
        batch = images(2, 3, 20, 24)
        batch[0, 0, 0, 0] = np.nan
        logits = predictor.logits(batch)
        assert np.isnan(logits[0]).all()
        np.testing.assert_array_equal(logits[1:], predictor.logits(batch[1:]))
