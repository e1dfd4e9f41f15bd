"""Counted operations are those that PyTorch's counter sees in the network as written, to the last one."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from rest_deploy.errors import ConfigError
from rest_deploy.models.family import NetworkConfig, family_of, get_config, list_models
from rest_deploy.models.rest import ResT
from rest_deploy.specs import ImageSize
from tests.conftest import TINY, TINY_V2, slow

#: Of the published networks those of the first lane.
QUICK = ("rest_lite", "rest_large", "restv2_tiny")
SIZES = [(1, 1), (1, 70), (2, 3), (31, 32), (33, 47), (64, 64), (225, 230)]
UNEVEN = replace(TINY, mlp_ratios=(1.5, 2.6, 3, 0.5), sr_ratios=(1, 8, 4, 2), in_channels=1, num_classes=3)

UNEVEN_V2 = replace(TINY_V2, sr_ratios=(1, 8, 4, 2), in_channels=1, num_classes=3)


def _count(config: NetworkConfig, batch: int, size: ImageSize) -> int:
    return family_of(config).flops(config, batch, size)


def _counted(config: NetworkConfig, batch: int, size: ImageSize) -> int:
    """By shapes alone: tensors on the meta device hold no numbers."""
    with torch.device("meta"), torch.no_grad():
        model = family_of(config).network()(config).eval()
        with FlopCounterMode(display=False) as counter:
            model(torch.empty(batch, config.in_channels, size.height, size.width))
    return counter.get_total_flops()


@pytest.mark.parametrize("config", [TINY, UNEVEN, TINY_V2, UNEVEN_V2], ids=["tiny", "uneven", "tiny2", "uneven2"])
@pytest.mark.parametrize("size", [(1, 1), (33, 47), *slow(size for size in SIZES if size not in ((1, 1), (33, 47)))])
@pytest.mark.parametrize("batch", [3, *slow([1])])
def test_small_networks_at_any_size(config: NetworkConfig, size: tuple[int, int], batch: int) -> None:
    assert _count(config, batch, ImageSize(*size)) == _counted(config, batch, ImageSize(*size))


@pytest.mark.parametrize("name", [*QUICK, *slow(name for name in list_models() if name not in QUICK)])
@pytest.mark.parametrize("size", [(225, 230), *slow([(224, 224), (1, 1)])])
def test_published_networks(name: str, size: tuple[int, int]) -> None:
    config = get_config(name)
    assert _count(config, 1, ImageSize(*size)) == _counted(config, 1, ImageSize(*size))


@pytest.mark.parametrize(
    ("name", "at_224", "at_384"),
    [("tiny", 4.08, 12.63), ("small", 5.95, 18.38), ("base", 7.86, 24.25), ("large", 13.80, 42.29)],
)
def test_the_figures_of_the_second_are_the_authors(name: str, at_224: float, at_384: float) -> None:
    """In multiply-adds: 4.1, 6.0, 7.9, 13.8 and 12.7, 18.4, 24.3, 42.4 G in table 4 of arXiv 2204.07366."""
    for side, billions in ((224, at_224), (384, at_384)):
        flops = _count(get_config(f"restv2_{name}"), 1, ImageSize(side, side))
        assert round(flops / 2e9, 2) == billions


def test_a_run_with_numbers_counts_the_same(tiny_model: ResT) -> None:
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        tiny_model(torch.zeros(2, 3, 33, 47))
    assert _count(TINY, 2, ImageSize(33, 47)) == counter.get_total_flops()


@pytest.mark.parametrize("batch", [0, -1, 1.0, True, None])
def test_a_batch_of_none_is_refused(batch: int) -> None:
    with pytest.raises(ConfigError, match=f"batch is {batch!r}; accepted: a whole number from 1"):
        _count(TINY, batch, ImageSize(224, 224))


def test_counting_loads_neither_torch_nor_numpy() -> None:
    code = "import sys, rest_deploy.models.rest_family; print({'torch', 'numpy'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "set()\n"
