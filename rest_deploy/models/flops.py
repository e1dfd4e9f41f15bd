"""Floating-point operations of a ResT, from its config alone."""

from __future__ import annotations

from rest_deploy.models.config import ResTConfig
from rest_deploy.specs import BATCH, ImageSize
from rest_deploy.values import check

_Grid = tuple[int, int]


def count_flops(config: ResTConfig, batch: int, size: ImageSize) -> int:
    """Floating-point operations of one run of the network as its authors wrote it (arXiv 2105.13677, section 3).

    Two for each multiply-add of convolutions (the depthwise ones too; taps on padding count), of linear layers, of the
    products of queries with keys and of attention with values, and of the 1x1 convolution that mixes heads. That is
    the convention of ``torch.utils.flop_counter.FlopCounterMode``, whose figure is the same. Biases, norms, softmax,
    GELU, sigmoid, sums and means are not counted.

    The authors give 1.4, 1.9, 4.3 and 7.9 G "FLOPs" at 224x224 (README of github.com/wofmanaf/ResT): multiply-adds, by
    a counter that they do not name. Half of this figure is 6 to 10 % more than that.

    Args:
        config: Of the network.
        batch: Images, 1 or more.
        size: Of the images, from 1x1 up.

    Raises:
        ConfigError: ``batch`` is no whole number of at least 1.
    """
    batch = check(BATCH, batch, "batch")
    hidden = config.embed_dims[0] // 2
    grid = _grid_after((size.height, size.width), 3, 2)
    multiply_adds = _convolution(grid, config.in_channels, hidden, 3) + _convolution(grid, hidden, hidden, 3)
    for stage, channels in enumerate((hidden, *config.embed_dims[:-1])):
        grid = _grid_after(grid, 3, 2)
        multiply_adds += _embedding(config, stage, grid, channels) + config.depths[stage] * _block(config, stage, grid)
    multiply_adds += config.embed_dims[-1] * config.num_classes
    return 2 * batch * multiply_adds


def _grid_after(grid: _Grid, kernel: int, stride: int) -> _Grid:
    """What a convolution of odd kernel, padded by half of it, makes of a map."""
    height, width = ((length + 2 * (kernel // 2) - kernel) // stride + 1 for length in grid)
    return height, width


def _convolution(grid: _Grid, in_channels: int, out_channels: int, kernel: int) -> int:
    """Multiply-adds of a convolution that yields ``grid``; of a depthwise one, with one channel in."""
    return grid[0] * grid[1] * in_channels * out_channels * kernel**2


def _embedding(config: ResTConfig, stage: int, grid: _Grid, in_channels: int) -> int:
    """Multiply-adds of the convolution into a stage, and of its position code (section 3.3)."""
    channels = config.embed_dims[stage]
    return _convolution(grid, in_channels, channels, 3) + _convolution(grid, 1, channels, 3)


def _block(config: ResTConfig, stage: int, grid: _Grid) -> int:
    """Multiply-adds of attention over reduced keys (section 3.2) and MLP, of one block."""
    channels, heads, reduction = config.embed_dims[stage], config.num_heads[stage], config.sr_ratios[stage]
    reduced, total = grid, 0
    if reduction > 1:
        reduced = _grid_after(grid, reduction + 1, reduction)
        total += _convolution(reduced, 1, channels, reduction + 1)
    queries, keys = grid[0] * grid[1], reduced[0] * reduced[1]
    total += 2 * channels**2 * (queries + keys)  # q and the projection; k and v
    total += 2 * channels * queries * keys  # queries with keys, attention with values
    if config.interacts(stage):
        total += heads**2 * queries * keys  # the mixing of heads
    return total + 2 * queries * channels * config.hidden_dim(stage)
