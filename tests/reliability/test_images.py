"""Images of every kind, whole and damaged: an answer or a clear error; never a crash, a hang or a leak."""

from __future__ import annotations

import json
import random
import statistics
from pathlib import Path

import pytest
from PIL import Image

from rest_deploy.cli import predict
from rest_deploy.errors import ImageError, PredictorError
from rest_deploy.preprocess import images
from rest_deploy.preprocess.image_files import IMAGE_FORMATS
from rest_deploy.preprocess.images import is_image, load_image
from tests.conftest import further
from tests.reliability.conftest import Amount, Worker
from tests.reliability.corpus import Sample, damaged, picture, samples
from tests.reliability.record import Record

#: Growth of memory, medians of ten looks at it: it goes up and down by as much with the images that happen to come.
_GROWTH = 16 << 20


@pytest.mark.slow
def test_every_image_gives_an_answer_or_a_clear_error(
    tiny_onnx: Path, tmp_path: Path, worker: Worker, amount: Amount, record: Record
) -> None:
    count = amount(1000, 10_000, 300)
    told = worker("fuzz_images", tmp_path, tiny_onnx, count)
    assert told["bad"] == []
    assert told["samples"] > 100
    read = sum(sample.name.split()[0] in IMAGE_FORMATS for sample in samples())
    assert 0.98 * read < told["whole"]["answered"] <= read  # all but those of float pixels; no other format
    assert told["cut"]["refused"] > told["cut"].get("answered", 0)
    assert told["bombs"].get("answered", 0) <= 3  # small ones whose text or profile alone unfolds
    assert sum(told["fuzzed"].values()) == count
    assert min(told["fuzzed"].values()) > 0.1 * count  # the damage is neither none nor all
    memory = [held[0] for held in told["held"]]
    assert len({tuple(held[1:]) for held in told["held"]}) == 1  # file handles and threads
    half = len(memory) // 2
    grown = statistics.median(memory[half:]) - statistics.median(memory[:half])
    assert grown < _GROWTH, memory
    kinds = {
        "image files of every format and mode that Pillow writes, 1x1, 1x5000, animated, turned": "whole",
        "the same, cut at every tenth": "cut",
        "decompression bombs": "bombs",
        "fuzzed image files": "fuzzed",
    }
    for what, key in kinds.items():
        found = told[key]
        record.add(
            what,
            sum(found.values()),
            f"{found.get('answered', 0):,} answered, {found.get('refused', 0):,} refused with their name",
        )
    told_growth = f"second half of the run over the first: {grown / 2**20:+.1f} MiB, no file handle, no thread"
    record.add("the fuzzed ones: what the process holds", count, told_growth)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("artifact", "runtime"), [("tiny_onnx", "ONNX Runtime"), *further([("tiny_checkpoint", "PyTorch")])]
)
def test_pictures_that_cost_more_than_they_look(  # noqa: PLR0917
    artifact: str, runtime: str, request: pytest.FixtureRequest, tmp_path: Path, worker: Worker, record: Record
) -> None:
    """In a network that takes pictures at their own size, with six GiB of memory and ten seconds for each."""
    worker("picture_bombs", tmp_path)
    told = worker("picture_bombs", tmp_path, request.getfixturevalue(artifact), OMP_NUM_THREADS="1")
    assert told["bad"] == []
    assert [what for what, answer in told["told"].items() if answer == "answered"] == []
    for what in (
        "PNG of 2048x2048",
        "PNG of 4096x4096",
        "PNG of 9400x9400",
        "TIFF of 1x67108865",
        "batch of 2048x2048",
    ):
        assert "over max_pixels 1,048,576" in told["told"][what]  # and nothing was decoded for it
    assert "GiB" in told["told"]["batch of 10000 of 1000x1000"]  # what the network would take
    unsaid = [answer for what, answer in told["told"].items() if what.endswith("nobody said how large")]
    assert ["over max_pixels 33,554,432" in answer for answer in unsaid] == [True, True]
    assert told["grown_mib"] < 1024
    assert told["kept_mib"] < 256  # of three good ones that took a GiB each
    assert len(told["measured"]) > 3  # of decoders, at four megapixels
    for name, (took, said) in told["measured"].items():
        assert took < 1.1 * said + (4 << 20), name
    count = len(told["told"])
    grown = f"one line each, at most {told['grown_mib']:.0f} MiB more; a good picture is answered after each"
    record.add(f"pictures that would take gigabytes or minutes, under a limit of 6 GiB, {runtime}", count, grown)


def test_the_corpus_has_every_format(tmp_path: Path) -> None:
    kinds = {sample.name.split()[0] for sample in samples()}
    assert {"JPEG", "PNG", "WEBP", "TIFF", "GIF", "BMP", "PPM", "JPEG2000", "ICO", "TGA", "PCX", "DDS"} <= kinds


def test_damage_is_the_same_every_time() -> None:
    sample = Sample("x", bytes(range(256)))
    one, other = (damaged(sample, random.Random(7)) for _ in range(2))
    assert one == other != sample


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".gif", ".txt", ""])
def test_the_content_counts_and_not_the_name(suffix: str, tmp_path: Path, record: Record) -> None:
    path = tmp_path / f"picture{suffix}"
    picture().save(path, "WEBP", lossless=True)
    assert load_image(path).tobytes() == picture().tobytes()
    record.count("images under a wrong extension", "read by what they hold", suffix or "none")


def test_every_format_is_found_in_a_folder_by_its_suffix_and_by_its_content(tmp_path: Path, record: Record) -> None:
    """All that can be read; without a suffix those alone that begin as nothing else does."""
    suffixes = {kind: suffix for suffix, kind in reversed(list(Image.registered_extensions().items()))}
    found = {}
    for sample in samples():
        kind = sample.name.split()[0]
        plain, own = tmp_path / "plain", tmp_path / f"own{suffixes.get(kind, '')}"
        plain.write_bytes(sample.content)
        try:
            load_image(plain)
        except ImageError:
            continue
        own.write_bytes(sample.content)
        found[sample.name] = (is_image(own), is_image(plain))
        own.unlink()
    assert len(found) > 100
    assert [name for name, (by_suffix, _) in found.items() if not by_suffix] == []
    assert {name.split()[0] for name, (_, by_content) in found.items() if not by_content} <= {"IM", "SPIDER", "TGA"}
    record.add("image files of every format in a folder", len(found), "found by their suffix, and nearly all without")


def test_one_bad_file_in_a_folder_does_not_lose_the_others(
    tiny_onnx: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], record: Record
) -> None:
    for name in ("a.png", "c.png", "d.png"):
        picture().save(tmp_path / name)
    whole = (tmp_path / "a.png").read_bytes()
    (tmp_path / "b.png").write_bytes(whole[:200])
    (tmp_path / "e.png").write_bytes(b"")
    (tmp_path / "deeper").mkdir()
    picture().save(tmp_path / "deeper" / "f", "WEBP")
    (tmp_path / "deeper" / "notes.txt").write_text("no picture")
    code = predict.main([str(tiny_onnx), str(tmp_path)])
    out, err = capsys.readouterr()
    assert code == 1
    assert [line for line in out.splitlines() if line.startswith(str(tmp_path))] == [
        str(tmp_path / name) for name in ("a.png", "c.png", "d.png", "deeper/f")
    ]
    errors = [line for line in err.splitlines() if line.startswith("error: ")]
    assert [line.partition(".png")[0] for line in errors] == [f"error: {tmp_path / name}" for name in "be"]
    assert "1 file left out" in err
    assert "deeper/notes.txt" in err
    code = predict.main([str(tiny_onnx), str(tmp_path), "--json"])
    answers = json.loads(capsys.readouterr().out)
    assert code == 1
    assert ["error" in answer for answer in answers] == [False, True, False, False, True, False]
    record.add("rest-predict on a folder with two bad files of six", 2, "four answered, two told of, exit code 1")


def test_memory_that_runs_out_is_said_as_such(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the image, where what its pixels need can be had; else of the machine."""

    def fail(*_: object, **__: object) -> None:
        raise MemoryError

    picture().convert("L").save(tmp_path / "large.png")
    monkeypatch.setattr(Image.Image, "convert", fail)
    with pytest.raises(ImageError, match=r"large\.png: .* memory"):
        load_image(tmp_path / "large.png")
    monkeypatch.setattr(images.np, "empty", fail)
    with pytest.raises(PredictorError, match=r"large\.png: not enough memory"):
        load_image(tmp_path / "large.png")
