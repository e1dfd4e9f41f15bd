"""Each leaf of a record, a manifest and a command's flags replaced by what nobody expects: it works, or one line."""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from rest_deploy import Predictor, benchmark, create_model, verify
from rest_deploy.artifact.info import ArtifactInfo
from rest_deploy.artifact.manifest import manifest_path
from rest_deploy.artifact.precision import PrecisionRecord
from rest_deploy.benchmarking.measure import Effort
from rest_deploy.cli import bench, doctor, export, info, predict, serve
from rest_deploy.cli import verify as verify_command
from rest_deploy.cli.terminal import clean
from rest_deploy.errors import ArtifactError, ConfigError, RestDeployError
from rest_deploy.pipeline import ExportRequest
from rest_deploy.runtimes.registry import read_info
from rest_deploy.specs import ImageSize, InputKind, Int8Target, Precision, Preprocessing
from tests.artifact.test_engine import FIGURES, MAP_CASE
from tests.artifact.test_precision import RECORD
from tests.cli.test_commands import Outcome
from tests.conftest import further
from tests.engines import RTX, Machine
from tests.reliability.conftest import Amount
from tests.reliability.odd_values import ODD, Place, bare_graph, places, sealed_with, with_odd
from tests.reliability.record import Record
from tests.two_outputs import INFO

WHAT, WELL = "records, manifests and flags with odd values", "it works, or is refused in one line"
Case = tuple[Place, str]


def _record(tiny_onnx: Path, kind: str) -> str:
    """A record of a kind; ``"narrowed"`` has everything, a plan of a precision too."""
    plain = read_info(tiny_onnx)
    if kind == "narrowed":
        plan: PrecisionRecord = replace(RECORD, int8_target=Int8Target.TRT, reduced_range=False)
        steps = Preprocessing(size=ImageSize(24, 24))
        plain = replace(plain, precision=Precision.INT8, precision_plan=plan, preprocessing=steps)
    if kind == "pictures":
        plain = replace(plain, preprocessing=Preprocessing(size=ImageSize(24, 24))).taking(InputKind.PIXELS)
    if kind == "maps":
        plain = replace(plain, outputs=INFO.outputs, verification={**FIGURES, "cases": [*FIGURES["cases"], MAP_CASE]})
    return plain.to_json()


def _cases(text: str) -> list[Case]:
    return [(place, name) for place in places(json.loads(text)) for name in ODD]


def _told(place: Place, name: str) -> str:
    return f"{'.'.join(map(str, place)) or 'the whole'} = {name}"


def _one_line(command: Any, argv: Sequence[object], capsys: pytest.CaptureFixture[str], about: str) -> int:
    """Run a command in this process; what it says is harmless, and where it fails one line."""
    try:
        told = Outcome(command, list(argv), capsys)
    except Exception as exc:
        raise AssertionError(f"{about}: {command.__name__} {argv[1:]}") from exc
    assert told.code in (0, 1, 2), about
    errors = [line for line in told.err.splitlines() if "error: " in line]
    assert len(errors) == (told.code != 0), f"{about}: {told.err}"
    assert all(len(line) < 12_000 for line in errors), about
    return int(told.code)


@pytest.mark.parametrize("kind", ["narrowed", "maps", "pictures", pytest.param("fp32", marks=pytest.mark.slow)])
def test_every_leaf_of_a_record_is_read_or_refused(tiny_onnx: Path, kind: str, amount: Amount, record: Record) -> None:
    text, accepted = _record(tiny_onnx, kind), 0
    cases = _cases(text)
    cases = random.Random(14).sample(cases, min(len(cases), amount(2500, 1 << 30, 400)))
    for place, name in cases:
        try:
            found = ArtifactInfo.from_json(with_odd(text, place, ODD[name]), "a.onnx")
        except ArtifactError as exc:
            said = clean(str(exc))
            if len(said) > 1500 or not said.startswith("a.onnx: "):
                raise AssertionError(_told(place, name)) from exc
        else:
            assert ArtifactInfo.from_json(found.to_json(), "a.onnx") == found, _told(place, name)
            accepted += 1
        record.count(WHAT, WELL, f"leaves of a record, {kind}")
    assert 0 < accepted < 0.25 * len(cases)


@pytest.fixture
def picture(tmp_path: Path, rng: np.random.Generator) -> Path:
    path = tmp_path / "picture.png"
    Image.fromarray(rng.integers(0, 256, (20, 24, 3), dtype=np.uint8)).save(path)
    return path


def _chosen(text: str, count: int) -> Iterator[Case]:
    """Cases by the seed: of those that a record is read with, and of those that it is refused with."""
    accepted, refused = [], []
    for case in _cases(text):
        try:
            ArtifactInfo.from_json(with_odd(text, case[0], ODD[case[1]]), "a.onnx")
            accepted.append(case)
        except ArtifactError:
            refused.append(case)
    for some, share in ((accepted, count), (refused, count // 4)):
        yield from random.Random(14).sample(some, min(share, len(some)))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["narrowed", *further(["fp32"])])
def test_odd_records_through_all_commands(  # noqa: PLR0917
    tiny_onnx: Path,
    tiny_checkpoint: Path,
    kind: str,
    picture: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    amount: Amount,
    record: Record,
) -> None:
    text, graph, path = _record(tiny_onnx, kind), bare_graph(tiny_onnx), tmp_path / "odd.onnx"
    assert _one_line(predict, [sealed_with(graph, path, text), picture], capsys, "as it is") == 0
    every = amount(25, 30)  # of the two commands that take their time
    most = amount(24, 1 << 30 if kind == "fp32" else 300)
    for number, (place, name) in enumerate(_chosen(text, most)):
        about = _told(place, name)
        sealed_with(graph, path, with_odd(text, place, ODD[name]))
        try:
            with Predictor(path, threads=1) as predictor:
                predictor.classify(picture)
                predictor.logits(np.zeros((1, 3, 20, 20), np.float32))
                assert predictor.max_pixels is None or predictor.max_pixels > 0
        except RestDeployError:
            pass
        except Exception as exc:
            raise AssertionError(about) from exc
        _one_line(info, [path], capsys, about)
        _one_line(info, [path, "--json"], capsys, about)
        _one_line(predict, [path, picture, "--threads", "1", "--verbose"], capsys, about)
        if number % every == 0:
            _one_line(verify_command, [path, "--reference", tiny_checkpoint, "--sizes", "16"], capsys, about)
            flags = ["--sizes", "16", "--min-rounds", "1", "--min-seconds", "0", "--threads", "1", "--no-cold"]
            _one_line(bench, [path, *flags], capsys, about)
        record.count(WHAT, WELL, f"{kind} files through the commands")


@pytest.mark.slow
def test_every_leaf_of_a_manifest(  # noqa: PLR0917
    tiny_onnx: Path,
    picture: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    amount: Amount,
    record: Record,
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    engine = Machine.make(monkeypatch, RTX).build(tiny_onnx, tmp_path)
    values = json.loads(manifest_path(engine).read_text())
    text = json.dumps({**values, "replaces": None})
    assert values["engine"]["profiles"]
    assert _one_line(predict, [engine, picture], capsys, "as it is") == 0
    cases = _cases(text)
    cases = random.Random(14).sample(cases, min(len(cases), amount(1500, 1 << 30, 300)))
    opened = set(random.Random(14).sample(range(len(cases)), min(len(cases), amount(30, 3000))))
    every = amount(15, 30)  # of the two commands that take their time
    for number, (place, name) in enumerate(cases):
        about = _told(place, name)
        manifest_path(engine).write_text(with_odd(text, place, ODD[name]))
        try:
            read_info(engine)
            refused = False
        except ArtifactError:
            refused = True
        record.count(WHAT, WELL, "leaves of a manifest")
        if number not in opened and refused:
            continue
        assert _one_line(info, [engine], capsys, about) == refused, about
        if number not in opened:
            continue
        _one_line(predict, [engine, picture], capsys, about)
        record.count(WHAT, WELL, "engines through the commands")
        if len(opened) % every == 0:
            flags = ["--sizes", "16", "--min-rounds", "1", "--min-seconds", "0", "--no-cold"]
            _one_line(bench, [engine, *flags], capsys, about)
            _one_line(verify_command, [engine, "--reference", tiny_onnx, "--sizes", "16"], capsys, about)
        opened.remove(number)


def test_a_record_that_fits_no_network_is_refused_where_it_is_opened(tiny_onnx: Path, tmp_path: Path) -> None:
    values = json.loads(read_info(tiny_onnx).to_json())
    for change in ({"format": "pytorch"}, {"format": "trt"}, {"config": {"num_heads": [0, 1, 1, 1]}}):
        path = sealed_with(bare_graph(tiny_onnx), tmp_path / "odd.onnx", json.dumps({**values, **change}))
        for opened in (read_info, Predictor):
            with pytest.raises(ArtifactError, match=r"odd\.onnx: .*(format|config: num_heads\[0\] is 0)"):
                opened(path)


# ---- flags

COMMANDS = {
    "bench": bench,
    "doctor": doctor,
    "export": export,
    "info": info,
    "predict": predict,
    "serve": serve,
    "verify": verify_command,
}
#: Neither a whole number, nor any other.
NO_NUMBERS = [
    "",
    " ",
    "abc",
    "nan",
    "inf",
    "-inf",
    "1e400",
    "-1e400",
    "9" * 400,
    "9" * 5000,
    "1,5",
    "0x10",
    "1/2",
]
#: No whole number, or out of range wherever there is one.
NO_WHOLE_NUMBERS = ["1.5", "1e3", "-1", "99999999999999999999", "true", "٣.٥"]
ODD_TEXTS = [
    *NO_NUMBERS,
    *NO_WHOLE_NUMBERS,
    "0",
    "1",
    "\udcff",
    "../../etc/passwd",
    "\x1b[31m",
    "x" * 5000,
    "/",
    "~",
    "%s",
]


def _options(command: Any) -> list[argparse.Action]:
    return [action for action in command._parser()._actions if action.option_strings and action.nargs != 0]


def _numbers(action: argparse.Action) -> set[type]:
    """What a flag reads, told from what it makes of numbers that one or the other flag accepts."""
    kinds: set[type] = set()
    for text in ("1", "18", "0.75"):
        try:
            value = action.type(text) if callable(action.type) else None
        except (argparse.ArgumentTypeError, RestDeployError):  # of a flag whose values are words
            continue
        kinds |= {type(value)} & {int, float}
    return kinds


@pytest.mark.parametrize(
    "name", [name if name == "predict" else pytest.param(name, marks=pytest.mark.slow) for name in COMMANDS]
)
def test_every_flag_with_odd_text(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], record: Record
) -> None:
    monkeypatch.chdir(tmp_path)
    command, nothing = COMMANDS[name], "missing.onnx"
    others = {
        "bench": [nothing],
        "export": ["--checkpoint", "missing.pth"],
        "info": [nothing],
        "predict": [nothing, "missing.png"],
        "verify": [nothing, "--reference", "missing.pth"],
        "doctor": ["--require", "nothing"],
        "serve": ["triton", nothing, "-o", "folder"],
    }[name]
    for action in _options(command):
        flag, numbers = action.option_strings[-1], _numbers(action)
        for text in ODD_TEXTS:
            about = f"{flag} {text[:40]!r}"
            given = [text] * (action.nargs if isinstance(action.nargs, int) else 1)
            words = [f"{flag}={text}"] if action.nargs is None else [flag, *given]
            code = _one_line(command, [*others, *words], capsys, about)
            assert code != 0, about
            if text in (NO_NUMBERS if numbers == {float} else [*NO_NUMBERS, *NO_WHOLE_NUMBERS] if numbers else ()):
                assert code == 2, about
            record.count(WHAT, WELL, "flags")
    assert not [path for path in tmp_path.iterdir() if path.suffix in {".onnx", ".engine"}]


def test_there_are_flags_of_numbers() -> None:
    """That the test above can fail: it finds them by what their types make of text."""
    found = {
        action.option_strings[-1] for command in COMMANDS.values() for action in _options(command) if _numbers(action)
    }
    assert {
        "--threads",
        "--seed",
        "--top-k",
        "--max-pixels",
        "--workspace",
        "--mean",
        "--num-heads",
        "--opset",
    } <= found


# ---- arguments in Python

ODD_NUMBERS = [
    0,
    -1,
    True,
    False,
    10**20,
    10**400,
    1.0,
    1.5,
    float("nan"),
    "1",
    b"1",
    [1],
    None,
    np.float32(1),
    np.True_,
]


def _threads(path: Path) -> dict[str, Callable[[Any], object]]:
    return {
        "threads": lambda value: Predictor(path, threads=value),
        "max_pixels": lambda value: Predictor(path, max_pixels=value),
        "top_k": lambda value: Predictor(path).classify([], top_k=value),
        "threads ": lambda value: verify([path], path, threads=value),
        "seed": lambda value: verify([path], path, seed=value),
        "threads  ": lambda value: benchmark([path], threads=value),
        "seed ": lambda value: benchmark([path], seed=value),
        "batch": lambda value: benchmark([path], batches=[value]),
        "min_rounds": lambda value: Effort(min_rounds=value),
        "seed  ": lambda value: ExportRequest("rest_lite", seed=value),
        "seed   ": lambda value: create_model("rest_lite", seed=value),
        "opset": lambda value: ExportRequest("rest_lite", options={"opset": value}),
        "num_heads": lambda value: ExportRequest(None, checkpoint="x.pth", num_heads=value),
    }


@pytest.mark.parametrize("name", _threads(Path()))
def test_odd_numbers_in_python(name: str, tiny_onnx: Path) -> None:
    call, may_be_none = (
        _threads(tiny_onnx)[name],
        name.strip() in {"threads", "max_pixels", "top_k", "seed", "num_heads"},
    )
    may_be_zero = name.strip() == "seed"
    for value in ODD_NUMBERS:
        if (value is None and may_be_none) or (may_be_zero and value == 0 and type(value) is int):
            continue
        with pytest.raises(ConfigError, match=rf"^{name.strip()}\b.*accepted: "):
            call(value)


def test_numbers_of_numpy_are_numbers(tiny_onnx: Path) -> None:
    with Predictor(tiny_onnx, threads=np.int64(1), max_pixels=np.int32(10_000)) as predictor:
        assert predictor.max_pixels == 10_000
        assert type(predictor.max_pixels) is int
        assert len(predictor.classify(np.zeros((9, 9, 3), np.uint8), top_k=np.uint8(2))) == 2
