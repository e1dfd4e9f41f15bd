"""ResTv2 as its authors wrote it at any size, and its deploy form; the authors' numbers are in test_rest.py."""

from __future__ import annotations

import copy
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from onnxscript import opset18

from rest_deploy import Predictor, create_model, export
from rest_deploy.errors import ExportError
from rest_deploy.export.blockwise import whole
from rest_deploy.models import restv2
from rest_deploy.models.restv2 import ResTv2, shuffle_like, to_deploy
from rest_deploy.models.restv2_family import ResTv2Config
from tests.conftest import TINY_V2, lively

# Float64 rounding through some twenty layers whose normalisations amplify it; a wrong identity shows as 1e-2 and more.
EXACT = 1e-9


def _image(batch: int, height: int, width: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(height * width)
    return torch.randn(batch, 3, height, width, generator=generator, dtype=torch.float64)


# As written


@pytest.mark.parametrize("height", [1, 2, 3, 4, 5, 7, 8, 9, 31, 32, 33, 65])
@pytest.mark.parametrize("width", [1, 6, 17, 64])
def test_takes_any_size(tiny_v2_model: ResTv2, height: int, width: int) -> None:
    logits = tiny_v2_model(_image(2, height, width).float())
    assert logits.shape == (2, TINY_V2.num_classes)
    assert logits.isfinite().all()


def test_grids_are_what_the_convolutions_yield(tiny_v2_model: ResTv2) -> None:
    maps = tiny_v2_model.forward_features(torch.zeros(1, 3, 225, 33))
    assert [tuple(m.shape) for m in maps] == [(1, 8, 57, 9), (1, 16, 29, 5), (1, 24, 15, 3), (1, 32, 8, 2)]


def test_random_weights_are_drawn_as_the_authors_do() -> None:
    """Biases of all convolutions and linear layers are zero, in the classifier."""
    state = create_model("restv2_tiny").state_dict()
    assert not any(value.any() for name, value in state.items() if name.endswith("bias"))
    assert state["stage1.0.attn.up.0.weight"].std() == pytest.approx(0.02, rel=0.05)
    assert state["head.weight"].std() == pytest.approx(0.02, rel=0.05)


# The shuffle


def test_the_shuffle_puts_each_channel_where_it_belongs() -> None:
    ratio, channels = 2, 3
    x, like = torch.randn(2, channels * ratio**2, 3, 4), torch.empty(2, 5, 7, channels)
    made = shuffle_like(x, ratio, like)
    assert made.shape == like.shape
    for row in range(5):
        for column in range(7):
            own = (row % ratio) * ratio + column % ratio
            assert torch.equal(made[:, row, column], x[:, own :: ratio**2, row // ratio, column // ratio])


@pytest.mark.parametrize("ratio", [1, 2])
def test_the_opaque_operator_is_the_function(ratio: int) -> None:
    x, like = torch.randn(2, 3 * ratio**2, 3, 4), torch.empty(2, 3 * ratio - ratio // 2, 4 * ratio, 3)
    assert torch.equal(restv2._shuffle_like(x, ratio, like), shuffle_like(x, ratio, like))
    torch.library.opcheck(restv2._shuffle_like, (x, ratio, like), test_utils=("test_schema", "test_faketensor"))


# The deploy form


@settings(max_examples=25, deadline=None, derandomize=True)
@given(batch=st.integers(1, 2), height=st.integers(1, 140), width=st.integers(1, 140))
def test_the_deploy_form_is_the_same_function_at_any_size(batch: int, height: int, width: int) -> None:
    made = lively(create_model(TINY_V2)).double()
    image = _image(batch, height, width)
    torch.testing.assert_close(to_deploy(made)(image), made(image), rtol=0, atol=EXACT)


@st.composite
def configs(draw: st.DrawFn) -> ResTv2Config:
    """Configs of every shape that the class takes, small enough to run."""
    heads = [draw(st.integers(1, 3)) for _ in range(4)]
    return ResTv2Config(
        embed_dims=tuple(h * 2 * draw(st.integers(1, 3)) for h in heads),
        depths=tuple(draw(st.integers(1, 2)) for _ in range(4)),
        num_heads=tuple(heads),
        sr_ratios=tuple(draw(st.sampled_from([1, 2, 4, 8])) for _ in range(4)),
        num_classes=draw(st.integers(1, 9)),
        in_channels=draw(st.sampled_from([1, 3, 4])),
    )


@settings(max_examples=25, deadline=None, derandomize=True)
@given(config=configs(), height=st.integers(1, 70), width=st.integers(1, 70))
def test_the_deploy_form_is_the_same_function_for_any_config(config: ResTv2Config, height: int, width: int) -> None:
    made = lively(create_model(config)).double()
    image = torch.randn(2, config.in_channels, height, width, dtype=torch.float64)
    torch.testing.assert_close(to_deploy(made)(image), made(image), rtol=0, atol=EXACT)


@pytest.mark.parametrize("part", ["q.bias", "v.bias", "proj.bias", "up.bias", "up_norm.weight"])
def test_the_comparison_sees_a_planted_fault(tiny_v2_model: ResTv2, part: str) -> None:
    exact, image = copy.deepcopy(tiny_v2_model).double(), _image(1, 33, 49)
    broken = to_deploy(exact)
    with torch.no_grad():
        broken.get_parameter(f"stage2_0.attn.{part}").zero_()
    assert (broken(image) - exact(image)).abs().max() > 1e-6


def test_the_deploy_form_shares_nothing_with_the_model(tiny_v2_model: ResTv2) -> None:
    before = {key: value.clone() for key, value in tiny_v2_model.state_dict().items()}
    for parameter in to_deploy(tiny_v2_model).parameters():
        parameter.add_(1)
    assert all(torch.equal(value, before[key]) for key, value in tiny_v2_model.state_dict().items())


# The file


def test_the_graph_is_what_the_deploy_form_says(tiny_v2_onnx: Path, tiny_v2_model: ResTv2) -> None:
    """A convolution, DepthToSpace in the order of PyTorch's shuffle, a Slice and a Transpose on the way up."""
    graph = whole(onnx.load(tiny_v2_onnx)).graph
    counts = Counter(node.op_type for node in graph.node)
    assert (counts["Softmax"], counts["DepthToSpace"], counts["Slice"]) == (5, 4, 4)
    makers, users = {out: n for n in graph.node for out in n.output}, {name: n for n in graph.node for name in n.input}
    for node in graph.node:
        if node.op_type == "DepthToSpace":
            assert {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}["mode"] == b"CRD"
            cut = users[node.output[0]]
            kinds = [makers[node.input[0]].op_type, cut.op_type, users[cut.output[0]].op_type]
            assert kinds == ["Conv", "Slice", "Transpose"]
    with Predictor(tiny_v2_onnx) as predictor:
        assert (predictor.info.family, predictor.info.config) == ("restv2", TINY_V2.to_dict())
        for size in ((1, 1), (33, 47), (64, 96)):
            image = _image(2, *size)
            exact = copy.deepcopy(tiny_v2_model).double()(image).numpy()
            found = predictor.logits(image.numpy().astype(np.float32))
            assert np.abs(found - exact).max() < 1e-5 * np.abs(exact).max()


@pytest.mark.anew
def test_a_size_that_is_baked_into_the_cut_is_found(
    tiny_v2_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The cut is written by a translation, so both traces are alike; the check of the graph finds it."""

    def baked(x: Any, ratio: int, like: Any) -> Any:
        if ratio > 1:
            x = opset18.DepthToSpace(x, blocksize=ratio, mode="CRD")
            ends = opset18.Constant(value_ints=[int(size) for size in like.shape[1:3]])
            x = opset18.Slice(x, opset18.Constant(value_ints=[0, 0]), ends, opset18.Constant(value_ints=[2, 3]))
        return opset18.Transpose(x, perm=[0, 2, 3, 1])

    monkeypatch.setattr(restv2, "_shuffle_like_in_onnx", baked)
    with pytest.raises(ExportError, match="baked in"):
        export(None, tmp_path / "x.onnx", checkpoint=tiny_v2_checkpoint)
    assert list(tmp_path.iterdir()) == []
