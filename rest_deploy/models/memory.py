"""How much memory a call takes, told from a network's hyper-parameters before anything is run, without PyTorch.

What grows with the square of the pixels are the maps of queries x keys of every head. How many of them are alive at a
time is the runtime's affair, so it was measured (``benchmarks/memory.py``).
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from rest_deploy.errors import ConfigError, ImageError
from rest_deploy.machine import check_memory, describe_cpu
from rest_deploy.models.config import ResTConfig
from rest_deploy.recipes import recipe_of
from rest_deploy.specs import Precision

_FLOAT = 4
#: PyTorch 2.13 on the CPU: with one head the product, what is scaled of it and the softmax. With several it mixes heads
#: by a convolution, for which oneDNN lays the product and the result out in blocks of channels, beside the plain
#: product. Blocks are as wide as the CPU's vectors; measured with AVX2 only.
_PYTORCH_ONE_HEAD, _BLOCK, _WIDE_BLOCK = 3, 8, 16
#: What each takes beside the maps: packed factors, partial sums, what is lost between pieces; and maps of the stem.
_OVERHEAD, _STEM_MAPS = {"onnx": 1.06, "pytorch": 1.15}, {"onnx": 2, "pytorch": 3}


@dataclass(frozen=True)
class StageSize:
    """One stage at one image.

    Args:
        tokens, keys: Of the queries and, after the reduction, of the keys.
        dim, hidden: Channels of a token, and of it inside the MLP.
        heads: Attention heads.
    """

    tokens: int
    keys: int
    dim: int
    hidden: int
    heads: int

    @property
    def attention(self) -> int:
        """Numbers in the maps of queries x keys of all heads."""
        return self.heads * self.tokens * self.keys


def stage_sizes(config: ResTConfig, height: int, width: int) -> Iterator[StageSize]:
    """The stages of a network at an image of (height, width), in order."""
    height, width = -(-height // 4), -(-width // 4)
    stages = zip(config.embed_dims, config.num_heads, config.sr_ratios, strict=True)
    for stage, (dim, heads, ratio) in enumerate(stages):
        if stage:
            height, width = -(-height // 2), -(-width // 2)
        keys = -(-height // ratio) * -(-width // ratio)
        yield StageSize(height * width, keys, dim, config.hidden_dim(stage), heads)


def network_bytes(
    config: ResTConfig | Mapping[str, Any],
    batch: int,
    height: int,
    width: int,
    *,
    precision: Precision = Precision.FP32,
    format: str = "onnx",
) -> int:
    """Memory of one call on the CPU beside what an open network takes: its input, and all that is alive at its peak.

    Between 0.9 and 1.6 of what was measured, from a gigabyte up (tests/models/test_memory.py has the measurements).

    Args:
        config: Of the network, also as ``ArtifactInfo.config`` has it.
        batch: Images of the call.
        height, width: Of the images, in pixels.
        precision: Of the file.
        format: ``"onnx"`` in ONNX Runtime, ``"pytorch"`` for a checkpoint.

    Raises:
        ConfigError: The format is of no network that runs on the CPU.
    """
    if format not in _OVERHEAD:
        raise ConfigError(f"no estimate of memory for format {format!r}; there is one for: {', '.join(_OVERHEAD)}")
    if not isinstance(config, ResTConfig):
        config = ResTConfig.from_dict(config)
    stem = -(-height // 2) * -(-width // 2) * (config.embed_dims[0] // 2)
    widest = 0.0
    for stage in stage_sizes(config, height, width):
        maps = _maps_in_pytorch(stage) if format == "pytorch" else _maps_in_onnxruntime(stage, precision)
        around = 3 * stage.tokens * stage.dim
        mlp = stage.tokens * (2 * stage.dim + 2 * stage.hidden)
        widest = max(widest, _OVERHEAD[format] * maps + around, mlp)
    return int(batch * _FLOAT * (height * width * config.in_channels + _STEM_MAPS[format] * stem + widest))


def _maps_in_onnxruntime(stage: StageSize, precision: Precision) -> int:
    return stage.attention * recipe_of(precision).attention_maps[stage.heads > 1]


def _maps_in_pytorch(stage: StageSize) -> int:
    if stage.heads == 1:
        return _PYTORCH_ONE_HEAD * stage.attention
    blocked = -(-stage.heads // _block()) * _block()
    return stage.tokens * stage.keys * (stage.heads + 2 * blocked)


@functools.cache
def _block() -> int:
    return _WIDE_BLOCK if "avx512f" in describe_cpu() else _BLOCK


def check_image(
    config: ResTConfig | Mapping[str, Any],
    height: int,
    width: int,
    name: str,
    *,
    precision: Precision = Precision.FP32,
    format: str = "onnx",
    widening: int = 1,
) -> None:
    """Refuse an image whose call would take more memory than is free.

    Args:
        config, precision, format: As of :func:`network_bytes`.
        height, width: Of the network's input.
        name: What a message calls the image.
        widening: How many times the bytes of a float32 each number has.

    Raises:
        ImageError: It would.
        PredictorError: Too little is free for any image.
    """
    needed = widening * network_bytes(config, 1, height, width, precision=precision, format=format)
    check_memory(needed, f"{name}: an input of {height}x{width}", ImageError, "scale it down first")


def pixels_within(
    config: ResTConfig | Mapping[str, Any],
    limit_bytes: int,
    *,
    precision: Precision = Precision.FP32,
    format: str = "onnx",
) -> int:
    """Pixels of the largest square image whose call takes at most so many bytes; 0 where not even one pixel does.

    One of as many pixels and another shape takes about as much while its short side is some 32 pixels or more. A line
    of pixels takes a hundred times as much, as there is nothing to reduce across it: where shapes are not known, ask
    :func:`network_bytes` of each.

    Raises:
        ConfigError: As :func:`network_bytes`.
    """
    fits, does_not = 0, 1
    while network_bytes(config, 1, does_not, does_not, precision=precision, format=format) <= limit_bytes:
        fits, does_not = does_not, 2 * does_not
    while does_not - fits > 1:
        side = (fits + does_not) // 2
        if network_bytes(config, 1, side, side, precision=precision, format=format) <= limit_bytes:
            fits = side
        else:
            does_not = side
    return fits * fits
