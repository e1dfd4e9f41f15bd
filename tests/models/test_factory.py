"""Models by name, config or checkpoint, and the promise that the authors' checkpoints load strictly."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from rest_deploy.errors import CheckpointError, ConfigError
from rest_deploy.models.card import Card
from rest_deploy.models.checkpoint import LoadedWeights, save_checkpoint
from rest_deploy.models.factory import create_model, load_model, read_config
from rest_deploy.models.family import family_of, get_config, list_models
from rest_deploy.models.rest_family import CONFIGS
from tests.conftest import TINY, lively

#: {variant: {key: shape}} of the authors' own models; tests/data/README.md says where it comes from.
SHAPES = json.loads((Path(__file__).parents[1] / "data" / "state_dict_shapes.json").read_text())


def shapes_of(state_dict):
    return {key: list(value.shape) for key, value in state_dict.items()}


@pytest.fixture(scope="module")
def weights():
    """A state dict of the tiny model, different from any that is drawn."""
    return lively(create_model(TINY), seed=5).state_dict()


@pytest.fixture
def checkpoint(tmp_path, weights):
    torch.save({"model": weights}, tmp_path / "tiny.pth")
    return tmp_path / "tiny.pth"


def assert_holds(model, weights):
    assert list(model.state_dict()) == list(weights)
    for key, value in model.state_dict().items():
        assert torch.equal(value, weights[key]), key


# The authors' parameter names


def test_the_data_is_of_the_published_variants():
    assert list(SHAPES) == list_models()


@pytest.mark.parametrize("name", SHAPES)
def test_keys_and_shapes_are_the_authors(name):
    config = get_config(name)
    with torch.device("meta"):
        model = family_of(config).network()(config)
    assert list(shapes_of(model.state_dict()).items()) == list(SHAPES[name].items())  # in their order too


@pytest.mark.parametrize("name", SHAPES)
def test_the_architecture_is_read_off_the_authors_shapes(name):
    state_dict = {key: torch.empty(shape, device="meta") for key, shape in SHAPES[name].items()}
    family = family_of(get_config(name))
    loaded = LoadedWeights(source="a.pth", sha256="", family=family, state_dict=state_dict)
    assert read_config(loaded, None)[0] == get_config(name)


# Random weights


@pytest.mark.parametrize("model", ["rest_lite", TINY])
def test_a_model_is_ready_to_run(model):
    made = create_model(model)
    assert not any(module.training for module in made.modules())
    assert all(parameter.requires_grad for parameter in made.parameters())
    assert all(value.device.type == "cpu" for value in made.state_dict().values())
    output = made(torch.zeros(2, 3, 33, 40))
    assert output.shape == (2, made.config.num_classes)
    assert output.dtype == torch.float32
    assert output.isfinite().all()


def test_the_same_seed_gives_the_same_weights():
    assert_holds(create_model(TINY, seed=3), create_model(TINY, seed=3).state_dict())
    assert_holds(create_model(TINY), create_model(TINY, seed=0).state_dict())


def test_another_seed_gives_other_weights():
    first, second = create_model(TINY, seed=0).state_dict(), create_model(TINY, seed=1).state_dict()
    drawn = [key for key in first if key.endswith("weight") and "norm" not in key]
    assert drawn
    assert not any(torch.equal(first[key], second[key]) for key in drawn)


def test_the_global_generator_is_left_as_it_was():
    before = torch.get_rng_state()
    create_model(TINY, seed=11)
    assert torch.equal(torch.get_rng_state(), before)


def test_the_global_generator_does_not_matter():
    weights = create_model(TINY).state_dict()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(99)
        assert_holds(create_model(TINY), weights)


def test_num_classes_of_a_model_without_a_checkpoint():
    model = create_model(TINY, num_classes=11)
    assert model.config == replace(TINY, num_classes=11)
    assert model.head.out_features == 11
    assert create_model("rest_lite", num_classes=2).config == replace(CONFIGS["rest_lite"], num_classes=2)


@pytest.mark.parametrize("num_classes", [-1, 2.5, "ten"])
def test_an_impossible_number_of_classes_is_refused(num_classes):
    with pytest.raises(ConfigError, match="num_classes is"):
        create_model(TINY, num_classes=num_classes)


@pytest.mark.parametrize("num_classes", [None, 10])
def test_an_unknown_name_is_refused(num_classes):
    with pytest.raises(ConfigError, match="unknown model 'rest_huge'; known models: rest_lite"):
        create_model("rest_huge", num_classes=num_classes)


def test_an_unknown_name_is_refused_before_the_checkpoint_is_read(tmp_path):
    with pytest.raises(ConfigError, match="unknown model"):
        create_model("rest_huge", tmp_path / "none.pth")


def test_nothing_to_load_is_refused():
    with pytest.raises(ConfigError, match="known models: rest_lite"):
        load_model(None)


# Checkpoints


@pytest.mark.parametrize("model", [TINY, replace(TINY, num_classes=1000)])
def test_a_checkpoint_brings_its_weights_and_its_number_of_classes(model, checkpoint, weights):
    made = create_model(model, checkpoint)
    assert made.config == TINY
    assert_holds(made, weights)
    assert not any(module.training for module in made.modules())
    assert all(parameter.requires_grad for parameter in made.parameters())


def test_the_architecture_may_come_from_the_checkpoint(checkpoint, weights):
    loaded = load_model(None, checkpoint)
    assert loaded.model.config == TINY
    assert_holds(loaded.model, weights)


def test_a_loaded_model_says_what_was_loaded(checkpoint):
    loaded = load_model(TINY, str(checkpoint))
    assert (loaded.name, loaded.card, loaded.seed) == ("rest_custom", Card(), None)
    assert loaded.checkpoint.path == checkpoint
    assert len(loaded.checkpoint.sha256) == 64


def test_a_random_model_says_its_seed():
    loaded = load_model(TINY, seed=4)
    assert (loaded.name, loaded.card, loaded.checkpoint, loaded.seed) == ("rest_custom", Card(), None, 4)


@pytest.mark.parametrize("changes", [{}, {"num_classes": 5}, {"in_channels": 1}])
def test_a_published_architecture_has_its_name(changes):
    assert load_model(replace(CONFIGS["rest_lite"], **changes)).name == "rest_lite"


def test_the_card_names_the_model(tmp_path, weights):
    card = Card("mine", tuple("abcdefg"))
    save_checkpoint(tmp_path / "a.safetensors", weights, card)
    loaded = load_model(None, tmp_path / "a.safetensors")
    assert loaded.name == "mine"
    assert loaded.card == card
    assert_holds(loaded.model, weights)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_weights_of_another_precision_become_float32(tmp_path, weights, dtype):
    cast = {key: value.to(dtype) if value.is_floating_point() else value for key, value in weights.items()}
    torch.save(cast, tmp_path / "a.pth")
    model = create_model(TINY, tmp_path / "a.pth")
    assert_holds(model, {key: value.to(weights[key].dtype) for key, value in cast.items()})


def test_counters_of_batch_norm_may_be_absent(tmp_path, weights):
    kept = {key: value for key, value in weights.items() if not key.endswith("num_batches_tracked")}
    torch.save(kept, tmp_path / "a.pth")
    assert_holds(create_model(TINY, tmp_path / "a.pth"), weights)


def test_the_model_does_not_share_memory_with_what_was_loaded(checkpoint):
    first, second = create_model(TINY, checkpoint), create_model(TINY, checkpoint)
    first.head.weight.data.zero_()
    assert second.head.weight.any()


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (replace(TINY, depths=(1, 1, 3, 1)), r"tiny\.pth does not fit the model; \d+ missing: stage3\.2\.norm1"),
        (replace(TINY, depths=(1, 1, 1, 1)), r"\d+ unexpected: stage3\.1\.norm1\.weight"),
        (replace(TINY, in_channels=1), r"1 mis-shaped: stem\.conv1\.weight has \(4, 3, 3, 3\), the model \(4, 1,"),
        (replace(TINY, num_heads=(1, 1, 3, 4)), r"2 unexpected: stage2\.0\.attn\.transform_conv\.weight"),
        ("rest_lite", r"\d+ missing: stage1\.1\.norm1\.weight.*\d+ mis-shaped: stem\.conv1\.weight"),
    ],
)
def test_a_checkpoint_of_another_architecture_is_refused(model, message, checkpoint):
    with pytest.raises(CheckpointError, match=message):
        create_model(model, checkpoint)


def test_a_checkpoint_of_another_model_says_what_it_is(tmp_path):
    with torch.device("meta"):
        lite = family_of(CONFIGS["rest_lite"]).network()(CONFIGS["rest_lite"])
    weights = {key: torch.zeros(value.shape) for key, value in lite.state_dict().items()}
    save_checkpoint(tmp_path / "lite.safetensors", weights, Card())
    with pytest.raises(CheckpointError, match=r"missing: .*it is rest_lite"):
        create_model("rest_small", tmp_path / "lite.safetensors")
    grey = {**weights, "stem.conv1.weight": weights["stem.conv1.weight"][:, :1].contiguous()}
    save_checkpoint(tmp_path / "grey.safetensors", grey, Card())
    with pytest.raises(CheckpointError, match="another ResT: leave --model out"):
        create_model("rest_lite", tmp_path / "grey.safetensors")
    assert load_model(None, tmp_path / "grey.safetensors").model.config.in_channels == 1
    for more in ("rest_lite", "rest_small", TINY):  # no architecture has such a key
        save_checkpoint(tmp_path / "more.safetensors", {**weights, "extra": torch.zeros(1)}, Card())
        with pytest.raises(CheckpointError, match="unexpected: extra") as caught:
            create_model(more, tmp_path / "more.safetensors")
        assert "by its shapes" not in str(caught.value)


def test_a_seed_beside_a_checkpoint_is_refused(checkpoint):
    with pytest.raises(ConfigError, match=r"seed 0 .* leave it out"):
        create_model(TINY, checkpoint, seed=0)


def test_a_checkpoint_without_a_head_is_refused(tmp_path, weights):
    body = {key: value for key, value in weights.items() if not key.startswith("head.")}
    torch.save(body, tmp_path / "body.pth")
    with pytest.raises(CheckpointError, match=r"no classifier head: no head\.weight of a ResT"):
        create_model(TINY, tmp_path / "body.pth")
    with pytest.raises(CheckpointError, match=r"no classifier head: no head\.weight of a ResT"):
        load_model(None, tmp_path / "body.pth")


@pytest.mark.parametrize("shape", [(), (7,), (7, 32, 1)])
def test_a_head_of_the_wrong_rank_is_refused(tmp_path, weights, shape):
    torch.save({**weights, "head.weight": torch.zeros(shape)}, tmp_path / "a.pth")
    with pytest.raises(CheckpointError, match=r"head\.weight"):
        create_model(TINY, tmp_path / "a.pth")


def test_a_head_of_no_classes_is_refused(tmp_path, weights):
    torch.save({**weights, "head.weight": torch.zeros(0, 32), "head.bias": torch.zeros(0)}, tmp_path / "a.pth")
    for model in (TINY, None):
        with pytest.raises((CheckpointError, ConfigError), match=r"head\.weight, head\.bias; save them dense"):
            load_model(model, tmp_path / "a.pth")
