"""From checkpoint to artifact: what was asked and proved, or nothing."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from safetensors.torch import save

from rest_deploy import export
from rest_deploy.artifact.info import METADATA_KEY
from rest_deploy.errors import (
    ArtifactError,
    CheckpointError,
    ConfigError,
    ExportError,
    MissingPackageError,
    VerificationError,
)
from rest_deploy.models.card import CARD_KEY, Card
from rest_deploy.models.factory import create_model
from rest_deploy.pipeline import ExportRequest, ExportResult, prepare, run, run_export
from rest_deploy.pipeline import request as request_module
from rest_deploy.runtimes.registry import read_info
from rest_deploy.specs import Precision, Preprocessing, PreprocessingChange, Resize
from tests.conftest import TINY


def test_the_artifact_describes_itself(tiny_export: ExportResult, tiny_checkpoint: Path) -> None:
    info = read_info(tiny_export.path)
    assert info == tiny_export.info
    assert (info.format, info.precision, info.model) == ("onnx", Precision.FP32, "tiny")
    assert info.config == TINY.to_dict()
    assert info.weights.sha256 == hashlib.sha256(tiny_checkpoint.read_bytes()).hexdigest()
    assert info.labels == tuple("abcdefg")
    assert info.preprocessing.resize is Resize.NATIVE
    assert info.input.shape == ("batch", 3, "height", "width")
    assert {"rest_deploy", "torch", "onnx", "onnxruntime"} <= set(info.versions)
    assert info.verification is not None
    assert info.verification["passed"]
    assert tiny_export.comparison is not None
    assert info.verification == tiny_export.comparison.to_dict()


def test_the_file_is_plain_onnx(tiny_onnx: Path) -> None:
    model = onnx.load(str(tiny_onnx))
    onnx.checker.check_model(model, full_check=True)
    assert [entry.key for entry in model.metadata_props] == [METADATA_KEY, "rest_deploy_sha256"]


def test_random_weights_are_said_loudly(tmp_path: Path) -> None:
    result = run_export(ExportRequest(TINY, tmp_path / "tiny.onnx", seed=5, verify=False))
    assert any("RANDOM WEIGHTS" in note for note in result.notes)
    assert read_info(result.path).weights.random
    assert read_info(result.path).weights.seed == 5
    assert read_info(result.path).verification is None


def test_a_wrong_artifact_is_not_kept(tmp_path: Path, tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A planted fault between the model and its file: the check finds it, and what was there before stays."""
    from rest_deploy.models import deploy

    real = deploy.to_deploy

    def faulty(model: Any) -> Any:
        made = real(model)
        made.stage3_1.mlp.fc2.bias.add_(0.05)
        return made

    monkeypatch.setattr(deploy, "to_deploy", faulty)
    output = tmp_path / "tiny.onnx"
    output.write_bytes(b"before")
    with pytest.raises(VerificationError, match=r"tiny.onnx \(not kept\) disagrees with the PyTorch model"):
        run_export(ExportRequest(None, output, checkpoint=tiny_checkpoint))
    assert output.read_bytes() == b"before"
    assert [path.name for path in tmp_path.iterdir()] == ["tiny.onnx"]


def test_a_baked_size_is_found_by_running_other_sizes(
    tmp_path: Path, tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Were every check of the graph blind, the file would still fail: here 1/K is written down at one size."""
    from rest_deploy.export import onnx_exporter

    real = onnx_exporter.export

    def baking(deploy: Any, image: Any, logits: Any, target: Path, config: Any) -> Any:
        notes = real(deploy, image, logits, target, replace(config, simplify=False, blockwise=False))
        model = onnx.load(str(target))
        uniform = next(
            node for node in model.graph.node if node.op_type == "Reciprocal" and "Cast" in _maker(model, node)
        )
        uniform.CopyFrom(onnx.helper.make_node("Constant", [], list(uniform.output), value_floats=[1 / 15]))
        onnx.save(model, str(target))
        return notes

    monkeypatch.setattr(onnx_exporter, "export", baking)
    with pytest.raises(VerificationError, match="disagrees"):
        run_export(ExportRequest(None, tmp_path / "tiny.onnx", checkpoint=tiny_checkpoint))


def _maker(model: onnx.ModelProto, node: onnx.NodeProto) -> str:
    return next((n.op_type for n in model.graph.node if node.input[0] in n.output), "")


def test_an_error_on_the_way_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(run, "write_record", fail)
    with pytest.raises(KeyboardInterrupt):
        run_export(ExportRequest(TINY, tmp_path / "tiny.onnx", verify=False))
    assert list(tmp_path.iterdir()) == []


def test_the_public_function(tmp_path: Path, tiny_checkpoint: Path, rng: np.random.Generator) -> None:
    from rest_deploy import Predictor

    made = export(
        None, tmp_path / "x.onnx", checkpoint=tiny_checkpoint, format="onnx", precision="fp32", simplify=False
    )
    assert made == tmp_path / "x.onnx"
    with Predictor(made) as predictor:
        assert predictor.logits(rng.standard_normal((1, 3, 5, 6)).astype(np.float32)).shape == (1, TINY.num_classes)


def test_labels_and_preprocessing_can_be_given(tmp_path: Path, tiny_checkpoint: Path) -> None:
    labels = tmp_path / "names.txt"
    labels.write_text("\n".join(f"name {i}" for i in range(TINY.num_classes)))
    warp = Preprocessing(resize=Resize.WARP)
    request = ExportRequest(
        None, tmp_path / "x.onnx", checkpoint=tiny_checkpoint, labels=labels, preprocessing=warp, verify=False
    )
    info = run_export(request).info
    assert info.label(3) == "name 3"
    assert info.preprocessing == warp


def test_the_name_is_taken_from_the_model(
    tmp_path: Path, tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert export(None, checkpoint=tiny_checkpoint, verify=False) == Path("tiny.onnx")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"model": "rest_huge"}, "unknown model 'rest_huge'; known models: rest_lite"),
        ({"model": None}, "neither a model nor a checkpoint"),
        ({"format": "coreml"}, "unknown format 'coreml'; accepted: onnx"),
        ({"precision": "int8", "options": {"half_io": True}}, "half_io: only with --int8-target trt"),
        ({"precision": "fp8"}, "unknown precision 'fp8'"),
        ({"output": "model.engine"}, "files of format onnx end in .onnx"),
        ({"options": {"opset": 11}}, "accepted: a whole number from 18 to 21"),
    ],
)
def test_a_request_that_cannot_be_meant(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        ExportRequest(**{"model": "rest_lite", **arguments})


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(request_module.importlib.util, "find_spec", lambda name: None if name == "onnxsim" else True)
    with pytest.raises(MissingPackageError, match=r'onnxsim is needed .* pip install "rest-deploy\[export\]"'):
        ExportRequest("rest_lite")


def test_an_output_that_cannot_be_written_is_found_before_the_work(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="does not exist; make it first"):
        run_export(ExportRequest(TINY, tmp_path / "no" / "such" / "x.onnx"))
    (tmp_path / "f.onnx").mkdir()
    with pytest.raises(ExportError, match="is a folder"):
        run_export(ExportRequest(TINY, tmp_path / "f.onnx"))
    (tmp_path / "parts.svg").mkdir()  # the plot beside the table
    options = {"sensitivity": tmp_path / "parts.csv"}
    with pytest.raises(ExportError, match=r"parts\.svg.* is a folder"):
        prepare(ExportRequest(TINY, tmp_path / "x.onnx", precision=Precision.FP16, options=options))


def test_a_checkpoint_of_another_model(tmp_path: Path, tiny_checkpoint: Path) -> None:
    with pytest.raises(CheckpointError, match="does not fit the model"):
        run_export(ExportRequest("rest_lite", tmp_path / "x.onnx", checkpoint=tiny_checkpoint))


def test_channels_and_preprocessing_must_fit(tmp_path: Path) -> None:
    steps = Preprocessing()
    with pytest.raises(ConfigError, match="takes 1 channel, the preprocessing gives 3"):
        run_export(ExportRequest(replace(TINY, in_channels=1), tmp_path / "x.onnx", preprocessing=steps))
    one = PreprocessingChange(resize=Resize.WARP)
    with pytest.raises(ConfigError, match=r"takes 1 channel: give --mean and --std with 1"):
        run_export(ExportRequest(replace(TINY, in_channels=1), tmp_path / "x.onnx", preprocessing=one))
    change = PreprocessingChange(resize=Resize.WARP, mean=(0.0,) * 4, std=(1.0,) * 4)
    with pytest.raises(ConfigError, match=r"takes 4 channels, which no picture has"):
        run_export(ExportRequest(replace(TINY, in_channels=4), tmp_path / "x.onnx", preprocessing=change))


def test_labels_of_the_checkpoint_must_fit(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    weights = {name: value.detach() for name, value in create_model(TINY).state_dict().items()}
    path.write_bytes(save(weights, metadata={CARD_KEY: Card(labels=("just", "two")).to_json()}))
    with pytest.raises(ArtifactError, match="2 labels for 7 classes"):
        run_export(ExportRequest(None, tmp_path / "x.onnx", checkpoint=path))
