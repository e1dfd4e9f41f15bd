"""Engines in FP16 and INT8: built for real by TensorRT-RTX, run by stand-ins."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rest_deploy import Predictor
from rest_deploy.artifact.manifest import read_manifest
from rest_deploy.artifact.profile import Profile
from rest_deploy.cli import export as cli
from rest_deploy.errors import ExportError, InputError, VerificationError
from rest_deploy.pipeline import ExportRequest, ExportResult, run_export, run_exports, speed
from rest_deploy.pipeline.speed import Speed
from rest_deploy.runtimes.ort import OnnxRuntime
from rest_deploy.specs import Int8Target, Precision
from tests.conftest import DIGITS, slow
from tests.engines import RTX, Machine, images
from tests.standins.tensorrt import API_FILES


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from benchmarks.precision import write_pictures
    from examples.digits.data import load_split

    folder = tmp_path_factory.mktemp("pictures") / "train"
    write_pictures(load_split()[0][:32], folder)
    return folder


def _built(output: Path, precision: str, **options: Any) -> ExportResult:
    options = {"targets": ("sm89",), **options}
    return run_export(ExportRequest(None, output, DIGITS, "trt-rtx", precision=Precision(precision), options=options))


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory, pictures: Path) -> dict[str, ExportResult]:
    pytest.importorskip("tensorrt_rtx_bindings", reason="TensorRT-RTX is not installed")
    folder = tmp_path_factory.mktemp("real")
    return {
        "fp16": _built(folder / "half.engine", "fp16"),
        "fp16 io": _built(folder / "half_io.engine", "fp16", half_io=True),
        "int8": _built(folder / "int8.engine", "int8", calibration=pictures),
    }


@pytest.mark.slow
def test_the_build_log_proves_the_precision(real: dict[str, ExportResult]) -> None:
    for name, narrow in (("fp16", "fp16"), ("fp16 io", "fp16"), ("int8", "int8")):
        info = read_manifest(real[name].path)
        assert info.engine is not None
        stages = {stage: counts for stage, counts in info.engine.layers.items() if stage.startswith(("stage", "stem"))}
        assert all(counts[narrow] >= 3 for counts in stages.values()), (name, stages)
        assert sum(counts.get("fp32", 0) for counts in stages.values()) > 0  # attention's core
    int8 = real["int8"].info.engine
    assert int8 is not None
    assert sum(counts.get("fp16", 0) for counts in int8.layers.values()) > 20  # what is not INT8 is half


@pytest.mark.slow
def test_the_manifest_says_how_it_was_narrowed(real: dict[str, ExportResult]) -> None:
    plan = read_manifest(real["int8"].path).precision_plan
    assert plan is not None
    assert plan.int8_target is Int8Target.TRT
    assert plan.calibration is not None
    assert len(plan.calibration.images) == 24
    assert plan.agreement is not None
    assert plan.agreement["top1_agreement"] == 1.0
    half = read_manifest(real["fp16 io"].path)
    assert (half.input.dtype, half.outputs[0].dtype) == ("float16", "float16")


@pytest.mark.slow
def test_the_line_that_rebuilds_says_the_same(real: dict[str, ExportResult], pictures: Path) -> None:
    import shlex

    record = real["int8"].info.engine
    assert record is not None
    request = cli.request_of(cli._parser().parse_args(shlex.split(record.rebuild("x.engine"))[1:]))
    assert request.precision is Precision.INT8
    assert request.precision_config.calibration == pictures
    half = real["fp16 io"].info.engine
    assert half is not None
    assert cli.request_of(cli._parser().parse_args(shlex.split(half.rebuild("x.engine"))[1:])).precision_config.half_io


@pytest.mark.slow
def test_not_timed_without_a_gpu(tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx_bindings", reason="TensorRT-RTX is not installed")
    with pytest.raises(VerificationError, match=r"a speedup of 1\.5 is required, and cannot be measured: "):
        _built(tmp_path / "x.engine", "fp16", require_speedup=1.5)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_the_speed_of_the_onnx_file_is_not_told_of_the_engine(
    tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("tensorrt_rtx_bindings", reason="TensorRT-RTX is not installed")
    slow = Speed("cpu", "1x224x224", 10.0, 20.0, 0.5, 0.4, 0.6, 9)
    monkeypatch.setattr(speed, "compare_speed", lambda *_: slow)
    options = {"targets": ("sm89",), "require_speedup": None}
    request = ExportRequest(
        None, tmp_path / "x", tiny_checkpoint, "onnx,trt-rtx", precision=Precision.FP16, options=options
    )
    onnx, engine = run_exports(request)
    assert onnx.info.precision_plan is not None
    assert onnx.info.precision_plan.speed == slow.to_dict()
    assert any("not faster" in note for note in onnx.notes)
    plan = read_manifest(engine.path).precision_plan
    assert plan is not None
    assert plan.speed is None
    assert not any("not faster" in note for note in engine.notes)
    required = replace(request, options={"targets": ("sm89",), "require_speedup": 1.1}, output=tmp_path / "y")
    with pytest.raises(VerificationError, match="cannot be measured: "):  # of the engine, not 0.5 of the ONNX file
        run_exports(required)


# By stand-ins: the path on a machine with a GPU.


@pytest.fixture(scope="module")
def half_onnx(tmp_path_factory: pytest.TempPathFactory, tiny_checkpoint: Path) -> Path:
    output = tmp_path_factory.mktemp("half") / "tiny.onnx"
    options = {"compare_speed": False}
    return run_export(ExportRequest(None, output, tiny_checkpoint, precision=Precision.FP16, options=options)).path


def _on_gpu(machine: Machine, checkpoint: Path, output: Path, **options: Any) -> ExportResult:
    options = {"use_timing_cache": False, **options}
    return run_export(
        ExportRequest(None, output, checkpoint, machine.format, precision=Precision.FP16, options=options)
    )


@pytest.mark.parametrize("file", [API_FILES[0], *slow(API_FILES[-1:])])
@pytest.mark.parametrize("half_io", [True, *slow([False])])
def test_where_a_gpu_is_it_is_verified_and_timed(
    *, file: str, half_io: bool, half_onnx: Path, tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = Machine.make(monkeypatch, file)
    runtime = OnnxRuntime(half_onnx, "cpu")
    machine.trt.network = lambda batch: runtime.run(batch.astype(np.float32))["logits"].astype(batch.dtype)
    timed = Speed("cuda:0", "224x224", 3.0, 2.0, 1.5, 1.4, 1.6, 20)
    compared: list[tuple[str, ...]] = []

    def compare(fp32: Path, narrowed: Path, device: str, case: object) -> Speed:
        precisions = [read_manifest(path).precision.value for path in (fp32, narrowed)]
        compared.append((*precisions, device, str(case)))
        return timed

    monkeypatch.setattr(speed, "compare_speed", compare)
    profile = (Profile.parse("1x1x1:3x40x56:8x640x640"),)
    result = _on_gpu(machine, tiny_checkpoint, tmp_path / "x.engine", half_io=half_io, profiles=profile)
    assert compared == [("fp32", "fp16", "cuda:0", "3x40x56")]
    info = read_manifest(result.path)
    assert result.comparison is not None
    assert info.verification == result.comparison.to_dict()
    assert info.precision_plan is not None
    assert info.precision_plan.speed == timed.to_dict()
    with Predictor(result.path) as predictor:
        batch = images(2, 3, 33, 17)
        logits = predictor.logits(batch)
        assert logits.dtype == np.float32
        given = batch.astype(np.float16).astype(np.float32) if half_io else batch
        wanted = runtime.run(given)["logits"]
        np.testing.assert_allclose(logits, wanted.astype(np.float16) if half_io else wanted)


@pytest.mark.slow
def test_an_engine_that_is_not_faster_says_so(
    half_onnx: Path, tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = Machine.make(monkeypatch, RTX)
    machine.trt.network = OnnxRuntime(half_onnx, "cpu").run
    monkeypatch.setattr(speed, "compare_speed", lambda *_: Speed("cuda:0", "224x224", 2.0, 2.0, 1.0, 0.9, 1.1, 9))
    result = _on_gpu(machine, tiny_checkpoint, tmp_path / "x.engine")
    assert any(note.startswith("not faster than FP32: 1.00x") for note in result.notes)
    with pytest.raises(VerificationError, match=r"a speedup of 1\.2 is required"):
        _on_gpu(machine, tiny_checkpoint, tmp_path / "y.engine", require_speedup=1.2)
    assert not (tmp_path / "y.engine").exists()


def test_an_engine_that_was_built_in_fp32_is_not_kept(
    tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = Machine.make(monkeypatch, RTX)
    machine.trt.datatype = "Float"
    with pytest.raises(ExportError, match=r"fp16 was asked for, and of .* layers TensorRT built none in it"):
        _on_gpu(machine, tiny_checkpoint, tmp_path / "x.engine")


def test_attention_in_half_is_not_kept(tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A library that narrows the softmax all the same."""
    machine = Machine.make(monkeypatch, RTX)
    machine.trt.datatype = "Half"
    with pytest.raises(ExportError, match=r"FP32 was asked for parts of the network, and TensorRT built .*softmax"):
        _on_gpu(machine, tiny_checkpoint, tmp_path / "x.engine")
    assert list(tmp_path.iterdir()) == []


def test_arrays_of_another_dtype_on_the_host(half_onnx: Path) -> None:
    with Predictor(half_onnx) as predictor, pytest.raises(InputError, match="input of dtype float64"):
        predictor.logits(np.zeros((1, 3, 8, 8)))
