"""Architectures read off shapes, and checkpoints that do not fit: every key that is wrong is told."""

from dataclasses import replace

import pytest
import torch

from rest_deploy.errors import CheckpointError, ConfigError
from rest_deploy.models.checkpoint import LoadedWeights
from rest_deploy.models.factory import check_keys, read_config
from rest_deploy.models.family import FAMILIES
from rest_deploy.models.rest import ResT
from rest_deploy.models.rest_family import CONFIGS, ResTConfig
from tests.conftest import TINY


def infer_config(weights, num_heads=None):
    """The config of a state dict."""
    loaded = LoadedWeights(source="state dict", sha256="", family=FAMILIES["rest"], state_dict=weights)
    return read_config(loaded, num_heads)[0]


def meta_state_dict(config):
    """Keys and shapes without memory."""
    with torch.device("meta"):
        return ResT(config).state_dict()


@pytest.mark.parametrize("name", CONFIGS)
def test_infer_config_of_the_published_variants(name):
    assert infer_config(meta_state_dict(CONFIGS[name])) == CONFIGS[name]


@pytest.mark.parametrize(
    "config",
    [
        TINY,
        replace(TINY, in_channels=1, num_classes=1),
        replace(TINY, in_channels=4, num_classes=1001),
        replace(TINY, depths=(3, 1, 2, 11)),
        replace(TINY, num_heads=(1, 1, 1, 1), sr_ratios=(1, 1, 1, 1)),
        replace(TINY, num_heads=(8, 8, 8, 8), sr_ratios=(2, 4, 6, 8)),
        replace(TINY, mlp_ratios=(1, 2, 3, 0.5)),
    ],
)
def test_infer_config_of_custom_models(config):
    heads = config.num_heads if max(config.num_heads) == 1 else None
    assert infer_config(meta_state_dict(config), num_heads=heads) == config


@pytest.mark.parametrize("ratio", [2.6, 2.7, 3.3, 1 / 3, 15.001 / 22, 61.001 / 56])
def test_infer_config_gives_the_same_shapes_where_a_ratio_was_rounded_down(ratio):
    config = ResTConfig(
        embed_dims=(22, 56, 88, 96), depths=(1,) * 4, num_heads=(1,) * 4, mlp_ratios=(ratio,) * 4, num_classes=2
    )
    inferred = infer_config(meta_state_dict(config), num_heads=config.num_heads)
    assert [inferred.hidden_dim(stage) for stage in range(4)] == [config.hidden_dim(stage) for stage in range(4)]


@pytest.mark.parametrize(
    "key",
    ["stem.conv1.weight", "stage1.0.norm1.weight", "stage3.0.mlp.fc1.weight"],
)
def test_infer_config_names_the_key_that_is_missing(key):
    weights = meta_state_dict(TINY)
    del weights[key]
    with pytest.raises(CheckpointError, match=f"the weights are not those of a ResT: there is no '{key}'"):
        infer_config(weights)


@pytest.mark.parametrize(
    ("key", "shape"),
    [
        ("stem.conv1.weight", ()),
        ("stem.conv1.weight", (4,)),
        ("stage1.0.norm1.weight", ()),
        ("stage1.0.norm1.weight", (0,)),
        ("stage1.0.norm1.weight", (7,)),  # odd
        ("stage2.0.attn.transform_conv.weight", ()),
        ("stage2.0.attn.transform_conv.weight", (5, 5, 1, 1)),  # does not divide 16
        ("stage2.0.attn.sr.weight", ()),
        ("stage2.0.attn.sr.weight", (16, 1, 1, 1)),  # a reduction of 0
        ("stage2.0.attn.sr.weight", (16, 1, 4, 4)),  # an odd one
        ("head.weight", ()),
        ("head.weight", (0, 32)),
    ],
)
def test_infer_config_refuses_impossible_shapes(key, shape):
    weights = {**meta_state_dict(TINY), key: torch.empty(shape, device="meta")}
    with pytest.raises(CheckpointError, match="not those of a ResT: "):
        infer_config(weights)


@pytest.mark.parametrize("key", ["stage1.x.weight", "stage1.", "stage1.1000000.norm1.weight"])
def test_infer_config_refuses_impossible_block_numbers(key):
    """One key must not make a model of a million blocks."""
    with pytest.raises(CheckpointError, match="not those of a ResT: "):
        infer_config({**meta_state_dict(TINY), key: torch.empty(8, device="meta")})


def test_infer_config_of_something_else():
    with pytest.raises(CheckpointError, match="not those of a ResT: ") as caught:
        infer_config({"a.weight": torch.ones(2, 3), "a.bias": torch.ones(2)})
    assert not isinstance(caught.value, ConfigError)


# Keys


def numbered(count, shape=(1,)):
    return {f"key{n:02}": torch.empty(shape) for n in range(count)}


def test_check_keys_does_not_miss_the_counters_of_batch_norm():
    """Files of PyTorch before 0.4.1 lack them."""
    expected = meta_state_dict(TINY)
    weights = {key: value for key, value in expected.items() if not key.endswith("num_batches_tracked")}
    assert len(weights) < len(expected)
    check_keys(weights, expected, "a.pth")
    del weights["norm.bias"]
    with pytest.raises(CheckpointError, match=r"1 missing: norm\.bias$"):
        check_keys(weights, expected, "a.pth")


def test_check_keys_tells_all_at_once():
    got = {"same": torch.empty(1), "other": torch.empty(2, 3), "more": torch.empty(1)}
    expected = {"same": torch.empty(1), "other": torch.empty(3, 2), "less": torch.empty(1)}
    with pytest.raises(CheckpointError) as caught:
        check_keys(got, expected, "a.pth")
    assert str(caught.value) == (
        "a.pth does not fit the model; 1 missing: less; 1 unexpected: more; "
        "1 mis-shaped: other has (2, 3), the model (3, 2)"
    )


@pytest.mark.parametrize(("count", "listed", "dots"), [(10, 10, False), (11, 10, True), (99, 10, True)])
def test_check_keys_lists_at_most_ten_of_each(count, listed, dots):
    cases = {
        "missing": ({}, numbered(count)),
        "unexpected": (numbered(count), {}),
        "mis-shaped": (numbered(count), numbered(count, (2,))),
    }
    for what, (got, expected) in cases.items():
        with pytest.raises(CheckpointError, match=f"; {count} {what}: key00") as caught:
            check_keys(got, expected, "a.pth")
        assert str(caught.value).count("key") == listed
        assert str(caught.value).endswith(", ...") is dots
