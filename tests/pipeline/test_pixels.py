"""Exports of files that take pictures: in every precision, proved from pictures, told as what they are, or refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import PIL
import pytest
from PIL import Image

from rest_deploy import Predictor, export, verify
from rest_deploy.artifact.info import Levels
from rest_deploy.cli import export as export_command
from rest_deploy.cli import info as info_command
from rest_deploy.errors import ConfigError, ExportError
from rest_deploy.export import pixels
from rest_deploy.models.card import Card
from rest_deploy.models.checkpoint import save_checkpoint
from rest_deploy.models.factory import create_model
from rest_deploy.pipeline import ExportRequest, run_export, run_exports
from rest_deploy.preprocess.transform import orders_by_result
from rest_deploy.runtimes.registry import read_info
from rest_deploy.specs import ImageSize, InputKind, Preprocessing
from rest_deploy.verification.reference import PICTURES
from tests.cli.test_commands import Outcome
from tests.conftest import TINY

STEPS = Preprocessing(size=ImageSize(40, 56))
KINDS = ("uint8", "pixels")


def _asked(checkpoint: Path, output: Path, **options: Any) -> ExportRequest:
    own = {
        name: options.pop(name) for name in ("input", "precision", "verify", "format", "features") if name in options
    }
    given = {"preprocessing": STEPS, "verify": False, **own}
    return ExportRequest(None, output, checkpoint=checkpoint, options=options, **given)  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", [pytest.param("uint8", marks=pytest.mark.slow), "pixels"])
def test_the_whole_file_is_proved_from_pictures(kind: str, tiny_checkpoint: Path, tmp_path: Path) -> None:
    """From one pixel to 12 megapixels; and its test vector is a picture that the file itself is asked by."""
    made = run_export(_asked(tiny_checkpoint, tmp_path / "x.onnx", input=kind, verify=True))
    assert made.comparison is not None
    assert made.comparison.passed
    cases = [own.case for own in made.comparison.cases]
    assert (cases == list(PICTURES)) == (kind == "pixels")
    info = read_info(made.path)
    assert info == made.info
    assert info.verification is not None
    assert info.verification["passed"]
    assert (info.versions.get("PIL") == PIL.__version__) == (kind == "pixels")
    assert info.test_vector is not None
    assert info.test_vector["logits"] is not None
    assert made.seconds.keys() >= {"take pictures", "verify from pictures"}


def _apart(one: Path, other: Path) -> float:
    picture = np.random.default_rng(1).integers(0, 256, (70, 90, 3), np.uint8)
    with Predictor(one) as ours, Predictor(other) as theirs:
        found, wanted = (own.logits(own.preprocess(picture)) for own in (ours, theirs))
    return float(np.abs(found - wanted).max())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_lower_precision_is_that_of_the_file_that_takes_floats(
    kind: str, precision: str, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    """Bit for bit: the way from pictures is in the same precision, whatever the network is in."""
    options = {"precision": precision, "compare_speed": False} | (
        {"reduced_range": True} if precision == "int8" else {}
    )
    files = [
        run_export(_asked(tiny_checkpoint, tmp_path / f"{own}.onnx", input=own, **options)).path
        for own in ("float", kind)
    ]
    assert read_info(files[1]).input.dtype == "uint8"
    assert _apart(*files) == 0


def test_int8_for_tensorrt(tiny_checkpoint: Path, tmp_path: Path, rng: np.random.Generator) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    for number in range(24):  # the fewest that are taken
        Image.fromarray(rng.integers(0, 256, (48, 64, 3), np.uint8)).save(folder / f"{number}.png")
    options: dict[str, Any] = {"precision": "int8", "int8_target": "trt", "calibration": folder, "compare_speed": False}
    files = [
        run_export(_asked(tiny_checkpoint, tmp_path / f"{own}.onnx", input=own, **options)).path
        for own in ("float", "pixels")
    ]
    assert _apart(*files) == 0


@pytest.mark.slow
def test_speed_is_compared_on_pictures(tiny_checkpoint: Path, tmp_path: Path) -> None:
    made = run_export(_asked(tiny_checkpoint, tmp_path / "x.onnx", input="pixels", precision="fp16", verify=True))
    assert made.info.precision_plan is not None
    assert read_info(made.path) == made.info


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_bytes_twice(kind: str, tiny_checkpoint: Path, tmp_path: Path) -> None:
    files = [tmp_path / name / "x.onnx" for name in "ab"]
    for file in files:
        file.parent.mkdir()
        run_export(_asked(tiny_checkpoint, file, input=kind))
    assert files[0].read_bytes() == files[1].read_bytes()


def test_the_network_is_the_same_behind_it(tiny_by_input: dict[str, Path]) -> None:
    """Its nodes and weights, byte for byte."""
    plain, taking = (onnx.load(tiny_by_input[own]).graph for own in ("float", "pixels"))
    nodes = [node.SerializeToString() for node in taking.node]
    assert nodes[-len(plain.node) :] == [node.SerializeToString() for node in plain.node]
    weights = [tensor.SerializeToString() for tensor in taking.initializer]
    assert weights[: len(plain.initializer)] == [tensor.SerializeToString() for tensor in plain.initializer]
    assert [value.name for value in taking.output] == [value.name for value in plain.output]
    onnx.checker.check_model(onnx.load(tiny_by_input["pixels"]), full_check=True)


# ---- what is refused


def test_what_takes_no_pictures_is_refused(tmp_path: Path) -> None:
    four = Preprocessing(resize="native", size=None, mean=(0.5,) * 4, std=(0.5,) * 4)
    path = tmp_path / "four.safetensors"
    model = create_model(replace(TINY, in_channels=4))
    save_checkpoint(path, model.state_dict(), Card("four", None, four))
    for kind in KINDS:
        with pytest.raises(
            ConfigError, match=rf"--input {kind}: the network takes no pictures, as .* leave --input out"
        ):
            export(None, tmp_path / "x.onnx", checkpoint=path, input=kind)
    assert not (tmp_path / "x.onnx").exists()


@pytest.mark.parametrize("kind", KINDS)
def test_half_inputs_are_refused(kind: str, tiny_checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=rf"--half-io is of float inputs, and the file would take {kind}"):
        _asked(tiny_checkpoint, tmp_path / "x.onnx", input=kind, precision="fp16", half_io=True)


@pytest.mark.parametrize("kind", ["picture", "", "Pixels ", 3, True])
def test_another_kind_is_refused(kind: Any, tiny_checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="input"):
        _asked(tiny_checkpoint, tmp_path / "x.onnx", input=kind)


def test_a_graph_that_resizes_otherwise_is_not_kept(
    tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pixels, "_BITS", 12)
    with pytest.raises(ExportError, match="resizes pictures otherwise than Pillow"):
        run_export(_asked(tiny_checkpoint, tmp_path / "x.onnx", input="pixels"))
    assert list(tmp_path.iterdir()) == []


# ---- what is told


@pytest.mark.parametrize("kind", ["float", *KINDS])
def test_info_tells_what_it_takes(
    kind: str, tiny_by_input: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    path = tiny_by_input[kind]
    told = Outcome(info_command, [path], capsys)
    assert told.code == 0
    (line,) = (line for line in told.out.splitlines() if line.startswith("input"))
    assert ("pixels: uint8" in line) == (kind != "float")
    record = json.loads(Outcome(info_command, [path, "--json"], capsys).out)
    assert record.get("input_kind", "float") == kind
    assert record["input"]["dtype"] == ("float32" if kind == "float" else "uint8")
    memory = Outcome(info_command, [path, "--memory", "480x640"], capsys)
    assert (memory.code, memory.err) == (0, "")


@pytest.mark.parametrize("kind", KINDS)
def test_a_dry_run_tells_what_it_would_take(
    kind: str, tiny_checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "x.onnx"
    words = [
        "--checkpoint",
        tiny_checkpoint,
        "-o",
        output,
        "--image-size",
        "40x56",
        "--transform",
        "crop",
        "--input",
        kind,
    ]
    told = Outcome(export_command, [*words, "--dry-run"], capsys)
    assert told.code == 0, told.err
    assert "uint8 pictures in RGB" in told.out
    assert not output.exists()
    made = Outcome(export_command, [*words, "--no-verify", "--json"], capsys)
    assert made.code == 0, made.err
    assert read_info(output).input_kind is InputKind(kind)


def test_strict_says_what_is_assumed(tiny_checkpoint: Path, tmp_path: Path) -> None:
    request = ExportRequest(None, tmp_path / "x.onnx", checkpoint=tiny_checkpoint, strict=True, verify=False,
                            input="pixels", activation="softmax", preprocessing=STEPS)  # type: ignore[arg-type]  # fmt: skip
    try:
        assert run_export(request).info.input_kind is InputKind.PIXELS
    except ConfigError as exc:
        assert "strict: neither the checkpoint nor the request says" in str(exc)  # noqa: PT017


def test_maps_of_pictures(tiny_checkpoint: Path, tmp_path: Path) -> None:
    (made,) = run_exports(
        _asked(tiny_checkpoint, tmp_path / "x.onnx", input="pixels", features=("stage2", "embedding"))
    )
    with Predictor(made.path) as predictor:
        found = predictor.features(np.zeros((2, 90, 20, 3), np.uint8))
    assert {name: values.shape for name, values in found.items()} == {"stage2": (2, 16, 5, 7), "embedding": (2, 32)}


def test_a_file_of_another_pillow_is_not_verified(
    tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would seem wrong with tall pictures; what is not resized is the same with all."""
    made = run_export(_asked(tiny_checkpoint, tmp_path / "x.onnx", input="pixels"))
    same = run_export(_asked(tiny_checkpoint, tmp_path / "y.onnx", input="uint8"))
    monkeypatch.setattr(PIL, "__version__", "12.3.0" if orders_by_result(PIL.__version__) else "13.0.0")
    assert verify(same.path, tiny_checkpoint, cases=[PICTURES[1]]).passed
    with pytest.raises(ConfigError, match=r"tall ones in another order; install pillow=="):
        verify(made.path, tiny_checkpoint, cases=[PICTURES[1]])


def test_the_record_says_how_far_levels_are_from_pillow_s(tiny_checkpoint: Path, tmp_path: Path) -> None:
    made = run_export(_asked(tiny_checkpoint, tmp_path / "x.onnx", input="pixels"))
    assert read_info(made.path).levels == Levels(0, 0.0)
    assert made.info.takes.endswith("resized in the file; every level is Pillow's")


@pytest.mark.parametrize("kind", KINDS)
def test_the_memory_of_pictures_is_told(
    kind: str, tiny_checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A bound of the network's input says nothing of pictures that a file brings to one size itself."""
    made = run_export(_asked(tiny_checkpoint, tmp_path / "x.onnx", input=kind))
    told = Outcome(info_command, [made.path, "--memory", "3000x4000"], capsys)
    assert "1x3000x4000" in told.out
    assert ("max_pixels" in told.out) == (kind == "uint8")
