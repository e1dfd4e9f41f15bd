"""Networks as backbones, from a checkpoint to arrays: maps, embeddings, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from PIL import Image

from rest_deploy import Predictor, benchmark, export, verify
from rest_deploy.artifact.info import ArtifactInfo
from rest_deploy.benchmarking.measure import Effort
from rest_deploy.cli import export as export_command
from rest_deploy.cli import info as info_command
from rest_deploy.cli import predict as predict_command
from rest_deploy.cli import verify as verify_command
from rest_deploy.errors import CheckpointError, ConfigError, ImageError, InputError, VerificationError
from rest_deploy.machine import SHARE
from rest_deploy.models.factory import load_model
from rest_deploy.models.rest import ResT
from rest_deploy.pipeline.request import as_arguments
from rest_deploy.report.fields import read_record
from rest_deploy.report.report import render
from rest_deploy.runtimes.registry import open_runtime, read_info
from rest_deploy.specs import STAGE_MAPS, FeatureNorm, Precision
from tests.conftest import IMAGES, TINY, TINY_V2, further, slow
from tests.models.test_taps import norms_of

PREFIX = "backbone.bottom_up."
#: Allowed of an answer in float32: the error is some 1e-6 of the largest value, with a chain of norms over maps of one
#: or two values up to 2.4e-5 on a processor with AVX-512.
CLOSE = 5e-5


def save_detector(path: Path, model: ResT) -> Path:
    """The network in the checkpoint of a detector of the authors': norms in the chain, no head, a neck."""
    weights = {f"{PREFIX}{name}": value for name, value in model.state_dict().items() if not name.startswith("head.")}
    for stage in (1, 2, 3):
        for part, value in zip(("weight", "bias"), norms_of(model)[stage], strict=True):
            weights[f"{PREFIX}norm{stage}.{part}"] = value
    torch.save({"model": {**weights, "roi_heads.box_predictor.bbox_pred.bias": torch.zeros(4)}}, path)
    return path


@pytest.fixture(scope="module")
def detector(tiny_model: ResT, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_detector(tmp_path_factory.mktemp("detector") / "detector.pth", tiny_model)


@pytest.fixture(scope="module")
def backbone(detector: Path) -> Path:
    return export(None, detector.with_suffix(".onnx"), checkpoint=detector, features=STAGE_MAPS)


@pytest.fixture(scope="module")
def embedder(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("embedder") / "embedder.onnx"
    return export(None, output, checkpoint=tiny_checkpoint, features="embedding,logits")


def _batch(height: int, width: int) -> Any:
    return np.random.default_rng(height).standard_normal((2, 3, height, width)).astype(np.float32)


def _exact(checkpoint: Path, batch: Any, names: tuple[str, ...] = STAGE_MAPS) -> dict[str, Any]:
    model = load_model(None, checkpoint, features=names).model.double()
    with torch.inference_mode():
        return {name: own.numpy() for name, own in model.outputs(torch.from_numpy(batch).double()).items()}


# Maps


@pytest.mark.anew
def test_maps_of_a_detector(backbone: Path, detector: Path) -> None:
    with Predictor(backbone) as ours, Predictor(detector) as theirs:
        for size in ((1, 1), (33, 50), (64, 96)):
            batch = _batch(*size)
            exact = _exact(detector, batch)
            for predictor in (ours, theirs):
                found = predictor.features(batch)
                assert list(found) == list(STAGE_MAPS)
                for name, values in exact.items():
                    assert found[name].dtype == np.float32
                    np.testing.assert_allclose(found[name], values, rtol=0, atol=CLOSE * np.abs(values).max())


def test_the_record_of_a_backbone(backbone: Path, detector: Path) -> None:
    info = read_info(backbone)
    assert [(own.name, own.shape[1], own.stride, own.norm) for own in info.outputs] == [
        ("stage1", 8, 4, True), ("stage2", 16, 8, True), ("stage3", 24, 16, True), ("stage4", 32, 32, True)
    ]  # fmt: skip
    assert (info.task, info.feature_norm, info.weights.prefix) == ("features", FeatureNorm.CHAIN, PREFIX)
    assert (info.labels, info.num_classes, info.preprocessing, info.test_vector) == (None, 0, None, None)
    assert any("bbox_pred" in note for note in info.weights.notes)
    assert set(info.assumed) <= {"left out", "architecture"}
    assert ArtifactInfo.from_json(info.to_json(), backbone) == info
    assert info.verification is not None
    sizes = {(row["height"], row["width"]) for row in info.verification["cases"]}
    assert any(height % 32 == 0 and width % 32 == 0 for height, width in sizes)
    for row in info.verification["cases"]:
        assert row["max_error"] <= 2 * row["reference_error"] or row["max_error"] <= 5e-5 * row["scale"]
        assert row["cosine"] > 1 - 1e-6
    with Predictor(detector) as predictor:
        assert predictor.info.outputs == info.outputs


def test_graphs_have_the_maps_by_name_and_any_size(backbone: Path) -> None:
    graph = onnx.load(backbone).graph
    dims = {value.name: [own.dim_param or own.dim_value for own in value.type.tensor_type.shape.dim]
            for value in graph.output}  # fmt: skip
    assert list(dims) == list(STAGE_MAPS)
    assert dims["stage2"] == ["batch", 16, "stage2_height", "stage2_width"]
    assert not [node for node in graph.node if node.name.startswith("head")]


@pytest.mark.slow
def test_some_stages_of_a_chain(backbone: Path, detector: Path, tmp_path: Path) -> None:
    some = export(None, tmp_path / "some.onnx", checkpoint=detector, features=("stage3", "stage1"), verify=False)
    batch = _batch(48, 33)
    with Predictor(some) as one, Predictor(backbone) as other:
        found, whole = one.features(batch), other.features(batch)
        assert list(found) == ["stage3", "stage1"]
        for name, values in found.items():
            np.testing.assert_allclose(values, whole[name], rtol=0, atol=CLOSE * np.abs(values).max())
    assert not [node for node in onnx.load(some).graph.node if node.name.startswith(("stage4", "patch_embed_4"))]


def test_a_fault_in_one_map_is_found(backbone: Path, detector: Path, tmp_path: Path) -> None:
    found = verify(backbone, detector, sizes=[(64, 64)], per_block=True)
    assert found.passed
    blocks = found.artifacts[0].blocks
    assert blocks is not None
    assert list(blocks.blocks)[:4] == ["stem", "stage1.0", "norm1", "map1"]
    from rest_deploy.artifact.onnx_file import OnnxFile, write_record

    model = onnx.load(backbone)
    norm = next(own for own in model.graph.initializer if own.name == "norm3.bias")
    norm.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(norm) + np.float32(0.1), norm.name))
    del model.metadata_props[:]
    wrong = tmp_path / "wrong.onnx"
    onnx.save(model, wrong)
    write_record(wrong, OnnxFile(backbone).info)
    (artifact,) = verify(wrong, detector, sizes=[(64, 64)], per_block=True).artifacts
    assert {failure.split()[1] for failure in artifact.failures if "block" not in failure} == {"stage3:", "stage4:"}
    assert artifact.blocks is not None
    assert artifact.blocks.first_over_limit == "norm3"


@pytest.mark.slow
def test_an_export_whose_map_is_wrong_is_not_kept(
    detector: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from rest_deploy.models import network

    monkeypatch.setattr(network.ChannelsFirst, "forward", lambda self, x: 1.001 * x.permute(0, 3, 1, 2))
    with pytest.raises(VerificationError, match="stage"):
        export(None, tmp_path / "x.onnx", checkpoint=detector, features=("stage1", "stage2"))
    assert list(tmp_path.iterdir()) == []


def test_arrays_with_values_that_are_not_finite(backbone: Path) -> None:
    batch = _batch(33, 50)
    with Predictor(backbone) as predictor:
        whole = predictor.features(batch)
        batch[0, 1, 2, 3] = np.nan
        found = predictor.features(batch)
    for name, values in found.items():
        assert np.isnan(values[0]).all()
        np.testing.assert_allclose(values[1], whole[name][1], rtol=0, atol=1e-5)


# Embeddings


def test_embeddings(embedder: Path, tiny_checkpoint: Path, tmp_path: Path) -> None:
    paths = sorted(IMAGES.glob("*.*g"))
    with Predictor(embedder) as predictor:
        assert predictor.info.task == "classification"
        assert predictor.info.labels == tuple("abcdefg")
        rows = predictor.embed(paths)
        assert (rows.shape, rows.dtype) == ((len(paths), 32), np.float32)
        one = predictor.embed(paths[0])
        np.testing.assert_allclose(one, rows[:1], rtol=0, atol=1e-5)
        folder = predictor.embed(IMAGES)
        assert list(folder) == [str(path) for path in paths]
        np.testing.assert_allclose(folder[str(paths[1])], rows[1], rtol=0, atol=1e-5)
        assert predictor.embed([]).shape == (0, 32)
        batch = predictor.preprocess(paths[0])
        exact = _exact(tiny_checkpoint, batch, ("embedding", "logits"))
        found = predictor.features(batch)
        assert list(found) == ["embedding", "logits"]
        for name, values in exact.items():
            np.testing.assert_allclose(found[name], values, rtol=0, atol=CLOSE * np.abs(values).max())
        np.testing.assert_array_equal(found["logits"], predictor.logits(batch))
        assert predictor.classify(paths[0])[0].label in "abcdefg"


def test_the_embedding_is_what_the_head_takes(embedder: Path, tiny_model: ResT) -> None:
    batch = _batch(40, 64)
    with Predictor(embedder) as predictor:
        found = predictor.features(batch)
    weight, bias = tiny_model.head.weight.detach().numpy(), tiny_model.head.bias.detach().numpy()
    np.testing.assert_allclose(found["embedding"] @ weight.T + bias, found["logits"], rtol=0, atol=1e-4)


# Lower precisions


@pytest.mark.parametrize("half_io", [True, *slow([False])])
def test_maps_in_half_precision(detector: Path, backbone: Path, tmp_path: Path, *, half_io: bool) -> None:
    half = export(None, tmp_path / "half.onnx", checkpoint=detector, features=STAGE_MAPS, precision="fp16",
                  compare_speed=False, half_io=half_io)  # fmt: skip
    info = read_info(half)
    assert (info.precision, {own.dtype for own in info.outputs}) == (
        Precision.FP16, {"float16" if half_io else "float32"}
    )  # fmt: skip
    assert info.verification is not None
    assert info.verification["passed"]
    batch = _batch(33, 50)
    with Predictor(half) as ours, Predictor(backbone) as theirs:
        found, whole = ours.features(batch), theirs.features(batch)
    for name, values in found.items():
        assert values.dtype == np.float32
        error = np.sqrt(
            np.square(values - whole[name]).mean()
        )  # the tiny network makes much of a rounding here or there
        assert 0 < error < 0.05 * whole[name].std()
    if not half_io:  # a norm's result is not rounded on its way out
        graph = onnx.load(half).graph
        makers = {output: node for node in graph.node for output in node.output}
        assert all(makers[name].op_type == "Transpose" for name in STAGE_MAPS)


def test_maps_in_int8_are_judged_by_their_root_mean_square(detector: Path, tmp_path: Path) -> None:
    made = export(None, tmp_path / "int8.onnx", checkpoint=detector, features=STAGE_MAPS, precision="int8",
                  compare_speed=False)  # fmt: skip
    info = read_info(made)
    assert info.precision is Precision.INT8
    assert info.verification is not None
    assert all(row["rms_error"] <= 0.75 * row["std"] for row in info.verification["cases"])
    assert all(row["rms_error"] > 1e-4 * row["std"] for row in info.verification["cases"] if row["output"] == "stage2")


@pytest.mark.slow
def test_int8_for_tensorrt_takes_arrays_of_the_callers(detector: Path, tmp_path: Path) -> None:
    folder = tmp_path / "inputs"
    folder.mkdir()
    np.save(folder / "a.npy", np.random.default_rng(0).standard_normal((24, 3, 64, 64)).astype(np.float32))
    made = export(None, tmp_path / "a.onnx", checkpoint=detector, features=("stage2", "stage4"), precision="int8",
                  int8_target="trt", calibration=folder, compare_speed=False,
                  sensitivity=tmp_path / "s.csv")  # fmt: skip
    plan = read_info(made).precision_plan
    assert plan is not None
    assert plan.agreement is not None
    assert "top1_agreement" not in plan.agreement
    assert 0 < plan.agreement["rms_error"] < 0.75
    assert plan.agreement["images"] == len(plan.judged_images) > 0
    header, *rows = (tmp_path / "s.csv").read_text().splitlines()
    assert header == "part,rms_error,top1_agreement"
    assert rows
    assert all(row.endswith(",") for row in rows)


# Commands


def test_the_commands(detector: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "b.onnx"
    argv = ["--checkpoint", str(detector), "--features", ",".join(STAGE_MAPS), "-o", str(output)]
    assert export_command.main([*argv, "--dry-run", "--json"]) == 0
    assert "stage4 (32 channels, stride 32, normalised)" in json.loads(capsys.readouterr().out)["outputs"]
    assert export_command.main(argv) == 0
    told = capsys.readouterr().out
    assert "of each output against PyTorch float64" in told
    assert "feature norm chain" in told
    assert info_command.main([str(output)]) == 0
    told = capsys.readouterr().out
    assert "stage2 (16 channels, stride 8, normalised)" in told
    assert PREFIX in told
    assert info_command.main([str(output), "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert (record["task"], record["feature_norm"]) == ("features", "chain")
    argv = [str(output), "--reference", str(detector), "--sizes", "64x64", "--per-block"]
    written = tmp_path / "v.json"
    assert verify_command.main([*argv, "-o", str(written)]) == 0
    assert "max / std" in capsys.readouterr().out
    assert "stage4" in render(read_record(written), None)
    for more in (["--data", str(IMAGES)],):
        assert verify_command.main([*argv, *more]) == 1
        assert "--data" in _one_line(capsys)
    assert predict_command.main([str(output), str(IMAGES)]) == 1
    line = _one_line(capsys)
    assert "in Python use Predictor.features" in line
    assert "logits" not in line.partition("Predictor.features")[2]  # a chain is the network of no classifier


def _one_line(capsys: pytest.CaptureFixture[str]) -> str:
    out, err = capsys.readouterr()
    lines = [line for line in err.splitlines() if line.startswith("error:")]
    assert len(lines) == 1
    assert not out
    return lines[0]


def test_features_without_a_name_are_all_maps() -> None:
    parser = export_command._parser()
    asked = [
        export_command.request_of(parser.parse_args(["--model", "rest_lite", *more]))
        for more in (
            [],
            ["--features"],
            ["--features", "embedding"],
            ["--features", "--feature-norm", "last"],
            ["--features", "--feature-norm", "auto"],
        )
    ]
    assert [request.features for request in asked] == [None, STAGE_MAPS, ("embedding",), STAGE_MAPS, STAGE_MAPS]
    assert [request.feature_norm for request in asked] == [None, None, None, FeatureNorm.LAST, None]
    assert as_arguments(asked[3]) == (
        "--model", "rest_lite", "--features", "stage1,stage2,stage3,stage4", "--feature-norm", "last"
    )  # fmt: skip


def test_a_backbone_is_timed(backbone: Path) -> None:
    effort = Effort(min_rounds=2, min_seconds=0.001)
    found = benchmark([backbone], sizes=[(64, 64)], effort=effort, cold=False)
    (result,) = found.cases[0].results
    assert result.calls
    with pytest.raises(ConfigError, match="baselines are of classifiers"):
        benchmark([backbone], sizes=[(64, 64)], baselines=["torch"], effort=effort, cold=False)


# What is refused

PICTURES = "eight pictures"
HALF = {"features": "stage1", "precision": "fp16", "calibration": PICTURES}


@pytest.mark.parametrize(
    ("options", "fact"),
    [
        ({"features": "stage5"}, "stage5"),
        ({"features": ("stage1", "logit")}, "logit'"),
        ({"features": ()}, "accepted: logits"),
        ({"features": "stage1,stage1"}, "twice"),
        ({"feature_norm": "chain"}, "--features"),
        ({"features": "stage1", "feature_norm": "both"}, "both"),
        ({"features": "stage1", "labels": ("a",)}, "labels"),
        ({"features": "stage1", "activation": "softmax"}, "activation"),
        ({"features": "logits,stage1", "feature_norm": "chain"}, "leave logits out"),
        ({"features": "stage1", "precision": "int8", "max_error": 0.5}, "--max-error"),
        (
            {"features": "stage1", "precision": "fp16", "calibration": PICTURES, "min_top1_agreement": 0.9},
            "--min-top1-agreement",
        ),
        ({**HALF, "min_top1_agreement": 0.9}, "--min-top1-agreement"),
        (HALF, r"\.npy"),
        ({"model": replace(TINY, num_classes=0)}, "--features"),
    ],
)
def test_requests_that_are_refused(options: dict[str, Any], fact: str, tmp_path: Path) -> None:
    output, own = tmp_path / "out" / "x.onnx", {"model": TINY, **options}
    output.parent.mkdir()
    if options.get("calibration") == PICTURES:
        own["calibration"] = tmp_path
        for number, pixels in enumerate(np.random.default_rng(0).integers(0, 256, (8, 40, 40, 3), np.uint8)):
            Image.fromarray(pixels).save(tmp_path / f"{number}.png")
    with pytest.raises(ConfigError, match=fact) as caught:
        export(output=output, **own)
    assert "\n" not in str(caught.value)
    assert list(output.parent.iterdir()) == []


@pytest.mark.parametrize(
    ("options", "fact"),
    [({}, "--features"), ({"features": "logits"}, "head"), ({"features": "stage4", "feature_norm": "last"}, "chain")],
)
def test_a_detector_is_no_classifier(detector: Path, options: dict[str, Any], fact: str, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=fact):
        export(None, tmp_path / "x.onnx", checkpoint=detector, **options)


@pytest.mark.parametrize(
    ("call", "fact"),
    [
        (lambda own: own.classify(IMAGES / "chelsea.png"), "Predictor.features"),
        (lambda own: own.stream([IMAGES / "chelsea.png"]), "Predictor.features"),
        (lambda own: own.logits(_batch(32, 32)), "Predictor.features"),
        (lambda own: own.embed(IMAGES / "chelsea.png"), r"embedding, if its checkpoint has norm\.weight$"),
    ],
)
def test_a_backbone_classifies_nothing(backbone: Path, call: Callable[[Predictor], Any], fact: str) -> None:
    with Predictor(backbone) as predictor, pytest.raises(ConfigError, match=fact) as caught:
        call(predictor)
    assert str(backbone) in str(caught.value)


def test_a_classifier_gives_no_features(tiny_onnx: Path) -> None:
    with Predictor(tiny_onnx) as predictor:
        with pytest.raises(ConfigError, match=r"Predictor\.logits"):
            predictor.features(_batch(32, 32))
        with pytest.raises(ConfigError, match=r"Predictor\.logits, or .*--features logits,embedding"):
            predictor.embed(IMAGES / "chelsea.png")


def test_memory_of_maps_counts(backbone: Path, tiny_onnx: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rest_deploy.machine.available_bytes", lambda: 1 << 24)
    with Predictor(backbone) as maps, Predictor(tiny_onnx) as logits:
        assert maps.max_pixels is not None
        assert logits.max_pixels is not None
        side = round(maps.max_pixels**0.5)
        needed = maps._runtime.call_bytes
        assert needed(1, side, side) <= (1 << 24) * SHARE < needed(1, side + 1, side + 1)
        assert maps.max_pixels < logits.max_pixels


def test_what_a_backbone_is_asked_for_is_refused_before_it_runs(
    backbone: Path, embedder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("rest_deploy.machine.available_bytes", lambda: 1 << 29)
    picture = tmp_path / "large.png"
    Image.new("RGB", (6000, 5500)).save(picture)
    calls: dict[Path, Callable[[Predictor], Any]] = {
        backbone: lambda own: own.features(np.broadcast_to(np.float32(0), (1, 3, 5500, 6000))),
        embedder: lambda own: own.embed([picture]),
    }
    for path, call in calls.items():
        with Predictor(path) as predictor:
            monkeypatch.setattr(predictor._runtime, "_run", lambda batch: pytest.fail(f"ran {batch.shape}"))
            needed = predictor._runtime.call_bytes(1, 5500, 6000) / 2**30
            words = rf"5500x6000 .*{needed:.1f} GiB, and 0\.5 GiB are free: at most about {predictor.max_pixels:,} pix"
            with pytest.raises((InputError, ImageError), match=words):
                call(predictor)


def test_artifacts_of_one_network_that_give_other_things(
    backbone: Path, embedder: Path, tiny_onnx: Path, tiny_checkpoint: Path, detector: Path
) -> None:
    with pytest.raises(ConfigError, match="stage1 of 8 channels"):
        verify([tiny_onnx, backbone], tiny_checkpoint, sizes=[(32, 32)])
    assert verify(embedder, tiny_checkpoint, sizes=[(32, 32)]).passed
    with open_runtime(detector) as runtime:
        assert "backbone" not in repr(runtime)
        assert runtime.info.num_classes == 0


def test_an_embedding_alone_of_weights_whose_norm_had_to_be_said(
    tiny_model: ResT, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    weights = {name: value for name, value in tiny_model.state_dict().items() if not name.startswith("head.")}
    torch.save(weights, tmp_path / "backbone.pth")
    made = export(None, tmp_path / "e.onnx", checkpoint=tmp_path / "backbone.pth", features="embedding",
                  feature_norm="none")  # fmt: skip
    assert verify(made, tmp_path / "backbone.pth", sizes=[(32, 32)], per_block=True).passed
    assert info_command.main([str(made)]) == 0
    assert "; feature norm" not in capsys.readouterr().out  # which is of maps


# The real network


BACKBONES = [(model, norm) for model in ("rest_lite", "restv2_tiny") for norm in FeatureNorm]
TRIED = [("rest_lite", FeatureNorm.OUTPUTS), ("restv2_tiny", FeatureNorm.CHAIN)]


@pytest.mark.slow
@pytest.mark.parametrize(("model", "norm"), [*TRIED, *further(own for own in BACKBONES if own not in TRIED)])
def test_maps_lose_no_more_than_pytorch(model: str, norm: FeatureNorm, tmp_path: Path) -> None:
    made = export(model, tmp_path / "a.onnx", features=STAGE_MAPS, feature_norm=norm)
    record = read_info(made)
    assert record.verification is not None
    for row in record.verification["cases"]:
        assert row["max_error"] <= max(2 * row["reference_error"], 5e-5 * row["scale"]), row


@pytest.mark.slow
@pytest.mark.parametrize("config", [TINY, TINY_V2], ids=["ResT", "ResTv2"])
def test_an_engine_of_a_backbone_is_built_in_half_precision(config: Any, tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx_bindings", reason="TensorRT-RTX is not installed")
    made = export(config, tmp_path / "a.engine", features=STAGE_MAPS, feature_norm="chain", format="trt-rtx",
                  precision="fp16", max_size=(128, 128), compare_speed=False)  # fmt: skip
    record = read_info(made)
    assert [own.name for own in record.outputs] == list(STAGE_MAPS)
    assert record.engine is not None
    assert record.engine.source_verification is not None
    assert "fp16" in record.engine.layers["stage2"]
