"""``verify`` on planted faults: the right figures, the right block, the right images."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper
from PIL import Image

from rest_deploy import Predictor, export, verify
from rest_deploy.artifact.info import ArtifactInfo
from rest_deploy.artifact.onnx_file import write_record
from rest_deploy.cli.verify import _text as text
from rest_deploy.errors import ArtifactError, ConfigError, InputError, VerificationError
from rest_deploy.models.card import Card
from rest_deploy.models.checkpoint import save_checkpoint
from rest_deploy.models.factory import create_model
from rest_deploy.models.family import network_bytes
from rest_deploy.pipeline import ExportRequest, run_export
from rest_deploy.preprocess.images import load_image
from rest_deploy.preprocess.transform import transform
from rest_deploy.report.fields import check_record
from rest_deploy.runtimes.ort import OnnxRuntime
from rest_deploy.runtimes.registry import read_info
from rest_deploy.specs import Alpha, ImageSize, Precision, Preprocessing, PreprocessingChange
from rest_deploy.verification import Case, Images, Limits, Verification, synthetic_images
from rest_deploy.verification import images as images_module
from rest_deploy.verification.figures import LogitFigures, accuracy_of
from tests.conftest import IMAGES, TINY, lively
from tests.reliability.odd_values import sealed_with

SIZE = ImageSize(33, 40)
ONE = [Case(2, SIZE)]
BLOCKS = [
    *("stem", "stage1.0", "patch_embed_2", "stage2.0", "patch_embed_3", "stage3.0", "stage3.1", "patch_embed_4"),
    *("stage4.0", "head"),
]


def _edited(source: Path, target: Path, edit: Callable[[onnx.GraphProto], None]) -> Path:
    """A copy of an ONNX file of ours with a fault planted in its graph, and its record as it was."""
    model = onnx.load(str(source))
    del model.metadata_props[:]
    edit(model.graph)
    onnx.save(model, str(target))
    write_record(target, read_info(source))
    return target


def _changed_value(graph: onnx.GraphProto, value: str, operator: str, constant: np.ndarray) -> None:
    """Put ``operator`` with a constant behind a value, for all who take it; its node belongs to the same block."""
    maker = next(node for node in graph.node if value in node.output)
    inner = f"{value}/before"
    maker.output[:] = [inner if name == value else name for name in maker.output]
    graph.initializer.append(numpy_helper.from_array(constant.astype(np.float32), f"{value}/fault"))
    at = list(graph.node).index(maker) + 1
    module = maker.name.partition("/")[0]
    graph.node.insert(at, helper.make_node(operator, [inner, f"{value}/fault"], [value], f"{module}/fault"))


def _last_value(graph: onnx.GraphProto, piece: str) -> str:
    own = [node for node in graph.node if node.name.partition("/")[0].partition(".")[0] == piece]
    return str(own[-1].output[0])


@pytest.fixture(scope="module")
def shifted(tiny_onnx: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file in which stage 3's first block gives 0.125 too much, everywhere."""

    def shift(graph: onnx.GraphProto) -> None:
        _changed_value(graph, _last_value(graph, "stage3_0"), "Add", np.array(0.125))

    return _edited(tiny_onnx, tmp_path_factory.mktemp("shifted") / "shifted.onnx", shift)


@pytest.fixture(scope="module")
def scaled(tiny_onnx: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file whose logit of class 2 is twice what it should be."""

    def scale(graph: onnx.GraphProto) -> None:
        _changed_value(graph, graph.output[0].name, "Mul", np.array([1, 1, 2, 1, 1, 1, 1]))

    return _edited(tiny_onnx, tmp_path_factory.mktemp("scaled") / "scaled.onnx", scale)


@pytest.fixture(scope="module")
def swapped(tiny_onnx: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file that takes class 0 for class 1, and the other way round."""

    def swap(graph: onnx.GraphProto) -> None:
        matrix = np.eye(7)[[1, 0, 2, 3, 4, 5, 6]]
        _changed_value(graph, graph.output[0].name, "MatMul", matrix)

    return _edited(tiny_onnx, tmp_path_factory.mktemp("swapped") / "swapped.onnx", swap)


def test_a_file_passes_against_its_own_checkpoint(tiny_onnx: Path, tiny_checkpoint: Path) -> None:
    found = verify(tiny_onnx, tiny_checkpoint, cases=ONE, seed=5)
    (artifact,) = found.artifacts
    assert found.passed
    assert found.failures == []
    assert artifact.synthetic is not None
    case = artifact.synthetic.cases[0].outputs["logits"]
    assert 0 < case.max_error <= artifact.synthetic.limits.allowed(case)  # two float32 computations are never equal
    assert case.reference_error is not None
    assert found.reference["computed"] == "PyTorch float64"


def test_a_file_fails_against_another_checkpoint(tiny_onnx: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.safetensors"
    save_checkpoint(other, lively(create_model(TINY), seed=1).state_dict(), Card())
    found = verify(tiny_onnx, other, cases=ONE)
    assert not found.passed
    assert found.failures[0].startswith("tiny.onnx: 2x33x40: largest error")
    assert found.failures[-1].startswith("tiny.onnx: it was made from tiny.safetensors (SHA-256 ")
    assert "and is compared with other.safetensors (SHA-256 " in found.failures[-1]


def test_another_number_of_classes_is_refused(tiny_onnx: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.safetensors"
    save_checkpoint(other, create_model(TINY, num_classes=3).state_dict(), Card())
    with pytest.raises(ConfigError, match="give the checkpoint"):
        verify(tiny_onnx, other)


def test_a_scaled_logit_is_told_with_its_size(scaled: Path, tiny_onnx: Path) -> None:
    with OnnxRuntime(tiny_onnx, "cpu") as runtime:
        exact = runtime.run(synthetic_images(np.random.default_rng(0), ONE[0], 3))["logits"]
    (artifact,) = verify(scaled, tiny_onnx, cases=ONE).artifacts
    assert artifact.synthetic is not None
    case = artifact.synthetic.cases[0].outputs["logits"]
    assert isinstance(case, LogitFigures)
    assert case.max_error == pytest.approx(np.abs(exact[:, 2]).max(), rel=1e-6)
    assert case.mean_error == pytest.approx(np.abs(exact[:, 2]).sum() / exact.size, rel=1e-6)
    assert case.reference_error is None  # an artifact has no float64 of its own
    assert not artifact.passed


def test_an_artifact_against_itself_does_not_differ(tiny_onnx: Path) -> None:
    (artifact,) = verify(tiny_onnx, tiny_onnx, cases=ONE).artifacts
    assert artifact.synthetic is not None
    assert artifact.synthetic.cases[0].outputs["logits"].max_error == 0
    assert artifact.passed


def test_many_artifacts_in_one_run(tiny_onnx: Path, scaled: Path, tiny_checkpoint: Path) -> None:
    found = verify([tiny_onnx, scaled, tiny_checkpoint, tiny_onnx], tiny_checkpoint, cases=ONE)
    assert [a.about["name"] for a in found.artifacts] == [
        "tiny.onnx", "scaled.onnx", "tiny.safetensors", "tiny.onnx (2)",
    ]  # fmt: skip
    assert [a.passed for a in found.artifacts] == [True, False, True, True]
    float32 = found.artifacts[2].synthetic
    assert float32 is not None
    figures = float32.cases[0].outputs["logits"]
    assert figures.max_error == figures.reference_error  # PyTorch float32 is the baseline itself


def test_the_first_block_past_tolerance_is_named(shifted: Path, tiny_checkpoint: Path) -> None:
    (artifact,) = verify(shifted, tiny_checkpoint, cases=ONE, per_block=True).artifacts
    blocks = artifact.blocks
    assert blocks is not None
    assert blocks.first_over_limit == "stage3.0"
    by_name = blocks.blocks
    assert list(by_name) == BLOCKS
    assert by_name["stage3.0"].max_error == pytest.approx(0.125, rel=1e-3)
    assert by_name["stage3.0"].rms_error == pytest.approx(0.125, rel=1e-3)
    assert by_name["patch_embed_3"].max_error < 1e-4
    assert "the difference begins at block stage3.0" in artifact.failures[-1]


def test_blocks_of_a_file_that_is_right(tiny_onnx: Path, tiny_checkpoint: Path) -> None:
    found = verify([tiny_onnx, tiny_checkpoint], tiny_checkpoint, synthetic=False, sizes=[(33, 40)], per_block=True)
    for artifact in found.artifacts:
        assert artifact.blocks is not None
        assert artifact.blocks.first_over_limit is None
        assert list(artifact.blocks.blocks) == BLOCKS
        assert str(artifact.blocks.case) == "1x33x40"
    assert found.passed


@pytest.mark.parametrize("precision", [Precision.FP16, Precision.INT8])
def test_blocks_of_narrowed_files(precision: Precision, tiny_checkpoint: Path, tmp_path: Path) -> None:
    """Their casts and quantizers stand between the blocks."""
    options = (
        {"compare_speed": False, "reduced_range": True} if precision is Precision.INT8 else {"compare_speed": False}
    )
    path = run_export(
        ExportRequest(
            None, tmp_path / "n.onnx", checkpoint=tiny_checkpoint, precision=precision, verify=False, options=options
        )
    ).path
    (artifact,) = verify(path, tiny_checkpoint, synthetic=False, sizes=[(33, 40)], per_block=True).artifacts
    assert artifact.blocks is not None
    assert list(artifact.blocks.blocks) == BLOCKS
    errors = {name: own.rms_error / own.std for name, own in artifact.blocks.blocks.items()}
    assert errors["stem"] < 1e-3
    assert 1e-6 < errors["stage2.0"] < 0.5


# Memory.


def test_a_size_that_the_reference_has_no_memory_for_is_refused_before_anything_is_made(
    tiny_onnx: Path, tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It computes in float64."""
    monkeypatch.setattr("rest_deploy.machine.available_bytes", lambda: 1 << 30)
    monkeypatch.setattr("rest_deploy.verification.reference.synthetic_images", lambda *_, **__: pytest.fail("made"))
    needed = network_bytes(TINY, 1, 6000, 6000, format="float64") / 2**30
    words = rf"tiny\.safetensors \(PyTorch float64\): an input of 6000x6000 .* {needed:.1f} GiB, and 1\.0 GiB .* pixels"
    for asked in (
        {"sizes": [(32, 32), (6000, 6000)]},
        {"sizes": [(6000, 6000)], "synthetic": False, "per_block": True},
    ):
        with pytest.raises(InputError, match=words):
            verify(tiny_onnx, tiny_checkpoint, **asked)


def _memory(monkeypatch: pytest.MonkeyPatch, needed: Callable[[ArtifactInfo, int], int]) -> None:
    """A machine with 1 GiB free, and networks that need bytes by their record and the images of a call."""
    monkeypatch.setattr("rest_deploy.machine.available_bytes", lambda: 1 << 30)
    monkeypatch.setattr("rest_deploy.verification.opened.call_bytes", lambda info, count, *_, **__: needed(info, count))
    monkeypatch.setattr("rest_deploy.runtimes.memory.most_pixels", lambda *_: 123)


def test_an_artifact_without_memory_does_not_lose_the_others(
    tiny_onnx: Path, tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _memory(monkeypatch, lambda info, count: (info.format == "pytorch") << 31)
    found = verify([tiny_onnx, tiny_checkpoint], tiny_onnx, sizes=[(32, 40)])
    first, second = found.artifacts
    assert first.synthetic is not None
    assert len(first.synthetic.cases) == 1
    (failure,) = found.failures
    assert failure.startswith("tiny.safetensors: 1x32x40: ")
    assert "2.0 GiB, and 1.0 GiB are free" in failure
    assert not second.passed


def test_a_batch_of_images_without_memory(
    folder: Path, tiny_onnx: Path, tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of one size for all it is refused before an image is read; at their own sizes each is left out."""
    _memory(monkeypatch, lambda info, count: (count > 1) << 31)
    data = Images(folder, batch=16)
    with pytest.raises(InputError, match=r"an input of 16x32x40 .* 2\.0 GiB, .* 123 pixels each for 16 at a time"):
        verify(tiny_onnx, tiny_checkpoint, data=data, sizes=[(32, 40)], synthetic=False)
    with pytest.raises(VerificationError, match=r"none of 40 images .*png.*an input of 16x\d+x\d+ .* 2\.0 GiB"):
        verify(tiny_onnx, tiny_checkpoint, data=data, synthetic=False)


# Real images.


@pytest.fixture(scope="module")
def classed(tiny_onnx: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Forty images of noise, in folders of the classes that the honest file gives them."""
    folder, rng = tmp_path_factory.mktemp("classed"), np.random.default_rng(20210528)
    with OnnxRuntime(tiny_onnx, "cpu") as runtime:
        for number in range(40):
            height, width = (int(side) for side in rng.choice((21, 40, 57), 2))  # PyTorch prepares each size anew
            pixels = rng.integers(0, 256, (2, 2, 3), dtype=np.uint8)
            image = Image.fromarray(pixels).resize((width, height), Image.Resampling.NEAREST)
            logits = runtime.run(transform(image, runtime.info.preprocessing)[None])["logits"]
            own = folder / "abcdefg"[int(logits.argmax())]
            own.mkdir(parents=True, exist_ok=True)
            image.save(own / f"{number:02d}.png")
    return folder


@pytest.fixture
def folder(tmp_path: Path, classed: Path) -> Path:
    """A copy of them."""
    return Path(shutil.copytree(classed, tmp_path / "data"))


def _flipped(folder: Path, honest: Path) -> Iterator[tuple[str, float]]:
    """Images whose best class is one of the two that are swapped, and the honest file's margin."""
    with OnnxRuntime(honest, "cpu") as runtime:
        for path in sorted(folder.rglob("*.png")):
            logits = np.sort(runtime.run(transform(load_image(path), runtime.info.preprocessing)[None])["logits"][0])
            if path.parent.name in "ab":
                yield path.relative_to(folder).as_posix(), float(logits[-1] - logits[-2])


def test_flips_come_by_the_references_margin(
    folder: Path, swapped: Path, tiny_onnx: Path, tiny_checkpoint: Path
) -> None:
    expected = sorted(_flipped(folder, tiny_onnx), key=lambda flip: -flip[1])
    assert 1 < len(expected) < 40  # else the weights give every image one class, and nothing is shown
    found = verify([tiny_onnx, swapped], tiny_checkpoint, data=folder, synthetic=False)
    honest, wrong = (artifact.images[0] for artifact in found.artifacts)
    assert (honest.flips, honest.figures.top1_agreement) == ((), 1.0)
    assert [flip.image for flip in wrong.flips] == [name for name, _ in expected]
    assert [flip.margin for flip in wrong.flips] == pytest.approx([m for _, m in expected], abs=1e-4)
    assert {(flip.reference, flip.artifact) for flip in wrong.flips} <= {(0, 1), (1, 0)}
    assert wrong.figures.top1_agreement == pytest.approx(1 - len(expected) / 40)
    assert found.artifacts[0].passed
    assert not found.artifacts[1].passed


def test_accuracy_where_folders_are_classes(
    folder: Path, swapped: Path, tiny_onnx: Path, tiny_checkpoint: Path
) -> None:
    flipped = len(list(_flipped(folder, tiny_onnx)))
    found = verify([tiny_onnx, swapped], tiny_checkpoint, data=folder, synthetic=False)
    assert found.data is not None
    assert found.data.labelled
    assert found.data.reference[None] is not None
    assert found.data.reference[None].top1 == 1.0
    honest, wrong = (artifact.images[0].accuracy for artifact in found.artifacts)
    assert honest is not None
    assert wrong is not None
    assert honest.top1 == 1.0
    assert wrong.top1 == pytest.approx(1 - flipped / 40)
    sizes = {own.name: len(list(own.iterdir())) for own in folder.iterdir()}
    of = ["abcdefg".index(name) for name in sorted(sizes)]
    assert honest.by_class == tuple((label, sizes["abcdefg"[label]], sizes["abcdefg"[label]]) for label in of)
    assert honest.confused == ()
    assert {(label, right) for label, _, right in wrong.by_class} == {
        (label, 0 if label < 2 else sizes["abcdefg"[label]]) for label in of
    }
    missed = [(label, 1 - label, sizes["ab"[label]]) for label in of if label < 2]
    assert wrong.confused == tuple(sorted(missed, key=lambda own: -own[2]))
    assert found.artifacts[0].images[0].wrong == ()
    assert found.artifacts[1].images[0].wrong == found.artifacts[1].images[0].flips


def test_logits_that_are_no_numbers_are_wrong_in_every_count() -> None:
    logits = np.eye(3)[[0, 1, 1, 2]]
    logits[0, 1] = np.nan
    assert accuracy_of(logits, [0, None, 1, 2]) is None
    accuracy = accuracy_of(logits, [0, 0, 1, 2])
    assert accuracy is not None
    assert accuracy.top1 == 0.5
    assert accuracy.by_class == ((0, 2, 0), (1, 1, 1), (2, 1, 1))
    assert accuracy.confused == ((0, 1, 1),)


def test_a_loss_of_accuracy_past_what_is_allowed(folder: Path, swapped: Path, tiny_checkpoint: Path) -> None:
    def failures(loss: float) -> list[str]:
        limits = Limits(max_error=1e9, min_top1_agreement=0.0, max_accuracy_loss=loss)
        return verify(swapped, tiny_checkpoint, data=folder, synthetic=False, limits=limits).failures

    assert failures(1.0) == []
    (failure,) = failures(0.0)
    assert "top-1 accuracy is " in failure


def test_one_bad_image_does_not_lose_the_others(folder: Path, tiny_onnx: Path, tiny_checkpoint: Path) -> None:
    bad = next(folder.rglob("*.png")).with_name("bad.png")
    bad.write_bytes(b"nothing")
    found = verify(tiny_onnx, tiny_checkpoint, data=folder, synthetic=False)
    assert found.data is not None
    assert found.data.images == 40
    ((name, why),) = found.data.skipped
    assert name.endswith("bad.png")
    assert "not an image" in why
    assert found.artifacts[0].passed
    assert not found.passed


def test_what_is_left_out_of_a_folder_is_told_and_fails_nothing(
    folder: Path, tiny_onnx: Path, tiny_checkpoint: Path
) -> None:
    image = next(folder.rglob("*.png"))
    image.rename(image.with_suffix(""))  # an image by what it holds
    for name in ("notes.txt", "table.csv"):
        image.with_name(name).write_text("no image")
    found = verify(tiny_onnx, tiny_checkpoint, data=folder, synthetic=False)
    assert found.data is not None
    assert found.data.images == 40
    names = tuple(f"{image.parent.name}/{name}" for name in ("notes.txt", "table.csv"))
    assert found.data.left_out == names
    assert found.passed
    record = found.to_dict()["data"]
    assert record["left_out"] == list(names)
    for told in (record["note"], text(found)):
        assert "2 files left out" in told
        assert all(name in told for name in names)


def test_images_are_read_with_the_transforms_own_alpha(tiny_onnx: Path, tiny_checkpoint: Path, tmp_path: Path) -> None:
    """Half of each is transparent: over white it is another image than with the colours that are stored."""
    folder = tmp_path / "data"
    folder.mkdir()
    for number in range(4):
        pixels = np.random.default_rng(number).integers(0, 256, (24, 20, 4)).astype(np.uint8)
        pixels[:12, :, 3], pixels[12:, :, 3] = 0, 255
        Image.fromarray(pixels).save(folder / f"{number}.png")
    seen = {}
    for alpha in Alpha:
        wish = Images(folder, change=PreprocessingChange(alpha=alpha))
        data = verify(tiny_onnx, tiny_checkpoint, data=wish, synthetic=False).artifacts[0].images[0]
        seen[alpha] = data.figures.logit_std
    with Predictor(tiny_onnx) as predictor:
        steps = replace(predictor.info.preprocessing or Preprocessing(), alpha=Alpha.DROP)
        for alpha in Alpha:
            batch = [transform(load_image(path, alpha), steps) for path in sorted(folder.iterdir())]
            assert seen[alpha] == pytest.approx(
                float(np.std(predictor.logits(np.stack(batch)), dtype=np.float64)), 1e-3
            )
    assert seen[Alpha.WHITE] != pytest.approx(seen[Alpha.DROP], 1e-3)


def test_no_image_can_be_read(tmp_path: Path, tiny_onnx: Path, tiny_checkpoint: Path) -> None:
    (tmp_path / "bad.png").write_bytes(b"nothing")
    with pytest.raises(VerificationError, match=r"none of 1 image .* bad.png"):
        verify(tiny_onnx, tiny_checkpoint, data=tmp_path, synthetic=False)


def test_sizes_are_of_real_images_too(folder: Path, tiny_onnx: Path, tiny_checkpoint: Path) -> None:
    found = verify(tiny_onnx, tiny_checkpoint, data=folder, sizes=[(32, 40), (48, 48)])
    (artifact,) = found.artifacts
    assert [str(images.size) for images in artifact.images] == ["32x40", "48x48"]
    assert artifact.synthetic is not None
    assert [str(figures.case) for figures in artifact.synthetic.cases] == ["1x32x40", "1x48x48"]


def test_images_of_one_size_run_in_batches(folder: Path, tiny_onnx: Path, tiny_checkpoint: Path) -> None:
    one, many = (
        verify(tiny_onnx, tiny_checkpoint, data=Images(folder, batch=batch), sizes=[(32, 40)], synthetic=False)
        for batch in (1, 16)
    )
    first, second = (found.artifacts[0].images[0] for found in (one, many))
    assert first.figures.images == second.figures.images == 40
    assert second.figures.max_error < 1e-4
    assert [worst.image for worst in first.worst] != []


def test_artifacts_with_different_transforms_are_not_compared(
    folder: Path, tiny_onnx: Path, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    other = run_export(
        ExportRequest(
            None,
            tmp_path / "other.onnx",
            checkpoint=tiny_checkpoint,
            verify=False,
            preprocessing=PreprocessingChange(size=ImageSize(32, 32)),
        )
    ).path
    with pytest.raises(ConfigError, match=r"in different ways \(tiny.onnx: native.*other.onnx: crop 32x32"):
        verify([tiny_onnx, other], tiny_checkpoint, data=folder, synthetic=False)
    change = PreprocessingChange(size=ImageSize(40, 40))
    found = verify([tiny_onnx, other], tiny_checkpoint, data=Images(folder, change=change), synthetic=False)
    assert found.data is not None
    assert found.data.transform.startswith("crop 40x40")


def test_some_of_the_images(folder: Path, tiny_onnx: Path, tiny_checkpoint: Path) -> None:
    def seen(seed: int) -> Verification:
        return verify(tiny_onnx, tiny_checkpoint, data=Images(folder, most=7), synthetic=False, seed=seed)

    assert seen(0).artifacts[0].images[0].figures.images == 7
    assert seen(0).artifacts[0].images[0].worst == seen(0).artifacts[0].images[0].worst
    assert seen(0).artifacts[0].images[0].worst != seen(1).artifacts[0].images[0].worst


def test_a_record_is_plain_and_whole(folder: Path, swapped: Path, tiny_checkpoint: Path) -> None:
    found = verify(swapped, tiny_checkpoint, data=folder, cases=ONE, per_block=True, command="rest-verify x")
    record = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert (record["kind"], record["schema"], record["passed"]) == ("rest-verify", 2, False)
    assert record["environment"]["command"] == "rest-verify x"
    (artifact,) = record["artifacts"]
    (images,) = artifact["images"]
    assert images["flips"] == len(images["worst_flips"]) > 0
    flip = images["worst_flips"][0]
    assert flip["thumbnail"].startswith("data:image/jpeg;base64,")
    assert {flip["reference_name"], flip["artifact_name"]} == {"a", "b"}
    assert flip["label_name"] == flip["reference_name"]
    assert len(images["worst_errors"]) == 8
    assert images["wrong"] == len(images["worst_wrong"]) == images["flips"]
    assert images["worst_wrong"][0]["thumbnail"] == flip["thumbnail"]
    assert sum(row["images"] for row in images["by_class"]) == images["images"]
    assert {(row["label"], row["artifact_name"]) for row in images["confused"]} <= {(0, "b"), (1, "a")}
    check_record(record)
    assert artifact["synthetic"][0]["passed"] is False
    assert artifact["blocks"]["first_over_limit"] == "head"
    limits = artifact["limits"]
    assert (limits["synthetic"]["baseline_factor"], limits["images"]["max_accuracy_loss"]) == (2.0, None)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"artifacts": []}, "no artifacts were given"),
        ({"cases": []}, "no cases were given"),
        ({"synthetic": False}, "neither synthetic nor real images"),
        ({"data": IMAGES / "none"}, "none"),
    ],
)
def test_what_cannot_be_meant(arguments: dict[str, object], words: str, tiny_onnx: Path, tiny_checkpoint: Path) -> None:
    asked = {"artifacts": tiny_onnx, "reference": tiny_checkpoint, "cases": ONE, **arguments}
    with pytest.raises(ConfigError, match=words):
        verify(**asked)  # type: ignore[arg-type]


@pytest.mark.parametrize("asked", [{"most": 0}, {"batch": 0}, {"batch": True}])
def test_images_that_cannot_be_meant(asked: dict[str, int]) -> None:
    with pytest.raises(ConfigError, match=r"is .*; accepted: a whole number from 1"):
        Images(IMAGES, **asked)  # type: ignore[arg-type]


def test_limits_in_place_of_the_tables(scaled: Path, tiny_onnx: Path) -> None:
    assert verify(scaled, tiny_onnx, cases=ONE, limits=Limits(max_error=100.0)).passed
    assert not verify(scaled, tiny_onnx, cases=ONE, limits=Limits(max_error=0.001)).passed


def test_a_limit_of_accuracy_needs_classes(
    tmp_path: Path, folder: Path, tiny_onnx: Path, tiny_checkpoint: Path
) -> None:
    unknown = tmp_path / "flat"
    unknown.mkdir()
    for path in folder.rglob("*.png"):
        path.rename(unknown / path.name)
    with pytest.raises(ConfigError, match=r"the classes of the images in .* are not known"):
        verify(tiny_onnx, tiny_checkpoint, data=unknown, limits=Limits(max_accuracy_loss=0.01))


@pytest.mark.parametrize("limits", [Limits(min_top1_agreement=0.9), Limits(max_accuracy_loss=0.01)])
def test_a_limit_without_anything_to_judge(limits: Limits, tiny_onnx: Path, tiny_checkpoint: Path) -> None:
    with pytest.raises(ConfigError, match="give --data DIR"):
        verify(tiny_onnx, tiny_checkpoint, cases=ONE, limits=limits)


def test_an_error_that_was_asked_for_is_all_that_is_allowed(tiny_onnx: Path, tiny_checkpoint: Path) -> None:
    found = verify(tiny_onnx, tiny_checkpoint, cases=ONE, per_block=True, limits=Limits(max_error=1e-12))
    (artifact,) = found.artifacts
    assert artifact.synthetic is not None
    case = artifact.synthetic.cases[0].outputs["logits"]
    assert artifact.synthetic.limits.allowed(case) == pytest.approx(1e-12 * case.std)
    assert artifact.blocks is not None
    assert artifact.blocks.first_over_limit == "stem"


def test_blocks_are_compared_on_the_images_that_failed(shifted: Path, tiny_checkpoint: Path) -> None:
    cases = [Case(1, ImageSize(16, 16)), Case(2, SIZE)]
    (artifact,) = verify(shifted, tiny_checkpoint, cases=cases, per_block=True).artifacts
    assert artifact.synthetic is not None
    assert artifact.blocks is not None
    assert str(artifact.blocks.case) == "1x16x16"
    head = artifact.blocks.blocks["head"]
    assert head.max_error == pytest.approx(artifact.synthetic.cases[0].outputs["logits"].max_error, rel=1e-4)


def test_ctrl_c_keeps_the_images_that_were_done(
    folder: Path, tiny_onnx: Path, tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest, calls = images_module.load_image, [0]

    def interrupted(path: Path, *how: Any) -> Image.Image:
        calls[0] += 1
        if calls[0] == 9:
            raise KeyboardInterrupt
        return honest(path, *how)

    monkeypatch.setattr(images_module, "load_image", interrupted)
    found = verify(tiny_onnx, tiny_checkpoint, data=folder, synthetic=False)
    assert found.interrupted
    assert found.artifacts[0].images[0].figures.images == 7  # the eighth was still waiting to be run
    assert found.to_dict()["data"]["interrupted"] is True


def _planted(monkeypatch: pytest.MonkeyPatch, errors: dict[int, BaseException]) -> None:
    """Errors in place of the answers of ONNX Runtime's n-th calls, counted from 1 over all artifacts."""
    honest, calls = OnnxRuntime.run, [0]

    def run(self: OnnxRuntime, *arguments: Any, **options: Any) -> Any:
        calls[0] += 1
        if calls[0] in errors:
            raise errors[calls[0]]
        return honest(self, *arguments, **options)

    monkeypatch.setattr(OnnxRuntime, "run", run)


def test_ctrl_c_before_every_artifact_has_answered_once(
    folder: Path, tiny_onnx: Path, tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _planted(monkeypatch, {2: KeyboardInterrupt()})
    with pytest.raises(KeyboardInterrupt):
        verify([tiny_onnx, tiny_onnx], tiny_checkpoint, data=folder, synthetic=False)


def test_ctrl_c_after_an_artifact_failed_keeps_what_the_others_answered(
    folder: Path, tiny_onnx: Path, tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second artifact fails on its second image, the first goes on alone and is interrupted on its sixth."""
    _planted(monkeypatch, {4: InputError("no such size"), 8: KeyboardInterrupt()})
    found = verify([tiny_onnx, tiny_onnx], tiny_checkpoint, data=folder, synthetic=False)
    assert found.interrupted
    assert [images.figures.images for images in found.artifacts[0].images] == [5]
    assert found.artifacts[1].failures == ["images at their size: no such size"]


def test_a_graph_with_other_outputs_than_its_record(tiny_checkpoint: Path, tmp_path: Path) -> None:
    """Files in half precision are computed by another session than a runtime's."""
    path = export(
        None, tmp_path / "half.onnx", checkpoint=tiny_checkpoint, precision="fp16", verify=False, compare_speed=False
    )
    model, record = onnx.load(path), read_info(path).to_json()
    del model.metadata_props[:]
    (last,) = (node for node in model.graph.node if "logits" in node.output)
    last.output[0] = model.graph.output[0].name = "other"
    sealed_with(model.SerializeToString(), path, record)
    with pytest.raises(ArtifactError, match=r"half\.onnx: its record .* its graph"):
        verify(path, tiny_checkpoint, sizes=[ImageSize(20, 20)])
