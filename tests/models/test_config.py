"""Architectures as data: the published table, and what a custom one may be."""

import json
import math
from dataclasses import replace

import pytest

from rest_deploy.errors import ConfigError
from rest_deploy.models import restv2_family
from rest_deploy.models.family import get_config, list_models
from rest_deploy.models.rest_family import CONFIGS, ResTConfig
from rest_deploy.models.restv2_family import ResTv2Config
from tests.conftest import TINY


def test_the_published_variants():
    """Table 1 of arXiv 2105.13677."""
    assert list_models() == [*CONFIGS, *restv2_family.CONFIGS]
    assert {name: config.depths for name, config in CONFIGS.items()} == {
        "rest_lite": (2, 2, 2, 2),
        "rest_small": (2, 2, 6, 2),
        "rest_base": (2, 2, 6, 2),
        "rest_large": (2, 2, 18, 2),
    }
    for name, config in CONFIGS.items():
        widths = (64, 128, 256, 512) if name in ("rest_lite", "rest_small") else (96, 192, 384, 768)
        assert config == ResTConfig(widths, config.depths, (1, 2, 4, 8), (4.0,) * 4, (8, 4, 2, 1), 1000, 3)


def test_the_published_variants_of_the_second():
    """Table 1 of arXiv 2204.07366."""
    narrow, few = (96, 192, 384, 768), (1, 2, 4, 8)
    assert dict(restv2_family.CONFIGS) == {
        "restv2_tiny": ResTv2Config(narrow, (1, 2, 6, 2), few, (8, 4, 2, 1), 1000, 3),
        "restv2_small": ResTv2Config(narrow, (1, 2, 12, 2), few, (8, 4, 2, 1), 1000, 3),
        "restv2_base": ResTv2Config(narrow, (1, 3, 16, 3), few, (8, 4, 2, 1), 1000, 3),
        "restv2_large": ResTv2Config((128, 256, 512, 1024), (2, 3, 16, 2), (2, 4, 8, 16), (8, 4, 2, 1), 1000, 3),
    }


def test_the_table_of_variants_is_read_only():
    with pytest.raises(TypeError, match="does not support item assignment"):
        CONFIGS["rest_huge"] = ResTConfig()


@pytest.mark.parametrize("name", list_models())
def test_get_config_knows_every_listed_name(name):
    assert get_config(name) is {**CONFIGS, **restv2_family.CONFIGS}[name]


@pytest.mark.parametrize("name", ["", "rest", "ReST_Lite", "rest_lite ", "resnet50"])
def test_an_unknown_name_is_refused_with_the_known_ones(name):
    with pytest.raises(ConfigError, match=f"unknown model '{name}'; known models: rest_lite, rest_small, rest_base"):
        get_config(name)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"embed_dims": (64, 128, 256)}, "embed_dims has 3 values; accepted: 4"),
        ({"depths": (2, 2, 2, 2, 2)}, "depths has 5 values; accepted: 4$"),
        ({"num_heads": 8}, "num_heads is 8; accepted: a list or tuple"),
        ({"sr_ratios": "8421"}, "sr_ratios is '8421'; accepted: a list or tuple"),
        ({"mlp_ratios": None}, "mlp_ratios is None"),
        ({"embed_dims": (64, 128, 256, 0)}, r"embed_dims\[3\] is 0"),
        ({"embed_dims": (64.0, 128, 256, 512)}, r"embed_dims\[0\] is 64.0; accepted: a whole number"),
        ({"depths": (2, 2, 0, 2)}, r"depths\[2\] is 0"),
        ({"depths": (2, 2, True, 2)}, r"depths\[2\] is True"),
        ({"num_heads": (1, 2, -4, 8)}, r"num_heads\[2\] is -4"),
        ({"sr_ratios": (8, 4, 2, 0)}, r"sr_ratios\[3\] is 0"),
        ({"sr_ratios": (8, 4, 2, "1")}, r"sr_ratios\[3\] is '1'"),
        ({"sr_ratios": (8, 4, 3, 1)}, "sr_ratios is .*each must be 1 or even"),
        ({"mlp_ratios": (4, 4, 4, 0.0)}, r"mlp_ratios\[3\] is 0.0; accepted: a number over 0"),
        ({"mlp_ratios": (4, 4, 4, math.nan)}, r"mlp_ratios\[3\] is nan"),
        ({"mlp_ratios": (4, 4, 4, math.inf)}, "mlp_ratios"),
        ({"mlp_ratios": (4, 4, 4, 0.001)}, "mlp_ratios"),  # of 512 channels: none
        ({"depths": (2, 2, 1001, 2)}, r"depths\[2\] is 1001; accepted: a whole number from 1 to 1,000"),
        ({"embed_dims": (64, 128, 256, 1 << 17)}, r"embed_dims\[3\] is 131072"),
        ({"mlp_ratios": (4, 4, 4, 10**400)}, r"mlp_ratios\[3\] is a number of many digits"),
        ({"in_channels": 1 << 40}, "in_channels is 1099511627776; accepted"),
        ({"num_classes": 10**5000}, "num_classes is a number of many digits"),
        ({"qk_scale": 10**400}, "qk_scale is a number of many digits"),
        ({"num_classes": -1}, "num_classes is -1; accepted: a whole number from 0"),
        ({"num_classes": 10.0}, "num_classes is 10.0"),
        ({"num_classes": None}, "num_classes is None"),
        ({"in_channels": -3}, "in_channels is -3"),
        ({"in_channels": True}, "in_channels is True"),
        ({"embed_dims": (63, 128, 256, 512)}, r"embed_dims\[0\] is 63; it must be even"),
        ({"num_heads": (1, 3, 4, 8)}, "stage 2 has 128 channels, which 3 heads do not divide"),
        ({"num_heads": (1, 2, 4, 1024)}, "stage 4 has 512 channels, which 1024 heads do not divide"),
    ],
)
def test_values_out_of_range_are_refused(values, message):
    with pytest.raises(ConfigError, match=message):
        ResTConfig(**values)


def test_lists_become_tuples_and_ratios_floats():
    config = ResTConfig(depths=[1, 1, 1, 1], mlp_ratios=[4, 3, 2, 1])
    assert config.depths == (1, 1, 1, 1)
    assert config.mlp_ratios == (4.0, 3.0, 2.0, 1.0)
    assert all(isinstance(ratio, float) for ratio in config.mlp_ratios)


def test_hidden_channels_are_rounded_down():
    config = replace(TINY, mlp_ratios=(4, 2.6, 1.5, 0.99))
    assert [config.hidden_dim(stage) for stage in range(4)] == [32, 41, 36, 31]


@pytest.mark.parametrize(
    "config",
    [*CONFIGS.values(), TINY, replace(TINY, mlp_ratios=(1.5, 2, 3, 4), in_channels=1), *restv2_family.CONFIGS.values()],
)
def test_json_round_trip(config):
    assert type(config).from_dict(json.loads(json.dumps(config.to_dict()))) == config


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"embed_dims": (64, 128, 256)}, "embed_dims has 3 values; accepted: 4"),
        ({"embed_dims": (63, 128, 256, 512)}, r"embed_dims\[0\] is 63; it must be even"),
        ({"embed_dims": (64.0, 128, 256, 512)}, r"embed_dims\[0\] is 64.0; accepted: a whole number"),
        ({"depths": (2, 2, 1001, 2)}, r"depths\[2\] is 1001; accepted: a whole number from 1 to 1,000"),
        ({"num_heads": (1, 5, 4, 8)}, "stage 2 has 192 channels, which 5 heads do not divide"),
        ({"sr_ratios": (8, 4, 3, 1)}, "sr_ratios is .*each must be 1 or even"),
        ({"num_classes": -1}, "num_classes is -1; accepted: a whole number from 0"),
    ],
)
def test_values_of_the_second_out_of_range_are_refused(values, message):
    with pytest.raises(ConfigError, match=message):
        ResTv2Config(**values)
    with pytest.raises(ConfigError, match="mlp_ratios"):
        ResTv2Config.from_dict({"mlp_ratios": [4, 4, 4, 4]})


def test_unknown_fields_are_named():
    with pytest.raises(ConfigError, match=r"unknown model config fields \['drop_path', 'window'\]; known: .*depths"):
        ResTConfig.from_dict({**TINY.to_dict(), "window": 7, "drop_path": 0.1})


def test_values_from_a_dict_are_checked():
    with pytest.raises(ConfigError, match="depths has 3 values"):
        ResTConfig.from_dict({**TINY.to_dict(), "depths": [1, 1, 1]})
