"""An exported backbone where detectors and segmenters take one: `python -m examples.backbone`.

    rest-export --checkpoint detector.pth --features -o backbone.onnx

gives a file with one output for each stage, `stage1` to `stage4`, from fine to coarse. Frameworks differ in how they
take maps: Detectron2 by name, with channels and strides; torchvision as an OrderedDict; mmdetection and mmsegmentation
as a tuple, by indices from 0; timm as a list, with `feature_info`. Each class below is that, over one `Predictor`.

The backbone is frozen: nothing learns through the file. Whoever trains a neck and a head on it feeds normalised
batches, as its training did. Nothing here pads: where a neck needs sides of a multiple of 32, pad the image as the
training did.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from rest_deploy import Predictor, export
from rest_deploy.errors import ConfigError, RestDeployError
from rest_deploy.specs import STAGE_MAPS


class Backbone(nn.Module):
    """Float32 (B, channels, H, W) batch -> its maps by name, on the device of the batch; no gradient goes through.

    Args:
        predictor: Of a file that `rest-export --features` made. An engine takes a batch on its GPU as it lies there; to
            other runtimes it goes by way of the host.
    """

    def __init__(self, predictor: Predictor) -> None:
        super().__init__()
        self.predictor = predictor
        #: Name -> (channels, stride), from fine to coarse.
        self.maps = {
            own.name: (int(own.shape[1]), own.stride) for own in predictor.info.outputs if own.stride is not None
        }
        if not self.maps:
            given = ", ".join(own.name for own in predictor.info.outputs)
            raise ConfigError(f"{predictor}: it gives {given} and no maps; export it with --features")

    @torch.no_grad()
    def forward(self, x: Tensor) -> dict[str, Tensor]:
        batch = x.detach().contiguous()
        if batch.is_cuda and self.predictor.info.engine is not None:
            given = {name: torch.from_dlpack(own) for name, own in self.predictor.features(batch).items()}
        else:
            on_host = self.predictor.features(batch.cpu().numpy())
            given = {name: torch.from_numpy(own).to(x.device) for name, own in on_host.items()}
        return {name: given[name] for name in self.maps}


class ShapeSpec(NamedTuple):
    """As `detectron2.layers.ShapeSpec`; use that one where Detectron2 is installed."""

    channels: int
    stride: int


class Detectron2Backbone(Backbone):
    """What Detectron2's `FPN(bottom_up=...)` takes; that enlarges maps by exactly 2, so it pads images to 32."""

    size_divisibility = 32

    def output_shape(self) -> dict[str, ShapeSpec]:
        """Name -> channels and stride of each map."""
        return {name: ShapeSpec(*own) for name, own in self.maps.items()}


class TorchvisionBackbone(Backbone):
    """What torchvision's `FasterRCNN(backbone=...)` takes, with or without `FeaturePyramid` below."""

    def forward(self, x: Tensor) -> OrderedDict[str, Tensor]:  # type: ignore[override]
        return OrderedDict(super().forward(x))

    @property
    def in_channels_list(self) -> list[int]:
        """Channels of each map."""
        return [channels for channels, _ in self.maps.values()]


class MMBackbone(Backbone):
    """What necks of mmdetection and mmsegmentation take: a tuple, by `out_indices` from 0, the finest."""

    def __init__(self, predictor: Predictor, out_indices: Sequence[int] = (0, 1, 2, 3)) -> None:
        super().__init__(predictor)
        self.names = [f"stage{index + 1}" for index in out_indices]
        if missing := [name for name in self.names if name not in self.maps]:
            raise ConfigError(f"out_indices {tuple(out_indices)}: no {', '.join(missing)}, only {list(self.maps)}")

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:  # type: ignore[override]
        maps = super().forward(x)
        return tuple(maps[name] for name in self.names)


class FeatureInfo:
    """The part of timm's `feature_info` that necks ask for."""

    def __init__(self, maps: dict[str, tuple[int, int]]) -> None:
        self._maps = maps

    def channels(self) -> list[int]:
        """Channels of each map."""
        return [channels for channels, _ in self._maps.values()]

    def reduction(self) -> list[int]:
        """Stride of each map."""
        return [stride for _, stride in self._maps.values()]

    def module_name(self) -> list[str]:
        """Name of each map."""
        return list(self._maps)


class TimmBackbone(Backbone):
    """What takes a model of `timm.create_model(..., features_only=True)`: a list, and `feature_info`."""

    def __init__(self, predictor: Predictor) -> None:
        super().__init__(predictor)
        self.feature_info = FeatureInfo(self.maps)

    def forward(self, x: Tensor) -> list[Tensor]:  # type: ignore[override]
        return list(super().forward(x).values())


class FeaturePyramid(nn.Module):
    """Maps from fine to coarse -> maps of equal width, each with what the coarser ones see (arXiv 1612.03144).

    As torchvision's: a coarse map is enlarged to the size of the next finer one, whatever that is, so images of any
    size go through without padding.
    """

    def __init__(self, in_channels_list: Sequence[int], out_channels: int) -> None:
        super().__init__()
        self.inner = nn.ModuleList(nn.Conv2d(channels, out_channels, 1) for channels in in_channels_list)
        self.layer = nn.ModuleList(nn.Conv2d(out_channels, out_channels, 3, padding=1) for _ in in_channels_list)

    def forward(self, maps: OrderedDict[str, Tensor]) -> OrderedDict[str, Tensor]:
        names, values = list(maps), list(maps.values())
        last = self.inner[-1](values[-1])
        found = [self.layer[-1](last)]
        for level in range(len(values) - 2, -1, -1):
            lateral = self.inner[level](values[level])
            last = lateral + nn.functional.interpolate(last, size=lateral.shape[-2:], mode="nearest")
            found.insert(0, self.layer[level](last))
        return OrderedDict(zip(names, found, strict=True))


def main() -> int:
    """Export a backbone where none is given, and send a batch of an odd size through it and a feature pyramid."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("artifact", nargs="?", help="made with --features (default: rest_lite with random weights)")
    arguments = parser.parse_args()
    try:
        show(arguments.artifact)
    except RestDeployError as exc:
        print(f"error: {exc}", file=sys.stderr)
        return 1
    return 0


def show(artifact: str | None) -> None:
    """Print the maps of a batch, and what the pyramid makes of them."""
    with tempfile.TemporaryDirectory() as folder:
        path = artifact or export("rest_lite", Path(folder) / "backbone.onnx", features=STAGE_MAPS)
        with Predictor(path) as predictor:
            backbone = TorchvisionBackbone(predictor)
            pyramid = FeaturePyramid(backbone.in_channels_list, 256).eval()
            batch = torch.randn((1, 3, 225, 310), generator=torch.Generator().manual_seed(0))
            maps = backbone(batch)
            with torch.no_grad():
                levels = pyramid(maps)
    for name, (channels, stride) in backbone.maps.items():
        print(
            f"{name}: stride {stride:2d}, {channels} channels, {tuple(maps[name].shape)} -> {tuple(levels[name].shape)}"
        )


if __name__ == "__main__":
    sys.exit(main())
