"""Attention of a large map in blocks of queries is the same function, where it is to be, and takes little memory."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from rest_deploy.export.trace import trace
from rest_deploy.models import deploy, rest, stages
from rest_deploy.models.factory import create_model
from rest_deploy.models.network import DeployForm, Network
from rest_deploy.models.stages_family import StagesConfig
from tests.conftest import TINY, TINY_V2, lively

FORMS = {
    "ResT": (TINY, False),
    "ResT, deploy form": (TINY, True),
    "ResTv2": (TINY_V2, False),
    "ResTv2, deploy form": (TINY_V2, True),
}
SIZES = [(1, 1, 1), (3, 33, 49), (2, 1, 90), (1, 90, 71)]

# Float64 rounding through some twenty layers whose normalisations amplify it; a fault shows as 1e-6 and more.
EXACT = 1e-10


def _network(form: str) -> Network | DeployForm:
    config, as_deployed = FORMS[form]
    model = lively(create_model(config)).double().requires_grad_(False)
    return model.to_deploy() if as_deployed else model


def _image(batch: int, height: int, width: int) -> Tensor:
    generator = torch.Generator().manual_seed(height * width)
    return torch.randn(batch, 3, height, width, generator=generator, dtype=torch.float64)


def _all_in_blocks(monkeypatch: pytest.MonkeyPatch, block: int) -> None:
    """Of so many numbers, be a map as small as it may."""
    monkeypatch.setattr(stages, "TORCH_WHOLE", 0)
    monkeypatch.setattr(stages, "TORCH_BLOCK", block)


def _none_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where some are after all, it is an error."""

    def refused(*_: Any) -> list[Tensor]:
        raise AssertionError("in blocks")

    _all_in_blocks(monkeypatch, 1)
    for module in (stages, rest, deploy):
        monkeypatch.setattr(module, "in_blocks", refused)


# The same function


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("block", [1, 700, 1 << 20])  # one query, some, all of them
def test_blocks_give_the_same(
    form: str, size: tuple[int, int, int], block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    network, image = _network(form), _image(*size)
    whole = network(image)
    _all_in_blocks(monkeypatch, block)
    torch.testing.assert_close(network(image), whole, rtol=0, atol=EXACT)


@pytest.mark.parametrize("form", FORMS)
def test_blocks_lose_no_more_in_float32(form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As the authors wrote it a ResT loses most in its InstanceNorm, which blocks compute of smaller numbers."""
    config, as_deployed = FORMS[form]
    model = create_model(config).requires_grad_(False)
    network, image = model.to_deploy() if as_deployed else model, _image(2, 160, 128)
    exact = copy.deepcopy(network).double()(image)
    whole = (network(image.float()) - exact).abs().max()
    _all_in_blocks(monkeypatch, 5000)
    in_blocks = (network(image.float()) - exact).abs().max()
    assert in_blocks <= 1.5 * whole  # sums are taken in another order
    assert in_blocks > 0


@pytest.mark.parametrize("form", ["ResT", "ResT, deploy form"])
def test_half_precision_loses_nothing_below_its_smallest_number(form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Squares of 1/K, and of products with them that are yet to be scaled."""
    network = _network(form)
    attention = network.stage2[0].attn if isinstance(network, Network) else network.stage2_0.attn
    q, k, v = (torch.randn(1, 2, n, 8, dtype=torch.float64) for n in (300, 900, 900))
    v -= v.mean(dim=2, keepdim=True)
    q *= 0.01
    exact = attention._attend(q, k, v)
    _all_in_blocks(monkeypatch, 7000)
    half = copy.deepcopy(attention).half()._attend(q.half(), k.half(), v.half())
    assert (half - exact).abs().max() < 0.02 * exact.abs().max()


def test_the_last_block_is_the_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []

    def attend(some: Tensor) -> tuple[Tensor, Tensor]:
        seen.append(some.shape[2])
        return 2 * some, some.sum(dim=3, keepdim=True)

    monkeypatch.setattr(stages, "TORCH_BLOCK", 3 * 2 * 5 * 4)  # of 3 images, 2 heads and 5 keys: 4 queries
    q = torch.randn(3, 2, 11, 6)
    twice, sums = stages.in_blocks(attend, q, torch.empty(3, 2, 5, 6))
    assert seen == [4, 4, 3]
    assert torch.equal(twice, 2 * q)
    assert torch.equal(sums, q.sum(dim=3, keepdim=True))


@pytest.mark.parametrize("form", ["ResT", "ResT, deploy form"])
@pytest.mark.parametrize("part", [0, -1], ids=["a product", "mean squares"])
def test_the_comparison_sees_a_block_that_is_lost(form: str, part: int, monkeypatch: pytest.MonkeyPatch) -> None:
    network, image = _network(form), _image(1, 33, 49)
    whole, own = network(image), stages.in_blocks

    def lossy(attend: Callable[[Tensor], tuple[Tensor, ...]], q: Tensor, k: Tensor) -> Sequence[Tensor]:
        given = own(attend, q, k)
        given[part][:, :, -3:] = 0
        return given

    _all_in_blocks(monkeypatch, 700)
    for module in (rest, deploy):
        monkeypatch.setattr(module, "in_blocks", lossy)
    assert (network(image) - whole).abs().max() > 1e-6


# Where it is done


def test_a_map_goes_in_blocks_where_it_has_more_numbers_than_that(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stages, "TORCH_WHOLE", 2 * 3 * 7 * 5)
    q, k = torch.zeros(2, 3, 7, 4), torch.zeros(2, 3, 5, 4)
    assert not stages.is_large(q, k, k)
    assert stages.is_large(torch.zeros(2, 3, 8, 4), k, k)


@pytest.mark.parametrize("form", FORMS)
def test_a_megapixel_is_computed_as_it_was_written(form: str) -> None:
    config, _ = FORMS[form]
    tokens, keys, dim = 256 * 256, (256 // 8) ** 2, config.embed_dims[0]
    q, k = torch.empty(1, 1, tokens, dim, device="meta"), torch.empty(1, 1, keys, dim, device="meta")
    assert not stages.is_large(q, k, k)
    assert stages.is_large(torch.empty(1, 1, tokens + 1, dim, device="meta"), k, k)


@pytest.mark.parametrize("form", FORMS)
def test_no_trace_has_blocks(form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    _none_in_blocks(monkeypatch)
    network, image = _network(form), _image(1, 40, 33)
    with pytest.raises(AssertionError, match="in blocks"):
        network(image)
    torch.jit.trace(network, image, check_trace=False)
    torch.export.export(network, (image,), strict=False)
    torch.fx.symbolic_trace(network)


@pytest.mark.anew
@pytest.mark.parametrize("config", [TINY, TINY_V2], ids=["ResT", "ResTv2"])
def test_the_exporter_traces_the_same(config: StagesConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    network = create_model(config).to_deploy()
    whole = str(trace(network, in_channels=3).program.graph)
    _all_in_blocks(monkeypatch, 1)
    assert str(trace(network, in_channels=3).program.graph) == whole


@pytest.mark.parametrize("form", FORMS)
def test_what_is_compiled_has_no_blocks(form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    _none_in_blocks(monkeypatch)
    network = _network(form)
    attention: Any = next(module for name, module in network.named_modules() if name.endswith("attn"))
    q = k = v = torch.randn(1, attention.num_heads, 9, 8, dtype=torch.float64)
    attend = getattr(attention, "_attend", lambda q, k, v: stages.by_queries(lambda some: some, q, k, v))
    torch.compile(attend, backend="eager", fullgraph=True)(q, k, v)
    with pytest.raises(AssertionError, match="in blocks"):
        attend(q, k, v)


@pytest.mark.parametrize("config", [TINY, TINY_V2], ids=["ResT", "ResTv2"])
def test_gradients_are_of_whole_maps(config: StagesConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    _none_in_blocks(monkeypatch)
    model, image = lively(create_model(config)), _image(2, 33, 49).float()
    model.requires_grad_(True)(image).sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
    with torch.no_grad(), pytest.raises(AssertionError, match="in blocks"):
        model(image)


# Its memory


class _Largest(TorchDispatchMode):
    """Numbers of the largest tensor that any operator makes."""

    numbers = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        self.numbers = max([self.numbers, *(x.numel() for x in tree_leaves(made) if isinstance(x, Tensor))])
        return made


def _largest(network: nn.Module, image: Tensor) -> int:
    with torch.no_grad(), _Largest() as mode:
        network(image)
    return mode.numbers


@pytest.mark.parametrize("form", FORMS)
def test_no_tensor_is_larger_than_a_block(form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    network, image = _network(form), _image(1, 320, 320)
    map_numbers, hidden = (80 * 80) * (20 * 20), (80 * 80) * 4 * 8  # of the first stage; of its MLP
    assert _largest(network, image) == map_numbers
    _all_in_blocks(monkeypatch, hidden // 2)
    assert _largest(network, image) <= max(hidden, image.numel())
