"""Many images, many requests: decoded ahead by threads, asked for from an event loop, and a network that is warm."""

from __future__ import annotations

import asyncio
import contextlib
import io
import os
import shutil
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from rest_deploy import Predictor, Preprocessing, predictor
from rest_deploy.artifact.onnx_file import write_record
from rest_deploy.artifact.profile import InputSize
from rest_deploy.errors import ConfigError, ImageError, InputError, PredictorError
from rest_deploy.pipeline import ExportRequest, run_export
from rest_deploy.runtimes.registry import read_info
from rest_deploy.specs import ImageSize

_SIDE, _A_CALL, _AHEAD = 32, 4, 3
_SECONDS = 60  # after which what is waited for does not come


@pytest.fixture(scope="module")
def resizing(tiny_onnx: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny network, whose record has pictures brought to one size."""
    path = Path(shutil.copy(tiny_onnx, tmp_path_factory.mktemp("resizing")))
    write_record(path, replace(read_info(path), preprocessing=Preprocessing("warp", ImageSize(_SIDE, _SIDE))))
    return path


@pytest.fixture
def own(resizing: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Predictor]:
    """A predictor that runs four images at a time, and has three made ahead beside those that two threads are at."""
    monkeypatch.setattr(predictor, "_PIXELS_A_CALL", _A_CALL * _SIDE * _SIDE)
    monkeypatch.setattr(predictor, "_IMAGES_AHEAD", _AHEAD)
    monkeypatch.setattr(predictor, "threads_for_images", lambda: 2)
    with Predictor(resizing) as opened:
        yield opened


def _encoded(rng: np.random.Generator, count: int, kind: str = "png") -> list[bytes]:
    made = []
    for _ in range(count):
        file = io.BytesIO()
        height, width = rng.integers(1, 60, 2)
        Image.fromarray(rng.integers(0, 256, (height, width, 3), np.uint8)).save(file, kind)
        made.append(file.getvalue())
    return made


def _threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("rest_deploy-images")]


def test_answers_and_their_order_are_those_without_threads(
    own: Predictor, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Of every kind of source, broken ones and one that is there twice among them."""
    pictures = _encoded(rng, 24)
    lazy = tmp_path / "lazy.png"
    lazy.write_bytes(pictures[0])
    with Image.open(lazy) as opened:
        sources: list[Callable[[bytes], Any]] = [
            bytes, io.BytesIO, lambda data: Image.open(io.BytesIO(data)), lambda _: lazy, lambda _: opened,
            lambda data: np.asarray(Image.open(io.BytesIO(data))), lambda data: data[: len(data) // 2],
            lambda _: "none.png",
        ]  # fmt: skip

        def answers(threads: int) -> list[tuple[int, Any]]:
            monkeypatch.setattr(predictor, "threads_for_images", lambda: threads)
            made = own.stream([sources[i % len(sources)](picture) for i, picture in enumerate(pictures)])
            return [(index, str(answer) if isinstance(answer, ImageError) else answer) for index, answer in made]

        wanted = answers(0)
        assert sorted(index for index, _ in wanted) == list(range(24))
        assert sum(isinstance(answer, str) for _, answer in wanted) == 6
        for threads in (1, 2, 5):
            assert answers(threads) == wanted
    assert not _threads()


@pytest.mark.parametrize(("asked", "most"), [(None, 2), (1, 1), (8, 2)])
def test_no_more_threads_decode_than_were_asked_for(
    own: Predictor, rng: np.random.Generator, asked: int | None, most: int
) -> None:
    own._options["threads"] = asked
    with closing(own.stream(_encoded(rng, 24))) as answers:
        next(answers)
        assert len(_threads()) == most


def test_a_list_is_answered_as_its_images_alone(own: Predictor, rng: np.random.Generator) -> None:
    pictures = _encoded(rng, 11)
    for together, alone in zip(own.classify(pictures), map(own.classify, pictures), strict=True):
        assert [p.index for p in together] == [p.index for p in alone]
        assert [p.score for p in together] == pytest.approx([p.score for p in alone], abs=1e-5)


def test_the_next_images_are_decoded_while_the_network_runs(
    own: Predictor, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, run, later = own._input, own._runtime._run, threading.Event()
    pictures = _encoded(rng, 2 * _A_CALL)

    def noticed(source: bytes) -> Any:
        if source is pictures[_A_CALL + 1]:
            later.set()
        return made(source)

    def waits(batch: np.ndarray) -> dict[str, np.ndarray]:
        assert later.wait(_SECONDS)
        return run(batch)

    monkeypatch.setattr(own, "_input", noticed)
    monkeypatch.setattr(own._runtime, "_run", waits)
    assert len(own.classify(pictures)) == len(pictures)


def test_few_images_are_held_however_many_there_are(
    own: Predictor, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two at a time are decoded, and what is taken of the list is a few images before what is answered."""
    (picture,), count = _encoded(rng, 1), 40
    decoded, lock, both = [0, 0], threading.Lock(), threading.Barrier(2)
    made, taken = own._input, 0

    def counted(source: bytes) -> Any:
        with lock:
            decoded[0] += 1
            decoded[1] = max(decoded)
        both.wait(_SECONDS)
        pixels = made(source)
        both.wait(_SECONDS)
        with lock:
            decoded[0] -= 1
        return pixels

    def sources() -> Iterator[bytes]:
        nonlocal taken
        for _ in range(count):
            taken += 1
            yield picture

    monkeypatch.setattr(own, "_input", counted)
    for answered, _ in enumerate(own.stream(sources()), 1):  # type: ignore[arg-type]
        assert taken <= answered - 1 + _A_CALL + 2 + _AHEAD
    assert (answered, taken) == (count, count)
    assert decoded == [0, 2]


def test_no_thread_is_left_behind(own: Predictor, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    """However it ends: by its end, closed early, by an error, by Ctrl-C, by an image, whose error is kept."""
    pictures = _encoded(rng, 20)
    assert len(list(own.stream(pictures))) == 20
    assert not _threads()
    for end in (lambda stream: stream.close(), lambda stream: stream.throw(KeyboardInterrupt)):
        stream = own.stream(pictures)
        next(stream)
        assert _threads()
        with contextlib.suppress(KeyboardInterrupt):
            end(stream)
        assert not _threads()
    with pytest.raises(ImageError, match="image"):
        own.classify([*pictures[:6], b"no picture", *pictures])
    assert not _threads()
    made = own._input

    def fails(source: bytes) -> Any:
        if source is pictures[9]:
            raise PredictorError("no file handles are left")
        return made(source)

    monkeypatch.setattr(own, "_input", fails)
    answers = []
    with pytest.raises(PredictorError, match="no file handles"):
        answers.extend(own.stream(pictures))
    assert not _threads()
    assert [index for index, _ in answers] == list(range(2 * _A_CALL))


def test_one_image_starts_no_thread(own: Predictor, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(predictor, "threads_for_images", lambda: pytest.fail("asked for threads"))
    (picture,) = _encoded(rng, 1)
    assert len(own.classify(picture)) == 5
    assert len(list(own.stream([picture]))) == 1


def test_pictures_at_their_own_size_are_decoded_at_their_turn(
    tiny_onnx: Path, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(predictor, "threads_for_images", lambda: 2)
    with Predictor(tiny_onnx) as native:
        stream = native.stream(_encoded(rng, 5))
        next(stream)
        assert not _threads()


def test_where_no_thread_is_to_be_had_images_are_decoded_at_their_turn(
    own: Predictor, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    pictures = _encoded(rng, 9)
    wanted = list(own.stream(pictures))

    def start(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", start)
    assert list(own.stream(pictures)) == wanted


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")  # from Python 3.12 on; the child ends at once
def test_a_forked_child_does_not_wait_for_threads_of_its_parent(own: Predictor, rng: np.random.Generator) -> None:
    pictures = _encoded(rng, 20)
    stream = own.stream(pictures)
    next(stream)
    child = os.fork()
    if not child:
        signal.alarm(_SECONDS)
        refused = 0
        try:
            for _ in range(_A_CALL):  # three are answered
                next(stream)
        except PredictorError as exc:
            refused += "forked" in str(exc)
        try:
            asyncio.run(own.classify_async(pictures[0]))
        except PredictorError as exc:
            refused += "forked" in str(exc)
        finally:
            os._exit(refused)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 2
    assert len(list(stream)) == 19


def test_what_is_wrong_with_an_image_does_not_keep_its_picture(own: Predictor, rng: np.random.Generator) -> None:
    """The frames of a traceback hold the file and what was decoded of it, and a folder may have many such files."""
    cut = [data[: len(data) // 2] for data in _encoded(rng, 3, "jpeg")]
    for images in (cut, cut[:1]):
        for _, answer in own.stream(images):
            assert isinstance(answer, ImageError)
            assert answer.__traceback__ is None
            assert answer.__cause__ is not None
            assert answer.__cause__.__traceback__ is None


# From an event loop.


def test_many_requests_of_an_event_loop(own: Predictor, rng: np.random.Generator) -> None:
    pictures = _encoded(rng, 30)
    uploads = [*pictures, pictures[3][:60]]

    async def ask() -> list[Any]:
        asked = (own.classify_async(upload, top_k=2) for upload in uploads)
        return await asyncio.gather(*asked, return_exceptions=True)

    *answers, cut = asyncio.run(ask())
    assert answers == [own.classify(picture, top_k=2) for picture in pictures]
    assert isinstance(cut, ImageError)


def test_the_event_loop_goes_on_and_cancelling_does_no_harm(
    own: Predictor, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    pictures, made = _encoded(rng, 4), own._input
    begun, leave, order = threading.Semaphore(0), threading.Event(), []

    def waits(source: bytes) -> Any:
        order.append(pictures.index(source))
        begun.release()
        assert leave.wait(_SECONDS)
        return made(source)

    monkeypatch.setattr(own, "_input", waits)

    async def ask() -> list[Any]:
        tasks = [asyncio.create_task(own.classify_async(picture)) for picture in pictures]
        for _ in range(2):  # as many as run at a time
            assert await asyncio.to_thread(begun.acquire, timeout=_SECONDS)
        tasks[0].cancel()  # it runs
        tasks[2].cancel()  # it waits
        done, _ = await asyncio.wait([tasks[0], tasks[2]])  # while both threads are held
        assert all(task.cancelled() for task in done)
        leave.set()
        return [await tasks[1], await tasks[3]]

    answers = asyncio.run(ask())
    assert sorted(order) == [0, 1, 3]
    assert answers == [own.classify(pictures[1]), own.classify(pictures[3])]


def test_closing_ends_the_threads_of_requests(own: Predictor, rng: np.random.Generator) -> None:
    (picture,) = _encoded(rng, 1)
    asyncio.run(own.classify_async(picture))
    threads = [thread for thread in threading.enumerate() if thread.name.startswith("rest_deploy-async")]
    assert threads
    own.close()
    for thread in threads:
        thread.join(_SECONDS)
        assert not thread.is_alive()
    with pytest.raises(PredictorError, match="closed"):
        asyncio.run(own.classify_async(picture))


# Warm from the start.


@pytest.fixture(scope="module")
def taking_pictures(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("pixels") / "pixels.onnx"
    return run_export(ExportRequest(None, path, checkpoint=tiny_checkpoint, input="pixels", verify=False)).path


@pytest.mark.parametrize("artifact", ["resizing", "taking_pictures"])
def test_warm_up_runs_each_size_once(
    artifact: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Predictor(request.getfixturevalue(artifact)) as own:
        seen, run = [], own._runtime._run

        def noted(batch: np.ndarray) -> dict[str, np.ndarray]:
            assert batch.dtype == own.info.input.dtype
            seen.append(own.info.input_sizes(batch.shape))
            return run(batch)

        monkeypatch.setattr(own._runtime, "_run", noted)
        own.warm_up([(20, 30), [2, 9, 5], ImageSize(7, 8), InputSize(3, ImageSize(1, 2))])  # type: ignore[list-item]
        assert seen == [(1, 20, 30), (2, 9, 5), (1, 7, 8), (3, 1, 2)]
        own.warm_up([])
        assert len(seen) == 4


def test_shapes_that_are_remembered_are_few_also_where_threads_added_some_at_once(own: Predictor) -> None:
    own._usual = {(1, 3, side, side) for side in range(1, 67)}
    own.logits(np.zeros((1, 3, 70, 70), np.float32))
    assert own._usual == {(1, 3, 70, 70)}


@pytest.mark.parametrize("size", [224, "224", (0, 4), (4,), (1, 2, 3, 4), (2.5, 4), None])
def test_what_is_no_size_is_refused_before_anything_runs(
    own: Predictor, monkeypatch: pytest.MonkeyPatch, size: Any
) -> None:
    monkeypatch.setattr(own._runtime, "_run", lambda batch: pytest.fail(f"ran {batch.shape}"))
    with pytest.raises(ConfigError, match=r"accepted: \(height, width\) or \(batch, height, width\)"):
        own.warm_up([(20, 30), size])


def test_sizes_that_are_too_much_are_refused_without_being_made(
    own: Predictor, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(InputError, match="over max_pixels"):
        own.warm_up([(2_000_000_000, 2_000_000_000)])
    monkeypatch.setattr("rest_deploy.machine.available_bytes", lambda: 1 << 30)
    with pytest.raises(InputError, match=r"1000000x900x900 would take"):
        own.warm_up([(1_000_000, 900, 900)])
    own.close()
    with pytest.raises(PredictorError, match="closed"):
        own.warm_up([(8, 8)])
