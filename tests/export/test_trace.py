"""Tracing cannot take a size along, and says so when something would."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from rest_deploy.errors import ExportError
from rest_deploy.export.trace import TRACE_SIZES, trace
from rest_deploy.models.deploy import to_deploy
from rest_deploy.models.rest import ResT
from tests.export.chains import Chain


class BakedReshape(nn.Module):
    """Flattens with ordinary PyTorch, which writes the number of pixels into the graph."""

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(2).unflatten(2, (x.shape[2], -1)).mean(dim=(1, 2))


class BakedScalar(nn.Module):
    """Divides by a width."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mean(dim=(2, 3)) / x.shape[3]


class BakedBranch(nn.Module):
    """Takes another path at another size."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mean(dim=(2, 3)) if x.shape[2] % 2 == 0 else x.mean(dim=(2, 3)).relu().relu()


class BakedConstant(nn.Module):
    """Makes a grid of coordinates."""

    def forward(self, x: Tensor) -> Tensor:
        return (x * torch.arange(x.shape[3])).mean(dim=(2, 3))


class BakedTensor(nn.Module):
    """Divides by a width that was made a tensor, which the tracer lifts out of the graph."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mean(dim=(2, 3)) / torch.tensor(float(x.shape[3]))


@pytest.mark.parametrize("module", [BakedReshape, BakedScalar, BakedBranch, BakedConstant, BakedTensor])
def test_refuses_a_graph_with_a_size_in_it(module: type[nn.Module]) -> None:
    with pytest.raises(ExportError, match="the image size got into the traced graph"):
        trace(Chain(piece=module()), 3)


def test_traces_the_deploy_form_without_a_size(tiny_model: ResT) -> None:
    traced = trace(to_deploy(tiny_model), 3)
    targets = {str(node.target) for node in traced.program.graph.nodes if node.op == "call_function"}
    assert not any(name in target for target in targets for name in ("view", "reshape", "expand", "arange", "full"))


def test_pieces_that_are_alike_are_traced_once(tiny_model: ResT) -> None:
    kinds = trace(to_deploy(tiny_model), 3).kinds
    assert list(kinds) == ["stem", "stage1_0", "patch_embed_2", "stage2_0", "patch_embed_3", "stage3_0", "stage3_1",
                           "patch_embed_4", "stage4_0", "head"]  # fmt: skip
    assert kinds["stage3_0"] == kinds["stage3_1"]
    assert len(set(kinds.values())) == len(kinds) - 1


def test_no_two_sizes_of_the_traces_agree() -> None:
    (b1, h1, w1), (b2, h2, w2) = TRACE_SIZES
    assert len({b1, b2}) == 2
    grids = [{-(-size // stride) for size in (h, w)} for h, w in ((h1, w1), (h2, w2)) for stride in (4, 8, 16, 32)]
    assert not any(one & two for one, two in zip(grids[:4], grids[4:], strict=True))


def test_says_what_could_not_be_traced() -> None:
    class Broken(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            raise RuntimeError("no such thing")

    with pytest.raises(ExportError, match="could not trace the model: no such thing"):
        trace(Chain(piece=Broken()), 3)
