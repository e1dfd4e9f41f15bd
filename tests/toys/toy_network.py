"""A toy as it was written, and its deploy form: BatchNorm folded, one opaque operator."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from rest_deploy.models.network import DeployForm, Network, Structure
from tests.toys.toy_family import ToyConfig


class Entry(nn.Module):
    """(B, in_channels, H, W) -> (B, width, ceil(H/2), ceil(W/2))."""

    def __init__(self, config: ToyConfig) -> None:
        super().__init__()
        self.conv = nn.Conv2d(config.in_channels, config.width, 3, stride=2, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(config.width)
        self.act = nn.LeakyReLU(config.slope)

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.norm(self.conv(x)))


class Layer(nn.Module):
    """(B, width, H, W) -> the same."""

    def __init__(self, config: ToyConfig) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(config.width, config.width, 3, padding=1, groups=config.width)
        self.act = nn.LeakyReLU(config.slope)
        self.pointwise = nn.Conv2d(config.width, config.width, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.pointwise(self.act(self.depthwise(x)))


class Toy(Network):
    """(B, in_channels, H, W) -> (B, num_classes): over all pixels the sum, by the root of how many there are."""

    config: ToyConfig

    def __init__(self, config: ToyConfig) -> None:
        super().__init__()
        self.config = config
        self.entry = Entry(config)
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.layers))
        self.classifier = nn.Linear(config.width, config.num_classes)

    def blocks(self) -> Iterator[tuple[str, nn.Module]]:
        yield "entry", self.entry
        yield from ((f"layers.{number}", layer) for number, layer in enumerate(self.layers))
        yield "classifier", self.classifier

    def forward(self, x: Tensor) -> Tensor:
        x = self.entry(x)
        for layer in self.layers:
            x = layer(x)
        pooled = x.sum(dim=(2, 3)) / (x.shape[2] * x.shape[3]) ** 0.5
        logits: Tensor = self.classifier(pooled)
        return logits


@torch.library.custom_op("toys::over_pixels", mutates_args=())
def _over_pixels(x: Tensor) -> Tensor:
    return over_pixels(x)


@_over_pixels.register_fake
def _(x: Tensor) -> Tensor:
    return x.new_empty(x.shape[:2])


def over_pixels(x: Tensor) -> Tensor:
    """(B, C, H, W) map -> (B, C): the sum, by the root of how many pixels there are."""
    if torch.compiler.is_exporting():
        pooled: Tensor = _over_pixels(x)
        return pooled
    return x.sum(dim=(2, 3)) / (x.shape[2] * x.shape[3]) ** 0.5


class OverPixels(nn.Module):
    """In float32, as the sum is of thousands."""

    def forward(self, x: Tensor) -> Tensor:
        return over_pixels(x.to(torch.promote_types(x.dtype, torch.float32))).to(x.dtype)


class DeployEntry(nn.Module):
    def __init__(self, entry: Entry) -> None:
        super().__init__()
        self.conv, self.act = fused(entry), entry.act

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.conv(x))


def fused(entry: Entry) -> nn.Conv2d:
    """One convolution for the two."""
    return nn.utils.fusion.fuse_conv_bn_eval(entry.conv, entry.norm)


class DeployClassifier(nn.Module):
    def __init__(self, classifier: nn.Linear) -> None:
        super().__init__()
        self.pool, self.classifier = OverPixels(), classifier

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.pool(x))


class DeployToy(DeployForm):
    fp32_modules = (OverPixels,)

    @torch.no_grad()
    def __init__(self, model: Toy) -> None:
        super().__init__(model.config)
        model = copy.deepcopy(model).eval()
        self.add_module("entry", DeployEntry(model.entry))
        for number, layer in enumerate(model.layers):
            self.add_module(f"layer_{number}", layer)
        self.add_module("classifier", DeployClassifier(model.classifier))
        self.eval().requires_grad_(False)

    def structure(self) -> Structure:
        layers = len(self) - 2
        return Structure({"Conv": 1 + 2 * layers, "LeakyRelu": 1 + layers, "ReduceSum": 1})

    def translations(self) -> Mapping[Any, Callable[..., Any]]:
        return {torch.ops.toys.over_pixels.default: _over_pixels_in_onnx}


def _over_pixels_in_onnx(x: Any) -> Any:
    from onnxscript import opset18

    op: Any = opset18
    sides = op.Cast(op.Shape(x, start=2, end=4), to=1)
    pixels = op.ReduceProd(sides, keepdims=0)
    return op.Div(op.ReduceSum(x, op.Constant(value_ints=[2, 3]), keepdims=0), op.Sqrt(pixels))
