"""The commands: what they print, and that every bad input is one clear line, exit code 1, and nothing half-written."""

from __future__ import annotations

import contextlib
import fcntl
import functools
import json
import math
import os
import pty
import re
import struct
import subprocess
import sys
import termios
import zlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from rest_deploy.cli import bench, export, info, predict, serve, verify
from rest_deploy.cli.flags import preprocessing_change
from rest_deploy.cli.terminal import clean, progress_display
from rest_deploy.models.factory import create_model
from rest_deploy.models.family import FAMILIES, MAP_BLOCK, family_of, network_bytes
from rest_deploy.models.rest_family import ResTConfig
from rest_deploy.runtimes.memory import most_pixels
from rest_deploy.specs import ImageSize, Preprocessing, Resize
from tests.conftest import IMAGES, ROOT, TINY, slow


class Outcome:
    """Exit code and output of a command run in this process."""

    def __init__(self, command: Any, argv: list[Any], capsys: pytest.CaptureFixture[str]) -> None:
        try:
            self.code = command.main([str(argument) for argument in argv])
        except SystemExit as exc:
            self.code = exc.code
        self.out, self.err = capsys.readouterr()

    def refusal(self) -> str:
        """The one line of a command that refuses what it was given, and prints nothing else."""
        assert (self.code, self.out) == (1, "")
        (line,) = self.err.splitlines()
        assert line.startswith("error: ")
        return line


def test_export_predict_info(tmp_path: Path, tiny_checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "tiny.onnx"
    made = Outcome(export, ["--checkpoint", tiny_checkpoint, "-o", output], capsys)
    assert (made.code, made.err) == (0, "")
    assert "fp32 error" in made.out
    assert f"{output}: tiny, " in made.out
    assert "MiB, verified" in made.out

    seen = Outcome(predict, [output, IMAGES / "rocket.jpg", IMAGES, "--top-k", "2"], capsys)
    assert seen.code == 0
    (left_out,) = seen.err.splitlines()
    assert "1 file left out" in left_out
    assert "README.md" in left_out
    lines = seen.out.splitlines()
    assert len(lines) == 4 * 3
    assert lines[0] == str(IMAGES / "rocket.jpg")
    assert lines[1].split()[0].endswith("%")

    told = Outcome(info, [output], capsys)
    assert told.code == 0
    assert "any size from 1x1 up" in told.out
    assert "against PyTorch float64 at 6 sizes" in told.out


def test_json(tiny_onnx: Path, tiny_checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = Outcome(export, ["--checkpoint", tiny_checkpoint, "-o", tmp_path / "t.onnx", "--json"], capsys)
    assert json.loads(made.out)["info"]["verification"]["passed"] is True
    answers = json.loads(Outcome(predict, [tiny_onnx, IMAGES, "--json", "--top-k", "3"], capsys).out)
    assert [Path(a["image"]).name for a in answers] == ["chelsea.png", "coffee.png", "rocket.jpg"]
    assert [sorted(p) for p in answers[0]["predictions"]] == [["index", "label", "score"]] * 3
    assert json.loads(Outcome(info, [tiny_onnx, "--json"], capsys).out)["labels"] == list("abcdefg")


def test_threads_sleep_between_calls_where_several_images_are_decoded(
    tiny_onnx: Path, tiny_checkpoint: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """PyTorch's cannot be told to, and one image is answered sooner by threads that spin."""
    spinning: list[bool] = []

    class Noting(predict.Predictor):
        def __init__(self, path: str, device: Any, *, allow_spinning: bool = True, **options: Any) -> None:
            spinning.append(allow_spinning)
            super().__init__(path, device, allow_spinning=allow_spinning, **options)

    monkeypatch.setattr(predict, "Predictor", Noting)
    image = IMAGES / "rocket.jpg"
    for arguments in ([tiny_onnx, image, image], [tiny_onnx, image], [tiny_checkpoint, image, image]):
        assert Outcome(predict, arguments, capsys).code == 0
    assert spinning == [False, True, True]


def _predicted(text: str) -> list[list[str]]:
    """The rows of the table of memory, in columns."""
    lines = text[text.index("memory of a call") :].splitlines()
    return [re.split(r"\s{2,}", line.strip()) for line in lines[1:-2]]


def test_the_memory_of_a_call(
    tiny_onnx: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for module in ("machine", "runtimes.memory"):
        monkeypatch.setattr(f"rest_deploy.{module}.available_bytes", lambda: 1 << 30)
    monkeypatch.setattr("rest_deploy.runtimes.ort.open_session", lambda *_, **__: pytest.fail("opened"))
    sizes = ((1, 224, 224), (8, 320, 320), (1, 7000, 7000))
    argv = [tiny_onnx, "--memory", "224", "8x320x320", "7000x7000"]
    done = Outcome(info, argv, capsys)
    assert (done.code, done.err) == (0, "")
    plain = Outcome(info, argv[:1], capsys)
    assert done.out.startswith(plain.out)
    needed = [network_bytes(TINY, *size, block=MAP_BLOCK) for size in sizes]
    sides = [
        math.isqrt(most_pixels(functools.partial(network_bytes, TINY, block=MAP_BLOCK), batch) or 0)
        for batch, *_ in sizes
    ]
    head, *rows = _predicted(done.out)
    assert len(head) == 4  # and one that says which figures are estimates
    assert [row[:4] for row in rows] == [
        ["1x224x224", f"{needed[0] / 2**20:,.0f}", "estimated", "fits"],
        ["8x320x320", f"{needed[1] / 2**20:,.0f}", "estimated", "fits"],
        ["1x7000x7000", f"{needed[2] / 2**20:,.0f}", "estimated", "does not fit"],
    ]
    assert [f"{side**2:,} pixels, as {side}x{side}" in row[4] for row, side in zip(rows, sides, strict=True)] == [
        True
    ] * 3
    assert "1,024 MiB are free here" in done.out.splitlines()[-2]
    assert "ONNX Runtime on the CPU" in done.out

    record = json.loads(Outcome(info, [*argv, "--json"], capsys).out)
    told = record.pop("memory")
    assert record == json.loads(Outcome(info, [tiny_onnx, "--json"], capsys).out)
    assert [(row["batch"], row["height"], row["width"], row["bytes"], row["fits"]) for row in told] == [
        (*size, bytes, taken) for size, bytes, taken in zip(sizes, needed, (True, True, False), strict=True)
    ]
    assert [row["most_pixels"] for row in told] == [side**2 for side in sides]
    assert {row["free_bytes"] for row in told} == {1 << 30}


def test_the_memory_of_a_call_where_little_or_nothing_is_known_to_be_free(
    tiny_onnx: Path, tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def told(free: int | None, *argv: Any) -> str:
        for module in ("machine", "runtimes.memory"):
            monkeypatch.setattr(f"rest_deploy.{module}.available_bytes", lambda: free)
        return Outcome(info, [*argv, "--memory", "640"], capsys).out

    unknown = told(None, tiny_onnx)
    assert "fits" in unknown
    assert "are free here" not in unknown
    little = told(10 << 20, tiny_onnx)
    assert "fits" in little
    assert "10 MiB are free here" in little
    assert "256 MiB always" in little
    assert "PyTorch on the CPU" in told(1 << 34, tiny_checkpoint)
    assert "none" in told(0, tiny_onnx)


@pytest.mark.parametrize("size", ["0", "0x32x32", "1x0x32", "x", "big", "1x2x3x4", "9999999", "2000000x1x1", "-1"])
def test_a_size_of_memory_that_is_none(size: str, tiny_onnx: Path, capsys: pytest.CaptureFixture[str]) -> None:
    done = Outcome(info, [tiny_onnx, "--memory", size], capsys)
    assert (done.code, done.out) == (2, "")
    assert "--memory" in done.err.splitlines()[-1]


@pytest.mark.parametrize("model", [TINY, *slow(["rest_lite"])])
def test_random_weights_are_said_on_both_ends(
    model: str | ResTConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    if not isinstance(model, str):
        monkeypatch.setattr(FAMILIES["rest"], "variants", {"rest_lite": model})
    made = Outcome(export, ["--model", "rest_lite", "-o", tmp_path / "r.onnx", "--no-verify"], capsys)
    assert made.code == 0
    assert "warning: RANDOM WEIGHTS: no checkpoint was given" in made.err
    assert "not verified" in made.out
    seen = Outcome(predict, [tmp_path / "r.onnx", IMAGES / "rocket.jpg"], capsys)
    assert "holds random weights; its predictions mean nothing" in seen.err
    told = Outcome(info, [tmp_path / "r.onnx"], capsys)
    assert "random, seed 0: predictions mean nothing" in told.out
    assert "no (exported with --no-verify)" in told.out


def test_dry_run_makes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    told = Outcome(export, ["--model", "rest_lite", "--dry-run"], capsys)
    assert told.code == 0
    assert "rest_lite.onnx" in told.out
    refused = Outcome(export, ["--checkpoint", "no.pth", "--dry-run"], capsys)
    assert refused.code == 1
    assert "no such checkpoint file" in refused.err
    assert list(tmp_path.iterdir()) == []


CARD = Preprocessing(resize=Resize.NATIVE, size=None, mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ([], CARD),
        (["--image-size", "224"], replace(CARD, resize=Resize.CROP, size=ImageSize(224, 224))),
        (["--image-size", "384x512"], replace(CARD, resize=Resize.WARP, size=ImageSize(384, 512))),
        (["--transform", "warp"], replace(CARD, resize=Resize.WARP, size=ImageSize(224, 224))),
        (["--mean", "0", "0", "0"], replace(CARD, mean=(0.0, 0.0, 0.0))),
        (["--std", "1", "1", "1", "--transform", "native"], replace(CARD, std=(1.0, 1.0, 1.0))),
    ],
)
def test_flags_change_the_checkpoints_own_preprocessing_and_no_more(flags: list[str], expected: Preprocessing) -> None:
    change = preprocessing_change(export._parser().parse_args(flags))
    assert (change.apply(CARD, family_of(TINY).preprocessing_at) if change else CARD) == expected


def test_native_has_no_size(capsys: pytest.CaptureFixture[str]) -> None:
    done = Outcome(export, ["--model", "rest_lite", "--transform", "native", "--image-size", "64"], capsys)
    assert done.code == 1
    assert "size 64x64" in done.err


def _bomb(path: Path) -> Path:
    """A PNG of a few bytes whose header claims 60,000 x 60,000 pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"") + chunk(b"IEND", b""))
    return path


class Intruder:
    """Runs code when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.mkdir, (str(self.marker),)


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory, tiny_onnx: Path, tiny_checkpoint: Path) -> dict[str, Path]:
    """What the arguments below name; ``bad`` is a folder of files that no command takes."""
    folder = tmp_path_factory.mktemp("bad")
    (folder / "corrupt.pth").write_bytes(b"PK\x03\x04" + tiny_checkpoint.read_bytes()[:1000])
    torch.save({"model": Intruder(folder / "intruded")}, folder / "evil.pth")
    wrong = create_model(TINY, num_classes=3).state_dict() | {"head.weight": torch.zeros(3, 5)}
    torch.save(wrong, folder / "wrong.pth")
    (folder / "truncated.jpg").write_bytes((IMAGES / "rocket.jpg").read_bytes()[:5000])
    (folder / "empty.onnx").write_bytes(b"")
    (folder / "foreign.onnx").write_bytes(b"\x08\x08")  # an ONNX file of IR version 8 and nothing else
    (folder / "no_images").mkdir()
    (folder / "empty.png").write_bytes(b"")
    (folder / "list.txt").write_text("chelsea.png\n")
    (folder / "p.TAR").write_bytes(bytes(10240))
    _bomb(folder / "bomb.png")
    return {"bad": folder, "artifact": tiny_onnx, "checkpoint": tiny_checkpoint, "cat": IMAGES / "chelsea.png"}


#: Name -> command, arguments, words that the one line must have.
BAD: dict[str, tuple[Any, str, str]] = {
    "unknown model": (export, "--model resnet50 -o {out}", "unknown model 'resnet50'; known models: rest_lite"),
    "missing checkpoint": (export, "--checkpoint {bad}/no.pth -o {out}", "no such checkpoint file"),
    "corrupt checkpoint": (export, "--checkpoint {bad}/corrupt.pth -o {out}", "truncated: a ZIP archive"),
    "code in checkpoint": (export, "--checkpoint {bad}/evil.pth -o {out}", "posix.mkdir"),
    "wrong shapes": (
        *(export, "--checkpoint {bad}/wrong.pth -o {out}"),
        "1 mis-shaped: head.weight has (3, 5), the model",
    ),
    "wrong model": (export, "--model rest_lite --checkpoint {checkpoint} -o {out}", "does not fit the model"),
    "bad labels": (export, "--checkpoint {checkpoint} --labels {cat} -o {out}", "labels must be UTF-8 text"),
    "unwritable output": (export, "--checkpoint {checkpoint} -o /proc/out.onnx", "cannot be written to"),
    "no output folder": (export, "--checkpoint {checkpoint} -o {bad}/a/b.onnx", "does not exist; make it"),
    "wrong suffix": (export, "--checkpoint {checkpoint} -o x.engine", "files of format onnx end in .onnx"),
    "labels of no classes": (
        *(export, "--checkpoint {checkpoint} --features embedding --labels {bad}/list.txt -o {out}"),
        "the artifact gives no logits, so it has no classes; leave --labels out",
    ),
    "warm-up of no size": (serve, "triton {artifact} -o {out} --warm-up -3", "--warm-up: image size '-3'"),
    "missing artifact": (predict, "{bad}/no.onnx {cat}", "no such file; make it: rest-export"),
    "empty artifact": (predict, "{bad}/empty.onnx {cat}", "empty file; export it again"),
    "foreign artifact": (predict, "{bad}/foreign.onnx {cat}", "that rest-export did not make"),
    "unknown artifact": (predict, "{bad}/x.tflite {cat}", "unknown kind of artifact; accepted: .onnx"),
    "missing image": (predict, "{artifact} {bad}/no.png", "no such image file"),
    "truncated image": (predict, "{artifact} {bad}/truncated.jpg", "damaged or unsupported image"),
    "decompression bomb": (predict, "{artifact} {bad}/bomb.png", "89,478,485; scale it down"),
    "unwritable results": (predict, "{artifact} {cat} --output /proc/r.jsonl", "/proc/r.jsonl: the folder cannot be"),
    "empty image": (predict, "{artifact} {bad}/empty.png", "empty.png: an empty file"),
    "list without output": (predict, "{artifact} {bad}/list.txt", "a list, whose images are read only with --output"),
    "tar file without output": (predict, "{artifact} {bad}/p.TAR", "a tar file, whose images are read only with --out"),
    "no image": (predict, f"{{artifact}} {__file__}", "not an image that can be read"),
    "empty folder": (predict, "{artifact} {bad}/no_images", "no images in this folder"),
    "no gpu": (predict, "{artifact} {cat} --device cuda", "use device cpu"),
    "unknown device": (predict, "{artifact} {cat} --device tpu", "accepted: cpu, cuda"),
    "info of nothing": (info, "{bad}/no.onnx", "no such file"),
    "info of foreign": (info, "{bad}/foreign.onnx", "that rest-export did not make"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_one_clear_line(
    name: str, places: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command, words, told = BAD[name]
    argv = [word.format(**places, out=tmp_path / "out.onnx") for word in words.split()]
    before = sorted(places["bad"].rglob("*"))
    assert told in Outcome(command, argv, capsys).refusal()
    assert (sorted(places["bad"].rglob("*")), list(tmp_path.iterdir())) == (before, [])


def test_one_bad_image_does_not_lose_the_others(
    tmp_path: Path, tiny_onnx: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = tmp_path / "bad.png"
    bad.write_bytes(b"nothing")
    done = Outcome(predict, [tiny_onnx, bad, IMAGES / "rocket.jpg", "--top-k", "1"], capsys)
    assert done.code == 1
    assert "bad.png: not an image" in done.err
    assert "rocket.jpg" in done.out


@pytest.mark.parametrize(
    ("command", "argv"),
    [(export, []), (export, ["--model", "rest_lite", "--format", "coreml"]), (predict, ["x.onnx"]), (info, []),
     (export, ["--model", "rest_lite", "--image-size", "big"])],
)  # fmt: skip
def test_wrong_usage_is_exit_code_2(command: Any, argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    done = Outcome(command, argv, capsys)
    assert done.code == 2
    assert "usage: rest-" in done.err


def test_terminals_are_not_sent_control_characters() -> None:
    assert clean("a\x1b[31mred\nb\u202e") == "a\\x1b[31mred b\\u202e"


@pytest.mark.parametrize(
    ("command", "argv", "words"),
    [
        (predict, ["--top-k", "0"], "--top-k: is 0; accepted: a whole number from 1 to"),
        (
            predict,
            ["--threads", "99999999999999999999"],
            "--threads: is 99999999999999999999; accepted: a whole number",
        ),
        (predict, ["--threads", "1025"], "--threads: is 1025; accepted: a whole number from 1 to 1,024"),
        (verify, ["--sizes", "100000"], "--sizes: image size '100000': size 100000x100000: more than the 67,108,864"),
        (bench, ["--sizes", "224", "9000x9000"], "more than the 67,108,864 pixels"),
        (verify, ["--max-error", "0"], "--max-error: is 0; accepted: a number over 0"),
        (bench, ["--batch", "1", "0"], "--batch: is 0; accepted: a whole number from 1"),
        (export, ["--max-batch", "0"], "--max-batch: is 0; accepted: a whole number from 1"),
        (export, ["--workspace", "0"], "--workspace: is 0; accepted: a whole number from 1"),
        (export, ["--optimization-level", "9"], "--optimization-level: is 9; accepted: a whole number from 0 to 5"),
        (export, ["--device", "cpu"], "leave --device out to build with TensorRT-RTX"),
        (export, ["--opset", "9"], "--opset: is 9; accepted: a whole number from 18 to 21"),
        (export, ["--seed", "-1"], "--seed: is -1; accepted: a whole number from 0 to"),
        (export, ["--mean", "0.5", "nan", "0.5"], "--mean: is nan; accepted: a number from"),
    ],
)
def test_numbers_out_of_range_are_wrong_usage(
    command: Any, argv: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    done = Outcome(command, argv, capsys)
    assert (done.code, done.out) == (2, "")
    assert words in done.err.splitlines()[-1]


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    done = Outcome(info, ["--version"], capsys)
    assert done.code == 0
    assert done.out.startswith("rest-deploy ")


def test_an_empty_argument_is_wrong_usage(tiny_onnx: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As of a shell variable that is not set: as a path it would be the current folder."""
    done = Outcome(predict, [tiny_onnx, ""], capsys)
    assert done.code == 2
    assert "one of the arguments is empty" in done.err


def test_progress_that_nobody_watches_is_a_line_now_and_then(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    monkeypatch.setattr("rest_deploy.cli.terminal.LINE_EVERY_S", 30.0)
    with progress_display("exporting", clock=lambda: now[0]) as report:
        for second in range(100):
            now[0] = float(second)
            report(second / 100, "verify")
    assert capsys.readouterr().err.splitlines() == [f"exporting: {share}%, verify" for share in (30, 60, 90)]


_WATCHED = """
from rest_deploy.cli.terminal import progress_display
with progress_display("exporting") as report:
    print("to stdout")
    for step in ("trace", "verify\x1b[31m"):
        for share in SHARES:
            report(share, step)
"""


def _on_a_terminal(shares: tuple[float, ...], **environment: str) -> str:
    """What a person sees of progress: a process with a terminal of 80 columns as its stderr."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    words = [sys.executable, "-c", _WATCHED.replace("SHARES", str(shares)) + "import sys; print('rich' in sys.modules)"]
    known = {**os.environ, "TERM": "xterm", "NO_COLOR": "1", **environment}
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=theirs, env=known, cwd=ROOT) as process:
        os.close(theirs)
        seen = b""
        with contextlib.suppress(OSError):  # how Linux tells that the other end is closed
            while data := os.read(ours, 4096):
                seen += data
        assert process.stdout is not None
        said, imported = process.stdout.read().decode().split("\n", 1)
    os.close(ours)
    assert (process.returncode, said) == (0, "to stdout")
    return f"rich {imported.strip()}\n{seen.decode()}"


def test_progress_that_a_person_watches() -> None:
    seen = _on_a_terminal((0.0, 0.25, 0.5))
    assert seen.startswith("rich True")
    assert "exporting: trace" in seen
    assert r"exporting: verify\x1b[31m" in seen  # shown, not obeyed
    assert "50%" in seen
    assert not re.search(r"\b0%", seen)  # of a step that has not said how far it is
    assert "left" in seen
    assert not re.search(r"\x1b\[[0-9;]*m", seen)  # NO_COLOR
    assert seen.endswith("\x1b[2K")  # wiped


def test_what_is_done_at_once_draws_nothing() -> None:
    assert _on_a_terminal((1.0,)) == "rich False\n"
    assert _on_a_terminal((0.5,), TERM="dumb") == "rich False\n"
