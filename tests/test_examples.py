"""The examples of backbones and embeddings, with small stand-ins of what frameworks take maps with."""

from __future__ import annotations

import re
import shutil
import sys
from collections import OrderedDict
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from examples import backbone as examples
from examples import similarity
from examples.digits.data import load_split, render
from rest_deploy import Predictor, export

pytestmark = pytest.mark.slow

DIGITS = Path(examples.__file__).parent / "digits" / "rest_digits.safetensors"


@pytest.fixture(scope="module")
def predictor(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Predictor]:
    """The digits model's four maps, and its embedding."""
    path = tmp_path_factory.mktemp("backbone") / "digits.onnx"
    wanted = ("stage1", "stage2", "stage3", "stage4", "embedding")
    with Predictor(export(None, path, checkpoint=DIGITS, features=wanted)) as opened:
        yield opened


def batch(height: int, width: int) -> Tensor:
    return torch.randn((2, 3, height, width), generator=torch.Generator().manual_seed(1))


class Detectron2Fpn(nn.Module):
    """Of Detectron2's FPN: channels and strides by name, maps of the bottom up enlarged by exactly two."""

    def __init__(self, bottom_up: examples.Detectron2Backbone, in_features: list[str]) -> None:
        super().__init__()
        shapes = bottom_up.output_shape()
        strides = [shapes[name].stride for name in in_features]
        assert all(fine * 2 == coarse for fine, coarse in pairwise(strides))
        self.bottom_up, self.in_features = bottom_up, in_features
        self.lateral = nn.ModuleList(nn.Conv2d(shapes[name].channels, 8, 1) for name in in_features)

    def forward(self, x: Tensor) -> list[Tensor]:
        maps = self.bottom_up(x)
        found = [self.lateral[-1](maps[self.in_features[-1]])]
        for level in range(len(self.in_features) - 2, -1, -1):
            larger = nn.functional.interpolate(found[0], scale_factor=2.0, mode="nearest")
            found.insert(0, self.lateral[level](maps[self.in_features[level]]) + larger)
        return found


class MMNeck(nn.Module):
    """Of mmdetection's necks: a tuple, as long as the channels that the config says."""

    def __init__(self, in_channels: list[int]) -> None:
        super().__init__()
        self.in_channels = in_channels

    def forward(self, inputs: tuple[Tensor, ...]) -> list[Tensor]:
        assert isinstance(inputs, tuple)
        assert len(inputs) == len(self.in_channels)
        assert [own.shape[1] for own in inputs] == self.in_channels
        return list(inputs)


def test_a_torchvision_style_pyramid_takes_any_size(predictor: Predictor) -> None:
    backbone = examples.TorchvisionBackbone(predictor)
    pyramid = examples.FeaturePyramid(backbone.in_channels_list, 16).eval()
    maps = backbone(batch(57, 91))
    assert isinstance(maps, OrderedDict)
    levels = pyramid(maps)
    assert list(levels) == ["stage1", "stage2", "stage3", "stage4"]  # from fine to coarse
    assert [tuple(level.shape) for level in levels.values()] == [
        (2, 16, 15, 23),
        (2, 16, 8, 12),
        (2, 16, 4, 6),
        (2, 16, 2, 3),
    ]
    levels["stage1"].sum().backward()  # the pyramid learns, the backbone does not
    assert all(own.grad is not None for own in pyramid.inner.parameters())


def test_maps_are_the_predictors(predictor: Predictor) -> None:
    x = batch(64, 48)
    wanted = predictor.features(x.numpy())
    found = examples.Backbone(predictor)(x)
    assert list(found) == [name for name in wanted if name != "embedding"]
    for name, own in found.items():
        np.testing.assert_array_equal(own.numpy(), wanted[name])


def test_a_file_without_maps_is_no_backbone(tmp_path: Path) -> None:
    path = export(None, tmp_path / "e.onnx", checkpoint=DIGITS, features="embedding", verify=False)
    with Predictor(path) as opened, pytest.raises(ValueError, match=r"gives embedding and no maps; .* --features"):
        examples.Backbone(opened)


def test_detectron2_takes_them_by_name(predictor: Predictor) -> None:
    backbone = examples.Detectron2Backbone(predictor)
    assert backbone.size_divisibility == 32
    levels = Detectron2Fpn(backbone, ["stage2", "stage3", "stage4"])(batch(96, 64))
    assert [tuple(level.shape) for level in levels] == [(2, 8, 12, 8), (2, 8, 6, 4), (2, 8, 3, 2)]


def test_mmdetection_takes_a_tuple(predictor: Predictor) -> None:
    backbone = examples.MMBackbone(predictor, out_indices=(1, 3))
    channels = [backbone.maps[name][0] for name in ("stage2", "stage4")]
    assert [own.shape[2:] for own in MMNeck(channels)(backbone(batch(64, 64)))] == [(8, 8), (2, 2)]
    with pytest.raises(ValueError, match="stage5"):
        examples.MMBackbone(predictor, out_indices=(4,))


def test_timm_asks_for_feature_info(predictor: Predictor) -> None:
    backbone = examples.TimmBackbone(predictor)
    found = backbone(batch(64, 64))
    assert isinstance(found, list)
    assert backbone.feature_info.reduction() == [4, 8, 16, 32]
    assert backbone.feature_info.channels() == [own.shape[1] for own in found]
    assert backbone.feature_info.module_name() == ["stage1", "stage2", "stage3", "stage4"]


def test_the_most_similar_digits_are_of_the_same_class(predictor: Predictor, tmp_path: Path) -> None:
    _, _, images, labels = load_split()
    folder = tmp_path / "folder"
    folder.mkdir()
    for number, (image, label) in enumerate(zip(images[:60], labels[:60], strict=True)):
        _save(image, folder / f"{label}_{number:03d}.png")
    right = 0
    for image, label in zip(images[60:80], labels[60:80], strict=True):
        _save(image, tmp_path / "query.png")
        (cosine, nearest), *_ = similarity.most_similar(predictor, tmp_path / "query.png", folder, 3)
        assert -1 <= cosine <= 1 + 1e-6
        right += nearest.name.startswith(f"{label}_")
    assert right >= 18  # of 20; measured 20


def _save(image: np.ndarray, path: Path) -> None:
    Image.fromarray(np.asarray(render(image, (48, 48)))).save(path)


def test_the_examples_as_commands(
    predictor: Predictor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = str(predictor._runtime.path)
    monkeypatch.setattr("sys.argv", ["backbone", path])
    assert examples.main() == 0
    assert capsys.readouterr().out.splitlines()[0].startswith("stage1: stride  4")
    digits = Path(examples.__file__).parent / "digits" / "images"
    three = str(digits / "three-48x48.png")
    monkeypatch.setattr("sys.argv", ["similarity", path, three, str(digits), "--top-k", "2"])
    assert similarity.main() == 0
    first, _ = capsys.readouterr().out.splitlines()
    assert first.split() == ["1.0000", three]
    shutil.copytree(digits, tmp_path / "some")
    (tmp_path / "some" / "cut.png").write_bytes((digits / "three-48x48.png").read_bytes()[:60])
    monkeypatch.setattr("sys.argv", ["similarity", path, three, str(tmp_path / "some")])
    assert similarity.main() == 0
    told = capsys.readouterr()
    assert len(told.out.splitlines()) == 3
    assert re.fullmatch(r"warning: skipped: .*cut\.png.*\n", told.err)


def test_bad_input_to_the_examples_is_one_line(
    predictor: Predictor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path, digits = str(predictor._runtime.path), Path(examples.__file__).parent / "digits" / "images"
    three, embedding = str(digits / "three-48x48.png"), str(tmp_path / "e.onnx")
    export(None, embedding, checkpoint=DIGITS, features="embedding", verify=False)
    for main, argv, fact in (
        (similarity.main, [path, str(tmp_path / "none.png"), str(digits)], "none.png"),
        (similarity.main, [path, three, three], "a file, not a folder"),
        (examples.main, [embedding], "gives embedding and no maps"),
        (examples.main, [str(tmp_path / "none.onnx")], "no such file"),
    ):
        monkeypatch.setattr("sys.argv", ["example", *argv])
        assert main() == 1
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith("error: ")
        assert fact in line


def test_the_digits_without_scikit_learn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(SystemExit, match="make demo installs it"):
        load_split()
