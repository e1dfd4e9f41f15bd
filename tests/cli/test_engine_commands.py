"""The commands on engines: what they print, and that every bad input is one clear line with the next step."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rest_deploy.artifact.manifest import manifest_path
from rest_deploy.artifact.profile import InputSize
from rest_deploy.cli import export, info, predict
from rest_deploy.models.family import FAMILIES
from rest_deploy.specs import Precision
from tests.cli.test_commands import Outcome
from tests.conftest import IMAGES, TINY
from tests.engines import GPU, RTX, Machine
from tests.standins.bench import write_onnx
from tests.standins.cuda import FakeCuda, FakeDevice

TRT = "tensorrt-10.9.0.34"
H200 = FakeDevice("NVIDIA H200", (9, 0), 139 << 30)
CAT = IMAGES / "chelsea.png"


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Machine:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return Machine.make(monkeypatch, RTX)


@pytest.fixture
def engine(machine: Machine, tiny_onnx: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "built"
    folder.mkdir()
    return machine.build(tiny_onnx, folder)


def test_a_dry_run_tells_all_and_makes_nothing(
    machine: Machine, tmp_path: Path, tiny_checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ["--checkpoint", tiny_checkpoint, "--format", "onnx,trt", "-o", tmp_path / "x", "--dry-run"]
    told = Outcome(export, [*argv, "--max-size", "320x480", "--max-batch", "2", "--target", "sm89"], capsys)
    assert (told.code, told.err) == (0, "")
    assert f"output    {tmp_path / 'x.onnx'}" in told.out
    assert f"output    {tmp_path / 'x.engine'}" in told.out
    assert "profiles  1x1x1:1x224x224:2x320x480 (batch x height x width, min:opt:max)" in told.out
    assert "target    sm89" in told.out
    assert "library   TensorRT-RTX 1.7.1.116 (TensorRT is not installed)" in told.out
    assert "memory    about 96 MiB for activations at the largest size (estimated)" in told.out
    assert list(tmp_path.iterdir()) == []


def test_a_dry_run_in_json(
    machine: Machine, tmp_path: Path, tiny_checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ["--checkpoint", tiny_checkpoint, "--format", "onnx,trt", "-o", tmp_path / "x", "--dry-run", "--json"]
    onnx, engine = json.loads(Outcome(export, argv, capsys).out)
    assert onnx["output"].endswith("x.onnx")
    assert engine["profiles"].startswith("1x1x1:1x224x224:8x640x640")


def test_several_profiles(
    machine: Machine, tmp_path: Path, tiny_checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    profiles = ["1x1x1:1x64x64:8x128x128", "1x129x129:1x224x224:1x640x640"]
    argv = ["--checkpoint", tiny_checkpoint, "--format", "trt-rtx", "-o", tmp_path / "x.engine", "--dry-run"]
    told = Outcome(export, [*argv, *(word for text in profiles for word in ("--profile", text))], capsys)
    assert f"profiles  {', '.join(profiles)} (batch" in told.out


def test_export_predict_info(
    machine: Machine, tmp_path: Path, tiny_checkpoint: Path, tiny_onnx: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from rest_deploy.runtimes.ort import OnnxRuntime

    machine.trt.network = OnnxRuntime(tiny_onnx, "cpu").run
    output = tmp_path / "tiny.engine"
    made = Outcome(
        export, ["--checkpoint", tiny_checkpoint, "--format", "trt", "-o", output, "--target", "sm89"], capsys
    )
    assert (made.code, made.err) == (0, "")
    assert "layers by stage and datatype" in made.out
    assert f"{output}: tiny, " in made.out
    assert ", verified (" in made.out
    assert {path.name for path in tmp_path.iterdir()} == {"tiny.engine", "tiny.engine.json"}

    seen = Outcome(predict, [output, IMAGES, "--top-k", "1"], capsys)
    assert seen.code == 0
    assert "Traceback" not in seen.err
    same = Outcome(predict, [tiny_onnx, IMAGES, "--top-k", "1"], capsys)
    assert seen.out == same.out

    told = Outcome(info, [output], capsys)
    assert told.code == 0
    assert "targets        sm89" in told.out
    assert "as its manifest says" in told.out
    assert "rebuild        rest-export --checkpoint" in told.out
    assert "verified       against PyTorch float64 at 6 sizes" in told.out
    assert json.loads(Outcome(info, [output, "--json"], capsys).out)["engine"]["targets"] == ["sm89"]


def test_info_needs_no_gpu_and_no_tensorrt(
    engine: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("tensorrt", "tensorrt_rtx", "tensorrt_rtx_bindings", "cuda.bindings.runtime"):
        monkeypatch.setitem(sys.modules, name, None)
    told = Outcome(info, [engine], capsys)
    assert told.code == 0
    assert "TensorRT-RTX 1.7.1.116" in told.out


def test_edited_figures_are_an_error(engine: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _edit('"max_error"', '"other"')(engine)
    told = Outcome(info, [engine], capsys)
    assert (told.code, told.out) == (1, "")
    assert ".source_verification.cases[0].other is unknown" in told.err


def test_the_memory_of_an_engine(engine: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Of the largest size that of its build, of others an estimate; a size outside of its profiles is refused."""
    largest, estimate = 155_785_216, FAMILIES["rest"].engine_bytes(TINY, InputSize.parse("2x64x96"), Precision.FP32)
    told = Outcome(info, [engine, "--memory", "8x640x640", "2x64x96"], capsys)
    assert (told.code, told.err) == (0, "")
    first, second = (line.split() for line in told.out.splitlines()[-2:])
    assert first[:4] == ["8x640x640", f"{largest / 2**20:,.0f}", "as", "built"]
    assert second[:3] == ["2x64x96", f"{estimate / 2**20:,.0f}", "estimated"]
    assert told.out.count("8x640x640", told.out.index("as built")) == 2  # the end of the profile, of both
    rows = json.loads(Outcome(info, [engine, "--memory", "8x640x640", "2x64x96", "--json"], capsys).out)["memory"]
    assert [(row["bytes"], row["estimated"]) for row in rows] == [(largest, False), (estimate, True)]
    assert {(row["fits"], row["free_bytes"], row["profile"]) for row in rows} == {
        (None, None, "1x1x1:1x224x224:8x640x640")
    }
    refused = Outcome(info, [engine, "--memory", "224", "9x64x64"], capsys)
    assert (refused.code, refused.out) == (1, "")
    (line,) = refused.err.splitlines()
    assert "9x64x64 is outside of what tiny.engine was built for, 1x1x1 to 8x640x640" in line


def _damage(change: Callable[[bytes], bytes]) -> Callable[[Path], None]:
    return lambda engine: engine.write_bytes(change(engine.read_bytes())) and None


def _edit(text: str, other: str) -> Callable[[Path], None]:
    def change(engine: Path) -> None:
        path = manifest_path(engine)
        assert text in path.read_text()
        path.write_text(path.read_text().replace(text, other))

    return change


DAMAGED: dict[str, tuple[Callable[[Path], None], str]] = {
    "corrupt plan": (_damage(lambda plan: plan[:50] + b"!" + plan[51:]), "damaged, or of another build"),
    "truncated plan": (_damage(lambda plan: plan[:50]), "it is 50 bytes of SHA-256"),
    "empty plan": (_damage(lambda plan: b""), "it is empty, its manifest tells of"),
    "foreign plan": (_damage(lambda plan: b"ftrt" + bytes(1000)), "rebuild: rest-export --checkpoint"),
    "no plan": (Path.unlink, "no such file; make it: rest-export --model"),
    "no manifest": (lambda engine: manifest_path(engine).unlink(), "its manifest tiny.engine.json is not beside it"),
    "manifest of nothing": (lambda engine: manifest_path(engine).write_text("{}") and None, "metadata of schema None"),
    "manifest in ruins": (lambda engine: manifest_path(engine).write_text("{") and None, "metadata is not JSON"),
    "edited digest": (_edit('"plan_sha256": "', '"plan_sha256": "0'), "accepted: a SHA-256"),
    "edited version": (_edit('"version": "1.7.1.116"', '"version": "1.6.0"'), "built with TensorRT-RTX 1.6.0, here is"),
    "edited targets": (_edit('"sm89"', '"sm75"'), "here is NVIDIA GeForce RTX 4090 (sm89); rebuild: rest-export"),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_a_damaged_engine_is_one_clear_line(name: str, engine: Path, capsys: pytest.CaptureFixture[str]) -> None:
    damage, words = DAMAGED[name]
    damage(engine)
    line = Outcome(predict, [engine, CAT], capsys).refusal()
    assert words in line
    assert "rest-export" in line or "copy it again" in line or "metadata" in line


def test_no_gpu_and_no_driver(
    engine: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    FakeCuda.no_driver().install(monkeypatch)
    done = Outcome(predict, [engine, CAT], capsys)
    assert (done.code, done.out) == (1, "")
    assert done.err == (
        "error: device cuda:0: there is no NVIDIA driver here; install one, or use device cpu with an .onnx file\n"
    )
    FakeCuda.no_gpu().install(monkeypatch)
    assert "finds no GPU; check nvidia-smi" in Outcome(predict, [engine, CAT], capsys).err


REFUSED: dict[str, tuple[str, list[str], str]] = {
    "swapped profile": (RTX, ["--profile", "8x640x640:1x224x224:1x1x1"], "its batch goes 8, 1, 1; needed: min <= opt"),
    "swapped sizes": (RTX, ["--min-size", "640", "--max-size", "224"], "needed: min <= opt <= max"),
    "no profile": (RTX, ["--profile", "224"], "accepted: MIN:OPT:MAX"),
    "profile and size": (RTX, ["--profile", "1:2:3", "--max-size", "9"], "give one or the other"),
    "hopper": (
        RTX,
        ["--target", "sm90"],
        "TensorRT-RTX does not support Hopper; build with --format trt on that machine",
    ),
    "turing in fp32": (RTX, ["--target", "sm75"], "TensorRT-RTX has no FP32 products on Turing; use --fp16, or sm80"),
    "a target that is none": (RTX, ["--target", "tpu"], "accepted: sm86, sm89, sm120"),
    "a target of the future": (RTX, ["--target", "sm150"], "has sm75, sm80, sm86, sm89, sm120, sm121"),
    "a target of TensorRT": (TRT, ["--target", "sm86"], "TensorRT builds for the GPU it runs on, here NVIDIA GeForce"),
    "version-compatible RTX": (RTX, ["--version-compatible"], "has no version-compatible or hardware-compatible eng"),
    "int8 without images": (RTX, ["--int8"], "give --calibration DIR"),
    "int8 for the CPU": (RTX, ["--int8", "--int8-target", "cpu"], "INT8 of this format is for trt"),
    "onnx suffix": (RTX, ["-o", "x.onnx"], "files of format trt end in .engine"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_meant_is_one_clear_line(
    name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, flags, words = REFUSED[name]
    Machine.make(monkeypatch, file)
    done = Outcome(export, ["--model", "rest_lite", "--format", "trt", "-o", tmp_path / "x.engine", *flags], capsys)
    assert words in done.refusal()
    assert list(tmp_path.iterdir()) == []


def test_neither_library(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("tensorrt", "tensorrt_rtx", "tensorrt_rtx_bindings"):
        monkeypatch.setitem(sys.modules, name, None)
    done = Outcome(export, ["--model", "rest_lite", "--format", "trt", "-o", tmp_path / "x.engine"], capsys)
    assert done.code == 1
    assert 'is needed to build engines; install it: pip install "rest-deploy[trt-rtx]"' in done.err


def test_tensorrt_alone_without_a_gpu(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Machine.make(monkeypatch, TRT)
    FakeCuda.no_driver().install(monkeypatch)
    done = Outcome(export, ["--model", "rest_lite", "--format", "trt", "-o", tmp_path / "x.engine"], capsys)
    assert done.code == 1
    assert "TensorRT builds only on a GPU, and device cuda:0: there is no NVIDIA driver here" in done.err
    assert 'pip install "rest-deploy[trt-rtx]"' in done.err


@pytest.mark.parametrize("more", [[], ["--dry-run"]])
def test_an_engine_that_its_gpu_has_no_memory_for_is_refused_before_the_work(
    *,
    more: list[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    tiny_checkpoint: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    machine = Machine.make(monkeypatch, TRT, (FakeDevice("small", (8, 9), 1 << 30),))
    argv = ["--checkpoint", tiny_checkpoint, "--format", "trt", "-o", tmp_path / "x.engine", *more]
    profile = "1x1x1:1x224x224:4x3000x3000"
    done = Outcome(export, [*argv, "--profile", "1x1x1:1x224x224:1x256x256", "--profile", profile], capsys)
    assert (done.code, done.out) == (1, "")
    (line,) = done.err.splitlines()
    needed = FAMILIES["rest"].engine_bytes(TINY, InputSize.parse("4x3000x3000"), Precision.FP32)
    (told,) = re.findall(r"at batch 4 at most about (\d+)x\1 fits", line)
    side = int(told)
    taken = [
        FAMILIES["rest"].engine_bytes(TINY, InputSize.parse(f"4x{own}x{own}"), Precision.FP32)
        for own in (side, side + 1)
    ]
    assert taken[0] <= 1 << 30 < taken[1]
    assert all(f in line for f in ("4x3000x3000", f"{needed / 2**20:,.0f} MiB", "small (sm89) has 1,024 MiB"))
    assert machine.trt.calls == []
    assert list(tmp_path.iterdir()) == []
    plan = Outcome(export, [*argv[:6], "--dry-run", "--profile", f"1x1x1:1x224x224:4x{side}x{side}"], capsys)
    assert plan.code == 0


def test_an_onnx_that_tensorrt_cannot_read(
    *,
    machine: Machine,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    tiny_checkpoint: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Were the exporter to write an operator that TensorRT lacks."""
    from rest_deploy.export import onnx_exporter

    real = onnx_exporter.export

    def strange(deploy: Any, image: Any, logits: Any, target: Path, config: Any) -> Any:
        notes = real(deploy, image, logits, target, config)
        write_onnx(target, head="Det")
        return notes

    monkeypatch.setattr(onnx_exporter, "export", strange)
    monkeypatch.setattr("rest_deploy.artifact.onnx_file.refuse_hostile", lambda *_: None)
    argv = ["--checkpoint", tiny_checkpoint, "--format", "trt", "--no-verify", "-o", tmp_path / "x.engine"]
    done = Outcome(export, argv, capsys)
    assert (done.code, done.out) == (1, "")
    (line,) = done.err.splitlines()
    assert "node head/linear (Det): this TensorRT has no such operator" in line
    assert list(tmp_path.iterdir()) == []


def test_rtx_beside_a_hopper_gpu_builds_and_says_why_it_is_not_run(
    *, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, tiny_checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Machine.make(monkeypatch, RTX, (H200, GPU))
    argv = ["--checkpoint", tiny_checkpoint, "-o", tmp_path / "x.engine"]
    refused = Outcome(export, [*argv, "--format", "trt"], capsys)
    assert refused.code == 1
    assert "builds no fp32 engines for the GPU here, NVIDIA H200 (sm90), and TensorRT is not installed" in refused.err
    made = Outcome(export, [*argv, "--format", "trt-rtx"], capsys)
    assert made.code == 0
    assert "library   TensorRT-RTX 1.7.1.116 (asked for)" in made.out
    assert "not run here (the GPU here, NVIDIA H200 (sm90), is not one of its targets sm80" in made.out
