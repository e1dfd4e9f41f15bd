"""The model as its authors wrote it: their numbers, and any size."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from rest_deploy.models.family import family_of, get_config
from rest_deploy.models.rest import ResT
from tests.conftest import TINY
from tests.golden import golden_cases, golden_input, golden_model, golden_values

# The reference was computed in float64 on another machine; 1e-9 is what rounding amplified by these weights may reach.
LOGITS_TOLERANCE, MAP_TOLERANCE = 1e-9, 1e-8

PARAMETERS = {
    "rest_lite": 10_508_300,
    "rest_small": 13_679_708,
    "rest_base": 30_327_052,
    "rest_large": 51_676_156,
    "restv2_tiny": 30_434_776,
    "restv2_small": 41_205_976,
    "restv2_base": 55_965_208,
    "restv2_large": 86_532_520,
}


def _slow(case: str) -> bool:
    """Large images, and networks of which another is in the first lane."""
    name, size = case.split("/")
    return name not in ("rest_lite", "restv2_tiny") or size not in ("1x3x33x49", "2x3x96x160")


@pytest.mark.parametrize(
    "case", [pytest.param(case, marks=pytest.mark.slow) if _slow(case) else case for case in golden_cases()]
)
def test_agrees_with_the_authors_numbers(case: str) -> None:
    name, size = case.split("/")
    shape = tuple(map(int, size.split("x")))
    values, image = golden_values(), torch.from_numpy(golden_input(shape))
    model = golden_model(name)
    logits = model(image).numpy()
    assert logits.shape == values[case].shape
    assert abs(logits - values[case]).max() <= LOGITS_TOLERANCE
    for i, feature in enumerate(model.forward_features(image), 1):
        stage = f"{case}/stage{i}"
        if f"{stage}/shape" not in values:  # golden_v2.npz has no maps of some sizes
            assert "v2" in name
            continue
        assert tuple(feature.shape) == tuple(values[f"{stage}/shape"])
        assert abs(feature[:, :8, :4, :4].numpy() - values[f"{stage}/sample"]).max() <= MAP_TOLERANCE
        moments = values[f"{stage}/moments"]
        assert abs(float(feature.mean()) - moments[0]) <= MAP_TOLERANCE
        assert abs(float(feature.std(unbiased=False)) - moments[1]) <= 1e-6  # biased or not: 1/n apart


@pytest.mark.parametrize("name", PARAMETERS)
def test_has_the_published_number_of_parameters(name: str) -> None:
    config = get_config(name)
    with torch.device("meta"):
        assert sum(p.numel() for p in family_of(config).network()(config).parameters()) == PARAMETERS[name]


@pytest.mark.parametrize("height", [1, 2, 3, 4, 5, 7, 8, 9, 31, 32, 33, 65])
@pytest.mark.parametrize("width", [1, 6, 17, 64])
def test_takes_any_size(tiny_model: ResT, height: int, width: int) -> None:
    logits = tiny_model(torch.randn(2, 3, height, width, generator=torch.Generator().manual_seed(0)))
    assert logits.shape == (2, TINY.num_classes)
    assert logits.isfinite().all()


def test_the_config_says_the_eps_of_its_layer_norms() -> None:
    norms = {
        name: part.eps
        for name, part in ResT(replace(TINY, norm_eps=1e-3)).named_modules()
        if isinstance(part, nn.LayerNorm)
    }
    reduced = {name: eps for name, eps in norms.items() if name.endswith(".sr_norm")}
    assert set(reduced.values()) == {1e-5}
    assert {eps for name, eps in norms.items() if name not in reduced} == {1e-3}


def test_grids_are_what_the_convolutions_yield(tiny_model: ResT) -> None:
    maps = tiny_model.forward_features(torch.zeros(1, 3, 225, 33))
    assert [tuple(m.shape[2:]) for m in maps] == [(57, 9), (29, 5), (15, 3), (8, 2)]


def test_images_of_a_batch_do_not_touch_each_other(tiny_model: ResT) -> None:
    batch = torch.randn(3, 3, 40, 56, generator=torch.Generator().manual_seed(1))
    together = tiny_model(batch)
    alone = torch.cat([tiny_model(image[None]) for image in batch])
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-5)  # float32 sums in another order
