"""What neither the checkpoint nor the request says is assumed by name, wherever the artifact speaks, or refused."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from rest_deploy import Predictor, Preprocessing, create_model, export, save_checkpoint, verify
from rest_deploy.artifact.info import ASSUMABLE
from rest_deploy.artifact.labels import imagenet_labels
from rest_deploy.cli import export as export_command
from rest_deploy.cli import info as info_command
from rest_deploy.cli import predict as predict_command
from rest_deploy.cli import verify as verify_command
from rest_deploy.errors import ConfigError
from rest_deploy.models.rest import ResT
from rest_deploy.pipeline import ExportRequest, prepare, run_export
from rest_deploy.runtimes.registry import read_info
from rest_deploy.specs import Activation, PreprocessingChange, Resize
from tests.cli.test_commands import Outcome
from tests.conftest import DIGITS, IMAGES, TINY, lively

TRANSFORM = {"transform", "image size", "crop ratio", "interpolation", "mean", "std", "alpha"}


@pytest.fixture(scope="module")
def training_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights and their average, as a training script saves them: nothing else of the network."""
    weights, average = (lively(create_model(TINY), seed).state_dict() for seed in (0, 1))
    path = tmp_path_factory.mktemp("training") / "checkpoint-9.pth"
    torch.save({"model": weights, "model_ema": average, "epoch": 9}, path)
    return path


@pytest.fixture(scope="module")
def assumed_onnx(training_checkpoint: Path) -> Path:
    return run_export(
        ExportRequest(None, training_checkpoint.with_suffix(".onnx"), checkpoint=training_checkpoint)
    ).path


def test_what_nobody_said_is_in_the_record(assumed_onnx: Path) -> None:
    info = read_info(assumed_onnx)
    assert set(info.assumed) == {"weights", "architecture", "activation", *TRANSFORM}
    assert info.assumed["image size"] == "224x224"
    assert "ImageNet" in info.assumed["mean"]
    assert info.assumed["weights"].startswith("model_ema")
    assert info.weights.key == "model_ema"


def test_every_command_says_what_was_assumed(
    assumed_onnx: Path, training_checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ["--checkpoint", training_checkpoint, "-o", tmp_path / "x.onnx", "--no-verify"]
    images = ["--data", IMAGES, "--sizes", "32", "--no-synthetic"]
    told = {
        "export": Outcome(export_command, asked, capsys).out,
        "dry run": Outcome(export_command, [*asked, "--dry-run"], capsys).out,
        "info": Outcome(info_command, [assumed_onnx], capsys).out,
        "predict": Outcome(predict_command, [assumed_onnx, IMAGES / "rocket.jpg", "--verbose"], capsys).err,
        "verify": Outcome(verify_command, [assumed_onnx, "--reference", training_checkpoint, *images], capsys).out,
    }
    for command, text in told.items():
        assert "assumed" in text, command
        for what in ("image size", "224x224", "mean", "model_ema", "GELU"):
            assert what in text, (command, what)
    assert "made with" in told["info"]
    assert "read with" in Outcome(info_command, [training_checkpoint], capsys).out
    for flag in ("--weights-key", "--image-size", "--mean", "--alpha", "--activation"):
        assert flag in told["export"]


def test_opening_a_checkpoint_says_what_is_assumed_of_it(
    assumed_onnx: Path, training_checkpoint: Path, capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    """Of an exported file its export has said it."""
    image, said = IMAGES / "rocket.jpg", f"assumed of {training_checkpoint}: weights, architecture, "
    (line,) = Outcome(predict_command, [training_checkpoint, image], capsys).err.splitlines()
    assert line.startswith(f"warning: {said}")
    assert line.endswith("; rest-info lists them")
    caplog.set_level(logging.WARNING, "rest_deploy")
    caplog.clear()
    for path in (assumed_onnx, DIGITS, training_checkpoint):
        Predictor(path).close()
    (record,) = caplog.records
    assert record.getMessage().startswith(said)


def test_strict_refuses_and_names_the_flags(training_checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as raised:
        prepare(ExportRequest(None, tmp_path / "x.onnx", checkpoint=training_checkpoint, strict=True))
    for what in ("weights", "architecture", "activation", *TRANSFORM):
        assert ASSUMABLE[what] in str(raised.value)


def test_what_is_said_is_not_assumed(training_checkpoint: Path, tmp_path: Path) -> None:
    """One flag after the other, until nothing is left and strict is content."""
    said: dict[str, Any] = {"weights_key": "model", "activation": "softmax"}
    change = {"mean": (0.5,) * 3, "std": (0.5,) * 3, "resize": Resize.NATIVE, "alpha": "white"}
    for name in list(change):
        steps = PreprocessingChange(**{name: change[name]})
        request = ExportRequest(None, tmp_path / "x.onnx", checkpoint=training_checkpoint, preprocessing=steps, **said)
        info = prepare(request).info
        own = {"resize": {"transform", "image size", "crop ratio", "interpolation"}}.get(name, {name})
        assert set(info.assumed) == {"architecture", *TRANSFORM} - own
    request = ExportRequest(
        *(TINY, tmp_path / "x.onnx", training_checkpoint),
        **said, preprocessing=PreprocessingChange(**change), strict=True,
    )  # fmt: skip
    prepared = prepare(request)
    assert prepared.info.assumed == {}
    assert torch.equal(prepared.loaded.model.head.weight, lively(create_model(TINY), 0).head.weight)


def test_a_checkpoint_that_says_it_all_leaves_nothing(tmp_path: Path, tiny_model: ResT) -> None:
    steps = Preprocessing("crop", (40, 56), 0.9, (0.4,) * 3, (0.3,) * 3, "bilinear", "drop")
    path = tmp_path / "all.safetensors"
    save_checkpoint(path, tiny_model, labels=list("abcdefg"), preprocessing=steps, activation="sigmoid")
    info = prepare(ExportRequest(None, tmp_path / "x.onnx", checkpoint=path, strict=True)).info
    assert (info.assumed, info.preprocessing, info.activation) == ({}, steps, Activation.SIGMOID)


def test_the_name_of_a_file_that_nobody_named(tmp_path: Path, tiny_model: ResT) -> None:
    """A network of one's own has the name of its checkpoint, a published or a named one its own."""
    contents: dict[str, Any] = {
        "train": tiny_model.state_dict(),
        "lite": create_model("rest_lite", num_classes=7).state_dict(),
    }
    for name, content in contents.items():
        torch.save(content, tmp_path / f"{name}.pth")
    save_checkpoint(tmp_path / "card.safetensors", tiny_model, name="weather")
    files = {"train.pth": "train.onnx", "lite.pth": "rest_lite.onnx", "card.safetensors": "weather.onnx"}
    for name, file in files.items():
        assert prepare(ExportRequest(None, checkpoint=tmp_path / name)).jobs[0].output == Path(file)
    torch.save(contents["train"], tmp_path / "x.onnx")
    with pytest.raises(ConfigError, match="it is the checkpoint"):
        prepare(ExportRequest(None, tmp_path / "x.onnx", checkpoint=tmp_path / "x.onnx"))


def test_a_thousand_classes_are_not_imagenets_for_their_number(tmp_path: Path) -> None:
    path = tmp_path / "thousand.safetensors"
    save_checkpoint(path, create_model(replace(TINY, num_classes=1000)))
    labels: dict[str, Any] = {}
    for given in (None, "none", "imagenet"):
        info = prepare(ExportRequest(None, tmp_path / "x.onnx", checkpoint=path, labels=given)).info
        labels[str(given)] = info.labels, "labels" in info.assumed
    assert labels == {
        "None": (imagenet_labels(), True),
        "none": (None, False),
        "imagenet": (imagenet_labels(), False),
    }
    with pytest.raises(ConfigError, match="1000, and the model has 7"):
        prepare(ExportRequest(TINY, tmp_path / "x.onnx", labels="imagenet"))


def test_a_module_in_memory_is_exported_as_it_is(tmp_path: Path, tiny_model: ResT) -> None:
    model = lively(create_model(TINY)).train()  # as a training loop leaves it
    path = export(model, tmp_path / "m.onnx", activation="softmax")
    info = read_info(path)
    assert (info.weights.source, info.weights.random) == ("module", False)
    assert not {"weights", "architecture"} & set(info.assumed)
    assert model.training
    batch = np.random.default_rng(0).standard_normal((2, 3, 33, 47)).astype(np.float32)
    with Predictor(path) as predictor, torch.inference_mode():
        np.testing.assert_allclose(predictor.logits(batch), tiny_model(torch.from_numpy(batch)), atol=1e-4)
    for wrong in ({"checkpoint": "a.pth"}, {"seed": 3}, {"weights_key": "model"}):
        with pytest.raises(ConfigError):
            export(model, tmp_path / "n.onnx", **wrong)


def test_a_training_loop_runs() -> None:
    model = create_model(TINY).train()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    before = model.head.weight.detach().clone()
    model(torch.ones(2, 3, 16, 16)).square().mean().backward()
    optimizer.step()
    assert not torch.equal(before, model.head.weight)


@pytest.fixture
def two_networks(tmp_path: Path) -> Callable[..., Path]:
    """A file of which nothing ranks the two networks in it."""

    def write(**others: Any) -> Path:
        path = tmp_path / "two.pth"
        weights = [lively(create_model(TINY), seed).state_dict() for seed in (0, 1)]
        torch.save({"student": weights[0], "teacher": {f"net.{k}": v for k, v in weights[1].items()}, **others}, path)
        return path

    return write


def test_the_reference_is_the_network_that_the_artifact_was_made_of(
    two_networks: Callable[..., Path], tmp_path: Path
) -> None:
    path = two_networks()
    artifact = export(None, tmp_path / "teacher.onnx", checkpoint=path, weights_key="teacher")
    assert (read_info(artifact).weights.key, read_info(artifact).weights.prefix) == ("teacher", "net.")
    assert verify(artifact, path, sizes=[(32, 32)]).passed
    with pytest.raises(Exception, match="--weights-key"):  # of another file, nothing tells
        verify(artifact, two_networks(more=1), sizes=[(32, 32)])
    from rest_deploy.verification import WeightsChoice

    other = WeightsChoice("student")
    assert not verify(artifact, two_networks(more=1), sizes=[(32, 32)], choice=other).passed
    assert verify(artifact, two_networks(more=1), sizes=[(32, 32)], choice=WeightsChoice("teacher", "net.")).passed


def test_artifacts_of_different_weights_are_not_measured_by_one(
    two_networks: Callable[..., Path], tmp_path: Path
) -> None:
    path = two_networks()
    made = [export(None, tmp_path / f"{key}.onnx", checkpoint=path, weights_key=key) for key in ("teacher", "student")]
    with pytest.raises(ConfigError, match=r"'net\.teacher', 'student'.*--weights-key"):
        verify(made, path, sizes=[(32, 32)])


def test_what_rest_predict_cannot_say_is_said_at_export(
    two_networks: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    done = Outcome(predict_command, [two_networks(), IMAGES / "rocket.jpg"], capsys)
    assert done.code == 1
    assert "--weights-key" in done.err
    assert "rest-export" in done.err


@pytest.mark.slow
def test_heads_without_interaction_go_all_the_way(tmp_path: Path) -> None:
    config = replace(TINY, apply_transform=False)
    path = tmp_path / "plain.pth"
    torch.save(lively(create_model(config)).state_dict(), path)
    with pytest.raises(Exception, match="--num-heads"):
        export(None, tmp_path / "x.onnx", checkpoint=path)
    artifact = export(None, tmp_path / "x.onnx", checkpoint=path, num_heads=TINY.num_heads)
    info = read_info(artifact)
    assert (info.config["num_heads"], info.config["apply_transform"]) == (list(TINY.num_heads), False)
    assert info.extra["simplified"]
    assert verify(artifact, path, sizes=[(40, 33)]).passed
    assert json.loads(info.to_json())["config"]["num_heads"] == [1, 2, 3, 4]
