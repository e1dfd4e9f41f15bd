"""From a checkpoint to an engine with its manifest: both appear or neither, and only what is proved."""

from __future__ import annotations

import errno
import json
import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rest_deploy import Predictor
from rest_deploy.artifact.identity import sha256_of
from rest_deploy.artifact.manifest import manifest_path, read_manifest
from rest_deploy.cli import export as cli
from rest_deploy.errors import ConfigError, ExportError, VerificationError
from rest_deploy.models.rest import ResT
from rest_deploy.pipeline import ExportRequest, ExportResult, prepare, run_export, run_exports
from rest_deploy.pipeline.request import as_arguments
from rest_deploy.runtimes.ort import OnnxRuntime
from rest_deploy.specs import ImageSize, Preprocessing, PreprocessingChange, Resize
from tests.conftest import TINY
from tests.engines import RTX, Machine, images
from tests.standins.cuda import FakeDevice
from tests.standins.tensorrt import API_CASES


def _request(checkpoint: Path, output: Path, format: str = "trt", **options: Any) -> ExportRequest:
    given = {"use_timing_cache": False, **options}
    return ExportRequest(None, output, checkpoint=checkpoint, format=format, options=given)


def _serve(machine: Machine, onnx: Path) -> None:
    """Engines of the stand-in compute what this file computes."""
    machine.trt.network = OnnxRuntime(onnx, "cpu").run


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory, tiny_checkpoint: Path) -> dict[str, ExportResult]:
    """ONNX and engine in one go, by real TensorRT-RTX."""
    pytest.importorskip("tensorrt_rtx_bindings", reason="TensorRT-RTX is not installed")
    output = tmp_path_factory.mktemp("real") / "tiny"
    request = ExportRequest(
        None, output, checkpoint=tiny_checkpoint, format="onnx,trt-rtx", options={"targets": ("sm89",)}
    )
    return dict(zip(("onnx", "trt-rtx"), run_exports(request), strict=True))


def test_onnx_and_engine_in_one_go(real: dict[str, ExportResult]) -> None:
    onnx, engine = real["onnx"], real["trt-rtx"]
    assert (onnx.path.name, engine.path.name) == ("tiny.onnx", "tiny.engine")
    files = {"tiny.onnx", "tiny.engine", "tiny.engine.json"}
    assert {path.name for path in engine.path.parent.iterdir()} == files
    info = read_manifest(engine.path)
    record = info.engine
    assert info == engine.info
    assert record is not None
    assert (info.format, info.model, info.labels) == ("trt-rtx", "tiny", tuple("abcdefg"))
    assert info.preprocessing == onnx.info.preprocessing
    assert record.plan_sha256 == sha256_of(engine.path)
    assert record.source_sha256 == sha256_of(onnx.path)
    assert record.source_verification == onnx.info.verification
    assert info.verification is None
    assert "no NVIDIA driver" in str(record.not_run) or "none of its targets" in str(record.not_run)
    assert info.versions["tensorrt_rtx_bindings"] == record.version


def test_the_plan_is_plain(real: dict[str, ExportResult]) -> None:
    """Trtexec and Triton load it: no header of ours before TensorRT's own."""
    import tensorrt_rtx_bindings as trt

    plan = real["trt-rtx"].path.read_bytes()
    runtime = trt.Runtime(trt.Logger(trt.Logger.INTERNAL_ERROR))
    _, diagnostics = runtime.get_engine_validity(plan)
    assert not diagnostics & int(trt.EngineInvalidityDiagnostics.MALFORMED_ENGINE)
    _, diagnostics = runtime.get_engine_validity(b"ours" + plan)
    assert diagnostics & int(trt.EngineInvalidityDiagnostics.MALFORMED_ENGINE)


def test_the_rebuild_line_asks_for_the_same(real: dict[str, ExportResult], tiny_checkpoint: Path) -> None:
    engine = real["trt-rtx"]
    record = engine.info.engine
    assert record is not None
    words = shlex.split(record.rebuild(engine.path))
    request = cli.request_of(cli._parser().parse_args(words[1:]))
    assert request == ExportRequest(
        None,
        str(engine.path),
        checkpoint=str(tiny_checkpoint),
        format="trt-rtx",
        options={"targets": ("sm89",)},
    )


@pytest.mark.parametrize("file", API_CASES)
def test_where_a_gpu_is_the_engine_itself_is_verified(
    file: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, tiny_checkpoint: Path, tiny_onnx: Path
) -> None:
    machine = Machine.make(monkeypatch, file)
    _serve(machine, tiny_onnx)
    result = run_export(_request(tiny_checkpoint, tmp_path / "x.engine", machine.format))
    assert result.comparison is not None
    assert result.comparison.passed
    info = read_manifest(result.path)
    assert info.verification == result.comparison.to_dict()
    assert info.engine is not None
    assert info.engine.not_run is None
    sizes = [figures.case.sizes for figures in result.comparison.cases]
    assert (1, 512, 544) in sizes
    with Predictor(result.path) as predictor:
        batch = images(2, 3, 33, 17)
        assert machine.trt.network is not None
        np.testing.assert_array_equal(predictor.logits(batch), machine.trt.network(batch)["logits"])


def test_an_engine_that_disagrees_is_not_kept(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, tiny_checkpoint: Path, tiny_onnx: Path
) -> None:
    machine = Machine.make(monkeypatch, RTX)
    run = OnnxRuntime(tiny_onnx, "cpu").run
    machine.trt.network = lambda batch: run(batch)["logits"] + np.float32(1e-3)
    with pytest.raises(VerificationError, match=r"x\.engine \(not kept\) disagrees with the PyTorch model"):
        run_export(_request(tiny_checkpoint, tmp_path / "x.engine", "trt-rtx"))
    assert list(tmp_path.iterdir()) == []


def test_another_precision_than_asked_is_not_kept(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, tiny_checkpoint: Path
) -> None:
    machine = Machine.make(monkeypatch, RTX)
    machine.trt.datatype = "Half"
    with pytest.raises(ExportError, match="fp32 was asked for, and TensorRT built "):
        run_export(_request(tiny_checkpoint, tmp_path / "x.engine", "trt-rtx"))
    machine.trt.layers_text = None
    with pytest.raises(ExportError, match="names no layers, so its precision cannot be proved"):
        run_export(_request(tiny_checkpoint, tmp_path / "x.engine", "trt-rtx"))
    assert list(tmp_path.iterdir()) == []


def test_a_gpu_that_is_no_target_verifies_nothing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, tiny_checkpoint: Path
) -> None:
    Machine.make(monkeypatch, RTX, (FakeDevice("NVIDIA H200", (9, 0), 139 << 30),))
    result = run_export(_request(tiny_checkpoint, tmp_path / "x.engine", "trt-rtx"))
    assert result.comparison is None
    record = read_manifest(result.path).engine
    assert record is not None
    assert str(record.not_run).startswith("the GPU here, NVIDIA H200 (sm90), is not one of its targets sm80, ")


def test_a_full_disk_leaves_what_was_there(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, tiny_checkpoint: Path
) -> None:
    Machine.make(monkeypatch, RTX)
    path = tmp_path / "x.engine"
    for file in (path, manifest_path(path)):
        file.write_text("of before")
    real_write = Path.write_bytes

    def full(self: Path, data: bytes) -> int:
        if self.suffix == ".engine":
            real_write(self, data[:100])
            raise OSError(errno.ENOSPC, "No space left on device")
        return real_write(self, data)

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(ExportError, match=r"x\.engine: cannot be written: No space left on device"):
        run_export(_request(tiny_checkpoint, path, "trt-rtx"))
    assert {file.name: file.read_text() for file in tmp_path.iterdir()} == dict.fromkeys(
        ("x.engine", "x.engine.json"), "of before"
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"format": "trt,trt-rtx"}, "trt and trt-rtx write the same .engine file"),
        (
            {"format": "trt", "precision": "int8"},
            "INT8 for TensorRT takes its ranges from images .*give --calibration DIR",
        ),
        (
            {"format": "onnx", "options": {"max_batch": 4}},
            "--max-batch is an option of trt, trt-rtx, not of onnx",
        ),
        (
            {"format": "trt", "options": {"nonsense": 4}},
            "nonsense; there are model, .* seed; precision has .* onnx has blockwise, opset, simplify; trt has ",
        ),
        ({"options": {"feature": "embedding"}}, r"no option feature, did you mean features\? there are model, "),
        ({"options": {"image_size": 160}}, r"is of the preprocessing; .*PreprocessingChange\(size=\.\.\.\)"),
        ({"options": {"mean": (0.5,)}}, r"PreprocessingChange\(mean=\.\.\.\), or a whole Preprocessing"),
        ({"format": "onnx,trt", "output": "x.onnx"}, "give their name without a suffix, x"),
        ({"format": "trt", "output": "x.onnx"}, "trt end in .engine; name a file that does, or ask for --format onnx"),
        ({"format": "trt", "output": "folder"}, "trt end in .engine; name a file that does$"),
        ({"checkpoint": "c.pth", "seed": 3}, "seed 3 is of random weights; with a checkpoint or a module leave it out"),
    ],
)
def test_a_request_that_cannot_be_meant(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        ExportRequest("rest_lite", **arguments)


def test_an_engine_takes_the_images_that_its_preprocessing_gives(tmp_path: Path) -> None:
    asked = {"max_size": ImageSize(128, 128), "targets": ("sm89",)}
    with pytest.raises(ConfigError, match=r"images come as 224x224 \(crop\), and no profile holds that: 1x1x1"):
        run_export(ExportRequest("rest_lite", tmp_path / "x.engine", format="trt-rtx", options=asked))


def test_a_manifest_that_cannot_be_written_is_found_before_the_work(tmp_path: Path, tiny_checkpoint: Path) -> None:
    (tmp_path / "x.engine.json").mkdir()
    with pytest.raises(ExportError, match=r"x\.engine\.json: is a folder"):
        prepare(_request(tiny_checkpoint, tmp_path / "x.engine", "trt-rtx"))


def test_requests_that_no_command_line_can_make(tiny_model: ResT) -> None:
    assert as_arguments(ExportRequest(TINY, format="trt")) is None
    assert as_arguments(ExportRequest(tiny_model, format="trt")) is None
    other = replace(TINY, norm_eps=1e-6)
    assert as_arguments(ExportRequest(other, checkpoint="a.pth", format="trt")) is None


def test_what_a_command_line_asks_for() -> None:
    request = ExportRequest(TINY, checkpoint="a.pth", format="trt")
    assert as_arguments(request) == ("--checkpoint", "a.pth", "--num-heads", "1", "2", "3", "4")
    steps = Preprocessing("crop", (32, 48), 1.0, (0.5,) * 3, (1.0,) * 3, "lanczos", "drop")
    asked = ExportRequest("rest_lite", format="trt", preprocessing=steps, activation="none", labels="none", strict=True)
    assert as_arguments(asked) == (
        *("--model", "rest_lite", "--labels", "none", "--activation", "none", "--strict"),
        *("--transform", "crop", "--image-size", "32x48", "--mean", "0.5", "0.5", "0.5", "--std", "1.0", "1.0", "1.0"),
        *("--crop-ratio", "1.0", "--interpolation", "lanczos", "--alpha", "drop"),
    )
    chosen = ExportRequest(None, checkpoint="a.pth", weights_key="model", key_prefix="net.", num_heads=(1, 1, 1, 1))
    assert as_arguments(chosen) == (
        *("--checkpoint", "a.pth", "--weights-key", "model", "--key-prefix", "net."),
        *("--num-heads", "1", "1", "1", "1"),
    )
    assert as_arguments(ExportRequest("rest_lite", format="trt")) == ("--model", "rest_lite")
    assert as_arguments(ExportRequest("rest_lite", format="trt", seed=7)) == ("--model", "rest_lite", "--seed", "7")


def test_the_command_line_of_a_request_asks_for_the_same() -> None:
    """Each option of a format by itself: tests/export/test_options.py."""
    steps = PreprocessingChange(resize=Resize.WARP, size=ImageSize(96, 96), mean=(0.1, 0.2, 0.3), std=(1.0, 1.0, 1.0))
    common = {"checkpoint": "c.pth", "labels": "l.txt", "preprocessing": steps, "verify": False, "precision": "fp16"}
    options = {"opset": 19, "half_io": True, "max_size": ImageSize(256, 320), "gpu": 1, "use_timing_cache": False}
    request = ExportRequest("rest_lite", "x.engine", format="trt", options=options, **common)
    words = [*(as_arguments(request) or ()), "--format", "trt", "--output", "x.engine"]
    again = cli.request_of(cli._parser().parse_args(words))
    assert again.configs == request.configs
    assert replace(again, options={}) == replace(request, options={})


def test_one_format_a_call() -> None:
    with pytest.raises(ConfigError, match="run_exports makes several"):
        run_export(ExportRequest("rest_lite", format="onnx,trt"))


def test_the_manifest_is_readable_json(real: dict[str, ExportResult]) -> None:
    values = json.loads(manifest_path(real["trt-rtx"].path).read_text())
    assert values["engine"]["profiles"] == [{"min": [1, 1, 1], "opt": [1, 224, 224], "max": [8, 640, 640]}]
    assert values["engine"]["command"][0] == "--checkpoint"
