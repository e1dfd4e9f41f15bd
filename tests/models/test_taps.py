"""What is taken of a network, as written and in the deploy form, against loops written out here."""

from __future__ import annotations

import copy
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from rest_deploy.errors import ConfigError
from rest_deploy.models.backbone import StageNorms
from rest_deploy.models.factory import create_model, load_model
from rest_deploy.models.network import Network
from rest_deploy.models.reference import as_written_blocks, deploy_blocks
from rest_deploy.models.rest import ResT
from rest_deploy.models.rest_family import ResTConfig
from rest_deploy.models.restv2_family import ResTv2Config
from rest_deploy.models.stages import to_map, to_tokens
from rest_deploy.models.taps import Tapped
from rest_deploy.specs import EMBEDDING, LOGITS, STAGE_MAPS, FeatureNorm, Taps
from tests.conftest import TINY, TINY_V2, lively

NONE, LAST, OUTPUTS, CHAIN = FeatureNorm
_OPENINGS = {ResTConfig: "patch_embed", ResTv2Config: "patch"}
#: Each in float64: what is folded is rounded there, and what is centred.
EXACT = 1e-9


def norms_of(model: Network) -> dict[int, tuple[Tensor, Tensor]]:
    """Lively norms of all stages; that of the last is the model's own."""
    generator = torch.Generator().manual_seed(1)
    made = {
        stage: tuple(1 - i + 0.3 * torch.randn(width, generator=generator) for i in range(2))
        for stage, width in enumerate(model.config.embed_dims[:3], 1)  # type: ignore[attr-defined]
    }
    final: Any = model.norm
    return {**made, 4: (final.weight.detach().float(), final.bias.detach().float())}  # type: ignore[dict-item]


def tapped(model: Network, names: tuple[str, ...], norm: FeatureNorm, stages: tuple[int, ...] = (1, 2, 3, 4)) -> Tapped:
    norms = {stage: own for stage, own in norms_of(model).items() if stage in stages and norm is not NONE}
    return Tapped(model, Taps(names, norm), StageNorms(norm, norms))


def test_no_stage_runs_behind_the_last_that_is_taken(tiny_model: ResT) -> None:
    model = tapped(copy.deepcopy(tiny_model), ("stage2", "stage1"), NONE)
    for stage in (3, 4):
        getattr(model.network, f"stage{stage}")[0].register_forward_pre_hook(lambda *_: pytest.fail("it runs"))
    assert list(model(torch.zeros(1, 3, 40, 56))) == ["stage2", "stage1"]


def by_hand(model: Any, x: Tensor, norm: FeatureNorm, stages: tuple[int, ...] = (1, 2, 3, 4)) -> dict[str, Tensor]:
    """Every output, in loops of its own."""
    norms, found = norms_of(model), {}
    raw = x
    for stage in (1, 2, 3, 4):
        opening = model.stem if stage == 1 else getattr(model, f"{_OPENINGS[model.config.__class__]}_{stage}")
        x = opening(x)
        tokens, grid = to_tokens(x), (x.shape[2], x.shape[3])
        for block in getattr(model, f"stage{stage}"):
            tokens = block(tokens, grid)
        weight, bias = (part.to(tokens.dtype) for part in norms[stage])
        normed = nn.functional.layer_norm(tokens, weight.shape, weight, bias, model.norm.eps)
        on = stage in stages and (norm in (OUTPUTS, CHAIN) or (norm is LAST and stage == 4))
        found[f"stage{stage}"] = to_map(normed if on else tokens, grid)
        raw = tokens
        x = to_map(normed if on and norm is CHAIN else tokens, grid)
    found[EMBEDDING] = model.norm(raw).mean(dim=1)
    found[LOGITS] = model.head(found[EMBEDDING])
    return found


@pytest.fixture(scope="module", params=[TINY, TINY_V2], ids=["ResT", "ResTv2"])
def wide(request: pytest.FixtureRequest) -> Network:
    return lively(create_model(request.param)).double().requires_grad_(False)


def _sizes(count: int) -> list[tuple[int, int]]:
    rng = np.random.default_rng(5)
    return [(1, 1), (1, 40), *((int(a), int(b)) for a, b in rng.integers(1, 80, (count, 2)))]


@pytest.mark.parametrize("norm", FeatureNorm)
@torch.inference_mode()
def test_every_output_as_written_and_in_the_deploy_form(wide: Network, norm: FeatureNorm) -> None:
    names = (EMBEDDING, *STAGE_MAPS) if norm is CHAIN else (LOGITS, EMBEDDING, *STAGE_MAPS)
    written = tapped(wide, names, norm).double()
    deploy = written.to_deploy()
    for size in _sizes(6):
        x = torch.randn(2, 3, *size, dtype=torch.float64, generator=torch.Generator().manual_seed(size[0]))
        ours, theirs, exact = written.outputs(x), deploy.outputs(x), by_hand(wide, x, norm)
        assert list(ours) == list(theirs) == list(names)
        for name in names:
            torch.testing.assert_close(ours[name], exact[name], rtol=0, atol=EXACT)
            torch.testing.assert_close(theirs[name], exact[name], rtol=0, atol=EXACT)


@torch.inference_mode()
def test_the_modes_are_different_networks(wide: Network) -> None:
    """Or the test above could pass with any of them."""
    x = torch.randn(1, 3, 64, 64, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    found = {norm: tapped(wide, STAGE_MAPS, norm).double().outputs(x) for norm in FeatureNorm}
    assert all((found[CHAIN][name] - found[OUTPUTS][name]).abs().max() > 0.1 for name in STAGE_MAPS[1:])
    assert torch.equal(found[CHAIN]["stage1"], found[OUTPUTS]["stage1"])
    assert (found[OUTPUTS]["stage2"] - found[NONE]["stage2"]).abs().max() > 0.1
    assert (found[LAST]["stage4"] - found[NONE]["stage4"]).abs().max() > 0.1
    assert torch.equal(found[LAST]["stage3"], found[NONE]["stage3"])


@pytest.mark.parametrize(("norm", "stages"), [(CHAIN, (2, 3)), (OUTPUTS, (1, 4)), (CHAIN, (4,)), (OUTPUTS, ())])
@torch.inference_mode()
def test_stages_without_a_norm(wide: Network, norm: FeatureNorm, stages: tuple[int, ...]) -> None:
    x = torch.randn(1, 3, 33, 50, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    written = tapped(wide, STAGE_MAPS, norm, stages).double()
    exact, deploy = by_hand(wide, x, norm, stages), written.to_deploy()
    assert [stage for stage in (1, 2, 3, 4) if written.normed(stage)] == list(stages)
    for found in (written.outputs(x), deploy.outputs(x)):
        for name in STAGE_MAPS:
            torch.testing.assert_close(found[name], exact[name], rtol=0, atol=EXACT)


@torch.inference_mode()
def test_a_chain_keeps_its_norms_where_the_stage_is_not_exported(wide: Network) -> None:
    x = torch.randn(1, 3, 64, 48, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    all_of_them = tapped(wide, STAGE_MAPS, CHAIN).double().outputs(x)
    last = tapped(wide, ("stage4",), CHAIN).double()
    for found in (last.outputs(x), last.to_deploy().outputs(x)):
        torch.testing.assert_close(found["stage4"], all_of_them["stage4"], rtol=0, atol=EXACT)


def test_what_comes_after_the_last_output_is_not_in_the_deploy_form(tiny_model: ResT) -> None:
    pieces = list(tapped(tiny_model, ("stage2",), NONE).to_deploy().sources())
    assert pieces == ["stem", "stage1_0", "patch_embed_2", "stage2_0", "map2"]
    deploy = tapped(tiny_model, ("stage1", EMBEDDING), LAST).to_deploy()
    assert list(deploy.sources())[-2:] == ["norm", "embedding"]
    assert "head" not in deploy.sources()


def test_a_norm_that_two_outputs_share_is_there_once(tiny_model: ResT) -> None:
    """Of two onnxsim would make one, and the count of the structure would not hold."""
    deploy = tapped(tiny_model, (LOGITS, "stage4"), LAST).to_deploy()
    assert list(deploy.sources().items())[-4:] == [
        ("norm4", "stage4_0"), ("map4", "norm4"), ("embedding", "norm4"), ("head", "embedding")
    ]  # fmt: skip
    plain = tapped(tiny_model, (LOGITS, "stage4"), NONE).to_deploy()
    assert list(plain.sources())[-3:] == [
        "norm",
        "embedding",
        "head",
    ]


@pytest.mark.parametrize(
    ("names", "norm"), [(STAGE_MAPS, CHAIN), ((LOGITS, "stage2", EMBEDDING), OUTPUTS), (("stage3",), NONE)]
)
def test_blocks_are_the_same_on_both_sides(tiny_model: ResT, names: tuple[str, ...], norm: FeatureNorm) -> None:
    model = tapped(tiny_model, names, norm)
    image = np.random.default_rng(0).standard_normal((1, 3, 48, 33)).astype(np.float32)
    exact, ours = as_written_blocks(model, torch.float64)(image), deploy_blocks(model, torch.float64)(image)
    assert list(exact) == list(ours)
    for name, values in exact.items():
        np.testing.assert_allclose(ours[name], values, rtol=0, atol=2e-5)  # folds are rounded to float32


def test_norms_means_and_maps_stay_in_float32(tiny_model: ResT) -> None:
    deploy = tapped(tiny_model, (EMBEDDING, *STAGE_MAPS), OUTPUTS).to_deploy()
    kept = set(deploy.in_fp32())
    assert {"norm1", "norm4", "map1", "map4", "embedding"} <= kept


def test_the_network_is_left_as_it_was(tiny_model: ResT) -> None:
    before = {name: value.clone() for name, value in tiny_model.state_dict().items()}
    deploy = tapped(tiny_model, (LOGITS, "stage4"), LAST).to_deploy()
    for parameter in deploy.parameters():
        parameter.data.zero_()
    assert all(torch.equal(value, before[name]) for name, value in tiny_model.state_dict().items())


@pytest.mark.parametrize(
    ("names", "norm", "fact"),
    [
        (("stage5",), NONE, "stage5"),
        (("stage1", "stage1"), NONE, "twice"),
        ((), NONE, "accepted: logits"),
        ((LOGITS, "stage1"), CHAIN, "chain"),
    ],
)
def test_what_cannot_be_taken(names: tuple[str, ...], norm: FeatureNorm, fact: str) -> None:
    with pytest.raises(ConfigError, match=fact):
        load_model(TINY, features=names, feature_norm=norm)


def test_without_a_head_there_are_no_logits() -> None:
    model = lively(create_model(TINY, num_classes=0))
    assert model(torch.zeros(1, 3, 40, 40)).shape == (1, 32)
    assert list(load_model(model.config, features=None).model.outputs(torch.zeros(1, 3, 40, 40))) == list(STAGE_MAPS)
    with pytest.raises(ConfigError, match="--features"):
        Tapped(model, Taps((LOGITS, "stage1")), StageNorms())


def test_a_family_that_gives_no_maps_says_so(monkeypatch: pytest.MonkeyPatch, tiny_model: Network) -> None:
    from rest_deploy.models.rest_family import ResTFamily

    monkeypatch.setattr(ResTFamily, "stage_channels", lambda self, config: ())
    with pytest.raises(ConfigError, match="logits alone"):
        Tapped(tiny_model, Taps(("stage1",)), StageNorms())


def test_strides_halve() -> None:
    from rest_deploy.specs import STAGE_STRIDES

    assert [b // a for a, b in pairwise(STAGE_STRIDES)] == [2, 2, 2]
